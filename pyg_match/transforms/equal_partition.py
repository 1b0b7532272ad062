"""Equal division: of the keypoints into parts of equal size, or of the neighbours into graphs of equal reach."""

from typing import Literal, Optional

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import check_points, one_of, whole_number
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.knn import knn_graph
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
    most = num_nodes if groups is None else int(torch.bincount(groups).max()) if num_nodes > 0 else 0
    while parts >= 2 * max(most, 1):
        parts //= 2
    return parts


def equal_parts(pos: Tensor, parts: int, groups: Optional[Tensor] = None) -> Tensor:
    r"""Number the nodes of each group with spatial parts whose sizes differ by at most one.

    A region is cut across its longer extent; of nodes with the same coordinate the one of lower index goes first. All
    regions of all groups are cut at once, about :math:`\log_2 P` times. Nodes are sorted once: cutting keeps the order
    of those on either side.

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
    pos = pos.detach()
    check_points("pos", pos)
    groups = torch.zeros(pos.size(0), dtype=torch.long, device=pos.device) if groups is None else groups
    # The nodes region by region, sorted by each coordinate within each region.
    order = pos.t().argsort(dim=1, stable=True)
    order = order.gather(1, groups[order].argsort(dim=1, stable=True))
    size = torch.bincount(groups)
    smaller, larger = size // parts, size % parts  # the first parts hold one node more than the others
    # Of each region: it holds the parts from `first` to `first + count - 1` and `size` nodes of a group.
    regions = torch.stack(
        [
            torch.zeros_like(size),
            torch.full_like(size, parts),
            size,
            torch.arange(len(size), device=size.device),
        ]
    )
    for _ in range((parts - 1).bit_length()):  # until each region holds one part at most
        first, count, size, group = regions
        left = count // 2
        left_size = left * smaller[group] + (larger[group] - first).clamp(min=0).minimum(left)
        order = _cut(pos, order, size, left_size)
        halves = [[first, left, left_size, group], [first + left, count - left, size - left_size, group]]
        regions = torch.stack([torch.stack(half) for half in halves], dim=2).flatten(1)
        if regions.size(1) > pos.size(0):  # else a device need not tell which are empty
            regions = regions[:, regions[2] > 0]
    part = torch.empty_like(groups)
    part[order[0]] = regions[0].repeat_interleave(regions[2], output_size=pos.size(0))
    return part


def _cut(pos: Tensor, order: Tensor, size: Tensor, left_size: Tensor) -> Tensor:
    """The nodes in order after those at the lower end of each region's longer extent have gone to its left."""
    end, most = size.cumsum(0), pos.size(0) - 1
    start = end - size
    lowest, highest = (pos.t().gather(1, order[:, ends.clamp(0, most)]) for ends in (start, end - 1))
    axis = (highest - lowest).argmax(dim=0)
    regions = torch.arange(len(size), device=size.device)
    region = regions.repeat_interleave(size, output_size=pos.size(0))
    start, left_size = start[region], left_size[region]
    place = torch.arange(len(region), device=region.device)
    goes_left = torch.empty_like(region, dtype=torch.bool)
    goes_left[order[axis[region], place]] = place - start < left_size
    goes_left = goes_left[order]
    # How many of its region that go left come before each node.
    before = goes_left.cumsum(1) - goes_left.long()
    before = before - before[:, start]
    place = torch.where(goes_left, start + before, place + left_size - before)
    return torch.empty_like(order).scatter_(1, place, order)


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
