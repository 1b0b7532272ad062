"""The kernels of :class:`~pyg_match.ops.largest.LargestOfColumns`, compiled by numba when first used.

Each column has room for some more numbers than are wanted. What reaches its bound is put there; when the room is full,
a higher bound is sought among it, and what does not reach that is forgotten. So the matrix is read once, row by row.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from pyg_match.ops.counters import TASK, WORKER, at_address, count_up

JOB = np.dtype(
    [
        (name, np.uint64)
        for name in (
            "next_task", "next_worker", "values", "step", "rows", "first_row", "columns", "columns_at_once", "k",
            "room", "found", "place", "count", "bound", "out",
            "rank", "rank_length",  # a stretch for each worker
        )
    ]
)  # fmt: skip
U0, U1, U2 = np.uint64(0), np.uint64(1), np.uint64(2)
BLOCK = 16  # columns that are compared at once
_BLOCK = np.uint64(BLOCK)
_HALVINGS = 12  # of the range in which a bound is sought
_FAST = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}


@njit(forceinline=True, **_FAST)
def rank_all(found: Any, at: Any, n: Any, rank: Any, zero: Any, one: Any) -> None:
    """The places of numbers in falling order; of equal ones, the first comes first."""
    for a in range(n):
        number, before = found[at + a], zero
        for b in range(n):  # counted in the type of the numbers, so that registers need not be changed
            before += one if found[at + b] > number else zero
        for b in range(a):
            before += one if found[at + b] == number else zero
        rank[a] = before


@njit(forceinline=True, **_FAST)
def forget(
    found: Any, place: Any, at: Any, n: Any, k: Any, bound: Any, rank: Any, zero: Any, one: Any, half: Any, wanted: Any
) -> Any:  # fmt: skip
    """Keep the ``k`` largest of ``n`` numbers and perhaps some more, in their order; returns how many, and a bound."""
    low, high = bound, found[at]
    for a in range(n):
        high = found[at + a] if found[at + a] > high else high
    for _ in range(_HALVINGS):
        middle, count = half * (low + high), zero
        for a in range(n):
            count += one if found[at + a] >= middle else zero
        if count >= wanted:
            low = middle
        else:
            high = middle
    count = zero
    for a in range(n):
        count += one if found[at + a] >= low else zero
    kept = U0
    if np.uint64(count) <= k + k // U2:
        for a in range(n):
            number = found[at + a]
            found[at + kept], place[at + kept] = number, place[at + a]
            kept += np.uint64(number >= low)
        return kept, low
    # The range is much wider than what is in it, or many are equal.
    rank_all(found, at, n, rank, zero, one)
    for a in range(n):
        number = found[at + a]
        low = number if rank[a] == wanted - one else low
        found[at + kept], place[at + kept] = number, place[at + a]
        kept += np.uint64(rank[a] < wanted)
    return kept, low


@intrinsic
def reaching(context: Any, values: Any, at: Any, bound: Any, first: Any) -> Any:
    """Which of some numbers reach their bounds, a bit for each."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = signature.args[0].dtype
        vector = ir.VectorType(context.get_data_type(real), BLOCK)

        def load(array_type: Any, array: Any, index: Any) -> Any:
            data = context.make_array(array_type)(context, builder, array).data
            start = builder.bitcast(builder.gep(data, [index]), vector.as_pointer())
            return builder.load(start, align=real.bitwidth // 8)

        numbers, bounds = (load(signature.args[i], args[i], args[i + 1]) for i in (0, 2))
        bits = builder.bitcast(builder.fcmp_ordered(">=", numbers, bounds), ir.IntType(BLOCK))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(values, types.uint64, bound, types.uint64), generate


@intrinsic
def lowest_bit(context: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


def make_collect(real: Any, size: Any) -> Callable[[Any], None]:
    """The kernel that goes through some rows; ``size`` is that of arrays of which only the address is known."""

    def collect(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        values, found = carray(at_address(job.values), size, real), carray(at_address(job.found), size, real)
        place, count = (
            carray(at_address(job.place), size, np.int32),
            carray(at_address(job.count), size, np.uint64),
        )
        bound = carray(at_address(job.bound), size, real)
        rank = carray(at_address(job.rank + count_up(pointer, WORKER) * job.rank_length), size, real)
        k, room, zero, one, half, wanted = job.k, job.room, real(0), real(1), real(0.5), real(job.k)
        first = count_up(pointer, TASK) * job.columns_at_once
        while first < job.columns:
            end = min(first + job.columns_at_once, job.columns)
            for row in range(job.rows):
                at, start = row * job.step, first
                while start < end:
                    bits = U0
                    if start + _BLOCK <= end:
                        bits = reaching(values, at + start, bound, start)
                    else:
                        for c in range(start, end):
                            bits |= np.uint64(values[at + c] >= bound[c]) << (c - start)
                    while bits != U0:
                        c = start + lowest_bit(bits)
                        bits &= bits - U1
                        n = count[c]
                        found[c * room + n], place[c * room + n] = values[at + c], job.first_row + row
                        n += U1
                        if n == room:
                            n, bound[c] = forget(
                                found, place, c * room, n, k, bound[c], rank, zero, one, half, wanted
                            )
                        count[c] = n
                    start += _BLOCK
            first = count_up(pointer, TASK) * job.columns_at_once

    return collect


def make_order(real: Any, size: Any) -> Callable[[Any], None]:
    """The kernel that writes the indices of the ``k`` largest in falling order."""

    def order(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        found, place = (
            carray(at_address(job.found), size, real),
            carray(at_address(job.place), size, np.int32),
        )
        count, bound = (
            carray(at_address(job.count), size, np.uint64),
            carray(at_address(job.bound), size, real),
        )
        out = carray(at_address(job.out), size, np.int64)
        rank = carray(at_address(job.rank + count_up(pointer, WORKER) * job.rank_length), size, real)
        k, zero, one, half, wanted = job.k, real(0), real(1), real(0.5), real(job.k)
        first = count_up(pointer, TASK) * job.columns_at_once
        while first < job.columns:
            for c in range(first, min(first + job.columns_at_once, job.columns)):
                at, n = c * job.room, count[c]
                if n > k:
                    n, bound[c] = forget(found, place, at, n, k, bound[c], rank, zero, one, half, wanted)
                rank_all(found, at, n, rank, zero, one)
                for a in range(n):
                    if rank[a] < wanted:
                        out[c * k + np.uint64(rank[a])] = place[at + a]
            first = count_up(pointer, TASK) * job.columns_at_once

    return order
