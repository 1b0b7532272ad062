"""What partitions of the nearest neighbours share."""

from collections.abc import Sequence

from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from pyg_match.ops.knn import KNNBackend, knn_graph
from pyg_match.transforms.edges import check_data, node_groups
from pyg_match.transforms.multi_scale import check_ranks, neighbour_rank, store_scales


class NeighbourScales(BaseTransform):
    """Scales of a keypoint's nearest neighbours, each between two ranks.

    Args:
        ks: The last rank of each scale, growing.
        loop: Whether a keypoint counts as its own first neighbour.
        backend: See :func:`pyg_match.knn_graph`.
    """

    def __init__(self, ks: Sequence[int], loop: bool = False, backend: KNNBackend = "auto") -> None:
        self.ks = check_ranks(ks)
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
