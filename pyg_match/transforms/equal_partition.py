"""Equal division: of the keypoints into parts of equal size, or of the neighbours into graphs of equal reach."""

from typing import Literal, Optional

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import check_points, one_of, whole_number
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.knn import knn_graph
from pyg_match.ops.precision import widest
from pyg_match.transforms.edges import check_data, node_groups
from pyg_match.transforms.multi_scale import neighbour_rank, store_scales
from pyg_match.transforms.store import store_edges, store_values

_MOST_GRAPHS = 1024  # that are drawn one by one


@functional_transform("equal_partition")
class EqualPartition(BaseTransform):
    r"""Equal division of the keypoints **of each image**, or of their neighbours (functional name:
    :obj:`equal_partition`).

    * ``by="nodes"``: the image is cut in two across its longer extent, each half again, and so on, in proportion to
      the number of parts still to be made, until there are :math:`P` parts whose sizes differ by at most one. A
      keypoint is joined to the others of its part: to all of them, or to its :math:`k` nearest. Stored as
      ``edge_index``, and the number of each keypoint's part as ``part``.
    * ``by="edges"``: the :math:`k` nearest neighbours are dealt out to :math:`P` graphs in turn. The neighbour of
      rank :math:`r = 0, 1, \dots` goes to graph :math:`r \bmod P`, so that every graph sees every distance. Stored
      as ``edge_index_0``, ``edge_index_1``, ..., read by :func:`~pyg_match.transforms.scales`.

    Args:
        parts: Number of parts, or of graphs, of which there are at most 1,024. In an image with fewer keypoints some
            parts are empty.
        by: ``"nodes"`` or ``"edges"``.
        k: Number of neighbours; ``None`` for all keypoints of the part.
        loop: Whether a keypoint is joined to itself (with ``k``: as its own first neighbour).

    Raises:
        ValueError: If an argument is out of range, or ``k`` is missing where it is needed.
        TypeError: If the data has no positions.

    Example:
        >>> data = Data(pos=torch.tensor([[0.0, 0.0], [9.0, 1.0], [8.0, 0.0], [1.0, 1.0]]))
        >>> EqualPartition(2)(data).part
        tensor([0, 1, 1, 0])
        >>> EqualPartition(2, by="edges", k=3)(data)
        Data(pos=[4, 2], edge_index_0=[2, 8], edge_index_1=[2, 4])
    """

    def __init__(
        self, parts: int, by: Literal["nodes", "edges"] = "nodes", k: Optional[int] = None, loop: bool = False
    ) -> None:
        self.parts = whole_number("parts", parts, most=_MOST_GRAPHS if by == "edges" else None)
        self.by = one_of("by", by, ("nodes", "edges"))
        if by == "edges" and k is None:
            raise ValueError("by='edges' divides the nearest neighbours and needs their number 'k'")
        self.k = None if k is None else whole_number("k", k)
        self.loop = loop

    def forward(self, data: Data) -> Data:
        """Store the parts and the edges inside them, or the graphs, sorted by target."""
        check_data(data, self, "pos")
        groups = node_groups(data)
        if self.by == "edges" and self.k is not None:
            edge_index = knn_graph(data.pos, self.k, groups, loop=self.loop)
            turn = neighbour_rank(edge_index[1]) % self.parts
            store_scales(data, [edge_index[:, turn == part] for part in range(self.parts)])
            return data
        parts = fewest_parts(self.parts, groups, data.pos.size(0))
        part = equal_parts(data.pos, parts, groups)
        inside = part if groups is None else groups * parts + part
        edge_index = _edges_inside(data.pos, inside, self.k, self.loop)
        store_edges(data, "edge_index", sorted_edges(edge_index, data.pos.size(0)))
        store_values(data, "part", part)
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(parts={self.parts}, by={self.by!r}, k={self.k}, loop={self.loop})"


def fewest_parts(parts: int, groups: Optional[Tensor], num_nodes: int) -> int:
    """A number of parts that gives the same division as ``parts``, and is not far above that of nodes of a group.

    As long as there are twice as many parts as nodes, the first cut of :func:`equal_parts` leaves all nodes on one
    side, with half of the parts.
    """
    most = num_nodes if groups is None or num_nodes == 0 else int(torch.bincount(groups).max())
    while parts >= 2 * max(most, 1):
        parts //= 2
    return parts


def equal_parts(pos: Tensor, parts: int, groups: Optional[Tensor] = None) -> Tensor:
    r"""Number the nodes of each group with spatial parts whose sizes differ by at most one.

    A region is cut across its longer extent; of nodes with the same coordinate the one of lower index goes first. All
    regions of all groups are cut at once, about :math:`\log_2 P` times.

    Args:
        pos: Positions, in any unit.
        parts: Number of parts :math:`P` of each group.
        groups: The image or example of each node; ``None`` if there is only one.

    Shapes:
        - **pos:** :math:`(N, F)`
        - **groups:** :math:`(N)`
        - **output:** :math:`(N)`, from :math:`0` to :math:`P - 1`

    Raises:
        ValueError: If a position is not finite.
    """
    check_points("pos", pos)
    pos = pos.detach() if pos.is_floating_point() else widest(pos.detach())
    num_nodes = pos.size(0)
    groups = torch.zeros(num_nodes, dtype=torch.long, device=pos.device) if groups is None else groups
    place = torch.arange(num_nodes, device=pos.device)
    order = pos.argsort(dim=0, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, place.unsqueeze(1).expand_as(order))
    size = torch.bincount(groups)
    smaller, larger = size // parts, size % parts  # the first parts hold one node more than the others
    part = torch.arange(parts + 1, device=pos.device)
    # Where each part of each group starts once its nodes lie in order, and that of the next group.
    starts = (size.cumsum(0) - size + smaller * part.unsqueeze(1) + larger.minimum(part.unsqueeze(1))).t()
    # Of each region of a group: it holds the parts from `first` to `first + count - 1`.
    first, count, region = np.array([0]), np.array([parts]), groups
    for _ in range((parts - 1).bit_length()):  # until it holds one part, or none
        axis = _longer_axis(pos, region, starts.size(0) * first.size)
        order = (region * num_nodes + rank.gather(1, axis).squeeze(1)).argsort()
        left = count // 2
        first, count = np.stack([first, first + left], 1).ravel(), np.stack([left, count - left], 1).ravel()
        begin = starts[:, torch.from_numpy(first).to(pos.device)].flatten()
        region = torch.empty_like(region).scatter_(0, order, torch.searchsorted(begin, place, right=True) - 1)
    return torch.from_numpy(first).to(pos.device)[region % first.size]


def _longer_axis(pos: Tensor, region: Tensor, num_regions: int) -> Tensor:
    """The coordinate of the longer extent of the region of each node, :math:`(N, 1)`."""
    index = region.unsqueeze(1).expand_as(pos)
    none = pos.new_full((num_regions, pos.size(1)), torch.inf)
    extent = (-none).scatter_reduce(0, index, pos, "amax") - none.scatter_reduce(0, index, pos, "amin")
    return extent.argmax(dim=1, keepdim=True)[region]


def _edges_inside(pos: Tensor, inside: Tensor, k: Optional[int], loop: bool) -> Tensor:
    """Edges to each node from the ``k`` nearest nodes of the same part, or from all of them in order."""
    members = inside.argsort(stable=True)
    if k is not None:
        return members[knn_graph(pos[members], k, inside[members], loop=loop)]
    size = torch.bincount(inside)
    begin = size.cumsum(0) - size
    degree = size[inside]
    target = torch.arange(inside.numel(), device=inside.device).repeat_interleave(degree)
    source = members[begin[inside[target]] + neighbour_rank(target)]
    edge_index = torch.stack([source, target])
    return edge_index if loop else edge_index[:, source != target]
