"""Nested scales: few nearest neighbours, and more of them."""

from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform

from pyg_match.transforms.multi_scale import NeighbourScales


@functional_transform("nested_partition")
class NestedPartition(NeighbourScales):
    r"""Nested scales: the graph of the :math:`k_1` nearest neighbours **of the same image**, that of the
    :math:`k_2 > k_1` nearest, and so on (functional name: :obj:`nested_partition`).

    Each scale is the graph of :class:`~pyg_match.transforms.KNNGraph` with its :math:`k` and contains the scales
    before it; the neighbours are searched once. The scales are stored as ``edge_index_0``, ``edge_index_1``, ...,
    read by :func:`~pyg_match.transforms.scales`.

    Args:
        ks: Number of neighbours in each scale, growing.
        loop: Whether a keypoint counts as its own first neighbour.
        backend: See :func:`pyg_match.knn_graph`; all backends give the same edges.

    Raises:
        ValueError: If ``ks`` is empty, does not grow or does not start above 0.
        TypeError: If the data has no positions.

    Example:
        >>> import torch
        >>> NestedPartition([2, 6])(Data(pos=torch.rand(9, 2)))
        Data(pos=[9, 2], edge_index_0=[2, 18], edge_index_1=[2, 54])
    """

    def forward(self, data: Data) -> Data:
        """Store the scales, each sorted by target."""
        return self.store(data, (0,) * len(self.ks))
