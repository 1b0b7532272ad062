"""Edges to the most similar keypoints of the other image."""

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import whole_number
from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_counts
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.candidates import candidate_edges
from pyg_match.transforms.edges import check_data
from pyg_match.transforms.store import store_edges


@functional_transform("candidate_edges")
class CandidateEdges(BaseTransform):
    r"""Edges from the :math:`k` keypoints of the **other** image with the most similar descriptors, the candidates of a
    keypoint (functional name: :obj:`candidate_edges`).

    The similarity of two descriptors is their inner product, the cosine for the unit descriptors that detectors
    give. Similarities are computed a few rows at a time, so memory grows linearly with the number of keypoints.

    Args:
        k: Number of candidates. With fewer than :math:`k` keypoints in the other image, all of them.
        symmetric: Whether an edge is drawn in both directions as soon as one of its ends is a candidate of the
            other, so that two keypoints either see each other or do not. The sparse assignment needs this.

    Raises:
        TypeError: If the data is no :class:`~pyg_match.data.KeypointPair`, or has no descriptors.
        ValueError: If ``k`` is no positive whole number, or descriptors are not finite.

    Example:
        >>> import torch
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [KeypointSet(pos=torch.rand(4, 2), x=torch.eye(4)) for _ in range(2)]
        >>> CandidateEdges(k=1)(KeypointPair.from_sets(*sets)).cross_edge_index.tolist()
        [[4, 5, 6, 7, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]]
    """

    def __init__(self, k: int, symmetric: bool = True) -> None:
        self.k = whole_number("k", k)
        self.symmetric = symmetric

    def forward(self, data: Data) -> Data:
        """Set ``data.cross_edge_index``, sorted by target."""
        if not isinstance(data, KeypointPair):
            raise TypeError(f"{self.__class__.__name__} needs a KeypointPair, got {type(data).__name__}")
        check_data(data, self, "x")
        check_counts(data.get("num_keypoints"), data.x.size(0))
        x = data.x.detach()
        if x.dim() != 2 or not x.is_floating_point():
            raise ValueError(
                f"'x' must hold descriptors [N, D] of floating point, got {x.dtype} {list(x.shape)}"
            )
        if not bool(torch.isfinite(x).all()):
            raise ValueError("'x' holds NaN or infinite descriptors, expected finite ones")
        ptr = data.image_ptr.tolist()
        edge_index = candidate_edges(x, ptr, self.k, self.symmetric).listed()
        store_edges(data, "cross_edge_index", sorted_edges(edge_index, ptr[-1], is_sorted=True))
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(k={self.k}, symmetric={self.symmetric})"
