"""CPU kernels: loops over a range of rows for one head, compiled by numba when first used.

A row is a target with its incoming edges (or a source with its outgoing ones). Nothing is stored per edge and channel:
the scores of a row stay in a scratch of the length of its degree, which the first-level cache holds. Edges are taken
four at a time, so that a query or an accumulator is read once for four keys or values.

All arrays are flat, and all indices unsigned: for a view or a signed index numba would count references and mind
negative values in the innermost loop, which then is not vectorised. Node ``i``'s channels of the head at hand start at
``i * step + offset``, where the step is the number of channels of all heads. ``zero`` is 0 in the
type of the numbers, from which all others follow.
"""

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

# All that lets sums be vectorised; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
U0, U1, U2, U3, U4 = (np.uint64(i) for i in range(5))


def exp(x: Any) -> Any:
    """The exponential of a number that is not positive."""
    return math.exp(x)


# Sums may be reordered, but not this one, whose steps undo each other's rounding.
@overload(exp, jit_options={"nogil": True, "fastmath": False})
def _exp(x: Any) -> Any:
    def precise(x: Any) -> Any:
        return math.exp(x)

    def polynomial(x: Any) -> Any:
        # Cephes' expf: 2^n e^r with |r| < ln(2) / 2. Unlike a call of the C library, it is vectorised.
        x = max(x, np.float32(-87.0))
        n = np.float32(math.floor(x * np.float32(1.4426950408889634) + np.float32(0.5)))
        r = x - n * np.float32(0.693359375)
        r = r + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1.0)
        power = np.int32(np.int32(n) + np.int32(127)) << np.int32(23)
        return p * np.int32(power).view(np.float32)

    return polynomial if x == types.float32 else precise


def max_degree(rowptr: Any, start: Any, stop: Any) -> Any:
    """The largest number of edges of a row in the range."""
    largest = U0
    for row in range(start, stop):
        largest = max(largest, rowptr[row + U1] - rowptr[row])
    return largest


def dots(
    a: Any,
    at: Any,
    b: Any,
    step: Any,
    offset: Any,
    col: Any,
    first: Any,
    count: Any,
    channels: Any,
    zero: Any,
    out: Any,
) -> None:
    """``out[e] = <a[at:], b[col[first + e]]>`` for the edges of a row."""
    e = U0
    while e + U4 <= count:
        b0, b1 = col[first + e] * step + offset, col[first + e + U1] * step + offset
        b2, b3 = col[first + e + U2] * step + offset, col[first + e + U3] * step + offset
        s0, s1, s2, s3 = zero, zero, zero, zero
        for c in range(channels):
            x = a[at + c]
            s0 += x * b[b0 + c]
            s1 += x * b[b1 + c]
            s2 += x * b[b2 + c]
            s3 += x * b[b3 + c]
        out[e], out[e + U1], out[e + U2], out[e + U3] = s0, s1, s2, s3
        e += U4
    while e < count:
        b0, s0 = col[first + e] * step + offset, zero
        for c in range(channels):
            s0 += a[at + c] * b[b0 + c]
        out[e] = s0
        e += U1


def add_weighted(
    weight: Any,
    b: Any,
    step: Any,
    offset: Any,
    col: Any,
    first: Any,
    count: Any,
    channels: Any,
    out: Any,
    at: Any,
) -> None:
    """``out[at:] += sum_e weight[e] b[col[first + e]]`` over the edges of a row."""
    e = U0
    while e + U4 <= count:
        b0, b1 = col[first + e] * step + offset, col[first + e + U1] * step + offset
        b2, b3 = col[first + e + U2] * step + offset, col[first + e + U3] * step + offset
        w0, w1, w2, w3 = weight[e], weight[e + U1], weight[e + U2], weight[e + U3]
        for c in range(channels):
            out[at + c] += (w0 * b[b0 + c] + w1 * b[b1 + c]) + (w2 * b[b2 + c] + w3 * b[b3 + c])
        e += U4
    while e < count:
        b0, w0 = col[first + e] * step + offset, weight[e]
        for c in range(channels):
            out[at + c] += w0 * b[b0 + c]
        e += U1


def adjust_scores(
    score: Any, first: Any, count: Any, scale: Any, bias: Any, bias_at: Any, keep: Any, removes: bool
) -> None:
    """Scale the scores of a row, add biases, and set those of removed edges to minus infinity."""
    for e in range(count):
        score[e] *= scale
    if bias.shape[0] > 0:
        for e in range(count):
            score[e] += bias[bias_at + first + e]
    if removes:
        for e in range(count):
            if keep[first + e] == 0:
                score[e] = -np.inf


def attention_forward(
    query: Any, key: Any, value: Any, rowptr: Any, col: Any, bias: Any, keep: Any, removes: bool, scale: Any, zero: Any,
    out: Any, lse: Any, heads: Any, channels: Any, value_channels: Any,
    head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Attention of the rows in a range, and the logarithm of the sum of the exponentials of their scores.

    ``bias [H, E]`` and ``keep [E]`` may have no entries, which means that there is none, respectively that all edges
    are kept. Edges that are not kept lose their coefficient after the softmax, or before it if ``removes``.
    """
    weight = np.empty(max_degree(rowptr, start, stop) + U1, dtype=out.dtype)
    zeroes = not removes and keep.shape[0] > 0
    edges = np.uint64(col.shape[0])
    for row in range(start, stop):
        first, count = rowptr[row], rowptr[row + U1] - rowptr[row]
        at = (row * heads + head) * value_channels
        for c in range(value_channels):
            out[at + c] = zero
        dots(
            query, (row * heads + head) * channels, key, heads * channels, head * channels,
            col, first, count, channels, zero, weight,
        )  # fmt: skip
        adjust_scores(weight, first, count, scale, bias, head * edges, keep, removes)
        top = weight[U0] if count > U0 else zero
        for e in range(count):
            top = max(top, weight[e])
        if count == U0 or top == -np.inf:  # no edges that matter
            lse[row * heads + head] = -np.inf
            continue
        for e in range(count):
            weight[e] = exp(weight[e] - top)
        if removes:  # the exponential of minus infinity is not quite 0
            for e in range(count):
                weight[e] *= keep[first + e]
        total = zero
        for e in range(count):
            total += weight[e]
        lse[row * heads + head] = top + math.log(total)
        if zeroes:
            for e in range(count):
                weight[e] *= keep[first + e]
        add_weighted(
            weight,
            value,
            heads * value_channels,
            head * value_channels,
            col,
            first,
            count,
            value_channels,
            out,
            at,
        )
        for c in range(value_channels):
            out[at + c] /= total


def attention_backward(
    grad: Any, query: Any, key: Any, value: Any, rowptr: Any, col: Any, bias: Any, keep: Any, removes: bool,
    scale: Any, zero: Any, out: Any, lse: Any, grad_query: Any, grad_score: Any, alpha: Any,
    heads: Any, channels: Any, value_channels: Any, head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Gradients of queries and scores of the rows in a range, ``[T, H, C]`` and ``[H, E]``, and the coefficients.

    With the coefficients p and their gradients <g, v>, the gradient of a score is p (<g, v> - <g, out>).
    """
    length = max_degree(rowptr, start, stop)
    weight, slope = np.empty(length, dtype=out.dtype), np.empty(length, dtype=out.dtype)
    masked = keep.shape[0] > 0
    into = head * np.uint64(col.shape[0])
    for row in range(start, stop):
        first, count = rowptr[row], rowptr[row + U1] - rowptr[row]
        at, value_at = (row * heads + head) * channels, (row * heads + head) * value_channels
        for c in range(channels):
            grad_query[at + c] = zero
        log_total = lse[row * heads + head]
        if log_total == -np.inf:
            for e in range(first, first + count):
                grad_score[into + e] = zero
                alpha[into + e] = zero
            continue
        dots(query, at, key, heads * channels, head * channels, col, first, count, channels, zero, weight)
        adjust_scores(weight, first, count, scale, bias, into, keep, removes)
        dots(
            grad, value_at, value, heads * value_channels, head * value_channels,
            col, first, count, value_channels, zero, slope,
        )  # fmt: skip
        common = zero
        for c in range(value_channels):
            common += grad[value_at + c] * out[value_at + c]
        for e in range(count):
            weight[e] = exp(min(weight[e] - log_total, zero))
        if masked:
            for e in range(count):
                slope[e] *= keep[first + e]
                alpha[into + first + e] = weight[e] * keep[first + e]
                if removes:
                    weight[e] *= keep[first + e]
        else:
            for e in range(count):
                alpha[into + first + e] = weight[e]
        for e in range(count):
            weight[e] *= slope[e] - common
            grad_score[into + first + e] = weight[e]
            weight[e] *= scale
        add_weighted(
            weight, key, heads * channels, head * channels, col, first, count, channels, grad_query, at
        )


def gather_sum(
    weight: Any, source: Any, rowptr: Any, col: Any, perm: Any, scale: Any, zero: Any, out: Any,
    heads: Any, channels: Any, head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """``out[row] = scale * sum_e weight[perm[e]] source[col[e]]`` for the rows in a range.

    ``weight [H, E]`` is in the order that ``perm`` refers to.
    """
    factor = np.empty(max_degree(rowptr, start, stop), dtype=out.dtype)
    at_weight = head * np.uint64(col.shape[0])
    for row in range(start, stop):
        first, count = rowptr[row], rowptr[row + U1] - rowptr[row]
        for e in range(count):
            factor[e] = scale * weight[at_weight + perm[first + e]]
        at = (row * heads + head) * channels
        for c in range(channels):
            out[at + c] = zero
        add_weighted(factor, source, heads * channels, head * channels, col, first, count, channels, out, at)


def scores_forward(
    query: Any, key: Any, rowptr: Any, col: Any, scale: Any, zero: Any, out: Any,
    heads: Any, channels: Any, head: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """``out[head, e] = scale * <query[row], key[col[e]]>`` for the edges of the rows in a range."""
    score = np.empty(max_degree(rowptr, start, stop), dtype=out.dtype)
    into = head * np.uint64(col.shape[0])
    for row in range(start, stop):
        first, count = rowptr[row], rowptr[row + U1] - rowptr[row]
        dots(
            query, (row * heads + head) * channels, key, heads * channels, head * channels,
            col, first, count, channels, zero, score,
        )  # fmt: skip
        for e in range(count):
            out[into + first + e] = scale * score[e]


def transpose(rowptr: Any, col: Any, num_sources: Any) -> Any:
    """Group edges by source: pointer, targets, and the position of each edge in the order by target."""
    edges = np.uint64(col.shape[0])
    pointer = np.zeros(num_sources + U1, dtype=np.uint64)
    for e in range(edges):
        pointer[col[e] + U1] += U1
    for source in range(num_sources):
        pointer[source + U1] += pointer[source]
    free = pointer.copy()
    target, perm = np.empty(edges, dtype=np.uint64), np.empty(edges, dtype=np.uint64)
    for row in range(np.uint64(rowptr.shape[0]) - U1):
        for e in range(rowptr[row], rowptr[row + U1]):
            place = free[col[e]]
            free[col[e]] = place + U1
            target[place] = row
            perm[place] = e
    return pointer, target, perm


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
        for name in ("max_degree", "dots", "add_weighted", "adjust_scores"):
            # Kernels look up what they call among the globals.
            if not hasattr(module[name], "py_func"):
                module[name] = njit(**options)(module[name])
        self.attention_forward = njit(cache=cache, **options)(attention_forward)
        self.attention_backward = njit(cache=cache, **options)(attention_backward)
        self.gather_sum = njit(cache=cache, **options)(gather_sum)
        self.scores_forward = njit(cache=cache, **options)(scores_forward)
        self.transpose = njit(cache=cache, **options)(transpose)
