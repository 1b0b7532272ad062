"""Nearest neighbours of all examples at once, for devices on which a loop over examples is slow."""

import torch
from torch import Tensor

from pyg_match.ops.precision import widest

_ELEMENTS = 1 << 23  # distances held at once: 64 MiB, and several times that for ranking them


def batched_knn(points: Tensor, ptr: Tensor, k: int, loop: bool) -> Tensor:
    """The edges that :func:`pyg_match.knn_graph` draws, ranked by (distance, index) in the widest precision there is.

    Args:
        points: The points of all examples, one after the other.
        ptr: Where the points of each example start, and their number at the end.
        k: Number of neighbours; all others in an example with fewer.
        loop: Whether a point is its own first neighbour.

    Shapes:
        - **points:** :math:`(N, F)`
        - **ptr:** :math:`(B + 1)`
        - **output:** :math:`(2, E)`, from neighbour to point
    """
    counts = ptr.diff()
    most = int(counts.max()) if counts.numel() > 0 else 0
    k = min(k, most if loop else most - 1)
    if k <= 0:
        return torch.empty(2, 0, dtype=torch.long, device=points.device)
    points, place = widest(points), torch.arange(most, device=points.device)
    target = torch.arange(points.size(0), device=points.device)
    example = torch.searchsorted(ptr[1:], target, right=True)
    found = []
    # Chunks of points rather than examples, so that a large one fits as well.
    for rows in target.split(max(1, _ELEMENTS // most)):
        own = example[rows]
        others = (ptr[own].unsqueeze(1) + place).clamp(max=points.size(0) - 1)
        distance = squared_distances(points, rows, others)
        distance.masked_fill_(place >= counts[own].unsqueeze(1), torch.inf)
        is_own = place == (rows - ptr[own]).unsqueeze(1)
        distance.masked_fill_(is_own, -1.0 if loop else torch.inf)
        found.append(_nearest(distance, k) + ptr[own].unsqueeze(1))
    degree = (counts - int(not loop)).clamp(max=k)[example]
    real = torch.arange(k, device=points.device) < degree.unsqueeze(1)
    return torch.stack([torch.cat(found)[real], target.unsqueeze(1).expand(-1, k)[real]])


def squared_distances(points: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """The squared distances of some points to others each, ``[M]`` and ``[M, P]``, summed in one order everywhere."""
    distance = points.new_zeros(others.shape)
    for column in points.unbind(1):
        distance += (column[others] - column[rows].unsqueeze(1)) ** 2
    return distance


def _nearest(distance: Tensor, k: int) -> Tensor:
    """The columns of the ``k`` smallest numbers of each row, of equal ones the first, in order."""
    # Which of several equal ones topk takes is not told, but how large the last one is.
    last = distance.topk(k, dim=1, largest=False).values.amax(1, keepdim=True)
    nearer, equal = distance < last, distance == last
    # Numbers of 32 bits, which are half as much to read.
    chosen = nearer | (equal & (equal.cumsum(1, dtype=torch.int32) <= k - nearer.sum(1, keepdim=True)))
    columns = torch.arange(distance.size(1), dtype=torch.int32, device=distance.device)
    index = columns.masked_fill(~chosen, distance.size(1)).topk(k, dim=1, largest=False).values
    index = index.sort(1).values.long()
    order = distance.gather(1, index).argsort(dim=1, stable=True)
    return index.gather(1, order)
