"""The affine map of inference against torch's."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from pyg_match.ops import linear as ops_linear
from pyg_match.ops.linear import OrderedWeight, joined_linear, linear, onednn_type, residual_linear


def problem(rows=300, width=48, out=40, dtype=torch.float):
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, width), (out, width), (out,))
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 1000])
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@torch.inference_mode()
def test_equals_torch(rows, dtype):
    x, weight, bias = problem(rows, dtype=dtype)
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(linear(x, weight, bias), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-4)


@torch.inference_mode()
def test_takes_views():
    x, weight, bias = problem(600)
    for view in (weight.t().contiguous().t(), torch.cat([weight, weight], dim=1)[:, : weight.size(1)]):
        got, expected = linear(x[::2], view, bias), F.linear(x[::2], weight, bias)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_has_gradients():
    tensors = [t.requires_grad_() for t in problem()]
    got = torch.autograd.grad(linear(*tensors).sum(), tensors)
    expected = torch.autograd.grad(F.linear(*tensors).sum(), tensors)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@torch.inference_mode()
def test_follows_autocast():
    x, weight, bias = problem()
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(x, weight, bias)
        assert out.dtype == F.linear(x, weight, bias).dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), F.linear(x, weight, bias), rtol=0.05, atol=0.3)


@torch.inference_mode()
def test_works_without_onednn():
    x, weight, bias = problem()
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@torch.inference_mode()
def test_uses_onednn_where_it_pays(capability, monkeypatch):
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("torch has no oneDNN here")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert onednn_type(*problem()) == (torch.float if capability == "AVX512" else None)
    torch.testing.assert_close(linear(*problem()), F.linear(*problem()), rtol=1e-5, atol=1e-4)
    assert onednn_type(*problem(dtype=torch.double)) is None
    assert onednn_type(*problem(rows=3)) is None


@torch.inference_mode()
def test_derivatives_forward_without_gradients():
    x, tangent, weight = torch.randn(300, 16), torch.randn(300, 16), torch.randn(8, 16)
    with torch.no_grad():
        if not torch.func.jvp(torch.sin, (x,), (tangent,))[1].any():
            pytest.skip("torch has no derivatives forward in inference mode")
        found = torch.func.jvp(lambda x: linear(x, weight), (x,), (tangent,))[1]
        many = torch.vmap(lambda x: linear(x, weight))(torch.stack([x, tangent]))
    torch.testing.assert_close(found, tangent @ weight.t())
    torch.testing.assert_close(many[1], tangent @ weight.t())


def test_wrong_shapes_get_the_error_of_torch():
    x, weight, bias = problem()
    with pytest.raises(RuntimeError, match="300x47"):
        linear(x[:, 1:], weight, bias)
    with pytest.raises(RuntimeError, match="39"):
        linear(x, weight, bias[1:])
    assert torch.equal(linear(x, weight, bias[:1]), F.linear(x, weight, bias[:1]))
    assert linear(x[:, :0], weight[:, :0], bias).shape == (300, 40)


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("rows", [0, 300])
@torch.inference_mode()
def test_parts_and_sums(capability, dtype, rows, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    calls = []
    monkeypatch.setattr(ops_linear, "linear", lambda *args: calls.append(args) or linear(*args))
    x, weight, bias = problem(rows, dtype=dtype)
    expected = F.linear(x, weight, bias)
    got = joined_linear(x.split([20, 8, 20], dim=1), weight, bias)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    out = torch.full_like(expected, torch.nan)
    residual = torch.randn(rows, 40, dtype=dtype, generator=torch.Generator().manual_seed(1))
    residual_linear(residual, x, weight, bias, out)
    torch.testing.assert_close(out, residual + expected, rtol=1e-5, atol=1e-4)
    assert len(calls) == 2 * (onednn_type(x, weight, bias) is not None)


@torch.inference_mode()
def test_parts_and_sums_in_half_precision():
    x, weight, bias = (t.bfloat16() for t in problem())
    assert torch.equal(joined_linear(x.split([20, 28], dim=1), weight, bias), F.linear(x, weight, bias))


@torch.inference_mode()
def test_parts_and_sums_under_autocast():
    x, weight, bias = problem()
    with torch.autocast("cpu", torch.bfloat16):
        got = joined_linear([x[:, :20], x[:, 20:].bfloat16()], weight, bias)
        out = torch.empty(300, 40)
        residual_linear(torch.ones(300, 40), x, weight, bias, out)
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.3)
    torch.testing.assert_close(out, 1 + expected, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("halves", [False, True])
def test_ordered_weight(halves):
    """It is the same product to the last bit, for any number of rows."""
    x, weight, bias = problem()
    kept = OrderedWeight(weight)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=halves):
        for rows in (256, 300, 1, 0):
            part = torch.cat([x, x])[:rows] if rows else x[:0]
            expected = linear(torch.cat([x, x])[: max(rows, 256)], weight, bias)[:rows]
            ordered = kept.of(torch.cat([x, x])[: max(rows, 256)], bias)
            assert torch.allclose(linear(part, ordered, bias), expected, rtol=0, atol=1e-5)
            assert ordered.is_mkldnn == (onednn_type(x, weight, bias) is not None)
        assert kept.of(x, bias) is kept.of(x, bias)
        assert torch.equal(linear(x, kept.of(x, bias), bias), linear(x, weight, bias))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(kept)))
    with torch.no_grad():
        assert torch.equal(linear(x, copied.of(x, bias), bias), linear(x, weight, bias))
    assert torch.equal(kept.of(x, bias), weight)  # gradients need it as it is
