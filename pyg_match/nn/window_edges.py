"""Edge sets of parts that are complete graphs, and of anchors beside them."""

import math
from typing import Optional

import torch
from torch import Tensor

from pyg_match.ops import EdgeSet


def window_edges(
    window: Tensor, ptr: tuple[int, ...], anchor: Optional[Tensor], weight: Optional[Tensor]
) -> list[EdgeSet]:
    """The edges of each division of the keypoints of all images, as dense groups.

    Args:
        window: The number of each node's part within its image, in a column for each division; whole numbers.
        ptr: Where the nodes of each image start, and their number at the end.
        anchor: Which nodes all nodes of their image see besides; ``None`` for none.
        weight: How many nodes each anchor stands for, for each node and division. Anchors of weight 0 are left out,
            and give it no gradient.

    Shapes:
        - **window**, **weight:** :math:`(N, S)`
        - **anchor:** :math:`(N)`

    Raises:
        ValueError: If there is no division, a number is negative, or there are no numbers.
    """
    if window.is_meta:
        raise ValueError("'window' is on the meta device, which holds no numbers")
    if window.size(1) == 0:
        raise ValueError("'window' must have a column for each division, got none")
    if window.numel() > 0 and int(window.min()) < 0:
        raise ValueError(f"'window' must hold numbers of parts from 0 on, got {int(window.min())}")
    none = EdgeSet.of(window.new_empty(2, 0, dtype=torch.long), ptr[-1], ptr[-1])
    sizes = torch.tensor(ptr, device=window.device).diff()
    image = torch.arange(sizes.numel(), device=window.device).repeat_interleave(sizes)
    weights = [None] * window.size(1) if weight is None else weight.unbind(1)
    parts = zip(window.long().unbind(1), weights, strict=True)
    return [_division(none, part, image, ptr, anchor, of_part) for part, of_part in parts]


def _division(
    none: EdgeSet,
    part: Tensor,
    image: Tensor,
    ptr: tuple[int, ...],
    anchor: Optional[Tensor],
    weight: Optional[Tensor],
) -> EdgeSet:
    _, number, sizes = torch.stack([image, part]).unique(dim=1, return_inverse=True, return_counts=True)
    order = number.argsort(stable=True)
    bounds = [0, *sizes.cumsum(0).tolist()]
    rows = [[first, last, first, last] for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    if anchor is None or weight is None:
        return none.with_groups(rows, order, target=order)
    anchors = anchor.nonzero().squeeze(1)
    starts = torch.searchsorted(anchors, torch.tensor(ptr, device=anchors.device)) + order.numel()
    places = starts.tolist()
    rows += [list(row) for row in zip(ptr[:-1], ptr[1:], places[:-1], places[1:], strict=True)]
    weight = weight[order]
    nothing = weight == 0
    # Filled before the logarithm, too, whose gradient at 0 is not finite.
    added = weight.masked_fill(nothing, 1).log().masked_fill(nothing, -math.inf)
    log_weight = torch.cat([torch.zeros_like(weight), added])
    return none.with_groups(rows, torch.cat([order, anchors]), log_weight, order)
