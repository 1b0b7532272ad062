"""The choice of near neighbours that differ from each other."""

import ctypes
import math

import torch
from torch import Tensor

from pyg_match.ops.native.job import fields, run_job
from pyg_match.ops.native.library import library
from pyg_match.ops.precision import widest

_WORK_OF_A_THREAD = 1 << 22  # multiply-adds below which starting another thread costs more than it saves
_TASKS = 4  # for each thread
_MOST_NUMBERS = 1 << 24  # of candidates' vectors that are in memory at a time without the kernel


class _Job(ctypes.Structure):
    """``struct choice`` in ``native/diverse.c``."""

    _fields_ = [
        *fields("next_task rows rows_at_once dimensions channels size k first"),
        ("distance_weight", ctypes.c_double),
        ("orthogonality_weight", ctypes.c_double),
        *fields("*pos *descriptors *candidates *chosen"),
        ("failed", ctypes.c_int64),
    ]


def diverse_choice(
    pos: Tensor,
    descriptors: Tensor,
    candidates: Tensor,
    k: int,
    distance_weight: float,
    orthogonality_weight: float,
    first: int,
) -> Tensor:
    """The mask of the chosen candidates of each row; see :class:`~pyg_match.transforms.DiverseKNN` for the rule.

    Args:
        pos: Positions.
        descriptors: Vectors of unit length; of width 0 if directions are compared instead.
        candidates: The pool of each row, the nearest first.
        k: How many to choose, at most :math:`P`.
        distance_weight: Weight of the distance, which is relative to that of the farthest candidate.
        orthogonality_weight: Weight of the worst absolute cosine with those chosen so far.
        first: The node of row 0.

    Shapes:
        - **pos:** :math:`(N, D)`
        - **descriptors:** :math:`(N, C)`
        - **candidates:** :math:`(M, P)`
        - **output:** :math:`(M, P)` ``bool``, of which :math:`k` are ``True`` in each row

    Raises:
        MemoryError: If there is no memory for the candidates of a row.
    """
    # Only their ratio counts; by a power of two they come into the range of all types.
    exponent = math.frexp(max(distance_weight, orthogonality_weight))[1]
    distance_weight, orthogonality_weight = (
        math.ldexp(weight, -exponent) for weight in (distance_weight, orthogonality_weight)
    )
    pos = widest(pos)
    descriptors, candidates = descriptors.to(pos.device), candidates.to(pos.device)
    if pos.device.type != "cpu" or library() is None:
        weights = distance_weight, orthogonality_weight
        rows = max(1, _MOST_NUMBERS // (candidates.size(1) * max(pos.size(1), descriptors.size(1))))
        parts = enumerate(candidates.split(rows))
        several = [
            _choose_in_torch(pos, descriptors, part, k, *weights, first + i * rows) for i, part in parts
        ]
        return torch.cat(several)
    pos, descriptors, candidates = pos.contiguous(), descriptors.contiguous(), candidates.contiguous()
    rows, size = candidates.shape
    chosen = torch.zeros(rows, size, dtype=torch.bool, device=pos.device)
    work = rows * size * k * max(pos.size(1), descriptors.size(1))
    threads = min(torch.get_num_threads(), 1 + work // _WORK_OF_A_THREAD)
    job = _Job(
        rows=rows, rows_at_once=max(1, -(-rows // (threads * _TASKS))), dimensions=pos.size(1),
        channels=descriptors.size(1), size=size, k=k, first=first, distance_weight=distance_weight,
        orthogonality_weight=orthogonality_weight, pos=pos.data_ptr(), descriptors=descriptors.data_ptr(),
        candidates=candidates.data_ptr(), chosen=chosen.data_ptr(),
    )  # fmt: skip
    run_job("choose", descriptors.dtype, job, threads, pos, descriptors, candidates, chosen)
    if job.failed:
        raise MemoryError(f"no memory for {size} candidates of {descriptors.size(1)} channels")
    return chosen


def _choose_in_torch(
    pos: Tensor,
    descriptors: Tensor,
    candidates: Tensor,
    k: int,
    distance_weight: float,
    orthogonality_weight: float,
    first: int,
) -> Tensor:
    """The choice in plain torch: all rows at once, and every candidate compared with each one chosen."""
    offsets = pos[candidates] - pos[first : first + candidates.size(0)].unsqueeze(1)
    length = offsets.norm(dim=2)
    distance = length.cummax(dim=1).values  # never falls along the pool, whatever rounding does
    reach = distance[:, -1:]
    near = distance_weight * distance / torch.where(reach > 0, reach, 1.0)
    by_direction = descriptors.size(1) == 0
    vectors = (
        offsets / torch.where(length > 0, length, 1.0).unsqueeze(2)
        if by_direction
        else descriptors[candidates]
    )
    near, worst = near.to(vectors.dtype), vectors.new_zeros(length.shape)
    chosen = torch.zeros_like(candidates, dtype=torch.bool)
    for _ in range(k):
        cost = (near + orthogonality_weight * worst).masked_fill(chosen, torch.inf)
        best = cost.argmin(dim=1, keepdim=True)
        chosen.scatter_(1, best, True)
        own = vectors.gather(1, best.unsqueeze(2).expand(-1, -1, vectors.size(2)))
        worst = torch.maximum(worst, (own * vectors).sum(dim=2).abs())
    return chosen
