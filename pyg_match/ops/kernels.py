"""CPU kernels, compiled by numba when first used: attention along edges, forward and backward.

A row is a target with its incoming edges (or a source with its outgoing ones). Threads take tasks, each of which is a
range of rows of one head, until none is left; see :mod:`pyg_match.ops.team`. Within a task one table of nodes is read
for all rows before the next one is: first all keys, then all values. So only one of them has to stay in a core's
cache, and nothing is stored per edge but a score. A table that no cache holds is read in tiles, one after the other
for all rows; the edges of a row are in the order of the tiles then, and ``rowptr[row * tiles + tile]`` is the first
from a tile. The innermost loops are in :mod:`pyg_match.ops.vectors`.

All arrays are flat, and all indices unsigned: for a view or a signed index numba would count references and mind
negative values in the innermost loop, which then is not vectorised. Node ``i``'s channels of the head at hand start at
``i * step + offset``. ``zero`` is 0 in the type of the numbers, from which all others follow.
"""

import ctypes
import functools
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.core.caching import FunctionCache
from numba.extending import overload

from pyg_match.ops import counters, vectors
from pyg_match.ops.columns_kernel import make_collect, make_order
from pyg_match.ops.counters import TASK, WORKER, at_address, count_up
from pyg_match.ops.largest_kernel import make_select
from pyg_match.ops.undirected_kernel import undirected
from pyg_match.ops.vectors import (
    EDGES,
    REGISTER,
    dot_few_rows,
    dot_rows,
    exponentials,
    fetch_to_read,
    fetch_to_write,
    largest,
    sum_rows,
)

# What a task needs to know: addresses of arrays (0 for none), steps between nodes and between heads, and sizes.
JOB = np.dtype(
    [
        (name, np.uint64)
        for name in (
            "next_task", "next_worker", "heads", "heads_at_once", "chunks", "bounds",  # tasks: heads x chunks of rows
            "scratch", "scratch_length", "totals_at", "part_at",  # a stretch for each worker: of edges, rows, [rows, C]
            "rowptr", "col", "perm", "edges", "ahead",
            "num_rows", "num_sources", "tiles", "tile_start", "tile_col", "tile_perm",  # the last three to be written
            "query", "query_step", "query_head", "key", "key_step", "key_head", "value", "value_step", "value_head",
            "grad", "grad_step", "grad_head", "channels", "value_channels",
            "bias", "bias_head", "keep", "removes", "out", "out_step", "out_head", "lse", "lse_step", "weight", "slope",
        )
    ]
    + [("scale", np.float64)]
)  # fmt: skip
_NOTHING = dict.fromkeys(JOB.names or (), 0)
_LAYOUT = struct.Struct(f"{len(_NOTHING) - 1}Qd")
# Size of arrays of which only the address is known: any large number. This one changes with the code that this module
# compiles but does not contain, so that numba, which tells kernels on disk by their constants, makes them anew.
_UNKNOWN = (1 << 40) + zlib.crc32(
    b"".join(module.__loader__.get_data(module.__file__) for module in (counters, vectors))  # type: ignore[union-attr]
)

# All that lets sums be vectorised; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
U0, U1, U2, U3, U4 = (np.uint64(i) for i in range(5))
_EDGES = np.uint64(EDGES)
_AHEAD = np.uint64(8)  # rows from the one at hand to the one whose place in memory is fetched
_MOST_AHEAD = np.uint64(64)  # edges of a row whose sources are fetched
_ROWS = np.uint64(64)  # whose scores are made coefficients at a time


def pack_job(fields: dict[str, Any], **more: Any) -> "ctypes.Array[ctypes.c_char]":
    """A job in memory that threads can count in; what is not named is 0."""
    return ctypes.create_string_buffer(_LAYOUT.pack(*{**_NOTHING, **fields, **more}.values()))


def to_weights(score: Any, at: Any, count: Any, top: Any) -> Any:
    """Replace scores by ``exp(min(score - top, 0))``; returns the sum."""


@overload(to_weights, jit_options={"nogil": True, "fastmath": _FAST, "forceinline": True})
def _to_weights(score: Any, at: Any, count: Any, top: Any) -> Any:
    def single(score: Any, at: Any, count: Any, top: Any) -> Any:
        return exponentials(score, at, count, top)

    def double(score: Any, at: Any, count: Any, top: Any) -> Any:
        total = 0.0
        for e in range(at, at + count):
            score[e] = math.exp(min(score[e] - top, 0.0))
            total += score[e]
        return total

    return single if score.dtype == types.float32 else double


def widened(x: Any) -> Any:
    """A number of a table in the precision of the sums: bfloat16, as whole numbers of 16 bits, becomes single."""


@overload(widened, jit_options={"nogil": True, "fastmath": _FAST, "forceinline": True})
def _widened(x: Any) -> Any:
    def half(x: Any) -> Any:
        return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)

    def full(x: Any) -> Any:
        return x

    return half if x == types.uint16 else full


def place(job: Any, task: Any) -> Any:
    """The head and the chunk of a task. Each thread is to find the nodes of its last head in its cache."""
    first = task // (job.heads_at_once * job.chunks) * job.heads_at_once
    heads, task = min(job.heads_at_once, job.heads - first), task - first * job.chunks
    return first + task % heads, task // heads


def dots(
    a: Any, at: Any, b: Any, step: Any, offset: Any, col: Any, first: Any, count: Any, channels: Any, scale: Any,
    zero: Any, out: Any, into: Any,
) -> None:  # fmt: skip
    """``out[into + e] = scale * <a[at:], b[col[first + e]]>`` for the edges of a row."""
    e = U0
    if channels % np.uint64(REGISTER // a.itemsize) == U0:
        while e + _EDGES <= count:
            dot_rows(a, at, b, step, offset, col, first + e, _EDGES, channels, scale, out, into + e)
            e += _EDGES
        if e + _EDGES // U2 < count:
            dot_rows(a, at, b, step, offset, col, first + e, count - e, channels, scale, out, into + e)
        elif e < count:
            dot_few_rows(a, at, b, step, offset, col, first + e, count - e, channels, scale, out, into + e)
        return
    while e + U4 <= count:
        b0, b1 = col[first + e] * step + offset, col[first + e + U1] * step + offset
        b2, b3 = col[first + e + U2] * step + offset, col[first + e + U3] * step + offset
        s0, s1, s2, s3 = zero, zero, zero, zero
        for c in range(channels):
            x = a[at + c]
            s0 += x * widened(b[b0 + c])
            s1 += x * widened(b[b1 + c])
            s2 += x * widened(b[b2 + c])
            s3 += x * widened(b[b3 + c])
        out[into + e], out[into + e + U1] = scale * s0, scale * s1
        out[into + e + U2], out[into + e + U3] = scale * s2, scale * s3
        e += U4
    while e < count:
        b0, s0 = col[first + e] * step + offset, zero
        for c in range(channels):
            s0 += a[at + c] * widened(b[b0 + c])
        out[into + e] = scale * s0
        e += U1


def weighted_sum(
    weight: Any, origin: Any, b: Any, step: Any, offset: Any, col: Any, first: Any, count: Any, channels: Any,
    zero: Any, anew: Any, part: Any, part_at: Any, out: Any, at: Any,
) -> None:  # fmt: skip
    """``out[at:] = part[part_at:] + sum_e weight[origin + e] b[col[first + e]]``, without the part if ``anew``."""
    whole = channels - channels % np.uint64(REGISTER // out.itemsize)
    sum_rows(weight, origin, b, step, offset, col, first, count, whole, anew, part, part_at, out, at)
    if whole < channels:
        for c in range(whole, channels):
            out[at + c] = zero if anew else part[part_at + c]
        for e in range(count):
            row = col[first + e] * step + offset
            for c in range(whole, channels):
                out[at + c] += weight[origin + e] * widened(b[row + c])


def fetch_sources(
    rowptr: Any, col: Any, row: Any, stop: Any, b: Any, step: Any, offset: Any, channels: Any
) -> None:  # fmt: skip
    """Have the sources of a row come near the core: its second level waits for more lines at a time than its first."""
    if row < stop:
        whole, first = channels - channels % np.uint64(REGISTER // b.itemsize), rowptr[row]
        for e in range(first, min(rowptr[row + U1], first + _MOST_AHEAD)):
            fetch_to_read(b, col[e] * step + offset, whole)


def tile_dots(
    rowptr: Any, col: Any, start: Any, stop: Any, ahead: Any, tiles: Any, tile: Any, a: Any, a_step: Any,
    a_at: Any, b: Any, b_step: Any, b_at: Any, channels: Any, scale: Any, zero: Any, out: Any, into: Any,
) -> None:  # fmt: skip
    """``out[into + e] = scale * <a[row], b[col[e]]>`` for the edges ``e`` of a range of rows from one tile."""
    for row in range(start, stop):
        first = rowptr[row * tiles + tile]
        count = rowptr[row * tiles + tile + U1] - first
        if ahead != U0:
            fetch_sources(rowptr, col, row + ahead, stop, b, b_step, b_at, channels)
        dots(a, row * a_step + a_at, b, b_step, b_at, col, first, count, channels, scale, zero, out,
             into + first)  # fmt: skip


def edge_dots(
    rowptr: Any, col: Any, start: Any, stop: Any, ahead: Any, tiles: Any, a: Any, a_step: Any, a_at: Any,
    b: Any, b_step: Any, b_at: Any, channels: Any, scale: Any, zero: Any, out: Any, into: Any,
) -> None:  # fmt: skip
    """The same for the edges from all tiles."""
    for tile in range(tiles):
        tile_dots(rowptr, col, start, stop, ahead, tiles, tile, a, a_step, a_at, b, b_step, b_at, channels, scale, zero,
                  out, into)  # fmt: skip


def edge_sums(
    rowptr: Any, col: Any, start: Any, stop: Any, ahead: Any, tiles: Any, weight: Any, origin: Any, b: Any,
    b_step: Any, b_at: Any, channels: Any, zero: Any, part: Any, out: Any, out_step: Any, out_at: Any,
) -> None:  # fmt: skip
    """``out[row] = sum_e weight[origin + e] b[col[e]]`` over the edges of each of a range of rows.

    Sums of edges from some of the tiles wait in ``part``, where rows lie side by side.
    """
    whole = channels - channels % np.uint64(REGISTER // out.itemsize)
    if tiles == U1:
        for row in range(start, stop):
            first, count = rowptr[row], rowptr[row + U1] - rowptr[row]
            fetch_to_write(out, (row + _AHEAD) * out_step + out_at, whole)
            if ahead != U0:
                fetch_sources(rowptr, col, row + ahead, stop, b, b_step, b_at, channels)
            weighted_sum(weight, origin + first, b, b_step, b_at, col, first, count, channels, zero, True, out, U0,
                         out, row * out_step + out_at)  # fmt: skip
        return
    for tile in range(tiles - U1):
        for row in range(start, stop):
            at, first = (row - start) * channels, rowptr[row * tiles + tile]
            count = rowptr[row * tiles + tile + U1] - first
            if tile == U0 or count != U0:
                weighted_sum(weight, origin + first, b, b_step, b_at, col, first, count, channels, zero, tile == U0,
                             part, at, part, at)  # fmt: skip
    for row in range(start, stop):
        first = rowptr[row * tiles + tiles - U1]
        count = rowptr[row * tiles + tiles] - first
        fetch_to_write(out, (row + _AHEAD) * out_step + out_at, whole)
        weighted_sum(weight, origin + first, b, b_step, b_at, col, first, count, channels, zero, False, part,
                     (row - start) * channels, out, row * out_step + out_at)  # fmt: skip


def adjust_scores(
    score: Any, at: Any, first: Any, count: Any, bias: Any, biased: Any, bias_at: Any, keep: Any, removes: Any
) -> None:  # fmt: skip
    """Add biases to the scores of a row, and set those of removed edges to minus infinity."""
    if biased:
        for e in range(count):
            score[at + e] += bias[bias_at + first + e]
    if removes:
        for e in range(count):
            if keep[first + e] == 0:
                score[at + e] = -np.inf


def logarithm(x: Any) -> Any:
    """The natural logarithm of a number that is not negative."""


@overload(logarithm, jit_options={"nogil": True, "fastmath": {"contract"}, "forceinline": True})
def _logarithm(x: Any) -> Any:
    def precise(x: Any) -> Any:
        return math.log(x)

    def polynomial(x: Any) -> Any:
        # Cephes' logf: log(2^n (1 + r)) with |r| < 0.42. The C library's takes as long as the rest of a softmax.
        bits = np.float32(x).view(np.int32)
        if bits < np.int32(0x00800000) or bits >= np.int32(0x7F800000):  # tiny, infinite or not a number
            return np.float32(math.log(x))
        n = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
        r = np.int32(bits - (n << np.int32(23))).view(np.float32) - np.float32(1.0)
        p = np.float32(7.0376836292e-2)
        p = p * r - np.float32(1.1514610310e-1)
        p = p * r + np.float32(1.1676998740e-1)
        p = p * r - np.float32(1.2420140846e-1)
        p = p * r + np.float32(1.4249322787e-1)
        p = p * r - np.float32(1.6668057665e-1)
        p = p * r + np.float32(2.0000714765e-1)
        p = p * r - np.float32(2.4999993993e-1)
        p = p * r + np.float32(3.3333331174e-1)
        square, times = r * r, np.float32(n)
        low = p * r * square - np.float32(2.12194440e-4) * times - np.float32(0.5) * square
        return r + low + np.float32(0.693359375) * times

    return polynomial if x == types.float32 else precise


def any_nan(score: Any, at: Any, count: Any) -> bool:
    """Whether one of the scores of a row is not a number."""
    found = U0
    for e in range(at, at + count):
        found += np.uint64(score[e] != score[e])
    return found != U0


def _softmax_rows(
    job: Any, rowptr: Any, base: Any, bias: Any, keep: Any, lse: Any, weight: Any, totals: Any, zero: Any, head: Any,
    start: Any, stop: Any,
) -> None:  # fmt: skip
    """Make coefficients of the scores of a range of rows."""
    tiles, removes, one = job.tiles, job.removes != U0, weight.dtype.type(1)
    masked, bias_at = job.keep != U0, head * job.bias_head
    for row in range(start, stop):
        first = rowptr[row * tiles]
        count = rowptr[row * tiles + tiles] - first
        at, of_row = first - base, row * job.lse_step + head
        adjust_scores(weight, at, first, count, bias, job.bias != U0, bias_at, keep, removes and masked)
        top = largest(weight, at, count)
        lse[of_row], totals[row - start] = top, one
        if top == -np.inf and not any_nan(weight, at, count):  # no edges that matter
            for e in range(at, at + count):
                weight[e] = zero
            continue
        total = to_weights(weight, at, count, top)
        if removes and masked:  # the exponential of minus infinity is not quite 0
            total = zero
            for e in range(count):
                weight[at + e] *= keep[first + e]
                total += weight[at + e]
        totals[row - start] = total
        share = one / total
        for e in range(at, at + count):
            weight[e] *= share
        if masked and not removes:
            for e in range(count):
                weight[at + e] *= keep[first + e]
    for row in range(start, stop):
        lse[row * job.lse_step + head] += logarithm(totals[row - start])


def _forward_rows(
    job: Any, rowptr: Any, col: Any, query: Any, key: Any, value: Any, bias: Any, keep: Any, out: Any, lse: Any,
    weight: Any, totals: Any, part: Any, scale: Any, zero: Any, head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Attention of a range of rows, and the logarithm of the sum of the exponentials of their scores.

    Edges that are not kept lose their coefficient after the softmax, or before it if the job ``removes`` them.
    """
    tiles, base = job.tiles, rowptr[start * job.tiles]
    for tile in range(tiles):
        for block in range(start, stop, _ROWS):
            end = min(block + _ROWS, stop)
            tile_dots(rowptr, col, block, end, job.ahead, tiles, tile, query, job.query_step, head * job.query_head,
                      key, job.key_step, head * job.key_head, job.channels, scale, zero, weight,
                      U0 - base)  # fmt: skip
            if tile + U1 == tiles:  # while the scores are at hand
                _softmax_rows(job, rowptr, base, bias, keep, lse, weight, totals, zero, head, block, end)
    edge_sums(rowptr, col, start, stop, job.ahead, tiles, weight, U0 - base, value, job.value_step,
              head * job.value_head, job.value_channels, zero, part, out, job.out_step,
              head * job.out_head)  # fmt: skip


def _backward_rows(
    job: Any, rowptr: Any, col: Any, query: Any, key: Any, value: Any, grad: Any, bias: Any, keep: Any, out: Any,
    lse: Any, alpha: Any, slope: Any, weight: Any, scale: Any, zero: Any, head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Coefficients and gradients of the scores of a range of rows, ``[H, E]`` each.

    With the coefficients p and their gradients <g, v>, the gradient of a score is p (<g, v> - <g, out>).
    """
    tiles, removes, one = job.tiles, job.removes != U0, weight.dtype.type(1)
    base, masked = rowptr[start * tiles], job.keep != U0
    bias_at, of_head = head * job.bias_head, head * job.edges
    edge_dots(rowptr, col, start, stop, job.ahead, tiles, query, job.query_step, head * job.query_head, key,
              job.key_step, head * job.key_head, job.channels, scale, zero, weight, U0 - base)  # fmt: skip
    edge_dots(rowptr, col, start, stop, job.ahead, tiles, grad, job.grad_step, head * job.grad_head, value,
              job.value_step, head * job.value_head, job.value_channels, one, zero, slope, of_head)  # fmt: skip
    for row in range(start, stop):
        first = rowptr[row * tiles]
        count = rowptr[row * tiles + tiles] - first
        at, into = first - base, of_head + first
        log_total = lse[row * job.lse_step + head]
        if log_total == -np.inf:
            for e in range(into, into + count):
                alpha[e] = slope[e] = zero
            continue
        adjust_scores(weight, at, first, count, bias, job.bias != U0, bias_at, keep, removes and masked)
        to_weights(weight, at, count, log_total)
        if removes and masked:  # the exponential of minus infinity is not quite 0
            for e in range(count):
                weight[at + e] *= keep[first + e]
        common, of_grad = zero, row * job.grad_step + head * job.grad_head
        of_row = row * job.out_step + head * job.out_head
        for c in range(job.value_channels):
            common += grad[of_grad + c] * out[of_row + c]
        if masked:
            for e in range(count):
                alpha[into + e] = weight[at + e] * keep[first + e]
                slope[into + e] *= keep[first + e]
        else:
            for e in range(count):
                alpha[into + e] = weight[at + e]
        for e in range(count):
            slope[into + e] = weight[at + e] * (slope[into + e] - common)


def _gather_rows(
    job: Any, rowptr: Any, col: Any, perm: Any, weight: Any, value: Any, out: Any, factor: Any, part: Any,
    scale: Any, zero: Any, head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """``out[row] = scale * sum_e weight[perm[e]] value[col[e]]`` for a range of rows.

    ``weight [H, E]`` is in the order that ``perm`` refers to; without ``perm``, in that of ``col``.
    """
    base, of_head = rowptr[start * job.tiles], head * job.edges
    edges = rowptr[stop * job.tiles] - base
    if job.perm != U0:
        for e in range(edges):
            factor[e] = scale * weight[of_head + perm[base + e]]
    else:
        for e in range(edges):
            factor[e] = scale * weight[of_head + base + e]
    edge_sums(rowptr, col, start, stop, job.ahead, job.tiles, factor, U0 - base, value, job.value_step,
              head * job.value_head, job.value_channels, zero, part, out, job.out_step,
              head * job.out_head)  # fmt: skip


def _score_rows(
    job: Any, rowptr: Any, col: Any, query: Any, key: Any, out: Any, scale: Any, zero: Any, head: Any,
    start: Any, stop: Any,
) -> None:  # fmt: skip
    """``out[head, e] = scale * <query[row], key[col[e]]>`` for the edges of a range of rows."""
    edge_dots(rowptr, col, start, stop, job.ahead, job.tiles, query, job.query_step, head * job.query_head, key,
              job.key_step, head * job.key_head, job.channels, scale, zero, out,
              head * job.edges)  # fmt: skip


# What a thread of a team calls: one for each of the functions above, for single or double precision.


def _attention_forward(real: Any, size: Any, table: Any = None) -> Callable[[Any], None]:
    table = real if table is None else table  # keys and values may be less precise

    def attention_forward(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        rowptr, col = (
            carray(at_address(job.rowptr), size, np.uint64),
            carray(at_address(job.col), size, np.uint32),
        )
        query, key = carray(at_address(job.query), size, real), carray(at_address(job.key), size, table)
        value, out = carray(at_address(job.value), size, table), carray(at_address(job.out), size, real)
        bias, keep = carray(at_address(job.bias), size, real), carray(at_address(job.keep), size, np.uint8)
        lse, bounds = carray(at_address(job.lse), size, real), carray(at_address(job.bounds), size, np.uint64)
        own = job.scratch + count_up(pointer, WORKER) * job.scratch_length
        totals = carray(at_address(own + job.totals_at), size, real)
        weight, part = carray(at_address(own), size, real), carray(at_address(own + job.part_at), size, real)
        scale, zero = real(job.scale), real(0)
        task = count_up(pointer, TASK)
        while task < job.heads * job.chunks:
            head, chunk = place(job, task)
            _forward_rows(job, rowptr, col, query, key, value, bias, keep, out, lse, weight, totals, part, scale,
                          zero, head, bounds[chunk], bounds[chunk + U1])  # fmt: skip
            task = count_up(pointer, TASK)

    return attention_forward


def _attention_of_halves(real: Any, size: Any) -> Callable[[Any], None]:
    return _attention_forward(real, size, np.uint16)


def _attention_backward(real: Any, size: Any) -> Callable[[Any], None]:
    def attention_backward(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        rowptr, col = (
            carray(at_address(job.rowptr), size, np.uint64),
            carray(at_address(job.col), size, np.uint32),
        )
        query, key = carray(at_address(job.query), size, real), carray(at_address(job.key), size, real)
        value, grad = carray(at_address(job.value), size, real), carray(at_address(job.grad), size, real)
        bias, keep = carray(at_address(job.bias), size, real), carray(at_address(job.keep), size, np.uint8)
        out, lse = carray(at_address(job.out), size, real), carray(at_address(job.lse), size, real)
        alpha, slope = carray(at_address(job.weight), size, real), carray(at_address(job.slope), size, real)
        bounds = carray(at_address(job.bounds), size, np.uint64)
        own = job.scratch + count_up(pointer, WORKER) * job.scratch_length
        weight = carray(at_address(own), size, real)
        scale, zero = real(job.scale), real(0)
        task = count_up(pointer, TASK)
        while task < job.heads * job.chunks:
            head, chunk = place(job, task)
            _backward_rows(job, rowptr, col, query, key, value, grad, bias, keep, out, lse, alpha, slope, weight,
                           scale, zero, head, bounds[chunk], bounds[chunk + U1])  # fmt: skip
            task = count_up(pointer, TASK)

    return attention_backward


def _gather_sum(real: Any, size: Any) -> Callable[[Any], None]:
    def gather_sum(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        rowptr, col = (
            carray(at_address(job.rowptr), size, np.uint64),
            carray(at_address(job.col), size, np.uint32),
        )
        perm, weight = (
            carray(at_address(job.perm), size, np.uint32),
            carray(at_address(job.weight), size, real),
        )
        value, out = carray(at_address(job.value), size, real), carray(at_address(job.out), size, real)
        bounds = carray(at_address(job.bounds), size, np.uint64)
        own = job.scratch + count_up(pointer, WORKER) * job.scratch_length
        factor, part = carray(at_address(own), size, real), carray(at_address(own + job.part_at), size, real)
        scale, zero = real(job.scale), real(0)
        task = count_up(pointer, TASK)
        while task < job.heads * job.chunks:
            head, chunk = place(job, task)
            _gather_rows(job, rowptr, col, perm, weight, value, out, factor, part, scale, zero, head,
                         bounds[chunk], bounds[chunk + U1])  # fmt: skip
            task = count_up(pointer, TASK)

    return gather_sum


def _edge_scores(real: Any, size: Any) -> Callable[[Any], None]:
    def edge_scores(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        rowptr, col = (
            carray(at_address(job.rowptr), size, np.uint64),
            carray(at_address(job.col), size, np.uint32),
        )
        query, key = carray(at_address(job.query), size, real), carray(at_address(job.key), size, real)
        out, bounds = (
            carray(at_address(job.weight), size, real),
            carray(at_address(job.bounds), size, np.uint64),
        )
        scale, zero = real(job.scale), real(0)
        task = count_up(pointer, TASK)
        while task < job.heads * job.chunks:
            head, chunk = place(job, task)
            _score_rows(job, rowptr, col, query, key, out, scale, zero, head, bounds[chunk],
                        bounds[chunk + U1])  # fmt: skip
            task = count_up(pointer, TASK)

    return edge_scores


def _sort_by_tile(real: Any, size: Any) -> Callable[[Any], None]:
    index = np.uint64 if real == np.float64 else np.uint32  # of sources before

    def sort_by_tile(pointer: Any) -> None:
        job = carray(pointer, 1, JOB)[0]
        rowptr = carray(at_address(job.rowptr), size, np.uint64)
        bounds = carray(at_address(job.bounds), size, np.uint64)
        col, start = (
            carray(at_address(job.col), size, index),
            carray(at_address(job.tile_start), size, np.uint64),
        )
        source = carray(at_address(job.tile_col), size, np.uint32)
        perm, named = carray(at_address(job.perm), size, np.uint32), job.perm != U0
        place, placed = carray(at_address(job.tile_perm), size, np.uint32), job.tile_perm != U0
        tiles, width = job.tiles, index((job.num_sources + job.tiles - U1) // job.tiles)
        chunk = count_up(pointer, TASK)
        while chunk < job.chunks:
            slot, end = rowptr[bounds[chunk]], rowptr[bounds[chunk + U1]]
            for row in range(bounds[chunk], bounds[chunk + U1]):
                low = index(0)
                for tile in range(tiles):
                    start[row * tiles + tile] = slot
                    share = min(width, index(job.num_sources - low))
                    for e in range(rowptr[row], rowptr[row + U1]):
                        if slot < end:  # an edge from elsewhere is overwritten: cheaper than to go around it
                            source[slot] = col[e]
                            if placed:
                                place[slot] = perm[e] if named else e
                        slot += np.uint64(index(col[e] - low) < share)
                    low += share
                if slot != rowptr[row + U1]:  # an edge is in no tile
                    start[job.num_rows * tiles] = U0
            chunk = count_up(pointer, TASK)

    return sort_by_tile


def transpose(rowptr: Any, col: Any, num_sources: Any) -> Any:
    """Group edges by source: pointer, targets, and the position of each edge in the order by target."""
    edges = np.uint64(col.shape[0])
    pointer = np.zeros(num_sources + U1, dtype=np.uint64)
    for e in range(edges):
        pointer[col[e] + U1] += U1
    for source in range(num_sources):
        pointer[source + U1] += pointer[source]
    free = pointer.copy()
    target, perm = np.empty(edges, dtype=np.uint32), np.empty(edges, dtype=np.uint32)
    for row in range(np.uint64(rowptr.shape[0]) - U1):
        for e in range(rowptr[row], rowptr[row + U1]):
            slot = free[col[e]]
            free[col[e]] = slot + U1
            target[slot] = row
            perm[slot] = e
    return pointer, target, perm


def rises(rowptr: Any, num_edges: Any) -> Any:
    """Whether a pointer rises from 0 to the number of edges."""
    falls, rows = U0, np.uint64(rowptr.shape[0]) - U1
    for row in range(rows):
        falls += np.uint64(rowptr[row + U1] < rowptr[row])
    return rowptr[U0] == U0 and rowptr[rows] == np.uint64(num_edges) and falls == U0


def shorten(col: Any, num_sources: Any, short: Any) -> Any:
    """Copy sources to half the memory, as kernels read them twice for each head; returns whether all of them exist."""
    last = U0
    for e in range(np.uint64(col.shape[0])):
        last = max(last, col[e])
        short[e] = np.uint32(col[e])
    return col.shape[0] == 0 or last < np.uint64(num_sources)


def share_out(rowptr: Any, bounds: Any) -> Any:
    """Write where ranges of rows with about as many edges each begin and end; returns the most edges of a range."""
    rows, shares = np.uint64(rowptr.shape[0]) - U1, np.uint64(bounds.shape[0]) - U1
    step = (rowptr[rows] + rows) // shares  # a row costs something even without edges
    longest = bounds[U0] = U0
    for share in range(U1, shares + U1):
        low, high = bounds[share - U1], rows
        while low < high and share < shares:
            middle = (low + high) // U2
            if rowptr[middle] + middle < share * step:
                low = middle + U1
            else:
                high = middle
        bounds[share] = low if share < shares else rows
        longest = max(longest, rowptr[bounds[share]] - rowptr[bounds[share - U1]])
    return longest


def _mend_cache(function: Callable[..., Any]) -> None:
    """Empty numba's cache of a function if it cannot be read, at which numba would fail in every process."""
    cache = FunctionCache(function)
    files = cache._cache_file
    try:
        for name in files._load_index().values():
            files._load_data(name)
    except Exception:  # pickle fails in a dozen ways on a file that is cut off
        cache.flush()


class Kernels:
    """The compiled kernels.

    Args:
        cache: Whether to keep the machine code on disk for the next process.

    Raises:
        RuntimeError: If ``cache`` is wanted but there is no folder to write it to.
    """

    def __init__(self, cache: bool) -> None:
        options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
        module = globals()
        for name in (
            "place", "dots", "weighted_sum", "fetch_sources", "tile_dots", "edge_dots", "edge_sums", "adjust_scores",
            "any_nan", "_softmax_rows", "_forward_rows", "_backward_rows", "_gather_rows", "_score_rows",
        ):  # fmt: skip
            # Kernels look up what they call among the globals.
            if not hasattr(module[name], "py_func"):
                module[name] = njit(forceinline=True, **options)(module[name])
        if cache:
            for function in (transpose, rises, shorten, share_out, undirected):
                _mend_cache(function)
        self.transpose, self.rises, self.shorten, self.share_out, self.undirected = (
            njit(cache=cache, **options)(function)
            for function in (transpose, rises, shorten, share_out, undirected)
        )

        def address(make: Callable[[Any, int], Callable[[Any], None]], double: bool) -> int:
            function = make(np.float64 if double else np.float32, _UNKNOWN)
            signature = types.void(types.voidptr)
            if cache:
                _mend_cache(function)
            compiled = cfunc(signature, cache=cache, fastmath=_FAST, error_model="numpy")(function)
            self._compiled.append(compiled)  # the code lives as long as this
            return int(compiled.address)

        self._compiled: list[Any] = []
        # Where the code for single or double precision starts, or for sources of 32 or 64 bits.
        self.attention_forward = functools.cache(functools.partial(address, _attention_forward))
        self.attention_of_halves = functools.cache(functools.partial(address, _attention_of_halves))
        self.attention_backward = functools.cache(functools.partial(address, _attention_backward))
        self.gather_sum = functools.cache(functools.partial(address, _gather_sum))
        self.edge_scores = functools.cache(functools.partial(address, _edge_scores))
        self.sort_by_tile = functools.cache(functools.partial(address, _sort_by_tile))
        self.select = functools.cache(functools.partial(address, make_select))
        self.collect = functools.cache(functools.partial(address, make_collect))
        self.order = functools.cache(functools.partial(address, make_order))
