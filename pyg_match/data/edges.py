"""Edge sets sorted by target, with their CSR pointer, and several of them over the same keypoints."""

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from pyg_match.ops.csr import check_targets


def sorted_edges(edge_index: Tensor, num_nodes: int, is_sorted: bool = False) -> EdgeIndex:
    """Wrap edges as an :class:`~torch_geometric.EdgeIndex` sorted by target, with its CSR pointer computed.

    Args:
        edge_index: Edges from source to target.
        num_nodes: Number of nodes.
        is_sorted: Whether the edges already are sorted by target.

    Shapes:
        - **edge_index:** :math:`(2, E)`

    Raises:
        ValueError: If an edge names a target that does not exist.

    Example:
        >>> sorted_edges(torch.tensor([[0, 1], [1, 0]]), num_nodes=2).is_sorted_by_col
        True
    """
    if not is_sorted:
        edge_index = edge_index[:, torch.argsort(edge_index[1], stable=True)]
    check_targets(edge_index[1], num_nodes)  # PyG counts them without looking
    edges = EdgeIndex(edge_index.contiguous(), sparse_size=(num_nodes, num_nodes), sort_order="col")
    edges.get_csc()
    return edges


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
