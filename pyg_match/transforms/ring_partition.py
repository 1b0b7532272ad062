"""Disjoint scales: the nearest neighbours, the next nearest, and so on."""

from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform

from pyg_match.transforms.multi_scale import NeighbourScales


@functional_transform("ring_partition")
class RingPartition(NeighbourScales):
    r"""Disjoint scales: rings of the nearest neighbours of each keypoint **of the same image** (functional name:
    :obj:`ring_partition`).

    Of the neighbours of node :math:`i` in the order of their distance, scale 0 holds the first :math:`k_1`, scale 1
    those of rank :math:`k_1 + 1` to :math:`k_2`, and so on:

    .. math::
        \mathcal{N}_s(i) = \{ j : k_s < \mathrm{rank}_i(j) \leq k_{s+1} \}, \qquad k_0 = 0

    No two scales share an edge, and together they are the graph of :class:`~pyg_match.transforms.KNNGraph` with the
    last :math:`k`. They are stored as ``edge_index_0``, ``edge_index_1``, ..., read by
    :func:`~pyg_match.transforms.scales`.

    Args:
        ks: The last rank of each scale, growing.
        loop: Whether a keypoint counts as its own first neighbour, of rank 1.
        backend: See :func:`pyg_match.knn_graph`; all backends give the same edges.

    Raises:
        ValueError: If ``ks`` is empty, does not grow or does not start above 0.
        TypeError: If the data has no positions.

    Example:
        >>> import torch
        >>> RingPartition([2, 6])(Data(pos=torch.rand(9, 2)))
        Data(pos=[9, 2], edge_index_0=[2, 18], edge_index_1=[2, 36])
    """

    def forward(self, data: Data) -> Data:
        """Store the scales, each sorted by target."""
        return self.store(data, (0, *self.ks[:-1]))
