"""Equal division along a curve: parts whose keypoints all see each other."""

from typing import Optional

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import check_points, whole_number
from pyg_match.ops.precision import widest
from pyg_match.transforms.edges import check_data, node_groups
from pyg_match.transforms.store import carried, store_values

_LEVELS = 12  # of squares within squares: 4,096 along the longer side


@functional_transform("hilbert_partition")
class HilbertPartition(BaseTransform):
    r"""Equal division of the keypoints **of each image** along a Hilbert curve, into parts that are complete graphs
    (functional name: :obj:`hilbert_partition`).

    The curve runs through all places of an image, so that keypoints which follow each other on it are near each other.
    An image with :math:`N` keypoints gets :math:`\lceil N / s \rceil` parts whose sizes differ by at most one. With
    ``shift=True`` there is a second division, whose parts end in the middle of those of the first.

    No edges are listed: the number of each keypoint's part is stored as ``window``, in a column for each division.
    :class:`~pyg_match.nn.GraphMatcher` attends within the parts as dense blocks and gathers no single neighbours. Of
    two divisions its layers take one in turn, so that what a keypoint knows leaves its part. ``edge_index`` and what
    belongs to it are dropped. For far keypoints, add :class:`~pyg_match.transforms.AnchorEdges` with ``listed=False``.

    Args:
        size: Number of keypoints :math:`s` that a part has at most.
        shift: Whether there is a second division.

    Raises:
        ValueError: If ``size`` is out of range, positions are not in the plane, or one is not finite.
        TypeError: If the data has no positions.

    Source: the curve as in "Hilbert curve", Wikipedia, after D. Hilbert, "Ueber die stetige Abbildung einer Linie auf
    ein Flaechenstueck", 1891; attention in windows that are shifted from layer to layer: Swin Transformer
    (https://arxiv.org/abs/2103.14030).

    Example:
        >>> data = Data(pos=torch.tensor([[0.0, 0.0], [9.0, 1.0], [8.0, 0.0], [1.0, 1.0]]))
        >>> HilbertPartition(2)(data).window.tolist()
        [[0], [1], [1], [0]]
    """

    def __init__(self, size: int = 128, shift: bool = False) -> None:
        self.size = whole_number("size", size)
        self.shift = shift

    def forward(self, data: Data) -> Data:
        """Set ``data.window``, and drop the edges within images that ``data`` has."""
        check_data(data, self, "pos")
        if data.pos.dim() != 2 or data.pos.size(1) != 2:
            raise ValueError(f"'pos' must have the shape (N, 2), got {list(data.pos.shape)}")
        groups = node_groups(data)
        rank, count = hilbert_ranks(data.pos, groups)
        part, start, size = _equal_division(rank, count, self.size)
        divisions = [part] + ([_shifted(part, start, size, rank, count)] if self.shift else [])
        for name in [*carried(data, "edge_index"), "edge_index", "anchor"]:
            if name in data:
                del data[name]
        store_values(data, "window", torch.stack(divisions, dim=1))
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.size}{', shift=True' if self.shift else ''})"


def hilbert_ranks(pos: Tensor, groups: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
    """The rank of each node on a Hilbert curve through its group, and how many nodes the group has.

    The curve fills the square over the longer extent of the group. Of nodes at the same place, or nearer to each other
    than 1 / 4,096 of it, the one of lower index comes first.

    Args:
        pos: Positions, in any unit.
        groups: The image or example of each node; ``None`` if there is only one.

    Shapes:
        - **pos:** :math:`(N, 2)`
        - **groups:** :math:`(N)`
        - **output:** :math:`(N), (N)`

    Raises:
        ValueError: If a position is not finite.
    """
    pos = pos.detach()
    check_points("pos", pos)
    groups = torch.zeros(pos.size(0), dtype=torch.long, device=pos.device) if groups is None else groups
    order = (groups << (2 * _LEVELS) | _curve(_cells(pos, groups))).argsort(stable=True)
    size = torch.bincount(groups)
    start = (size.cumsum(0) - size)[groups[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel(), device=order.device) - start
    return rank, size[groups]


def _cells(pos: Tensor, groups: Tensor) -> Tensor:
    """The smallest square that each node lies in, by column and row."""
    count = int(groups.max()) + 1 if groups.numel() > 0 else 0
    pos, index = widest(pos), groups.unsqueeze(1).expand_as(pos)
    low, high = (
        pos.new_zeros(count, 2).scatter_reduce(0, index, pos, kind, include_self=False)
        for kind in ("amin", "amax")
    )
    extent = (high - low).amax(1, keepdim=True)
    along = (pos - low[groups]) / extent.clamp(min=torch.finfo(pos.dtype).tiny)[groups]
    return (along * (1 << _LEVELS)).long().clamp(max=(1 << _LEVELS) - 1)


def _curve(cells: Tensor) -> Tensor:
    """The place of squares along the curve."""
    x, y = cells.unbind(1)
    length = torch.zeros_like(x)
    for level in reversed(range(_LEVELS)):
        right, up = x >> level & 1, y >> level & 1
        length = length << 2 | (3 * right ^ up)
        # The curve within the lower quarters is turned, in the right one the other way round.
        lower, lower_right = up == 0, (up == 0) & (right == 1)
        x, y = torch.where(lower_right, ~x, x), torch.where(lower_right, ~y, y)
        x, y = torch.where(lower, y, x), torch.where(lower, x, y)
    return length


def _equal_division(rank: Tensor, count: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The part of each node, where that starts, and its size; the first parts hold one node more than the others."""
    parts = (count + size - 1) // size
    smaller, larger = count // parts, count % parts
    in_larger = rank < larger * (smaller + 1)
    behind = rank - larger * (smaller + 1)
    part = torch.where(in_larger, rank // (smaller + 1), larger + behind // smaller)
    start = part * smaller + torch.minimum(part, larger)
    return part, start, smaller + (part < larger).long()


def _shifted(part: Tensor, start: Tensor, size: Tensor, rank: Tensor, count: Tensor) -> Tensor:
    """The part of each node in a division at the middles of another; a single part stays whole."""
    behind_middle = rank >= start + size // 2
    return part + (behind_middle & (size < count)).long()
