"""Operators that check and transpose listed edges; compilers do not look into them."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from pyg_match.ops.native.library import address, available, function

_MOST = torch.iinfo(torch.int32).max  # nodes and edges that 32 bits can number

_library = torch.library.Library("pyg_match", "FRAGMENT")
_library.define("narrow_edges(Tensor rowptr, Tensor col, SymInt num_sources) -> Tensor")
_library.define("transpose_edges(Tensor rowptr, Tensor col, SymInt num_sources) -> (Tensor, Tensor, Tensor)")


def narrow_edges(rowptr: Tensor, col: Tensor, num_sources: int) -> Tensor:
    """Check edges by target, and give their sources in 32 bits.

    A wrong number would lead kernels to foreign memory. On a GPU this waits for the device.

    Args:
        rowptr: Where the edges of each target start, and their number at the end.
        col: The source of each edge.
        num_sources: Number of sources.

    Shapes:
        - **rowptr:** :math:`(T + 1)`
        - **col**, **output:** :math:`(E)`

    Raises:
        ValueError: If the pointer does not rise from 0 to :math:`E`, or a source does not exist.
    """
    out: Tensor = torch.ops.pyg_match.narrow_edges.default(rowptr.long(), col.long(), num_sources)
    return out


def transpose_edges(rowptr: Tensor, col: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    """The edges of each source: where they start, their targets, and their places in the order by target.

    Args:
        rowptr: Where the edges of each target start, and their number at the end, 64 bits.
        col: What :func:`narrow_edges` gives.
        num_sources: Number of sources.

    Shapes:
        - **rowptr:** :math:`(T + 1)`
        - **col:** :math:`(E)`
        - **output:** :math:`(S + 1), (E), (E)`
    """
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.pyg_match.transpose_edges.default(rowptr, col, num_sources)
    return out


def _narrow(rowptr: Tensor, col: Tensor, num_sources: int) -> Tensor:
    _check_sizes(rowptr, col, num_sources)
    short = col.to(torch.int32)
    checks = [(rowptr.diff() < 0).any(), rowptr[0] != 0, rowptr[-1] != col.numel()]
    checks += [((col < 0) | (col >= num_sources)).any()]
    if bool(torch.stack(checks).any()):  # one look at the device
        _refuse(rowptr, col, num_sources)
    return short


def _narrow_on_cpu(rowptr: Tensor, col: Tensor, num_sources: int) -> Tensor:
    if not available():
        return _narrow(rowptr, col, num_sources)
    _check_sizes(rowptr, col, num_sources)
    rowptr, col = rowptr.contiguous(), col.contiguous()
    short = torch.empty(col.numel(), dtype=torch.int32, device="cpu")
    wrong = function("check_edges", ctypes.c_int64)(
        address(rowptr), _number(rowptr.numel() - 1), address(col), _number(col.numel()), _number(num_sources),
        address(short),
    )  # fmt: skip
    if wrong:
        _refuse(rowptr, col, num_sources)
    return short


def _check_sizes(rowptr: Tensor, col: Tensor, num_sources: int) -> None:
    if max(rowptr.numel() - 1, num_sources, col.numel()) > _MOST:
        raise ValueError(
            f"there may be at most 2^31 - 1 nodes and edges, got {rowptr.numel() - 1} targets, {num_sources} sources "
            f"and {col.numel()} edges"
        )


def _refuse(rowptr: Tensor, col: Tensor, num_sources: int) -> None:
    ends = int(rowptr[0]), int(rowptr[-1])
    if ends != (0, col.numel()):
        raise ValueError(f"'rowptr' must lead from 0 to {col.numel()}, got from {ends[0]} to {ends[1]}")
    if bool((rowptr.diff() < 0).any()):
        raise ValueError("'rowptr' must not fall")
    source = int(col[(col < 0) | (col >= num_sources)][0])
    raise ValueError(f"an edge names source {source}, but there are {num_sources}")


def _transpose(rowptr: Tensor, col: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    perm = col.argsort(stable=True)
    bounds = torch.arange(num_sources + 1, device=col.device, dtype=col.dtype)
    colptr = torch.searchsorted(col[perm], bounds)
    targets = torch.arange(rowptr.numel() - 1, device=col.device, dtype=col.dtype)
    row = targets.repeat_interleave(rowptr.diff(), output_size=col.numel())
    return colptr, row[perm], perm.to(col.dtype)


def _transpose_on_cpu(rowptr: Tensor, col: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    if not available():
        return _transpose(rowptr, col, num_sources)
    rowptr, col = rowptr.contiguous(), col.contiguous()
    colptr, row, perm = rowptr.new_empty(num_sources + 1), torch.empty_like(col), torch.empty_like(col)
    function("transpose")(
        address(rowptr), _number(rowptr.numel() - 1), address(col), _number(num_sources), address(colptr),
        address(row), address(perm),
    )  # fmt: skip
    return colptr, row, perm


_number = ctypes.c_int64

_library.impl("narrow_edges", _narrow, "CompositeExplicitAutograd")
_library.impl("narrow_edges", _narrow_on_cpu, "CPU")
_library.impl("transpose_edges", _transpose, "CompositeExplicitAutograd")
_library.impl("transpose_edges", _transpose_on_cpu, "CPU")


@torch.library.register_fake("pyg_match::narrow_edges")
def _(rowptr: Tensor, col: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(col, dtype=torch.int32)


@torch.library.register_fake("pyg_match::transpose_edges")
def _(rowptr: Tensor, col: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    return rowptr.new_empty(num_sources + 1), torch.empty_like(col), torch.empty_like(col)
