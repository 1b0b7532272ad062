"""Nested scales: few nearest neighbours, and more of them."""

from collections.abc import Sequence

from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.ops.knn import KNNBackend, knn_graph
from pyg_match.transforms.edges import check_data, node_groups
from pyg_match.transforms.multi_scale import check_ranks, neighbour_rank, store_scales


@functional_transform("nested_partition")
class NestedPartition(BaseTransform):
    r"""Join each keypoint to its :math:`k_1` nearest keypoints **of the same image** in one graph, to its
    :math:`k_2 > k_1` nearest in the next, and so on (functional name: :obj:`nested_partition`).

    Each scale is the graph of :class:`~pyg_match.transforms.KNNGraph` with its :math:`k` and contains the scales
    before it; the neighbours are searched once. The scales are stored as ``edge_index_0``, ``edge_index_1``, ...,
    read by :func:`~pyg_match.transforms.scales`.

    Args:
        ks: Number of neighbours in each scale, growing.
        loop: Whether a keypoint counts as its own first neighbour.
        backend: See :func:`pyg_match.knn_graph`; all backends give the same edges.

    Raises:
        ValueError: If ``ks`` is empty, does not grow or does not start above 0.

    Example:
        >>> import torch
        >>> NestedPartition([2, 6])(Data(pos=torch.rand(9, 2)))
        Data(pos=[9, 2], edge_index_0=[2, 18], edge_index_1=[2, 54])
    """

    def __init__(self, ks: Sequence[int], loop: bool = False, backend: KNNBackend = "auto") -> None:
        self.ks = check_ranks(ks)
        self.loop = loop
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Store the scales, each sorted by target."""
        check_data(data, self, "pos")
        edge_index = knn_graph(data.pos, self.ks[-1], node_groups(data), loop=self.loop, backend=self.backend)
        rank = neighbour_rank(edge_index[1])
        store_scales(data, [edge_index[:, rank < k] for k in self.ks])
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(ks={list(self.ks)}, loop={self.loop})"
