"""What depends on the number of the step alone: the data, the learning rate, the averaging of weights."""

import functools
import math

import torch
from torch import nn


def batch_indices(
    step: int, size: int, batch_size: int, seed: int, accumulate: int = 1, rank: int = 0, world: int = 1
) -> list[list[int]]:
    """The examples of a step, for each part of a process's share of the batch.

    All examples are passed through in a random order, then again in another. All processes and parts together
    see the same examples, however many there are.

    Args:
        step: Number of the step from 0.
        size: Number of examples.
        batch_size: Number of examples in a step over all processes.
        seed: Chooses the orders.
        accumulate: Number of parts.
        rank: Number of the process.
        world: Number of processes.

    Raises:
        ValueError: If the batch does not split evenly, or if there are no examples.

    Example:
        >>> sorted(batch_indices(0, size=4, batch_size=4, seed=0)[0])
        [0, 1, 2, 3]
    """
    if size < 1:
        raise ValueError("there are no pairs to train on")
    if batch_size % (world * accumulate) != 0:
        raise ValueError(
            f"'batch_size' must be a multiple of {world} processes x {accumulate} parts, got {batch_size}"
        )
    part = batch_size // (world * accumulate)
    positions = range(step * batch_size, (step + 1) * batch_size)
    order = {epoch: _order(epoch, size, seed) for epoch in {position // size for position in positions}}
    chosen = [order[position // size][position % size] for position in positions]
    starts = [(number * world + rank) * part for number in range(accumulate)]
    return [chosen[start : start + part] for start in starts]


def learning_rate(step: int, steps: int, peak: float, warmup: int, final: float) -> float:
    """Linear warm-up, then half a cosine from ``peak`` down to ``final * peak``.

    Example:
        >>> [learning_rate(step, 100, 1.0, 2, 0.0) for step in (0, 1, 2, 51)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the current ones; young averages forget their start sooner."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


@functools.lru_cache(maxsize=2)  # a step may see the end of one and the start of the next
def _order(epoch: int, size: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order
