"""All edges within images, and between them."""

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.data import KeypointPair
from pyg_match.data.edges import sorted_edges
from pyg_match.transforms.edges import check_data, group_ptr
from pyg_match.transforms.store import store_edges


@functional_transform("complete_graph")
class CompleteGraph(BaseTransform):
    r"""Complete graph within and between the images, self-loops included, with explicit edges (functional name:
    :obj:`complete_graph`).

    The edges are listed one by one, which takes memory quadratic in the number of keypoints. A
    :class:`~pyg_match.data.KeypointPair` **without** edges means the same and is matched by dense attention
    without listing anything; list the edges only where something has to be said about single ones.

    Args:
        within: Whether to draw the edges within images, ``edge_index``.
        cross: Whether to draw the edges between images, ``cross_edge_index``, if the data is a pair.
        loop: Whether a keypoint is joined to itself.

    Raises:
        TypeError: If the data has no positions.
        ValueError: If ``batch`` or ``num_keypoints`` does not fit the data.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> CompleteGraph()(Data(pos=torch.rand(3, 2)))
        Data(pos=[3, 2], edge_index=[2, 9])
    """

    def __init__(self, within: bool = True, cross: bool = True, loop: bool = True) -> None:
        self.within = within
        self.cross = cross
        self.loop = loop

    def forward(self, data: Data) -> Data:
        """Set ``data.edge_index`` and, for a pair, ``data.cross_edge_index``, sorted by target."""
        check_data(data, self, "pos")
        ptr = group_ptr(data)
        ranges = list(zip(ptr[:-1], ptr[1:], strict=True))
        if self.within:
            edge_index = _all_edges(ranges, ranges, data.pos.device)
            if not self.loop:
                edge_index = edge_index[:, edge_index[0] != edge_index[1]]
            store_edges(data, "edge_index", sorted_edges(edge_index, ptr[-1], is_sorted=True))
        if self.cross and isinstance(data, KeypointPair):
            partners = [ranges[i ^ 1] for i in range(len(ranges))]
            edge_index = _all_edges(partners, ranges, data.pos.device)
            store_edges(data, "cross_edge_index", sorted_edges(edge_index, ptr[-1], is_sorted=True))
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(within={self.within}, cross={self.cross}, loop={self.loop})"


def _all_edges(
    sources: list[tuple[int, int]], targets: list[tuple[int, int]], device: torch.device
) -> Tensor:
    """Edges from every node of each source range to every node of the target range beside it."""
    parts = [torch.empty(2, 0, dtype=torch.long, device=device)]
    for source, target in zip(sources, targets, strict=True):
        grid = torch.cartesian_prod(
            torch.arange(*target, device=device), torch.arange(*source, device=device)
        )
        parts.append(grid.view(-1, 2).t().flip(0))
    return torch.cat(parts, dim=1)
