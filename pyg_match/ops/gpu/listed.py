"""Triton kernels of attention along listed edges: one program for a row of edges and some heads.

A row is a target with its incoming edges, or a source with its outgoing ones; nodes are ``[N, H, C]`` with channels
side by side, and a ``step`` leads from node to node, a ``head`` from head to head. Sums are made in ``REAL``. Nothing
is added atomically, so that results are the same each time. ``scale`` comes in two parts, as Triton takes numbers in
single precision only.
"""

import triton
import triton.language as tl

from pyg_match.ops.gpu import kernel

FAR = tl.constexpr(1024)  # a log-sum-exp beyond which the logarithm of the sum is imprecise


@triton.jit
def _total(
    q, logs, key, col, bias, keep, start, stop, key_step, key_head, bias_head, h, heads, c, channels,
    REAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_KEEP: tl.constexpr, REMOVES: tl.constexpr, H: tl.constexpr,
    E: tl.constexpr,
):  # fmt: skip
    """The sum of the exponentials of a target's scores beyond their log-sum-exp, which is 1 but for rounding."""
    total = tl.zeros([H], REAL)
    for first in range(start, stop, E):
        place = first + tl.arange(0, E)
        here = place < stop
        if HAS_KEEP and REMOVES:
            here = here & (tl.load(keep + place, mask=here, other=0) != 0)
        source = tl.load(col + place, mask=here, other=0).to(tl.int64)
        k_at = key + source[:, None, None] * key_step + (h[:, None] * key_head + c[None, :])[None]
        of_keys = here[:, None, None] & ((h < heads)[:, None] & (c < channels)[None, :])[None]
        score = tl.sum(tl.load(k_at, mask=of_keys, other=0.0).to(REAL) * q[None], 2)
        seen = here[:, None] & (h < heads)[None, :]
        if HAS_BIAS:
            score += tl.load(bias + h[None, :] * bias_head + place[:, None], mask=seen, other=0.0).to(REAL)
        total += tl.sum(tl.where(seen, tl.exp(score - logs[None]), 0.0), 0)
    return total


@kernel
def forward(
    query, key, value, rowptr, col, bias, keep, out, lse, scale, scale_rest, query_step, query_head, key_step, key_head,
    value_step, value_head, out_step, out_head, bias_head, heads, channels, value_channels, REAL: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_KEEP: tl.constexpr, REMOVES: tl.constexpr, H: tl.constexpr, C: tl.constexpr,
    D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Results and log-sum-exps of targets."""
    row = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * H + tl.arange(0, H)).to(tl.int64)
    c, d, e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, E)
    of_keys = (h < heads)[:, None] & (c < channels)[None, :]
    of_values = (h < heads)[:, None] & (d < value_channels)[None, :]
    q_at = query + row * query_step + h[:, None] * query_head + c[None, :]
    factor = tl.cast(scale, REAL) + tl.cast(scale_rest, REAL)
    q = tl.load(q_at, mask=of_keys, other=0.0).to(REAL) * factor
    start, stop = tl.load(rowptr + row).to(tl.int32), tl.load(rowptr + row + 1).to(tl.int32)
    top = tl.full([H], float("-inf"), REAL)
    total = tl.zeros([H], REAL)
    acc = tl.zeros([H, D], REAL)
    for first in range(start, stop, E):
        place = first + e
        here = place < stop
        if HAS_KEEP:
            kept = tl.load(keep + place, mask=here, other=0) != 0
            if REMOVES:  # what is not seen is not read
                here = here & kept
        source = tl.load(col + place, mask=here, other=0).to(tl.int64)
        k_at = key + source[:, None, None] * key_step + (h[:, None] * key_head + c[None, :])[None]
        k = tl.load(k_at, mask=here[:, None, None] & of_keys[None], other=0.0).to(REAL)
        score = tl.sum(k * q[None], 2)
        seen = here[:, None] & (h < heads)[None, :]
        if HAS_BIAS:
            score += tl.load(bias + h[None, :] * bias_head + place[:, None], mask=seen, other=0.0).to(REAL)
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp(top - safe)
        p = tl.exp(score - safe[None])
        total = total * shrink + tl.sum(p, 0)
        if HAS_KEEP:
            p = tl.where(kept[:, None], p, 0.0)
        v_at = value + source[:, None, None] * value_step + (h[:, None] * value_head + d[None, :])[None]
        v = tl.load(v_at, mask=here[:, None, None] & of_values[None], other=0.0).to(REAL)
        acc = acc * shrink[:, None] + tl.sum(p[:, :, None] * v, 0)
        top = higher
    nothing = total == 0
    acc = acc / tl.where(nothing, 1.0, total)[:, None]
    o_at = out + row * out_step + h[:, None] * out_head + d[None, :]
    tl.store(o_at, acc.to(out.dtype.element_ty), mask=of_values)
    logs = tl.where(nothing, float("-inf"), top + tl.log(tl.where(nothing, 1.0, total)))
    tl.store(lse + row * heads + h, logs, mask=h < heads)


@kernel
def backward_targets(
    query, key, value, rowptr, col, bias, keep, out, lse, grad, grad_lse, grad_query, grad_score, common, share, scale,
    scale_rest, query_step, query_head, key_step, key_head, value_step, value_head, out_step, out_head, grad_step,
    grad_head, grad_query_step, grad_query_head, bias_head, edges, heads, channels, value_channels, REAL: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_KEEP: tl.constexpr, REMOVES: tl.constexpr, HAS_GRAD_LSE: tl.constexpr,
    ALONE: tl.constexpr, H: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Gradients of queries and, with biases, of scores; and what a target's edges have in common.

    ``common`` belongs to the gradients of scores, ``share`` is the factor of coefficients. ``ALONE`` says that targets
    have no edges in dense groups besides.
    """
    row = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * H + tl.arange(0, H)).to(tl.int64)
    c, d, e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, E)
    of_keys = (h < heads)[:, None] & (c < channels)[None, :]
    of_values = (h < heads)[:, None] & (d < value_channels)[None, :]
    factor = tl.cast(scale, REAL) + tl.cast(scale_rest, REAL)
    q_at = query + row * query_step + h[:, None] * query_head + c[None, :]
    q = tl.load(q_at, mask=of_keys, other=0.0).to(REAL) * factor
    g_at = grad + row * grad_step + h[:, None] * grad_head + d[None, :]
    g = tl.load(g_at, mask=of_values, other=0.0).to(REAL)
    o_at = out + row * out_step + h[:, None] * out_head + d[None, :]
    shared = tl.sum(g * tl.load(o_at, mask=of_values, other=0.0).to(REAL), 1)
    if HAS_GRAD_LSE:
        shared -= tl.load(grad_lse + row * heads + h, mask=h < heads, other=0.0).to(REAL)
    tl.store(common + row * heads + h, shared, mask=h < heads)
    logs = tl.load(lse + row * heads + h, mask=h < heads, other=0.0)
    logs = tl.where(logs == float("-inf"), float("inf"), logs)
    start, stop = tl.load(rowptr + row).to(tl.int32), tl.load(rowptr + row + 1).to(tl.int32)
    factors = tl.full([H], 1.0, REAL)
    if ALONE:
        far = tl.abs(tl.where(logs == float("inf"), 0.0, logs)) > FAR
        if tl.max(far.to(tl.int32)) > 0:
            total = _total(
                q, logs, key, col, bias, keep, start, stop, key_step, key_head, bias_head, h, heads, c, channels,
                REAL, HAS_BIAS, HAS_KEEP, REMOVES, H, E,
            )  # fmt: skip
            factors = tl.where(far, 1.0 / total, 1.0)
    tl.store(share + row * heads + h, factors, mask=h < heads)
    acc = tl.zeros([H, C], REAL)
    for first in range(start, stop, E):
        place = first + e
        within = place < stop
        here = within
        if HAS_KEEP:
            kept = tl.load(keep + place, mask=here, other=0) != 0
            if REMOVES:
                here = here & kept
        source = tl.load(col + place, mask=here, other=0).to(tl.int64)
        k_at = key + source[:, None, None] * key_step + (h[:, None] * key_head + c[None, :])[None]
        k = tl.load(k_at, mask=here[:, None, None] & of_keys[None], other=0.0).to(REAL)
        v_at = value + source[:, None, None] * value_step + (h[:, None] * value_head + d[None, :])[None]
        v = tl.load(v_at, mask=here[:, None, None] & of_values[None], other=0.0).to(REAL)
        score = tl.sum(k * q[None], 2)
        slope = tl.sum(v * g[None], 2)
        seen = here[:, None] & (h < heads)[None, :]
        if HAS_BIAS:
            score += tl.load(bias + h[None, :] * bias_head + place[:, None], mask=seen, other=0.0).to(REAL)
        if HAS_KEEP:
            slope = tl.where(kept[:, None], slope, 0.0)
        p = tl.where(seen, tl.exp(score - logs[None]) * factors[None], 0.0)
        slope = p * (slope - shared[None])
        if HAS_BIAS:
            at = grad_score + h[None, :] * edges + place[:, None]
            tl.store(at, slope, mask=within[:, None] & (h < heads)[None, :])
        acc += tl.sum(slope[:, :, None] * k, 0)
    q_at = grad_query + row * grad_query_step + h[:, None] * grad_query_head + c[None, :]
    tl.store(q_at, (acc * factor).to(grad_query.dtype.element_ty), mask=of_keys)


@kernel
def backward_sources(
    query, key, value, colptr, target, perm, bias, keep, lse, grad, common, share, grad_key, grad_value, scale,
    scale_rest, query_step, query_head, key_step, key_head, value_step, value_head, grad_step, grad_head, grad_key_step,
    grad_key_head, grad_value_step, grad_value_head, bias_head, heads, channels, value_channels, REAL: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_KEEP: tl.constexpr, REMOVES: tl.constexpr, H: tl.constexpr, C: tl.constexpr,
    D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, which sources gather from their targets."""
    row = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * H + tl.arange(0, H)).to(tl.int64)
    c, d, e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, E)
    of_keys = (h < heads)[:, None] & (c < channels)[None, :]
    of_values = (h < heads)[:, None] & (d < value_channels)[None, :]
    factor = tl.cast(scale, REAL) + tl.cast(scale_rest, REAL)
    k_at = key + row * key_step + h[:, None] * key_head + c[None, :]
    k = tl.load(k_at, mask=of_keys, other=0.0).to(REAL) * factor
    v_at = value + row * value_step + h[:, None] * value_head + d[None, :]
    v = tl.load(v_at, mask=of_values, other=0.0).to(REAL)
    start, stop = tl.load(colptr + row).to(tl.int32), tl.load(colptr + row + 1).to(tl.int32)
    of_key = tl.zeros([H, C], REAL)
    of_value = tl.zeros([H, D], REAL)
    for first in range(start, stop, E):
        here = first + e < stop
        if HAS_BIAS or HAS_KEEP:
            place = tl.load(perm + first + e, mask=here, other=0)
        if HAS_KEEP:
            kept = tl.load(keep + place, mask=here, other=0) != 0
            if REMOVES:
                here = here & kept
        i = tl.load(target + first + e, mask=here, other=0).to(tl.int64)
        seen = here[:, None] & (h < heads)[None, :]
        q_at = query + i[:, None, None] * query_step + (h[:, None] * query_head + c[None, :])[None]
        q = tl.load(q_at, mask=here[:, None, None] & of_keys[None], other=0.0).to(REAL)
        g_at = grad + i[:, None, None] * grad_step + (h[:, None] * grad_head + d[None, :])[None]
        g = tl.load(g_at, mask=here[:, None, None] & of_values[None], other=0.0).to(REAL)
        logs = tl.load(lse + i[:, None] * heads + h[None, :], mask=seen, other=0.0)
        logs = tl.where(logs == float("-inf"), float("inf"), logs)
        shared = tl.load(common + i[:, None] * heads + h[None, :], mask=seen, other=0.0)
        factors = tl.load(share + i[:, None] * heads + h[None, :], mask=seen, other=0.0)
        score = tl.sum(q * k[None], 2)
        slope = tl.sum(g * v[None], 2)
        if HAS_BIAS:
            score += tl.load(bias + h[None, :] * bias_head + place[:, None], mask=seen, other=0.0).to(REAL)
        if HAS_KEEP:
            slope = tl.where(kept[:, None], slope, 0.0)
        p = tl.where(seen, tl.exp(score - logs) * factors, 0.0)
        slope = p * (slope - shared)
        if HAS_KEEP:
            p = tl.where(kept[:, None], p, 0.0)
        of_key += tl.sum(slope[:, :, None] * q, 0)
        of_value += tl.sum(p[:, :, None] * g, 0)
    k_at = grad_key + row * grad_key_step + h[:, None] * grad_key_head + c[None, :]
    tl.store(k_at, (of_key * factor).to(grad_key.dtype.element_ty), mask=of_keys)
    v_at = grad_value + row * grad_value_step + h[:, None] * grad_value_head + d[None, :]
    tl.store(v_at, of_value.to(grad_value.dtype.element_ty), mask=of_values)


@kernel
def scores(
    query, key, rowptr, col, out, scale, scale_rest, query_step, query_head, key_step, key_head, edges, heads, channels,
    REAL: tl.constexpr, H: tl.constexpr, C: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """The scaled inner product of both ends of each edge, ``[H, E]``."""
    row = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * H + tl.arange(0, H)).to(tl.int64)
    c, e = tl.arange(0, C), tl.arange(0, E)
    of_keys = (h < heads)[:, None] & (c < channels)[None, :]
    q_at = query + row * query_step + h[:, None] * query_head + c[None, :]
    q = tl.load(q_at, mask=of_keys, other=0.0).to(REAL) * (tl.cast(scale, REAL) + tl.cast(scale_rest, REAL))
    start, stop = tl.load(rowptr + row).to(tl.int32), tl.load(rowptr + row + 1).to(tl.int32)
    for first in range(start, stop, E):
        place = first + e
        here = place < stop
        source = tl.load(col + place, mask=here, other=0).to(tl.int64)
        k_at = key + source[:, None, None] * key_step + (h[:, None] * key_head + c[None, :])[None]
        k = tl.load(k_at, mask=here[:, None, None] & of_keys[None], other=0.0).to(REAL)
        at = out + h[None, :] * edges + place[:, None]
        score = tl.sum(k * q[None], 2).to(out.dtype.element_ty)
        tl.store(at, score, mask=here[:, None] & (h < heads)[None, :])


@kernel
def gather(
    weight, value, rowptr, col, perm, out, scale, scale_rest, value_step, value_head, out_step, out_head, edges, heads,
    channels, REAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_PERM: tl.constexpr, ADDS: tl.constexpr,
    H: tl.constexpr, C: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """The scaled sum of what the edges of a row lead to, with weights ``[H, E]`` or alike; or what it adds."""
    row = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * H + tl.arange(0, H)).to(tl.int64)
    c, e = tl.arange(0, C), tl.arange(0, E)
    of_nodes = (h < heads)[:, None] & (c < channels)[None, :]
    start, stop = tl.load(rowptr + row).to(tl.int32), tl.load(rowptr + row + 1).to(tl.int32)
    acc = tl.zeros([H, C], REAL)
    for first in range(start, stop, E):
        place = first + e
        here = place < stop
        other = tl.load(col + place, mask=here, other=0).to(tl.int64)
        v_at = value + other[:, None, None] * value_step + (h[:, None] * value_head + c[None, :])[None]
        v = tl.load(v_at, mask=here[:, None, None] & of_nodes[None], other=0.0).to(REAL)
        if HAS_WEIGHT:
            if HAS_PERM:
                place = tl.load(perm + place, mask=here, other=0)
            at = weight + h[None, :] * edges + place[:, None]
            w = tl.load(at, mask=here[:, None] & (h < heads)[None, :], other=0.0).to(REAL)
            v = v * w[:, :, None]
        acc += tl.sum(v, 0)
    acc = acc * (tl.cast(scale, REAL) + tl.cast(scale_rest, REAL))
    o_at = out + row * out_step + h[:, None] * out_head + c[None, :]
    if ADDS:
        acc += tl.load(o_at, mask=of_nodes, other=0.0).to(REAL)
    tl.store(o_at, acc.to(out.dtype.element_ty), mask=of_nodes)
