"""Operators and layers against numpy, in double precision and one edge at a time."""

import numpy as np
import pytest
import torch
from fuzz.oracle import accepted, fuzz
from fuzz.strategies import counts, edges, either, junk, numbers
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric import EdgeIndex

from pyg_match.nn import MaskedAttentionConv, PartitionGCNConv, RotaryEncoding
from pyg_match.ops import attention_weights, edge_scores, sparse_attention, to_csr
from pyg_match.ops.linear import linear, similarities


def problem(draw):
    """Queries, keys, values and edges that fit, and now and then one that does not."""
    targets, sources, heads = draw(st.integers(0, 6)), draw(st.integers(0, 6)), draw(st.integers(1, 3))
    channels, width = draw(st.sampled_from([1, 4, 8, 16, 33])), draw(st.sampled_from([1, 4, 16]))
    dtype = draw(st.sampled_from([torch.float, torch.double, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    shapes = [(targets, heads, channels), (sources, heads, channels), (sources, heads, width)]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    if draw(st.integers(0, 5)) == 0:
        tensors[draw(st.integers(0, 2))] = draw(junk)
    edge_index = draw(edges(min(targets, sources)))
    options = {}
    if draw(st.booleans()):
        size = edge_index.size(1) if isinstance(edge_index, torch.Tensor) and edge_index.dim() == 2 else 3
        options["bias"] = either(draw, torch.randn(size, heads, generator=generator))
    if draw(st.booleans()):
        size = edge_index.size(1) if isinstance(edge_index, torch.Tensor) and edge_index.dim() == 2 else 3
        options["mask"] = either(draw, torch.rand(size, generator=generator) > 0.4)
    return tensors, edge_index, options


def by_hand(query, key, value, edge_index, scale, bias=None, mask=None, mask_mode="remove"):
    """Softmax over the edges of each target, one edge after the other."""
    q, k, v = (t.double().numpy() for t in (query, key, value))
    out = np.zeros((len(q), q.shape[1], v.shape[2]))
    alpha = np.zeros((edge_index.shape[1], q.shape[1]))
    for target in range(len(q)):
        listed = [e for e in range(edge_index.shape[1]) if int(edge_index[1, e]) == target]
        seen = [e for e in listed if mask is None or mask_mode == "zero" or bool(mask[e])]
        for head in range(q.shape[1]):
            scores = [
                scale * float(q[target, head] @ k[int(edge_index[0, e]), head])
                + (0.0 if bias is None else float(bias[e, head]))
                for e in seen
            ]
            top = max((s for s in scores), default=-np.inf)
            if not np.isfinite(top):
                continue
            weights = np.exp(np.array(scores) - top)
            for e, weight in zip(seen, weights / weights.sum(), strict=True):
                kept = weight if mask is None or bool(mask[e]) else 0.0
                alpha[e, head] = kept
                out[target, head] += kept * v[int(edge_index[0, e]), head]
    return out, alpha


def finite(*tensors) -> bool:
    return all(t is None or bool(torch.isfinite(t).all()) for t in tensors)


@fuzz
@given(data=st.data())
def test_sparse_attention(data):
    (query, key, value), edge_index, options = problem(data.draw)
    mode = data.draw(st.sampled_from(["remove", "zero", "remove", "other"]))
    scale = data.draw(st.one_of(st.none(), st.just(0.5), numbers))
    backend = data.draw(st.sampled_from(["auto", "kernel", "reference", "other"]))
    good, out = accepted(
        lambda: sparse_attention(
            query, key, value, edge_index, **options, mask_mode=mode, scale=scale, backend=backend
        )
    )
    if not good:
        return
    assert out.shape == (len(query), query.size(1), value.size(2))
    if not finite(query, key, value, options.get("bias")) or abs(float(scale or 0)) > 10:
        return
    factor = query.size(2) ** -0.5 if scale is None else float(scale)
    expected, _ = by_hand(query, key, value, edge_index, factor, mask_mode=mode, **options)
    loose = 2e-2 if torch.bfloat16 in (query.dtype, key.dtype, value.dtype) else 1e-4
    np.testing.assert_allclose(
        out.double().numpy(), expected, rtol=loose, atol=loose * max(1, abs(expected).max(initial=0))
    )


@fuzz
@given(data=st.data())
def test_scores_and_weights(data):
    (query, key, _), edge_index, options = problem(data.draw)
    good, scores = accepted(lambda: edge_scores(query, key, edge_index))
    if good and finite(query, key):
        q, k = query.double(), key.double()
        expected = (q[edge_index[1].long()] * k[edge_index[0].long()]).sum(-1) * query.size(2) ** -0.5
        torch.testing.assert_close(scores.double(), expected, rtol=2e-2, atol=2e-2)
    good, alpha = accepted(lambda: attention_weights(query, key, edge_index, **options))
    if good and finite(query, key, options.get("bias")):
        _, expected = by_hand(query, key, key, edge_index, query.size(2) ** -0.5, **options)
        np.testing.assert_allclose(alpha.double().numpy(), expected, rtol=2e-2, atol=2e-2)


@fuzz
@given(data=st.data())
def test_grouping_edges(data):
    size = data.draw(st.one_of(st.integers(0, 6), numbers))
    edge_index = data.draw(edges(size if isinstance(size, int) and 0 <= size < 99 else 4))
    good, csr = accepted(lambda: to_csr(edge_index, size))
    if good and isinstance(edge_index, torch.Tensor) and edge_index.layout == torch.strided:
        assert torch.equal(csr.listed(), edge_index.long())
        assert csr.rowptr.numel() == int(size) + 1 and bool((csr.rowptr.diff() >= 0).all())


@fuzz
@given(data=st.data())
def test_attention_layers(data):
    arguments = {"in_channels": 6, "out_channels": 4, "heads": 2}
    if data.draw(st.integers(0, 3)) == 0:
        name = data.draw(st.sampled_from(["out_channels", "heads", "mask_mode"]))
        arguments[name] = data.draw(counts)
    made, conv = accepted(lambda: MaskedAttentionConv(**arguments).eval())
    if not made:
        return
    nodes = data.draw(st.integers(0, 6))
    x = torch.randn(nodes, 6) if data.draw(st.integers(0, 5)) else data.draw(junk)
    edge_index = data.draw(edges(nodes))
    size = edge_index.size(1) if isinstance(edge_index, torch.Tensor) and edge_index.dim() == 2 else 3
    options = {}
    if data.draw(st.booleans()):
        options["edge_mask"] = either(data.draw, torch.rand(size) > 0.3)
    if data.draw(st.booleans()):
        options["edge_bias"] = either(data.draw, torch.randn(size))
    if data.draw(st.booleans()) and conv.out_channels % 2 == 0:
        rotation = RotaryEncoding(2, conv.out_channels)(torch.rand(nodes, 2)).detach()
        options["rotation"] = either(data.draw, rotation)
    fused = accepted(lambda: conv(x, edge_index, **options))
    listed = accepted(lambda: conv(x, edge_index, return_attention_weights=True, **options)[0])
    assert fused[0] is listed[0], (fused[1], listed[1])
    if fused[0]:
        torch.testing.assert_close(fused[1], listed[1], rtol=1e-4, atol=1e-5, equal_nan=True)
        assert fused[1].shape == (len(x), conv.heads * conv.out_channels)


@fuzz
@given(data=st.data())
def test_convolution_layers(data):
    scales = data.draw(counts)
    made, conv = accepted(lambda: PartitionGCNConv(6, 4, num_scales=scales).eval())
    if not made:
        return
    nodes = data.draw(st.integers(0, 6))
    x = torch.randn(nodes, 6) if data.draw(st.integers(0, 5)) else data.draw(junk)
    graphs = [data.draw(edges(nodes)) for _ in range(min(conv.num_scales, 4))]
    weights = data.draw(st.one_of(st.none(), junk))
    good, out = accepted(lambda: conv(x, graphs, weights))
    if good:
        assert out.shape == (nodes, 4)
    if good and weights is None:
        plain = [EdgeIndex(g.long(), sparse_size=(nodes, nodes)) for g in graphs]
        torch.testing.assert_close(conv(x, plain), out, rtol=1e-4, atol=1e-5, equal_nan=True)


SHAPES: set[tuple[int, ...]] = set()  # that oneDNN has seen, which keeps memory for each


@fuzz
@given(rows=st.integers(0, 4096), columns=st.integers(0, 2048))
def test_products(rows, columns):
    x, weight, other = torch.randn(rows, 8), torch.randn(4, 8), torch.randn(columns, 8)
    product = torch.ops.mkldnn._linear_pointwise

    def watched(x, weight, *rest):
        SHAPES.add((*x.shape, *weight.shape))
        return product(x, weight, *rest)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        patch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
        torch.testing.assert_close(linear(x, weight), x @ weight.t(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(similarities(x[:512], other), x[:512] @ other.t(), rtol=1e-4, atol=1e-4)
    assert len(SHAPES) <= 100
