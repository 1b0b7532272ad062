"""Edges to the most similar keypoints of the other image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import whole_number
from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_counts
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.csr import CSR
from pyg_match.ops.largest import LargestOfColumns, largest_indices
from pyg_match.ops.linear import similarities
from pyg_match.ops.undirected import undirected
from pyg_match.transforms.edges import check_data
from pyg_match.transforms.store import store_edges

_CHUNK_ELEMENTS = 1 << 21  # similarities held at once: 8 MiB in single precision, which caches have room for


@functional_transform("candidate_edges")
class CandidateEdges(BaseTransform):
    r"""Join each keypoint to its :math:`k` candidates: the keypoints of the **other** image with the most similar
    descriptors (functional name: :obj:`candidate_edges`).

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


def candidate_edges(x: Tensor, ptr: Sequence[int], k: int, symmetric: bool = True) -> CSR:
    """Edges from the ``k`` most similar descriptors of the other image, by target.

    Args:
        x: Finite descriptors of images 0 and 1 of a pair after another, compared by their inner product.
        ptr: Where the descriptors of each image start, and their number at the end.
        k: See :class:`CandidateEdges`.
        symmetric: See :class:`CandidateEdges`.

    Shapes:
        - **x:** :math:`(N, D)`
    """
    degrees, sources = [x.new_zeros(1, dtype=torch.long)], [x.new_empty(0, dtype=torch.long)]
    for first, second, end in zip(ptr[:-1:2], ptr[1::2], ptr[2::2], strict=True):
        of_first, of_second = _most_similar(x[first:second], x[second:end], k)
        for best, other in ((of_first, second), (of_second, first)):
            degrees.append(best.new_full((best.size(0),), best.size(1)))
            sources.append((best + other).reshape(-1))
    rowptr, col = torch.cat(degrees).cumsum(0), torch.cat(sources)
    return undirected(rowptr, col) if symmetric else CSR(rowptr, col)


@torch.no_grad()  # with gradients switched on, too, sums are rounded as without, so that edges are the same
def _most_similar(x0: Tensor, x1: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each descriptor the indices of its most similar ones in the other image, at most ``k``."""
    k0, k1 = min(k, x1.size(0)), min(k, x0.size(0))
    step = max(1, _CHUNK_ELEMENTS // max(1, x1.size(0)))
    step = 1 << (step.bit_length() - 1)  # few numbers of rows, see pyg_match.ops.linear
    rows, columns = [torch.empty(0, k0, dtype=torch.long, device=x0.device)], LargestOfColumns(x1.size(0), k1)
    for chunk in x0.split(step):
        similarity = similarities(chunk, x1)
        rows.append(largest_indices(similarity, k0))
        columns.add(similarity)
    return torch.cat(rows), columns.indices()
