"""Edge sets sorted by target, with their CSR pointer, and several of them over the same keypoints."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from pyg_match.checks import check_tensor, whole_number
from pyg_match.ops.csr import check_ends

_ROW_OF_EDGES = (torch.ops.aten.select.int, torch.ops.aten.unbind.int)


class SortedEdgeIndex(EdgeIndex):
    r"""An :class:`~torch_geometric.EdgeIndex` whose rows, the sources and the targets, are plain tensors.

    PyG gives them as :class:`~torch_geometric.Index`, which up to PyG 2.8.1 can neither be added to a tensor in place
    nor be subtracted from one element. That breaks ``data.is_undirected()``, ``is_coalesced()``, ``coalesce()`` and
    ``sort()``, the transforms ``ToSparseTensor``, ``GDC`` and ``LineGraph``, and batches with one edge in all.
    """

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _ROW_OF_EDGES:
            plain = pytree.tree_map_only(EdgeIndex, lambda edges: edges._data, args)
            return func(*plain, **(kwargs or {}))
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.flip.default and isinstance(out, EdgeIndex):
            # PyG exchanges them, though they stay those of the same rows of numbers.
            out._indptr = out._T_indptr = None
        # PyG makes results of its own class.
        for item in pytree.tree_leaves(out):
            if type(item) is EdgeIndex:
                item.__class__ = cls
        return out

    @staticmethod
    def __tensor_unflatten__(*args: Any) -> "SortedEdgeIndex":
        out = EdgeIndex.__tensor_unflatten__(*args)
        out.__class__ = SortedEdgeIndex
        return out

    def sort_by(self, sort_order: Any, stable: bool = False) -> Any:
        """See :meth:`torch_geometric.EdgeIndex.sort_by`, which keeps the pointers of the order before."""
        out = super().sort_by(sort_order, stable)
        if out.values is not self:
            out.values._indptr = out.values._T_indptr = None
        return out


# As PyG does for its own, so that data that was saved loads with weights_only=True.
torch.serialization.add_safe_globals([SortedEdgeIndex])


def sorted_edges(edge_index: Tensor, num_nodes: int, is_sorted: bool = False) -> EdgeIndex:
    """Wrap edges as an :class:`~torch_geometric.EdgeIndex` sorted by target, with its CSR pointer computed.

    Args:
        edge_index: Edges from source to target.
        num_nodes: Number of nodes.
        is_sorted: Whether the edges already are sorted by target.

    Shapes:
        - **edge_index:** :math:`(2, E)`

    Raises:
        TypeError: If it holds no whole numbers.
        ValueError: If the shape is another one, or an edge names a node that does not exist.

    Example:
        >>> sorted_edges(torch.tensor([[0, 1], [1, 0]]), num_nodes=2).is_sorted_by_col
        True
    """
    check_tensor("edge_index", edge_index, (2, None), "whole")
    if not torch.compiler.is_compiling():
        num_nodes = whole_number("num_nodes", num_nodes, least=0)
    if not is_sorted:
        edge_index = edge_index[:, torch.argsort(edge_index[1], stable=True)]
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    check_ends("node", plain, num_nodes)  # PyG counts targets, and reads sources, without looking
    edges = SortedEdgeIndex(plain.contiguous(), sparse_size=(num_nodes, num_nodes), sort_order="col")
    edges.get_csc()
    return edges


def edge_values(data: Data, key: str) -> list[str]:
    """The attributes with a value for each edge of ``data[key]``, such as ``edge_mask`` for ``edge_index``.

    Those of ``edge_index`` may have any name, such as ``edge_type``. PyG counts any tensor with as many rows as there
    are edges, so that the name decides as well.
    """
    names = [key.replace("index", kind) for kind in ("attr", "weight", "mask")]
    if key == "edge_index":
        named = [name for name in data.edge_attrs() if name.startswith("edge_") and "index" not in name]
        # Names with a number are those of scales.
        names += [name for name in named if name not in names and not name[-1].isdigit()]
    return [name for name in names if data.get(name) is not None]


def scales(data: Data) -> list[EdgeIndex]:
    """The graphs that a partition transform stored as ``edge_index_0``, ``edge_index_1``, ..., in this order.

    Example:
        >>> import torch
        >>> from pyg_match.transforms import RingPartition
        >>> data = RingPartition([1, 3])(Data(pos=torch.rand(5, 2)))
        >>> [edge_index.size(1) for edge_index in scales(data)]
        [5, 10]
    """
    found: list[EdgeIndex] = []
    while f"edge_index_{len(found)}" in data:
        found.append(data[f"edge_index_{len(found)}"])
    return found
