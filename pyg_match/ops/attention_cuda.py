"""The operators on a GPU: launches of the Triton kernels in ``gpu/``.

Nothing here waits for the device. Sums are made in single precision at least. Products in single precision are as
exact as that, unless ``torch.set_float32_matmul_precision`` allows the rounding of TF32.
"""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

import torch
import triton
from torch import Tensor

from pyg_match.ops.attention_cpu import empty_result
from pyg_match.ops.edge_lists import transpose_edges
from pyg_match.ops.edges import EdgeSet
from pyg_match.ops.gpu import dense as dense_tiles
from pyg_match.ops.gpu import listed as listed_edges
from pyg_match.ops.precision import rounds_products

_BLOCK = 4096  # numbers of keys that a program gathers at a time
_MOST_CHANNELS = 1024  # of all heads that one program takes
_TILE = 64  # nodes of a tile, of targets and of sources
_GROUPS = 1024  # that are counted at a time
_TILE_BYTES = 1 << 13  # of a tile, of which registers and shared memory hold several


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edges: EdgeSet,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp; see :func:`pyg_match.ops.attention_cpu.attention_forward`."""
    out = empty_result(query, value)
    query, key, value = _together(query, key, value)
    lse = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float))
    edge_values, bias_step = _edge_values(bias, keep, query)
    listed = edges.groups is None or edges.col.numel() > 0
    with _on(query):
        if listed and lse.numel() > 0:
            grid, sizes = _sizes(query.size(0), query.size(1), E=_BLOCK, C=key.size(2), D=value.size(2))
            listed_edges.forward[grid](
                query, key, value, edges.rowptr, edges.col, *edge_values, out, lse, *_halves(scale),
                *_steps(query, key, value, out), bias_step, query.size(1), key.size(2), value.size(2),
                REAL=_triton(lse), HAS_BIAS=bias is not None, HAS_KEEP=keep is not None, REMOVES=removes, **sizes,
            )  # fmt: skip
        if edges.groups is not None and lse.numel() > 0:
            groups, source = edges.groups, edges.source
            work = _tiles(query, key, value, edges.log_weight)
            ptr, tiles, _ = _tables(groups, work["M"])
            grid = (triton.cdiv(query.size(0), work["M"]) + groups.size(0), query.size(1))
            dense_tiles.forward[grid](
                query, key, value, groups, ptr, tiles, *_or(query, source, edges.target, edges.log_weight), out, lse,
                *_halves(scale), *_steps(query, key, value, out), query.size(0), groups.size(0), query.size(1),
                key.size(2), value.size(2), HAS_LISTED=listed, HAS_SOURCE=source is not None,
                HAS_TARGET=edges.target is not None, **work,
            )  # fmt: skip
    return out, lse


def attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_lse: Optional[Tensor],
    weighs: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edges: EdgeSet,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients; see :func:`pyg_match.ops.attention_cpu.attention_backward`."""
    grads = [empty_result(t, t) for t in (query, key, value)]
    query, key, value = _together(query, key, value)
    grad = _side_by_side(grad.to(query.dtype))
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    none, real = query.new_empty(0), _triton(lse)
    grad_bias = none if bias is None else lse.new_empty(query.size(1), edges.col.numel())
    grad_weight = none
    heads, widths, parts = query.size(1), (key.size(2), value.size(2)), _halves(scale)
    edge_values, bias_step = _edge_values(bias, keep, query)
    listed = edges.groups is None or edges.col.numel() > 0
    common, share = torch.empty_like(lse), torch.empty_like(lse)
    flags = {"REAL": real, "HAS_BIAS": bias is not None, "HAS_KEEP": keep is not None, "REMOVES": removes}
    with _on(query):
        if heads > 0 and query.size(0) > 0:  # without listed edges, this makes what targets have in common
            grid, sizes = _sizes(query.size(0), heads, E=_BLOCK // 2, C=widths[0], D=widths[1])
            listed_edges.backward_targets[grid](
                query, key, value, edges.rowptr, edges.col, *edge_values, out, lse, grad, *_or(query, grad_lse),
                grads[0], grad_bias if bias is not None else query, common, share, *parts,
                *_steps(query, key, value, out, grad, grads[0]), bias_step, edges.col.numel(), heads, *widths,
                HAS_GRAD_LSE=grad_lse is not None, ALONE=edges.groups is None, **flags, **sizes,
            )  # fmt: skip
        if listed and heads > 0 and key.size(0) > 0:
            colptr, row, perm = _by_source(edges)
            grid, sizes = _sizes(key.size(0), heads, E=_BLOCK // 2, C=widths[0], D=widths[1])
            listed_edges.backward_sources[grid](
                query, key, value, colptr, row, perm, *edge_values, lse, grad, common, share, *grads[1:],
                *parts, *_steps(query, key, value, grad, *grads[1:]), bias_step, heads, *widths, **flags, **sizes,
            )  # fmt: skip
        if edges.groups is not None:
            adds = listed and heads > 0 and query.size(0) > 0
            if not adds and (edges.source is None or lse.numel() == 0):  # else all of them are written
                for of_sources in grads[1:]:
                    of_sources.zero_()
            grad_weight = _dense_backward(
                query, key, value, edges, scale, lse, grad, common, grads, weighs, adds
            )
    grad_bias = grad_bias if bias is None else grad_bias.to(bias.dtype)
    grad_weight = grad_weight if edges.log_weight is None else grad_weight.to(edges.log_weight.dtype)
    return grads[0], grads[1], grads[2], grad_bias, grad_weight


def _dense_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edges: EdgeSet,
    scale: float,
    lse: Tensor,
    grad: Tensor,
    common: Tensor,
    grads: list[Tensor],
    weighs: bool,
    adds: bool,
) -> Tensor:
    """Add the gradients of groups, which are written where sources are named and nothing is there; return those of
    their weights.
    """
    groups, source, log_weight = edges.groups, edges.source, edges.log_weight
    assert groups is not None
    heads, num_groups = query.size(1), groups.size(0)
    shapes = (heads, key.size(2), value.size(2))
    weights = 0 if log_weight is None else log_weight.numel()
    grad_weight = lse.new_zeros(heads, weights if weighs else 0)
    if heads == 0 or query.size(0) == 0 or key.size(0) == 0:
        return grad_weight.sum(0)
    work = _tiles(query, key, value, log_weight)
    ptr, tiles, source_tiles = _tables(groups, work["M"])
    flags = {"HAS_SOURCE": source is not None, "HAS_TARGET": edges.target is not None, **work}
    optional = _or(query, source, edges.target, log_weight)
    dense_tiles.backward_targets[(triton.cdiv(query.size(0), work["M"]) + num_groups, heads)](
        query, key, value, groups, ptr, tiles, *optional, lse, grad, common, grads[0], grad_weight, *_halves(scale),
        *_steps(query, key, value, grad, grads[0]), query.size(0), num_groups, weights, *shapes, WEIGHS=weighs, **flags,
    )  # fmt: skip
    # Sources that several groups name get one row from each, which are added in order.
    count = key.size(0) if source is None else source.numel()
    rows = grads[1:]
    if source is not None:
        rows = [t.new_zeros(count, *t.shape[1:], dtype=lse.dtype) for t in rows]
    dense_tiles.backward_sources[(triton.cdiv(count, work["N"]) + num_groups, heads)](
        query, key, value, groups, ptr, source_tiles, *optional, lse, grad, common, *rows, *_halves(scale),
        *_steps(query, key, value, grad, *rows), num_groups, *shapes, **flags,
    )  # fmt: skip
    if source is not None:
        order = source.argsort(stable=True)
        bounds = torch.arange(key.size(0) + 1, device=source.device)
        nodes = torch.searchsorted(source[order], bounds)
        for into, of_rows in zip(grads[1:], rows, strict=True):
            _gather(None, of_rows, nodes, order, None, into, 1.0, adds)
    return grad_weight.sum(0)


def scores_forward(
    query: Tensor,
    key: Tensor,
    edges: EdgeSet,
    scale: float,
) -> Tensor:
    """The scaled inner products of all edges, ``[H, E]``."""
    query, key = _together(query, key)
    out = query.new_empty(query.size(1), edges.col.numel())
    if query.size(0) == 0 or out.numel() == 0:
        return out
    grid, sizes = _sizes(query.size(0), query.size(1), E=_BLOCK, C=query.size(2))
    with _on(query):
        listed_edges.scores[grid](
            query, key, edges.rowptr, edges.col, out, *_halves(scale), *_steps(query, key), edges.col.numel(),
            query.size(1), query.size(2), REAL=_triton(out), **sizes,
        )  # fmt: skip
    return out


def scores_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    edges: EdgeSet,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of queries and keys."""
    grad_query, grad_key = empty_result(query, query), empty_result(key, key)
    query, key = _together(query, key)
    grad = grad.contiguous()
    colptr, row, perm = _by_source(edges)
    with _on(query):
        _gather(grad, key, edges.rowptr, edges.col, None, grad_query, scale)
        _gather(grad, query, colptr, row, perm, grad_key, scale)
    return grad_query, grad_key


def _by_source(edges: EdgeSet) -> tuple[Tensor, Tensor, Tensor]:
    return edges.transposed or transpose_edges(edges.rowptr, edges.col, edges.num_sources)


def _gather(
    weight: Optional[Tensor],
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    perm: Optional[Tensor],
    out: Tensor,
    scale: float,
    adds: bool = False,
) -> None:
    """Write, or add, the weighted sum of what the edges of each row lead to."""
    if out.numel() == 0:
        return
    grid, sizes = _sizes(out.size(0), out.size(1), E=_BLOCK, C=out.size(2))
    listed_edges.gather[grid](
        *_or(value, weight), value, rowptr, col, *_or(value, perm), out, *_halves(scale), *_steps(value, out),
        col.numel(), out.size(1), out.size(2), REAL=_triton(out), HAS_WEIGHT=weight is not None,
        HAS_PERM=perm is not None, ADDS=adds, **sizes,
    )  # fmt: skip


def _sizes(num_rows: int, heads: int, E: int, **widths: int) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid of programs along listed edges, how many heads and edges each takes at a time, and registers that hold
    their channels.
    """
    constants = {name: triton.next_power_of_2(max(width, 1)) for name, width in widths.items()}
    widest = max(constants.values())
    constants["H"] = min(triton.next_power_of_2(heads), max(1, _MOST_CHANNELS // widest))
    constants["E"] = min(32, max(1, E // (constants["H"] * widest)))
    return (num_rows, triton.cdiv(heads, constants["H"])), constants


def _tiles(query: Tensor, key: Tensor, value: Tensor, log_weight: Optional[Tensor]) -> dict[str, Any]:
    """The shape of tiles of targets and sources, and how they are multiplied."""
    channels, value_channels = (max(16, triton.next_power_of_2(t.size(2))) for t in (key, value))
    row = query.element_size() * max(channels, value_channels)
    tile = max(16, min(_TILE, _TILE_BYTES // row))
    # Where even the smallest tile is larger than that, there is no room for one that is loaded ahead.
    stages = {"num_stages": 1} if tile * row > _TILE_BYTES else {}
    # Three products of tensor cores are as exact as one in single precision, and several times as fast.
    precision = "tf32" if rounds_products() else "tf32x3"
    return {
        "REAL": _triton(query), "HAS_WEIGHT": log_weight is not None,
        "PRECISION": precision, "C": channels, "D": value_channels, "M": tile, "N": tile, **stages,
    }  # fmt: skip


def _tables(groups: Tensor, tile: int) -> tuple[Tensor, ...]:
    """How many targets, tiles of targets, and tiles of sources there are before each group."""
    tables = groups.new_empty(3, groups.size(0) + 1)
    dense_tiles.count_tiles[(1,)](groups, tables, groups.size(0), tile, G=_GROUPS)
    return tables.unbind(0)


def _together(*nodes: Tensor) -> list[Tensor]:
    """The same in one type of numbers, with channels side by side."""
    dtype = nodes[0].dtype
    for t in nodes[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    return [_side_by_side(t.to(dtype)) for t in nodes]


def _side_by_side(values: Tensor) -> Tensor:
    return values if values.stride(-1) == 1 or values.size(-1) <= 1 else values.contiguous()


def _steps(*nodes: Tensor) -> list[int]:
    return [step for t in nodes for step in t.stride()[:2]]


def _edge_values(
    bias: Optional[Tensor], keep: Optional[Tensor], stand_in: Tensor
) -> tuple[list[Tensor], int]:
    """Biases and masks as kernels read them, and the step from head to head, which may share their biases."""
    bias = None if bias is None else _side_by_side(bias)
    keep = None if keep is None else keep.contiguous().view(torch.uint8)
    return _or(stand_in, bias, keep), 0 if bias is None else bias.stride(0)


def _or(stand_in: Tensor, *tensors: Optional[Tensor]) -> list[Tensor]:
    """What kernels get in the place of what is not given, and do not read."""
    return [stand_in if t is None else t for t in tensors]


def _halves(scale: float) -> tuple[float, float]:
    """A number as the sum of two in single precision."""
    first = ctypes.c_float(scale).value
    return first, scale - first


def _triton(nodes: Tensor) -> Any:
    """The type of numbers that are summed."""
    return triton.language.float64 if nodes.dtype == torch.double else triton.language.float32


def _on(nodes: Tensor) -> AbstractContextManager[Any]:
    """Launches go to the device of the nodes."""
    return torch.cuda.device(nodes.device) if nodes.is_cuda else nullcontext()
