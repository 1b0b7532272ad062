"""The kernel of :func:`~pyg_match.ops.largest.largest_indices`, compiled by numba when first used.

A heap, as ordinary selection keeps it, mispredicts a branch for nearly every number that enters it. Here almost all
work is comparisons of whole registers: the k-th largest of the maxima of some bins is a bound that at least k numbers
reach and hardly more; those are collected, and the place of each is the number of larger ones among them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit

from pyg_match.ops.counters import TASK, WORKER, at_address, count_up

JOB = np.dtype(
    [
        (name, np.uint64)
        for name in (
            "next_task", "next_worker", "values", "step", "rows", "length", "k", "bins", "out", "rows_at_once",
            "scratch", "scratch_length", "room", "found_at", "place_at",  # a stretch for each worker
        )
    ]
)  # fmt: skip
U0, U1 = np.uint64(0), np.uint64(1)
BLOCK = 32  # numbers that are compared before anyone looks at the result
_BLOCK = np.uint64(BLOCK)
_HALVINGS = 12  # of the range in which the bound is sought


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy", forceinline=True)
def select_row(
    row: Any, at: Any, length: Any, k: Any, bins: Any, room: Any, top: Any, found: Any, place: Any, out: Any, to: Any,
    zero: Any, one: Any, half: Any, wanted: Any,
) -> None:  # fmt: skip
    """Write the indices of the ``k`` largest numbers of a row to ``out[to:]``; -1 first if that cannot be told."""
    out[to] = -1
    for b in range(bins):
        top[b] = row[at + b]
    j = bins
    while j < length:
        for b in range(min(bins, length - j)):
            number = row[at + j + b]
            top[b] = number if number > top[b] else top[b]
        j += bins
    low = high = top[U0]
    for b in range(bins):
        low = top[b] if top[b] < low else low
        high = top[b] if top[b] > high else high
    for _ in range(_HALVINGS):
        middle, count = half * (low + high), zero
        for b in range(bins):  # counted in the type of the numbers, so that registers need not be changed
            count += one if top[b] >= middle else zero
        if count >= wanted:
            low = middle
        else:
            high = middle
    n, j = U0, U0
    while j < length:
        size = min(_BLOCK, length - j)
        hits = zero
        for b in range(size):
            hits += one if row[at + j + b] >= low else zero
        if hits != zero:
            if n + _BLOCK > room:
                return
            for i in range(j, j + size):
                found[n], place[n] = row[at + i], i
                n += np.uint64(row[at + i] >= low)
        j += size
    if n < k:
        return
    whole = (n + _BLOCK - U1) // _BLOCK * _BLOCK
    for a in range(n, whole):
        found[a] = low - one
    for a in range(k):
        out[to + a] = -1
    for a in range(n):
        number, larger = found[a], zero
        for b in range(whole):
            larger += one if found[b] > number else zero
        rank = np.uint64(larger)
        while rank < k and out[to + rank] >= 0:  # taken by an equal one before it
            rank += U1
        if rank < k:
            out[to + rank] = place[a]


def make_select(real: Any, size: Any) -> Callable[[Any], None]:
    """The kernel for numbers of a type; ``size`` is that of arrays of which only the address is known."""

    def select(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        values, out = carray(at_address(job.values), size, real), carray(at_address(job.out), size, np.int64)
        own = job.scratch + count_up(pointer, WORKER) * job.scratch_length
        top, found = carray(at_address(own), size, real), carray(at_address(own + job.found_at), size, real)
        place = carray(at_address(own + job.place_at), size, np.int64)
        zero, one, half, wanted = real(0), real(1), real(0.5), real(job.k)
        first = count_up(pointer, TASK) * job.rows_at_once
        while first < job.rows:
            for row in range(first, min(first + job.rows_at_once, job.rows)):
                select_row(values, row * job.step, job.length, job.k, job.bins, job.room, top, found, place, out,
                           row * job.k, zero, one, half, wanted)  # fmt: skip
            first = count_up(pointer, TASK) * job.rows_at_once

    return select
