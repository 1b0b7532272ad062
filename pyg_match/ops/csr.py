"""Edges grouped by target, in whatever form they come."""

from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import cumsum

from pyg_match.checks import check_tensor, kind_of, whole_number

_MOST_NODES = 1 << 32  # more are a mistake, for which no machine has the memory


class CSR(NamedTuple):
    """Edges sorted by target.

    Attributes:
        rowptr: Where the edges of each target start, and the number of edges at the end.
        col: The source of each edge.
        perm: The position of each edge in the order in which the user gave them; ``None`` if it is the same.

    Shapes:
        - **rowptr:** :math:`(T + 1)`
        - **col**, **perm:** :math:`(E)`

    Example:
        >>> to_csr(torch.tensor([[2, 0, 1], [1, 0, 1]]), num_targets=2).rowptr.tolist()
        [0, 1, 3]
    """

    rowptr: Tensor
    col: Tensor
    perm: Optional[Tensor] = None

    def target(self) -> Tensor:
        """The target of each edge, :math:`(E)`."""
        targets = torch.arange(self.rowptr.numel() - 1, device=self.col.device)
        return targets.repeat_interleave(self.rowptr.diff(), output_size=self.col.numel())

    def listed(self) -> Tensor:
        """The edges from source to target in the user's order, :math:`(2, E)`."""
        return torch.stack([self.unsorted(self.col), self.unsorted(self.target())])

    def sorted(self, values: Tensor) -> Tensor:
        """Bring one value per edge from the user's order into this one."""
        return values if self.perm is None else values[self.perm]

    def unsorted(self, values: Tensor) -> Tensor:
        """Bring one value per edge from this order into the user's."""
        if self.perm is None:
            return values
        inverse = torch.empty_like(self.perm)
        inverse[self.perm] = torch.arange(self.perm.numel(), dtype=self.perm.dtype, device=self.perm.device)
        return values[inverse]

    def subset(self, mask: Tensor) -> "CSR":
        """The edges where ``mask``, in this order, is ``True``."""
        if not torch.compiler.is_compiling():  # which knows no numbers of edges to compare
            check_tensor("mask", mask, (self.col.numel(),), "boolean")
        number = self.unsorted(mask).cumsum(0) - 1
        perm = None if self.perm is None else number[self.perm[mask]]
        return CSR(cumsum(mask.long())[self.rowptr], self.col[mask], perm)


EdgesLike = Union[Tensor, EdgeIndex, SparseTensor, CSR]


def to_csr(edge_index: EdgesLike, num_targets: int, num_sources: Optional[int] = None) -> CSR:
    """Group edges by target.

    Args:
        edge_index: Edges from source to target as a tensor :math:`(2, E)`, sorted or not, or an
            :class:`~torch_geometric.EdgeIndex`; or a *transposed* sparse adjacency matrix :math:`(T, S)` as PyG
            takes it; or a :class:`CSR`.
        num_targets: Number of targets :math:`T`.
        num_sources: Number of sources :math:`S`, if the columns of a matrix are to be checked.

    Raises:
        TypeError: If it is nothing of that kind, or does not hold whole numbers.
        ValueError: If a shape does not fit, a target does not exist, or ``perm`` is no order of the edges.

    Example:
        >>> to_csr(torch.tensor([[5, 6, 7], [0, 2, 2]]), num_targets=3).rowptr
        tensor([0, 1, 1, 3])
    """
    if not torch.compiler.is_compiling():  # which would make another graph for each number
        num_targets = whole_number("num_targets", num_targets, least=0, most=_MOST_NODES)
        if num_sources is not None:
            num_sources = whole_number("num_sources", num_sources, least=0, most=_MOST_NODES)
    if isinstance(edge_index, CSR):
        csr = edge_index
        _check_csr(csr)
    elif isinstance(edge_index, EdgeIndex):
        # Not with the pointer that PyG keeps, which may be that of another order: sort_by does not forget it.
        csr = _from_coo(edge_index.as_tensor(), num_targets, is_sorted=edge_index.is_sorted_by_col)
    elif isinstance(edge_index, SparseTensor):
        _check_columns(edge_index.size(1), num_sources)
        rowptr, col, _ = edge_index.csr()
        csr = CSR(rowptr, col)
    elif isinstance(edge_index, Tensor) and edge_index.layout != torch.strided:
        if edge_index.dim() != 2:
            raise ValueError(f"an adjacency matrix must have shape [T, S], got {list(edge_index.shape)}")
        _check_columns(edge_index.size(1), num_sources)
        matrix = edge_index if edge_index.layout == torch.sparse_csr else edge_index.to_sparse_csr()
        csr = CSR(matrix.crow_indices(), matrix.col_indices())
    elif isinstance(edge_index, Tensor):
        csr = _from_coo(edge_index, num_targets)
    else:
        raise TypeError(
            f"expected edges as a tensor, EdgeIndex, sparse matrix or CSR, got {type(edge_index).__name__}"
        )
    if csr.rowptr.shape != (num_targets + 1,):
        raise ValueError(
            f"expected the edges of {num_targets} targets, got those of {csr.rowptr.numel() - 1}"
        )
    return csr


def check_ends(name: str, index: Tensor, count: int) -> None:
    """Look for sources or targets that do not exist, unless compiling, which looks at no values.

    Raises:
        ValueError: If there is one.
    """
    if torch.compiler.is_compiling() or index.numel() == 0:
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= count:
        raise ValueError(f"an edge names {name} {low if low < 0 else high}, but there are {count}")


def _check_csr(csr: CSR) -> None:
    """Refuse what would lead kernels to foreign memory, but for sources, which :func:`narrow_edges` looks at."""
    for name, index in zip(CSR._fields, csr, strict=True):
        if index is None and name == "perm":
            continue
        if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"'{name}' must hold int32 or int64 numbers, got {kind_of(index)}")
        if index.dim() != 1 or index.layout != torch.strided or index.is_meta:
            raise ValueError(
                f"'{name}' must be a dense tensor [N] with numbers, got shape {list(index.shape)}, {index.layout} on "
                f"{index.device}"
            )
    count, perm = csr.col.numel(), csr.perm
    if perm is None or torch.compiler.is_compiling():
        return
    known = perm.shape == (count,) and (count == 0 or (int(perm.min()) >= 0 and int(perm.max()) < count))
    if not known or bool((perm.bincount(minlength=count) != 1).any()):
        raise ValueError(f"'perm' must hold each number below {count} once, got shape {list(perm.shape)}")


def _check_columns(columns: int, num_sources: Optional[int]) -> None:
    if num_sources is not None and columns != num_sources:
        raise ValueError(
            f"a transposed adjacency matrix must have a column for each of {num_sources} sources, got {columns}"
        )


def _from_coo(edge_index: Tensor, num_targets: int, is_sorted: bool = False) -> CSR:
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"'edge_index' must have shape [2, E], got {list(edge_index.shape)}")
    if edge_index.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"'edge_index' must hold int32 or int64 numbers, got {edge_index.dtype}")
    if edge_index.is_meta:
        raise ValueError("'edge_index' is on the meta device, which holds no numbers")
    source, target = edge_index.long()
    perm = None
    check_ends("target", target, num_targets)
    # Compilers sort in any case: looking at values would break the graph.
    if not is_sorted and (torch.compiler.is_compiling() or bool((target[1:] < target[:-1]).any())):
        perm = target.argsort(stable=True)
        source, target = source[perm], target[perm]
    rowptr = torch.searchsorted(target.contiguous(), torch.arange(num_targets + 1, device=target.device))
    return CSR(rowptr, source.contiguous(), perm)
