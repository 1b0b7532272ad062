"""Triton kernels of attention in dense groups: one program for a tile of nodes and a head.

Groups go through all targets in order, once or in several rounds. ``ptr`` counts their targets group after group, so
that target ``t`` of a round is number ``round * num_targets + t``. A tile lies within a group of the first round; the
groups of other rounds that it meets are taken one after the other. ``source`` names the sources of groups, which
otherwise are ranges of nodes; no two groups share a place there. ``target`` names the targets in the order in which
groups divide them, and bounds of targets are places there. The other conventions are those of ``listed.py``.
"""

import triton
import triton.language as tl

from pyg_match.ops.gpu import kernel


@triton.jit
def _group_of(ptr, num_groups, place):
    """The group that a place lies in: the first that ends behind it."""
    low = 0
    high = num_groups
    while low < high:
        middle = (low + high) // 2
        before = tl.load(ptr + middle + 1) <= place
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@kernel
def count_tiles(groups, tables, num_groups, tile, G: tl.constexpr):
    """How many targets, tiles of targets, and tiles of sources there are before each group, and in all.

    One program makes the three tables, which lie one behind the other.
    """
    g = tl.arange(0, G)
    targets = tl.full([], 0, tl.int64)
    target_tiles = tl.full([], 0, tl.int64)
    source_tiles = tl.full([], 0, tl.int64)
    size = tl.cast(num_groups, tl.int64) + 1
    for start in range(0, num_groups, G):
        real = start + g < num_groups
        row = groups + (start + g) * 4
        count = tl.load(row + 1, mask=real, other=0) - tl.load(row, mask=real, other=0)
        sources = tl.load(row + 3, mask=real, other=0) - tl.load(row + 2, mask=real, other=0)
        of_targets = (count + tile - 1) // tile
        of_sources = tl.where(count > 0, (sources + tile - 1) // tile, 0)
        place = tables + start + g
        tl.store(place, targets + tl.cumsum(count, 0) - count, mask=real)
        tl.store(place + size, target_tiles + tl.cumsum(of_targets, 0) - of_targets, mask=real)
        tl.store(place + 2 * size, source_tiles + tl.cumsum(of_sources, 0) - of_sources, mask=real)
        targets += tl.sum(count, 0)
        target_tiles += tl.sum(of_targets, 0)
        source_tiles += tl.sum(of_sources, 0)
    last = tables + num_groups
    tl.store(last, targets)
    tl.store(last + size, target_tiles)
    tl.store(last + 2 * size, source_tiles)


@kernel
def forward(
    query, key, value, groups, ptr, tiles, source, target, log_weight, out, lse, scale, scale_rest, query_step,
    query_head, key_step, key_head, value_step, value_head, out_step, out_head, num_targets, num_groups, heads,
    channels, value_channels, REAL: tl.constexpr, HAS_LISTED: tl.constexpr, HAS_SOURCE: tl.constexpr,
    HAS_TARGET: tl.constexpr, HAS_WEIGHT: tl.constexpr, PRECISION: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Results and log-sum-exps of targets; with listed edges, merged into theirs."""
    tile, h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tile >= tl.load(tiles + num_groups):
        return
    group = _group_of(tiles, num_groups, tile)
    first = tl.load(ptr + group) + (tile - tl.load(tiles + group)) * M
    if first >= num_targets:  # of another round
        return
    last = tl.minimum(tl.load(ptr + group + 1), first + M)
    t = first + tl.arange(0, M)
    c, d, n = tl.arange(0, C), tl.arange(0, D), tl.arange(0, N)
    here = t < last
    node = (tl.load(target + t, mask=here, other=0) if HAS_TARGET else t).to(tl.int64)
    factor = tl.cast(scale, REAL) + tl.cast(scale_rest, REAL)
    q_at = query + node[:, None] * query_step + h * query_head + c[None, :]
    q = tl.load(q_at, mask=here[:, None] & (c < channels)[None, :], other=0.0)
    o_at = out + node[:, None] * out_step + h * out_head + d[None, :]
    of_values = here[:, None] & (d < value_channels)[None, :]
    if HAS_LISTED:
        top = tl.load(lse + node * heads + h, mask=here, other=float("-inf"))
        total = tl.where(top == float("-inf"), 0.0, 1.0).to(REAL)
        acc = tl.load(o_at, mask=of_values, other=0.0).to(REAL)
    else:
        top = tl.full([M], float("-inf"), REAL)
        total = tl.zeros([M], REAL)
        acc = tl.zeros([M, D], REAL)
    rounds = tl.load(ptr + num_groups) // tl.maximum(num_targets, 1)
    for turn in range(rounds):
        begin = turn * num_targets + first
        end = turn * num_targets + last
        group = _group_of(ptr, num_groups, begin)
        while begin < end:
            border = tl.load(ptr + group + 1)
            member = here & (turn * num_targets + t >= begin) & (turn * num_targets + t < border)
            if HAS_WEIGHT:
                weight = tl.load(log_weight + turn * num_targets + t, mask=member, other=0.0).to(REAL)
            s0, s1 = tl.load(groups + group * 4 + 2), tl.load(groups + group * 4 + 3)
            for s in range(s0, s1, N):
                inside = s + n < s1
                j = (tl.load(source + s + n, mask=inside, other=0) if HAS_SOURCE else s + n).to(tl.int64)
                k_at = key + j[:, None] * key_step + h * key_head + c[None, :]
                k = tl.load(k_at, mask=inside[:, None] & (c < channels)[None, :], other=0.0)
                score = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=REAL) * factor
                if HAS_WEIGHT:
                    score += weight[:, None]
                score = tl.where(member[:, None] & inside[None, :], score, float("-inf"))
                higher = tl.maximum(top, tl.max(score, 1))
                safe = tl.where(higher == float("-inf"), 0.0, higher)
                shrink = tl.exp(top - safe)
                p = tl.exp(score - safe[:, None])
                total = total * shrink + tl.sum(p, 1)
                v_at = value + j[:, None] * value_step + h * value_head + d[None, :]
                v = tl.load(v_at, mask=inside[:, None] & (d < value_channels)[None, :], other=0.0)
                acc = acc * shrink[:, None]
                acc += tl.dot(p.to(v.dtype), v, input_precision=PRECISION, out_dtype=REAL)
                top = higher
            begin = border
            group += 1
    nothing = total == 0
    acc = acc / tl.where(nothing, 1.0, total)[:, None]
    tl.store(o_at, acc.to(out.dtype.element_ty), mask=of_values)
    logs = tl.where(nothing, float("-inf"), top + tl.log(tl.where(nothing, 1.0, total)))
    tl.store(lse + node * heads + h, logs, mask=here)


@kernel
def backward_targets(
    query, key, value, groups, ptr, tiles, source, target, log_weight, lse, grad, common, grad_query, grad_weight,
    scale, scale_rest, query_step, query_head, key_step, key_head, value_step, value_head, grad_step, grad_head,
    grad_query_step, grad_query_head, num_targets, num_groups, num_weights, heads, channels, value_channels,
    REAL: tl.constexpr, HAS_SOURCE: tl.constexpr, HAS_TARGET: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    WEIGHS: tl.constexpr, PRECISION: tl.constexpr, C: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, added to those along listed edges, and of weights, ``[H, G targets]``."""
    tile, h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tile >= tl.load(tiles + num_groups):
        return
    group = _group_of(tiles, num_groups, tile)
    first = tl.load(ptr + group) + (tile - tl.load(tiles + group)) * M
    if first >= num_targets:
        return
    last = tl.minimum(tl.load(ptr + group + 1), first + M)
    t = first + tl.arange(0, M)
    c, d, n = tl.arange(0, C), tl.arange(0, D), tl.arange(0, N)
    here = t < last
    node = (tl.load(target + t, mask=here, other=0) if HAS_TARGET else t).to(tl.int64)
    of_keys = here[:, None] & (c < channels)[None, :]
    factor = tl.cast(scale, REAL) + tl.cast(scale_rest, REAL)
    q = tl.load(query + node[:, None] * query_step + h * query_head + c[None, :], mask=of_keys, other=0.0)
    g_at = grad + node[:, None] * grad_step + h * grad_head + d[None, :]
    g = tl.load(g_at, mask=here[:, None] & (d < value_channels)[None, :], other=0.0)
    shared = tl.load(common + node * heads + h, mask=here, other=0.0)
    logs = tl.load(lse + node * heads + h, mask=here, other=0.0)
    logs = tl.where(logs == float("-inf"), float("inf"), logs)
    acc = tl.zeros([M, C], REAL)
    rounds = tl.load(ptr + num_groups) // tl.maximum(num_targets, 1)
    for turn in range(rounds):
        begin = turn * num_targets + first
        end = turn * num_targets + last
        group = _group_of(ptr, num_groups, begin)
        while begin < end:
            border = tl.load(ptr + group + 1)
            member = here & (turn * num_targets + t >= begin) & (turn * num_targets + t < border)
            sums = tl.zeros([M], REAL)
            if HAS_WEIGHT:
                weight = tl.load(log_weight + turn * num_targets + t, mask=member, other=0.0).to(REAL)
            s0, s1 = tl.load(groups + group * 4 + 2), tl.load(groups + group * 4 + 3)
            for s in range(s0, s1, N):
                inside = s + n < s1
                j = (tl.load(source + s + n, mask=inside, other=0) if HAS_SOURCE else s + n).to(tl.int64)
                k_at = key + j[:, None] * key_step + h * key_head + c[None, :]
                k = tl.load(k_at, mask=inside[:, None] & (c < channels)[None, :], other=0.0)
                v_at = value + j[:, None] * value_step + h * value_head + d[None, :]
                v = tl.load(v_at, mask=inside[:, None] & (d < value_channels)[None, :], other=0.0)
                score = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=REAL) * factor
                if HAS_WEIGHT:
                    score += weight[:, None]
                p = tl.where(member[:, None] & inside[None, :], tl.exp(score - logs[:, None]), 0.0)
                slope = tl.dot(g, tl.trans(v), input_precision=PRECISION, out_dtype=REAL)
                slope = p * (slope - shared[:, None])
                if WEIGHS:
                    sums += tl.sum(slope, 1)
                acc += tl.dot(slope.to(k.dtype), k, input_precision=PRECISION, out_dtype=REAL)
            if WEIGHS:
                at = grad_weight + h * num_weights + turn * num_targets + t
                tl.store(at, sums, mask=member)
            begin = border
            group += 1
    acc = acc * factor
    q_at = grad_query + node[:, None] * grad_query_step + h * grad_query_head + c[None, :]
    acc += tl.load(q_at, mask=of_keys, other=0.0).to(REAL)
    tl.store(q_at, acc.to(grad_query.dtype.element_ty), mask=of_keys)


@kernel
def backward_sources(
    query, key, value, groups, ptr, tiles, source, target, log_weight, lse, grad, common, grad_key, grad_value, scale,
    scale_rest, query_step, query_head, key_step, key_head, value_step, value_head, grad_step, grad_head,
    grad_key_step, grad_key_head, grad_value_step, grad_value_head, num_groups, heads, channels, value_channels,
    REAL: tl.constexpr, HAS_SOURCE: tl.constexpr, HAS_TARGET: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    PRECISION: tl.constexpr, C: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values: one row for each source of a group, or added to those along listed edges."""
    tile, h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tile >= tl.load(tiles + num_groups):
        return
    group = _group_of(tiles, num_groups, tile)
    s0, s1 = tl.load(groups + group * 4 + 2), tl.load(groups + group * 4 + 3)
    s = s0 + (tile - tl.load(tiles + group)) * N + tl.arange(0, N)
    c, d, m = tl.arange(0, C), tl.arange(0, D), tl.arange(0, M)
    inside = s < s1
    j = (tl.load(source + s, mask=inside, other=0) if HAS_SOURCE else s).to(tl.int64)
    factor = tl.cast(scale, REAL) + tl.cast(scale_rest, REAL)
    of_keys = inside[:, None] & (c < channels)[None, :]
    of_values = inside[:, None] & (d < value_channels)[None, :]
    k = tl.load(key + j[:, None] * key_step + h * key_head + c[None, :], mask=of_keys, other=0.0)
    v = tl.load(value + j[:, None] * value_step + h * value_head + d[None, :], mask=of_values, other=0.0)
    of_key = tl.zeros([N, C], REAL)
    of_value = tl.zeros([N, D], REAL)
    t0, t1 = tl.load(groups + group * 4), tl.load(groups + group * 4 + 1)
    place = tl.load(ptr + group)
    for first in range(t0, t1, M):
        t = first + m
        here = t < t1
        node = (tl.load(target + t, mask=here, other=0) if HAS_TARGET else t).to(tl.int64)
        q_at = query + node[:, None] * query_step + h * query_head + c[None, :]
        q = tl.load(q_at, mask=here[:, None] & (c < channels)[None, :], other=0.0)
        g_at = grad + node[:, None] * grad_step + h * grad_head + d[None, :]
        g = tl.load(g_at, mask=here[:, None] & (d < value_channels)[None, :], other=0.0)
        logs = tl.load(lse + node * heads + h, mask=here, other=0.0)
        logs = tl.where(logs == float("-inf"), float("inf"), logs)
        shared = tl.load(common + node * heads + h, mask=here, other=0.0)
        score = tl.dot(k, tl.trans(q), input_precision=PRECISION, out_dtype=REAL) * factor
        if HAS_WEIGHT:
            weight = tl.load(log_weight + place + t - t0, mask=here, other=0.0).to(REAL)
            score += weight[None, :]
        p = tl.where(inside[:, None] & here[None, :], tl.exp(score - logs[None, :]), 0.0)
        slope = tl.dot(v, tl.trans(g), input_precision=PRECISION, out_dtype=REAL)
        slope = p * (slope - shared[None, :])
        of_value += tl.dot(p.to(g.dtype), g, input_precision=PRECISION, out_dtype=REAL)
        of_key += tl.dot(slope.to(q.dtype), q, input_precision=PRECISION, out_dtype=REAL)
    of_key = of_key * factor
    row = s.to(tl.int64)
    k_at = grad_key + row[:, None] * grad_key_step + h * grad_key_head + c[None, :]
    v_at = grad_value + row[:, None] * grad_value_step + h * grad_value_head + d[None, :]
    if not HAS_SOURCE:  # otherwise rows are theirs alone
        of_key += tl.load(k_at, mask=of_keys, other=0.0).to(REAL)
        of_value += tl.load(v_at, mask=of_values, other=0.0).to(REAL)
    tl.store(k_at, of_key.to(grad_key.dtype.element_ty), mask=of_keys)
    tl.store(v_at, of_value.to(grad_value.dtype.element_ty), mask=of_values)
