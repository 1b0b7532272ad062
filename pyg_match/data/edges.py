"""Edge sets sorted by target, with their CSR pointer."""

import torch
from torch import Tensor
from torch_geometric import EdgeIndex


def sorted_edges(edge_index: Tensor, num_nodes: int, is_sorted: bool = False) -> EdgeIndex:
    """Wrap edges as an :class:`~torch_geometric.EdgeIndex` sorted by target, with its CSR pointer computed.

    Args:
        edge_index: Edges from source to target.
        num_nodes: Number of nodes.
        is_sorted: Whether the edges already are sorted by target.

    Shapes:
        - **edge_index:** :math:`(2, E)`

    Example:
        >>> sorted_edges(torch.tensor([[0, 1], [1, 0]]), num_nodes=2).is_sorted_by_col
        True
    """
    if not is_sorted:
        edge_index = edge_index[:, torch.argsort(edge_index[1], stable=True)]
    edges = EdgeIndex(edge_index.contiguous(), sparse_size=(num_nodes, num_nodes), sort_order="col")
    edges.get_csc()
    return edges
