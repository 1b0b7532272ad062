"""Tables of dense groups: four numbers a group, bounds of its targets and of its sources."""

import itertools
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from pyg_match.ops.csr import CSR


def group_rows(
    target_ptr: Sequence[int], source_start: Sequence[int], source_stop: Sequence[int]
) -> list[list[int]]:
    """Groups of targets that follow each other."""
    rows = zip(target_ptr[:-1], target_ptr[1:], source_start, source_stop, strict=True)
    return [list(row) for row in rows]


def check_rising(name: str, ptr: tuple[int, ...]) -> None:
    """Refuse pointers that do not rise from 0."""
    if ptr[0] != 0 or any(stop < start for start, stop in zip(ptr, ptr[1:], strict=False)):
        raise ValueError(f"'{name}' must rise from 0, got {ptr}")


def count_rounds(rows: list[list[int]], num_targets: int, num_sources: int) -> int:
    """The number of times that groups go through all targets.

    Groups that do not, and sources that do not exist, are refused.
    """
    rounds, place = 0, num_targets
    for first, stop, source, source_stop in rows:
        if first == 0 and place == num_targets:
            rounds, place = rounds + 1, 0
        if first != place or not first <= stop <= num_targets:
            raise ValueError(
                f"groups must go through the {num_targets} targets in order, got one from {first} to {stop} after "
                f"{place}"
            )
        if not 0 <= source <= source_stop <= num_sources:
            raise ValueError(
                f"sources of a group must be a range of the {num_sources} that there are, got from {source} to "
                f"{source_stop}"
            )
        place = stop
    if place != num_targets or (rounds == 0 and num_targets > 0):
        raise ValueError(
            f"groups must go through all {num_targets} targets, got none behind {place % max(num_targets, 1)}"
        )
    return rounds if num_targets > 0 else 1


def share_sources(rows: list[list[int]]) -> bool:
    """Whether two groups have sources in common."""
    ranges = [row[2:] for row in rows if row[0] < row[1] and row[2] < row[3]]
    if torch.compiler.is_compiling():  # which sorts no numbers that it does not know, but compares them
        pairs = itertools.combinations(ranges, 2)
        return any(one[0] < other[1] and other[0] < one[1] for one, other in pairs)
    ranges.sort()
    return any(after[0] < before[1] for before, after in zip(ranges, ranges[1:], strict=False))


def group_targets(groups: Tensor) -> Tensor:
    """The targets of all groups, or their places, group after group."""
    start, size = groups[:, 0], groups[:, 1] - groups[:, 0]
    first = start - (size.cumsum(0) - size)
    of_all = first.repeat_interleave(size)
    return of_all + torch.arange(of_all.numel(), device=groups.device)


def list_groups(
    rowptr: Tensor,
    col: Tensor,
    groups: Tensor,
    source: Optional[Tensor],
    log_weight: Optional[Tensor],
    order: Optional[Tensor] = None,
) -> tuple[CSR, Tensor]:
    """All edges by target, and what they add to their scores; those of groups come last for each target.

    Groups divide the targets in the given ``order``.
    """
    target, seen = group_targets(groups), groups[:, 3] - groups[:, 2]
    target = target if order is None else order[target]
    of_target = torch.arange(len(groups), device=groups.device).repeat_interleave(groups[:, 1] - groups[:, 0])
    seen = seen[of_target]
    number = torch.arange(target.numel(), device=groups.device).repeat_interleave(seen)
    first = (groups[:, 2][of_target] - (seen.cumsum(0) - seen)).repeat_interleave(seen)
    place = first + torch.arange(number.numel(), device=groups.device)
    dense = place if source is None else source[place]
    all_targets = torch.cat([CSR(rowptr, col).target(), target[number]])
    by_target = all_targets.argsort(stable=True)
    bias = torch.zeros_like(number, dtype=torch.float) if log_weight is None else log_weight[number]
    bias = torch.cat([bias.new_zeros(col.numel()), bias])[by_target]
    counts = torch.bincount(all_targets, minlength=rowptr.numel() - 1)
    return CSR(torch.cat([rowptr[:1], counts.cumsum(0)]), torch.cat([col.long(), dense])[by_target]), bias
