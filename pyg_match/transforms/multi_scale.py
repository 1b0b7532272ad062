"""Several graphs over the same keypoints: the scales of a multi-scale layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import shown, whole_number
from pyg_match.data.edges import scales, sorted_edges
from pyg_match.ops.knn import KNNBackend, knn_graph
from pyg_match.transforms.edges import check_data, node_groups, num_nodes_of
from pyg_match.transforms.store import store_edges


def store_scales(data: Data, edge_indices: list[Tensor]) -> None:
    """Store graphs, each sorted by target, as the scales of ``data``, in place of those that it has."""
    for number in range(len(scales(data))):
        del data[f"edge_index_{number}"]
    num_nodes = num_nodes_of(data)
    for number, edge_index in enumerate(edge_indices):
        store_edges(data, f"edge_index_{number}", sorted_edges(edge_index, num_nodes, is_sorted=True))


def neighbour_rank(target: Tensor) -> Tensor:
    """The position of each edge among those of its target, from 0; ``target`` is sorted."""
    count = torch.bincount(target)
    begin = count.cumsum(0) - count
    return torch.arange(target.numel(), device=target.device) - begin[target]


class NeighbourScales(BaseTransform):
    """Scales of a keypoint's nearest neighbours, each between two ranks.

    Args:
        ks: The last rank of each scale, growing.
        loop: Whether a keypoint counts as its own first neighbour.
        backend: See :func:`pyg_match.knn_graph`.
    """

    def __init__(self, ks: Sequence[int], loop: bool = False, backend: KNNBackend = "auto") -> None:
        self.ks = _ranks(ks)
        self.loop = loop
        self.backend = backend

    def store(self, data: Data, starts: Sequence[int]) -> Data:
        """Store the scales, each from behind the rank that it starts at."""
        check_data(data, self, "pos")
        edge_index = knn_graph(data.pos, self.ks[-1], node_groups(data), loop=self.loop, backend=self.backend)
        rank = neighbour_rank(edge_index[1])
        chosen = [(rank >= start) & (rank < end) for start, end in zip(starts, self.ks, strict=True)]
        store_scales(data, [edge_index[:, edges] for edges in chosen])
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(ks={list(self.ks)}, loop={self.loop})"


def _ranks(ks: Any) -> tuple[int, ...]:
    """The upper ends of the scales, which must grow."""
    listed = isinstance(ks, (list, tuple, range)) or getattr(ks, "ndim", None) == 1
    if not listed:
        raise ValueError(f"'ks' must be growing positive numbers of neighbours, got {shown(ks)}")
    ranks = tuple(whole_number("ks", k, least=0) for k in ks)
    if not ranks or ranks[0] < 1 or any(b <= a for a, b in zip(ranks[:-1], ranks[1:], strict=True)):
        raise ValueError(f"'ks' must be growing positive numbers of neighbours, got {ranks}")
    return ranks
