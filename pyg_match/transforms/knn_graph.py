"""Edges from the nearest keypoints of the same image."""

from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import whole_number
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.knn import KNNBackend, knn_graph
from pyg_match.transforms.edges import check_data, node_groups
from pyg_match.transforms.store import store_edges


@functional_transform("keypoint_knn_graph")
class KNNGraph(BaseTransform):
    r"""k-nearest-neighbour graph **of each image** (functional name: :obj:`keypoint_knn_graph`).

    Unlike :class:`torch_geometric.transforms.KNNGraph` it keeps the images of a pair apart, sorts edges by target, and
    takes the node of the lower number where distances are equal. It works on a
    :class:`~pyg_match.data.KeypointPair` (or a batch of them), whose images stay apart, and on any
    :class:`~torch_geometric.data.Data` with ``pos``, whose examples stay apart.

    Args:
        k: Number of neighbours. With fewer than :math:`k` other keypoints in an image, all of them.
        loop: Whether a keypoint counts as its own first neighbour. Attention of pretrained matchers expects it to.
        backend: See :func:`pyg_match.knn_graph`; all backends give the same edges.

    Raises:
        TypeError: If the data has no positions.
        ValueError: If ``k`` is no positive whole number, or ``batch`` does not fit the data.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> KNNGraph(k=2)(Data(pos=torch.rand(5, 2)))
        Data(pos=[5, 2], edge_index=[2, 10])
    """

    def __init__(self, k: int, loop: bool = False, backend: KNNBackend = "auto") -> None:
        self.k = whole_number("k", k)
        self.loop = loop
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Set ``data.edge_index``, sorted by target."""
        check_data(data, self, "pos")
        edge_index = knn_graph(data.pos, self.k, node_groups(data), loop=self.loop, backend=self.backend)
        store_edges(data, "edge_index", sorted_edges(edge_index, data.pos.size(0), is_sorted=True))
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(k={self.k}, loop={self.loop})"
