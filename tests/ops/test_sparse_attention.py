import ctypes
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from attention_cases import random_case
from helpers import AttentionDataset, compiles
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch_geometric import EdgeIndex
from torch_geometric.utils import softmax, to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

from pyg_match.ops import (
    CSR,
    Blocks,
    attention_cpu,
    attention_weights,
    edge_scores,
    sparse_attention,
    to_csr,
    warmup,
    workspace,
)
from pyg_match.ops.native import library
from pyg_match.ops.native.build import INSTRUCTION_SETS, build, compiler


def dense(query, key, value, edge_index, bias=None, mask=None, mask_mode="remove", scale=None):
    """Attention with one matrix for each edge list entry: duplicates are separate columns."""
    scale = query.size(-1) ** -0.5 if scale is None else scale
    source, target = edge_index.long()
    score = torch.einsum("thc,ehc->hte", query, key[source]) * scale
    if bias is not None:
        score = score + bias.t().unsqueeze(1)
    seen = (torch.arange(query.size(0)).unsqueeze(1) == target).unsqueeze(0)
    allowed = seen if mask is None else seen & mask
    inside = allowed if mask_mode == "remove" else seen
    score = score.masked_fill(~inside, -torch.inf)
    top = (
        score.detach().amax(-1, keepdim=True).clamp(min=-1e300)
        if score.size(-1)
        else score.sum(-1, keepdim=True)
    )
    exp = (score - top).exp()
    alpha = exp / exp.sum(-1, keepdim=True).clamp(min=1e-300) * allowed
    return torch.einsum("hte,ehd->thd", alpha, value[source])


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "targets": st.integers(0, 12),
        "sources": st.integers(0, 12),
        "edges": st.sampled_from([0, 1, 3, 8, 40, 150]),
        "heads": st.integers(1, 3),
        "channels": st.sampled_from([1, 3, 4, 8, 17, 32]),
        "value_channels": st.sampled_from([1, 5, 16, 40, 80]),
        "hub": st.booleans(),
    }
)


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that the kernels got."""
    got, run = [], attention_cpu.run_together

    def spy(function, argument, threads, job, *memory):
        got.append(job)
        run(function, argument, threads, job, *memory)

    monkeypatch.setattr(attention_cpu, "run_together", spy)
    return got


@pytest.mark.parametrize("core_cache", [0, 1 << 30])
def test_heads_at_once_and_one_after_the_other(core_cache, jobs, monkeypatch):
    monkeypatch.setattr(attention_cpu, "core_cache", lambda: core_cache)
    q, k, v, edge_index, bias, mask = random_case(6, 300, 200, 9000, 3, 8, 8)
    tensors = [t.requires_grad_() for t in (q, k, v, bias)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        out = sparse_attention(*tensors[:3], edge_index, bias, mask, backend="kernel")
        grads = torch.autograd.grad(out.square().sum(), tensors)
    finally:
        torch.set_num_threads(before)
    assert {job.heads_at_once for job in jobs} == {2 if core_cache else 1}
    expected = dense(*tensors[:3], edge_index, bias, mask, "remove")
    assert torch.allclose(out, expected, atol=1e-10)
    for one, other in zip(grads, torch.autograd.grad(expected.square().sum(), tensors), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("channels", [3, 17, 64, 80])
def test_fetching_sources_before_they_are_read_changes_nothing(channels, dtype, jobs, monkeypatch):
    q, k, v, edge_index, bias, mask = random_case(7, 90, 60, 1500, 2, channels, 64, dtype, hub=True)
    outputs = []
    for core_cache, ahead in ((0, 0), (1 << 30, 0), (1 << 5, 2)):
        monkeypatch.setattr(attention_cpu, "core_cache", lambda size=core_cache: size)
        jobs.clear()
        tensors = [t.clone().requires_grad_() for t in (q, k, v, bias)]
        out = sparse_attention(*tensors[:3], edge_index, tensors[3], mask, backend="kernel")
        outputs.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
        assert {job.ahead for job in jobs} == {ahead}
    for one, *others in zip(*outputs, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("name", list(INSTRUCTION_SETS))
@pytest.mark.parametrize("table", [torch.float, torch.bfloat16, torch.double])
@pytest.mark.parametrize("channels", [(1, 3), (32, 32), (64, 96), (40, 24)])
def test_all_instruction_sets_agree_with_the_reference(name, table, channels, monkeypatch):
    best = library.instruction_set()
    if list(INSTRUCTION_SETS).index(name) > list(INSTRUCTION_SETS).index(best):
        pytest.skip(f"this machine has no {name}")
    monkeypatch.setattr(library, "instruction_set", lambda: name)
    monkeypatch.setattr(attention_cpu, "kernel", library.kernel.__wrapped__)
    real = torch.double if table == torch.double else torch.float
    q, k, v, edge_index, bias, mask = random_case(8, 90, 60, 1500, 2, *channels, hub=True)
    tensors = [q.to(real), k.to(table), v.to(table)]
    exact = [t.double().requires_grad_() for t in tensors]
    tensors = [t.clone().requires_grad_() for t in tensors]
    tolerance = {torch.float: 1e-5, torch.bfloat16: 1e-2, torch.double: 1e-12}
    for mode in ("remove", "zero"):
        out = sparse_attention(*tensors, edge_index, bias.to(real), mask, mode, backend="kernel")
        expected = sparse_attention(
            *exact, edge_index, bias.to(real).double(), mask, mode, backend="reference"
        )
        outputs = [out, *torch.autograd.grad(out.square().sum(), tensors)]
        wanted = [expected, *torch.autograd.grad(expected.square().sum(), exact)]
        for one, other in zip(outputs, wanted, strict=True):
            largest = max(1.0, float(other.detach().abs().max()))
            assert (one - other).abs().max() <= tolerance[one.dtype] * largest


@pytest.mark.parametrize("removes", [True, False])
def test_the_logarithm_of_the_sum_has_gradients(removes):
    q, k, v, edge_index, bias, mask = random_case(3, 5, 6, 20, 2, 3, 2)
    csr = to_csr(edge_index, 5)
    tensors = [t.requires_grad_() for t in (q, k, v, csr.sorted(bias).t().contiguous())]
    keep = csr.sorted(mask)

    def attend(q, k, v, bias):
        out, lse = torch.ops.pyg_match.attention(q, k, v, csr.rowptr, csr.col, bias, keep, removes, 0.4)
        return out, lse.masked_fill(lse == -math.inf, 0.0)

    assert torch.autograd.gradcheck(attend, tensors)
    assert torch.autograd.gradcheck(lambda *t: attend(*t)[1], tensors)


def test_the_size_of_a_core_s_cache_is_found():
    if not Path("/sys/devices/system/cpu/cpu0/cache/index2/size").exists() or shutil.which("getconf") is None:
        pytest.skip("the system does not tell the sizes of caches")
    words = ["getconf", "LEVEL2_CACHE_SIZE"]
    told = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    if not told.isdigit() or int(told) == 0:
        pytest.skip("getconf does not tell the size")
    assert attention_cpu.core_cache() == int(told)


@pytest.mark.parametrize("mask_mode", ["remove", "zero"])
def test_a_bias_may_be_shared_by_heads(mask_mode):
    q, k, v, edge_index, bias, mask = random_case(5, 30, 20, 200, 3, 8, 4)
    edge_index = edge_index[:, edge_index[1].argsort(stable=True)]
    single = bias[:, 0].clone().requires_grad_()
    copies = single.detach().unsqueeze(1).repeat(1, 3).requires_grad_()
    grad = torch.randn(30, 3, 4, dtype=torch.double)
    outs = []
    for values in (single.unsqueeze(1).expand(-1, 3), copies):
        outs.append(sparse_attention(q, k, v, edge_index, values, mask, mask_mode, backend="kernel"))
        outs[-1].backward(grad)
    assert torch.equal(*outs)
    assert torch.allclose(single.grad, copies.grad.sum(1), atol=1e-12)
    expected = dense(q, k, v, edge_index, copies, mask, mask_mode)
    assert torch.allclose(outs[0], expected, atol=1e-10)


@settings(max_examples=80, deadline=None)
@given(
    case=cases,
    with_bias=st.booleans(),
    mask_mode=st.sampled_from([None, "remove", "zero"]),
    backend=st.sampled_from(["kernel", "reference"]),
)
def test_forward_and_gradients_equal_dense(case, with_bias, mask_mode, backend):
    q, k, v, edge_index, bias, mask = random_case(**case)
    variables = [q.requires_grad_(), k.requires_grad_(), v.requires_grad_()]
    if with_bias:
        variables.append(bias.requires_grad_())
    options = {"bias": bias if with_bias else None}
    if mask_mode:
        options |= {"mask": mask, "mask_mode": mask_mode}
    expected = dense(q, k, v, edge_index, **options)
    weight = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
    out = sparse_attention(q, k, v, edge_index, **options, backend=backend)
    gradients = torch.autograd.grad((out * weight).sum(), variables)
    assert torch.allclose(out, expected, rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(
        gradients,
        torch.autograd.grad((expected * weight).sum(), variables, allow_unused=True),
        strict=True,
    ):
        assert torch.allclose(
            mine, torch.zeros_like(mine) if theirs is None else theirs, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float, 1e-5), (torch.bfloat16, 3e-2), (torch.half, 4e-3)]
)
def test_precisions(dtype, tolerance):
    """Half precision is computed in single precision: its error is that of rounding inputs and results."""
    q, k, v, edge_index, bias, _ = random_case(0, 40, 40, 600, 2, 32, 32)
    low = [t.to(dtype).requires_grad_() for t in (q, k, v)]
    high = [t.detach().double().requires_grad_() for t in low]
    out = sparse_attention(*low, edge_index, bias.to(dtype))
    expected = sparse_attention(*high, edge_index, bias.to(dtype).double(), backend="reference")
    assert out.dtype == dtype
    assert (out.double() - expected).abs().max() < tolerance
    out.sum().backward()
    expected.sum().backward()
    for mine, theirs in zip(low, high, strict=True):
        assert mine.grad.dtype == dtype
        assert (mine.grad.double() - theirs.grad).abs().max() < tolerance * max(
            1, float(theirs.grad.abs().max())
        )


@settings(max_examples=40, deadline=None)
@given(case=cases)
def test_single_precision_on_any_graph(case):
    q, k, v, edge_index, bias, _ = random_case(**case)
    single = [t.float().requires_grad_() for t in (q, k, v, bias)]
    double = [t.detach().double().requires_grad_() for t in single]
    expected = sparse_attention(*double[:3], edge_index, double[3])
    out = sparse_attention(*single[:3], edge_index, single[3])
    gradients = torch.autograd.grad(out.sum(), single)
    for mine, theirs in zip(
        (out, *gradients),
        (expected, *torch.autograd.grad(expected.sum(), double)),
        strict=True,
    ):
        size = float(theirs.detach().abs().max()) if theirs.numel() > 0 else 0.0
        # Gradients of scores are differences of sums over the channels.
        tolerance = 1e-5 * max(1.0, size, v.size(2) ** 0.5)
        assert torch.allclose(mine.double(), theirs, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("heads_apart", [True, False])
def test_many_nodes_on_several_threads(heads_apart):
    """Tasks and copies of heads, which small graphs do without."""
    q, k, v, edge_index, bias, mask = random_case(0, 2000, 1500, 40000, 4, 64, 32, hub=True)
    if heads_apart:
        q, k, v = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (q, k, v))
    tensors = [t.requires_grad_() for t in (q, k, v, bias)]
    weight = torch.randn(2000, 4, 32, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for backend in ("kernel", "reference"):
            out = sparse_attention(*tensors[:3], edge_index, bias, mask, backend=backend)
            found.append((out, *torch.autograd.grad((out * weight).sum(), tensors)))
    finally:
        torch.set_num_threads(threads)
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("channels", [(64, 64), (48, 100), (32, 7)])
def test_whole_and_partial_registers_on_several_threads(threads, channels):
    q, k, v, edge_index, _, _ = random_case(0, 900, 1100, 60000, 3, *channels, torch.float, hub=True)
    double = [t.double().requires_grad_() for t in (q, k, v)]
    single = [t.detach().float().requires_grad_() for t in double]
    outputs = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for tensors, backend in ((single, "kernel"), (double, "reference")):
            out = sparse_attention(*tensors[:3], edge_index, backend=backend)
            score = edge_scores(*tensors[:2], edge_index, backend=backend)
            outputs.append((out, *torch.autograd.grad(out.square().sum(), tensors[:3])))
            outputs[-1] += (score, *torch.autograd.grad(score.square().sum(), tensors[:2]))
    finally:
        torch.set_num_threads(before)
    for mine, theirs in zip(*outputs, strict=True):
        assert (mine - theirs).abs().max() < 2e-5 * theirs.abs().max()


def test_results_lie_in_memory_as_queries_do():
    q, k, v, edge_index, _, _ = random_case(3, 40, 30, 200, 4, 8, 16)
    by_head = [t.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in (q, k, v)]
    out = sparse_attention(*by_head, edge_index)
    assert out.transpose(0, 1).is_contiguous()
    assert sparse_attention(q, *by_head[1:], edge_index).is_contiguous()
    for grad, tensor in zip(torch.autograd.grad(out.sum(), by_head), by_head, strict=True):
        assert grad.stride() == tensor.stride()
    csr = to_csr(edge_index, 40)
    torch.library.opcheck(
        torch.ops.pyg_match.attention.default, (*by_head, csr.rowptr, csr.col, None, None, False, 0.5)
    )


@settings(max_examples=40, deadline=None)
@given(case=cases, options=st.sampled_from(["none", "bias", "remove", "zero"]))
def test_keys_and_values_in_bfloat16_are_read_as_they_are(case, options):
    """With the same numbers in single precision the answer is the same, but for the order of sums."""
    q, k, v, edge_index, bias, mask = random_case(**case | {"dtype": torch.float})
    halves = [t.bfloat16().requires_grad_() for t in (k, v)]
    singles = [t.detach().float().requires_grad_() for t in halves]
    csr = to_csr(edge_index, q.size(0))
    by_head = csr.sorted(bias).t().contiguous() if options == "bias" else None
    keep = csr.sorted(mask) if options in ("remove", "zero") else None
    # Of squares, gradients of scores would be differences of numbers that are far larger.
    weight = torch.randn(q.size(0), q.size(1), v.size(2), generator=torch.Generator().manual_seed(1))
    found = []
    for key, value in (halves, singles):
        query = q.clone().requires_grad_()
        out, lse = torch.ops.pyg_match.attention.default(
            query, key, value, csr.rowptr, csr.col, by_head, keep, options == "remove", 0.3
        )
        grads = torch.autograd.grad((out * weight).sum(), (query, key, value))
        assert [grad.dtype for grad in grads] == [query.dtype, key.dtype, value.dtype]
        found.append([out, lse, *grads])
    for mine, expected in zip(*found, strict=True):
        rounding = 1e-5 if mine.dtype == torch.float else 1e-2
        scale = max([1.0, *expected[expected.isfinite()].abs().tolist()])
        assert torch.allclose(mine.float(), expected, rtol=rounding, atol=rounding * scale)


@pytest.mark.parametrize("dtypes", [(torch.double, torch.bfloat16), (torch.float, torch.half)])
def test_mixed_precisions(dtypes):
    q, k, v, edge_index, _, _ = random_case(0, 40, 40, 600, 2, 32, 32)
    q, k, v = q.to(dtypes[0]), k.to(dtypes[1]), v.to(dtypes[1])
    expected = sparse_attention(q.double(), k.double(), v.double(), edge_index, backend="reference")
    out = sparse_attention(q, k, v, edge_index)
    assert out.dtype == dtypes[0]
    assert torch.allclose(out.double(), expected, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
def test_channels_may_lie_apart(order, which):
    """The order of dimensions in memory, by which gradients must not be lost."""
    q, k, v, edge_index, bias, _ = random_case(4, 12, 9, 60, 3, 5, 5)
    back = [order.index(dim) for dim in range(3)]
    tensors = [
        t.permute(order).contiguous().permute(back) if i in which else t for i, t in enumerate((q, k, v))
    ]
    tensors = [t.requires_grad_() for t in (*tensors, bias)]
    results = []
    for backend in ("kernel", "reference"):
        out = sparse_attention(*tensors[:3], edge_index, tensors[3], backend=backend)
        scores = edge_scores(*tensors[:2], edge_index, backend=backend)
        results.append([out, scores, *torch.autograd.grad(out.square().sum() + scores.pow(3).sum(), tensors)])
    for mine, theirs in zip(*results, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)
    csr = to_csr(edge_index, 12)
    arguments = (*tensors[:3], csr.rowptr, csr.col, None, None, False, 0.5)
    torch.library.opcheck(torch.ops.pyg_match.attention.default, arguments)
    torch.library.opcheck(torch.ops.pyg_match.edge_scores.default, (*tensors[:2], csr.rowptr, csr.col, 0.5))


def test_second_derivatives_are_refused():
    q, k, v, edge_index, _, _ = random_case(4, 12, 9, 60, 3, 5, 5)
    tensors = [t.requires_grad_() for t in (q, k, v)]
    for function in (lambda b: sparse_attention(*tensors, edge_index, backend=b),
                     lambda b: edge_scores(*tensors[:2], edge_index, backend=b),
                     lambda b: attention_weights(*tensors[:2], edge_index, backend=b)):  # fmt: skip
        (grad,) = torch.autograd.grad(function("kernel").square().sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivatives; use backend='reference'"):
            grad.square().sum().backward()
        (grad,) = torch.autograd.grad(function("reference").square().sum(), q, create_graph=True)
        assert torch.autograd.grad(grad.square().sum(), q)[0].abs().sum() > 0


@pytest.mark.parametrize("source", [-1, 9])
def test_sources_that_do_not_exist_are_named_everywhere(source):
    q, k, v, _, _, _ = random_case(4, 12, 9, 60, 3, 5, 5)
    edges = torch.tensor([[0, source], [0, 1]])
    for call in (
        lambda: sparse_attention(q, k, v, edges, backend="reference"),
        lambda: edge_scores(q, k, edges, backend="reference"),
        lambda: attention_weights(q, k, edges),
        lambda: sparse_attention(q, k, v, edges, backend="kernel"),
    ):
        with pytest.raises(ValueError, match=f"an edge names source {source}, but there are 9"):
            call()


@pytest.mark.parametrize("target", [-(10**9), 12, 10**9])
def test_targets_that_do_not_exist_are_named_everywhere(target):
    q, k, v, _, _, _ = random_case(4, 12, 9, 60, 3, 5, 5)
    edges = torch.tensor([[0, 1], [target, target]])
    for form in (
        edges,
        EdgeIndex(edges, sparse_size=(9, 12)),
        EdgeIndex(edges, sparse_size=(9, 12), sort_order="col"),
    ):
        with pytest.raises(ValueError, match=f"names target {target}, but there are 12"):
            sparse_attention(q, k, v, form)


def test_derivatives_may_be_computed_forward():
    q, k, v, edge_index, bias, _ = random_case(4, 12, 9, 60, 3, 5, 5)
    directions = tuple(torch.randn_like(t) for t in (q, k, v, bias))
    for function in (lambda q, k, v, bias: sparse_attention(q, k, v, edge_index, bias),
                     lambda q, k, v, bias: edge_scores(q, k, edge_index) + 0 * bias):  # fmt: skip
        _, found = torch.func.jvp(function, (q, k, v, bias), directions)
        ahead, behind = (
            function(*(t + step * d for t, d in zip((q, k, v, bias), directions, strict=True)))
            for step in (1e-6, -1e-6)
        )
        assert torch.allclose(found, (ahead - behind) / 2e-6, atol=1e-6) and found.abs().sum() > 0


def test_biases_take_the_type_of_the_rest():
    q, k, v, edge_index, bias, _ = random_case(4, 12, 9, 60, 3, 5, 5, torch.float)
    for backend in ("kernel", "reference"):
        assert sparse_attention(q, k, v, edge_index, bias.double(), backend=backend).dtype == torch.float


def test_part_of_the_edges():
    edge_index = torch.tensor([[4, 1, 3, 0, 2], [1, 0, 2, 1, 0]])
    csr = to_csr(edge_index, 3)
    mask = torch.tensor([True, False, True, False, True])  # in the order of the user
    part = csr.subset(csr.sorted(mask))
    assert torch.equal(part.listed(), edge_index[:, mask])
    assert torch.equal(part.rowptr, to_csr(edge_index[:, mask], 3).rowptr)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kernels_are_warmed_up_in_any_mode(mode):
    with mode():
        assert warmup() > 0


def test_large_hub_and_many_heads():
    q, k, v, edge_index, _, _ = random_case(0, 300, 300, 9000, 3, 16, 8, torch.float, hub=True)
    expected = dense(*(t.double() for t in (q, k, v)), edge_index).float()
    tensors = [t.clone().requires_grad_() for t in (q, k, v)]
    out = sparse_attention(*tensors, edge_index)
    assert torch.allclose(out, expected, atol=1e-5)
    reference = [t.clone().requires_grad_() for t in (q, k, v)]
    sparse_attention(*reference, edge_index, backend="reference").square().sum().backward()
    out.square().sum().backward()
    for mine, theirs in zip(tensors, reference, strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)
    assert torch.allclose(
        edge_scores(q, k, edge_index), edge_scores(q, k, edge_index, backend="reference"), atol=1e-5
    )


def test_extreme_scores_stay_finite():
    q, k, v, edge_index, _, _ = random_case(0, 20, 20, 200, 2, 8, 8, torch.float)
    out = sparse_attention(300 * q, 300 * k, v, edge_index)
    expected = dense((300 * q).double(), (300 * k).double(), v.double(), edge_index)
    assert torch.isfinite(out).all()
    assert torch.allclose(out.double(), expected, atol=1e-3)


def test_exponential_is_accurate():
    """One edge beside another of score 0: alpha = exp(s) / (1 + exp(s))."""
    score = torch.linspace(-80, 0, 4001)
    q = torch.stack([score, torch.zeros_like(score)], 1).view(-1, 1, 2)
    k = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(2, 1, 2)
    v = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    targets = torch.arange(4001)
    edge_index = torch.stack([torch.cat([targets * 0, targets * 0 + 1]), targets.repeat(2)])
    out = sparse_attention(q, k, v, edge_index, scale=1.0).view(-1).double()
    expected = score.double().sigmoid()
    assert ((out - expected).abs() / expected).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_logarithms_of_sums_and_full_registers(dtype):
    """What the backward rebuilds coefficients from, for rows of 1 to 70 edges and scores of all sizes."""
    counts = torch.arange(1, 71)
    rowptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    edges = int(rowptr[-1])
    score = torch.linspace(-30, 5, edges, dtype=dtype)[torch.randperm(edges)]
    one = torch.ones(70, 1, 1, dtype=dtype)
    arguments = (score.view(-1, 1, 1), torch.ones(edges, 1, 1, dtype=dtype), rowptr, torch.arange(edges))
    out, lse = torch.ops.pyg_match.attention(one, *arguments, None, None, False, 1.0)
    parts = score.double().split(counts.tolist())
    expected = torch.stack([part.logsumexp(0) for part in parts])
    assert torch.allclose(lse.view(-1).double(), expected, atol=2e-6 if dtype == torch.float else 1e-12)
    assert torch.allclose(out, torch.ones_like(out))


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 17, 33])
def test_what_is_not_finite_stays_in_its_row(dtype, bad, count):
    generator = torch.Generator().manual_seed(count)
    q, k, v = (torch.randn(n, 2, 16, generator=generator, dtype=dtype) for n in (3, 40, 40))
    edge_index = torch.stack([torch.arange(3 * count) % 40, torch.arange(3).repeat_interleave(count)])
    expected = sparse_attention(q, k, v, edge_index)
    bias = torch.zeros(3 * count, 2, dtype=dtype)
    for places in (slice(count, count + 1), slice(2 * count - 1, 2 * count), slice(count, 2 * count)):
        spoilt = bias.clone()
        spoilt[places, 0] = bad
        out = sparse_attention(q, k, v, edge_index, spoilt)
        assert out[1, 0].isnan().all()
        assert torch.allclose(out[[0, 2]], expected[[0, 2]])
        assert torch.allclose(out[1, 1], expected[1, 1])
    spoilt = torch.full_like(bias, -math.inf)
    spoilt[:count] = spoilt[2 * count :] = 0
    out = sparse_attention(q, k, v, edge_index, spoilt)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert torch.allclose(out[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(("heads", "threads"), [(3, 2), (1, 3), (5, 4), (2, 2)])
def test_heads_are_shared_out_whatever_their_number(heads, threads):
    q, k, v, edge_index, _, _ = random_case(0, 300, 280, 6000, heads, 16, 24)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = sparse_attention(q, k, v, edge_index)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(out, dense(q, k, v, edge_index), atol=1e-10)


def test_memory_kept_from_inference_serves_training(monkeypatch):
    monkeypatch.setattr(workspace, "_memory", threading.local())
    monkeypatch.setattr(attention_cpu, "_CACHED_BYTES", 0)  # nodes are copied however few they are
    q, k, v, edge_index, _, _ = random_case(0, 30, 30, 600, 2, 16, 16)
    with torch.inference_mode():
        expected = sparse_attention(q, k, v, edge_index)
    out = sparse_attention(q.requires_grad_(), k, v, edge_index)
    out.sum().backward()
    assert torch.equal(out, expected)


def test_gradcheck_and_edge_scores():
    q, k, v, edge_index, bias, mask = random_case(3, 4, 5, 12, 2, 3, 2)
    q, k, v, bias = (t.requires_grad_() for t in (q, k, v, bias))
    for mode in ("remove", "zero"):
        attend = lambda q, k, v, b, mode=mode: sparse_attention(q, k, v, edge_index, b, mask, mode)  # noqa: E731
        assert torch.autograd.gradcheck(attend, (q, k, v, bias))
    assert torch.autograd.gradcheck(lambda q, k: edge_scores(q, k, edge_index), (q, k))
    expected = (q[edge_index[1]] * k[edge_index[0]]).sum(-1) / math.sqrt(3)
    assert torch.allclose(edge_scores(q, k, edge_index), expected)
    weigh = lambda q, k, b: attention_weights(q, k, edge_index, b, mask, "zero")  # noqa: E731
    assert torch.autograd.gradcheck(weigh, (q, k, bias))
    alpha = attention_weights(q, k, edge_index, bias)
    assert torch.allclose(alpha, softmax(expected + bias, edge_index[1], num_nodes=4))
    assert attention_weights(q.half(), k.half(), edge_index).dtype == torch.half


def test_opcheck():
    q, k, v, edge_index, bias, mask = random_case(3, 4, 5, 12, 2, 3, 2, torch.float)
    csr = to_csr(edge_index, 4)
    tensors = [t.requires_grad_() for t in (q, k, v)]
    for options in ((None, None, False), (bias.t().contiguous().requires_grad_(), mask, True)):
        args = (*tensors, csr.rowptr, csr.col, *options, 0.5)
        torch.library.opcheck(torch.ops.pyg_match.attention.default, args)
    halves = [t.detach().bfloat16().requires_grad_() for t in tensors[1:]]
    args = (tensors[0], *halves, csr.rowptr, csr.col, None, None, False, 0.5)
    torch.library.opcheck(torch.ops.pyg_match.attention.default, args)
    torch.library.opcheck(torch.ops.pyg_match.edge_scores.default, (*tensors[:2], csr.rowptr, csr.col, 0.5))


def test_forms_of_edges():
    q, k, v, edge_index, _, _ = random_case(5, 6, 9, 30, 2, 4, 4)
    edge_index = torch.stack([edge_index[0], edge_index[1]]).unique(dim=1)  # matrices hold no duplicates
    bias = torch.randn(edge_index.size(1), 2, dtype=torch.double)
    by_target = edge_index[:, edge_index[1].argsort(stable=True)].contiguous()
    bias_by_target = bias[edge_index[1].argsort(stable=True)]
    shuffle = torch.randperm(edge_index.size(1))
    expected = dense(q, k, v, edge_index, bias)
    size = (9, 6)
    unsorted, by_row = edge_index[:, shuffle].contiguous(), edge_index.contiguous()
    forms = [
        (by_target, bias_by_target),
        (by_target.int(), bias_by_target),
        (unsorted, bias[shuffle]),
        (unsorted.int(), bias[shuffle]),
        (EdgeIndex(by_target, sparse_size=size, sort_order="col"), bias_by_target),
        (EdgeIndex(by_target, sort_order="col"), bias_by_target),
        (EdgeIndex(by_row, sparse_size=size, sort_order="row"), bias),
        (EdgeIndex(unsorted, sparse_size=size), bias[shuffle]),
        (to_csr(unsorted, 6), bias[shuffle]),
        (to_torch_csr_tensor(by_target.flip(0), size=size[::-1]), bias_by_target),
        (to_torch_csc_tensor(by_target.flip(0), size=size[::-1]), bias_by_target),
        (to_torch_coo_tensor(by_target.flip(0), size=size[::-1]), bias_by_target),
    ]
    for edges, values in forms:
        assert torch.allclose(sparse_attention(q, k, v, edges, values), expected, rtol=1e-10, atol=1e-10)
        alpha = attention_weights(q, k, edges, values)
        scores = edge_scores(q, k, edges)
        reference = edge_scores(q, k, edges, backend="reference")
        assert torch.allclose(scores, reference)
        assert alpha.shape == scores.shape
    alpha = attention_weights(q, k, unsorted, bias[shuffle])
    total = torch.zeros(6, 2, dtype=torch.double).index_add(0, unsorted[1], alpha)
    assert torch.allclose(total[unsorted[1].unique()], torch.ones(1, dtype=torch.double))


def test_non_contiguous_inputs():
    fused = torch.randn(20, 3, 2, 8, dtype=torch.double)
    edge_index = torch.randint(20, (2, 90))
    out = sparse_attention(*fused.unbind(1), edge_index)
    assert torch.allclose(out, dense(*fused.unbind(1), edge_index))
    heads_first = torch.randn(2, 20, 8, dtype=torch.double).transpose(0, 1)
    assert torch.allclose(
        sparse_attention(heads_first, heads_first, heads_first, edge_index),
        dense(heads_first, heads_first, heads_first, edge_index),
    )


@pytest.mark.parametrize("shared", [True, False])
def test_blocks(shared):
    """Blocks equal their listed edges, whether one similarity matrix serves both directions or not."""
    blocks = Blocks((0, 3, 7, 7, 9), (3, 0, 7, 7), (7, 3, 9, 7))
    listed = [
        (s, t)
        for b in range(4)
        for t in range(blocks.target_ptr[b], blocks.target_ptr[b + 1])
        for s in range(blocks.source_start[b], blocks.source_stop[b])
    ]
    q, v = torch.randn(9, 2, 4, dtype=torch.double), torch.randn(9, 2, 4, dtype=torch.double)
    k = q if shared else torch.randn(9, 2, 4, dtype=torch.double)
    expected = dense(q, k, v, torch.tensor(listed).t())
    assert torch.allclose(sparse_attention(q, k, v, blocks), expected, rtol=1e-10, atol=1e-10)
    negative = dense(q, k, v, torch.tensor(listed).t(), scale=-0.5)
    assert torch.allclose(sparse_attention(q, k, v, blocks, scale=-0.5), negative, rtol=1e-10, atol=1e-10)
    for types in ((torch.float, torch.double), (torch.double, torch.bfloat16), (torch.float, torch.half)):
        out = sparse_attention(q.to(types[0]), k.to(types[1]), v.to(types[1]), blocks)
        assert out.dtype == torch.promote_types(*types) and torch.allclose(out.double(), expected, atol=2e-2)
    with pytest.raises(ValueError, match="neither a bias nor a mask"):
        sparse_attention(q, k, v, blocks, mask=torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match="9 targets, but there are 8"):
        sparse_attention(q[:8], k, v, blocks)
    with pytest.raises(ValueError, match="name source 8, but there are 7"):
        sparse_attention(q, k[:7], v[:7], blocks)


def call(**change):
    x = torch.randn(4, 2, 8)
    kwargs = {"query": x, "key": x, "value": x, "edge_index": torch.tensor([[0, 1], [1, 2]])}
    return sparse_attention(**{**kwargs, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.randn(4, 8)}, ValueError, r"must have shape \[N, H, C\]"),
        ({"key": torch.randn(4, 3, 8)}, ValueError, "do not fit together"),
        ({"value": torch.ones(4, 2, 8, dtype=torch.long)}, TypeError, "expected floating-point tensors"),
        ({"edge_index": torch.tensor([[0, 4], [1, 2]])}, ValueError, "names source 4, but there are 4"),
        ({"edge_index": torch.tensor([[0, -1], [1, 2]])}, ValueError, "names source -1, but there are 4"),
        ({"edge_index": torch.tensor([[0, 1], [1, 4]])}, ValueError, "names target 4, but there are 4"),
        ({"edge_index": torch.tensor([0, 1])}, ValueError, r"must have shape \[2, E\], got \[2\]"),
        ({"edge_index": torch.rand(2, 3)}, TypeError, "int32 or int64 numbers, got torch.float32"),
        ({"edge_index": [[0], [1]]}, TypeError, "got list"),
        (
            {"edge_index": CSR(torch.tensor([0, 1]), torch.tensor([0]))},
            ValueError,
            "4 targets, got those of 1",
        ),
        (
            {"edge_index": CSR(torch.tensor([0, 3, 1, 2, 2]), torch.tensor([0, 1]))},
            ValueError,
            "must not fall",
        ),
        (
            {"edge_index": CSR(torch.tensor([0, 1, 1, 1, 1]), torch.tensor([0, 1]))},
            ValueError,
            "must lead from 0 to 2",
        ),
        *(
            (
                {"edge_index": CSR(torch.tensor([0, 1, 2, 2, 2]), torch.tensor([0, 1]), torch.tensor(perm))},
                ValueError,
                rf"'perm' must hold each number below 2 once, got shape \[{len(perm)}\]",
            )
            for perm in ([0], [0, 0], [0, 2], [-1, 0])
        ),
        (
            {"edge_index": CSR(torch.tensor([0, 1, 2, 2, 2]), torch.tensor([0.0, 1.5]))},
            TypeError,
            "'col' must hold int32 or int64 numbers, got torch.float32",
        ),
        ({"scale": torch.tensor(0.5, requires_grad=True)}, TypeError, "'scale' has no gradient"),
        ({"bias": torch.randn(2)}, ValueError, r"'bias' must have shape \[2, 2\], got \[2\]"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, r"'mask' must have shape \[2\], got \[3\]"),
        ({"mask": torch.ones(2)}, TypeError, "'mask' must be boolean"),
        ({"mask_mode": "drop"}, ValueError, "'mask_mode' must be 'remove' or 'zero', got 'drop'"),
        ({"backend": "cuda"}, ValueError, "'backend' must be"),
    ],
)
def test_errors(change, error, message):
    with pytest.raises(error, match=message):
        call(**change)


@compiles
def test_compile_and_export():
    q, k, v, edge_index, _, _ = random_case(0, 30, 30, 200, 2, 8, 8, torch.float)
    csr = to_csr(edge_index, 30)

    def attend(q, k, v, rowptr, col):
        return sparse_attention(q, k, v, CSR(rowptr, col)).relu()

    args = [q.requires_grad_(), k, v, csr.rowptr, csr.col]
    expected = attend(*args)
    compiled = torch.compile(attend, fullgraph=True)(*args)
    assert torch.allclose(compiled, expected, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(compiled.sum(), q), torch.autograd.grad(expected.sum(), q), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)

    class Model(torch.nn.Module):
        def forward(self, q, k, v, rowptr, col):
            return attend(q, k, v, rowptr, col)

    exported = torch.export.export(Model(), tuple(a.detach() for a in args))
    assert torch.allclose(exported.module()(*(a.detach() for a in args)), expected, atol=1e-6)


def test_autocast_takes_low_precision_inputs():
    lin = torch.nn.Linear(16, 16)
    x, edge_index = torch.randn(20, 16), torch.randint(20, (2, 100))
    with torch.autocast("cpu", torch.bfloat16):
        h = lin(x).view(20, 2, 8)
        out = sparse_attention(h, h, h, edge_index)
    assert out.dtype == torch.bfloat16
    h = lin(x).view(20, 2, 8)
    assert torch.allclose(out.float(), sparse_attention(h, h, h, edge_index), atol=0.05)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def busy_case():
    q, k, v, edge_index, _, _ = random_case(1, 400, 400, 6000, 2, 16, 16, torch.float)
    return q, k, v, to_csr(edge_index, 400)


def test_many_threads_at_once(two_threads):
    case = busy_case()
    expected = sparse_attention(*case)
    wrong = []

    def work():
        for _ in range(200):
            if not torch.equal(sparse_attention(*case), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(method, two_threads):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    case = busy_case()
    expected = sparse_attention(*case)  # the parent's threads are running when it forks
    options = {"num_workers": 2, "batch_size": None, "multiprocessing_context": method, "timeout": 600}
    values = list(DataLoader(AttentionDataset(case), **options))
    assert len(values) == len(AttentionDataset(case))
    assert all(torch.equal(value, expected) for value in values)


INTERRUPTED = """
import signal, torch
from pyg_match.ops import sparse_attention, to_csr
torch.manual_seed(0)
torch.set_num_threads(2)
q = torch.randn(3000, 4, 32)
csr = to_csr(torch.randint(3000, (2, 200_000)), 3000)
expected = sparse_attention(q, q, q, csr)
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
for delay in torch.linspace(0.001, 0.03, 12).tolist():
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        for _ in range(1000):
            sparse_attention(q, q, q, csr)
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
assert torch.equal(sparse_attention(q, q, q, csr), expected)
print(interrupted)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_after_interrupted_calls():
    # In a process of its own: an interrupt may also hit the lock of a coverage tracer, which never recovers.
    out = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True, timeout=600
    )
    assert int(out.stdout) > 0


@pytest.mark.parametrize("openmp", [True, False])
def test_number_of_threads_is_respected(monkeypatch, openmp):
    from pyg_match.ops import team

    if not openmp:  # as on systems whose OpenMP library is not found
        monkeypatch.setattr(team, "_openmp", lambda: None)
    elif team._openmp() is None:
        pytest.skip("torch's OpenMP library was not found")
    case = busy_case()
    asked = []
    original = team.run_together
    monkeypatch.setattr(attention_cpu, "run_together", lambda *args: asked.append(args[2]) or original(*args))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sparse_attention(*case))
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2, 3]
    assert all(torch.equal(results[0], result) for result in results)


def test_an_interrupt_waits_for_helpers(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor, wait

    from pyg_match.ops import team

    release, waits = threading.Event(), []

    def interrupted(futures):
        waits.append(len(futures))
        if len(waits) == 1:
            raise KeyboardInterrupt
        release.set()
        return wait(futures)

    monkeypatch.setattr(team, "wait", interrupted)
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()
        helper = pool.submit(lambda: (started.set(), release.wait(60)))
        started.wait(60)
        with pytest.raises(KeyboardInterrupt):
            team._await([helper])
        assert helper.done() and waits == [1, 1]


@pytest.mark.parametrize("openmp", [True, False])
def test_every_task_is_done_once(monkeypatch, openmp):
    from pyg_match.ops import team

    if not openmp:
        monkeypatch.setattr(team, "_openmp", lambda: None)
    lock, calls = threading.Lock(), []

    @team._FUNCTION
    def note(argument):
        with lock:
            calls.append(argument)

    address = ctypes.cast(note, ctypes.c_void_p).value
    team.run_together(address, 1234, 3)
    assert 1 <= len(calls) <= 3 and set(calls) == {1234}


SCRIPT = """
import warnings, sys, torch
warnings.simplefilter("always")
{before}
from pyg_match.ops import sparse_attention, warmup
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = torch.ones(3, 1, 4)
    for _ in range(2):
        out = sparse_attention(x, x, x, torch.tensor([[0, 1], [1, 1]]))
assert out[1].tolist() == [[1.0] * 4] and out[0].tolist() == [[0.0] * 4]
print([str(w.message) for w in caught if "kernels" in str(w.message)])
"""


def run(before, **environment):
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return out.stdout


def test_without_the_library_one_warning_and_plain_torch():
    assert run("", PYG_MATCH_LIBRARY="nowhere.so").count("compiled kernels of pyg_match are missing") == 1


def test_a_library_of_other_code_is_not_used(tmp_path):
    """As after an update without a new build: its jobs would look different."""
    file = tmp_path / "old.so"
    build(file, options=["-USOURCES", "-DSOURCES=1"], baseline=True)
    assert run("", PYG_MATCH_LIBRARY=str(file)).count("was built from other code") == 1


def test_compilers_that_know_no_vectors_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no C compiler that knows vectors"):
        compiler()
    old = tmp_path / "cc"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("CC", str(old))
    with pytest.raises(FileNotFoundError, match="install GCC 12, clang or the package 'ziglang'"):
        compiler()


def test_the_first_call_of_a_process_is_quick():
    script = "from pyg_match.ops import warmup; print(warmup())"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 < float(out.stdout) < 5  # of compiling, nothing is left


def test_warmup():
    start = time.perf_counter()
    assert 0 <= warmup(torch.float, torch.double) <= time.perf_counter() - start


def test_queries_without_channels_and_other_devices():
    edges, none = torch.tensor([[0], [0]]), torch.zeros(2, 1, 0)
    for call in (
        lambda: sparse_attention(none, none, torch.ones(2, 1, 3), edges),
        lambda: edge_scores(none, none, edges),
        lambda: attention_weights(none, none, edges),
    ):
        with pytest.raises(ValueError, match="must have at least one channel, got shapes"):
            call()
    q, meta = torch.ones(2, 1, 4), torch.ones(2, 1, 4, device="meta")
    with pytest.raises(ValueError, match=r"must be on one device, got \['cpu', 'meta', 'cpu'\]"):
        sparse_attention(q, meta, q, edges)
    for scale in (float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="'scale' must be a finite number, got"):
            sparse_attention(q, q, q, edges, scale=scale)


@pytest.mark.parametrize("batched", ["query", "key", "value"])
def test_complete_graphs_of_torch_func(batched):
    """The first of three graphs has no sources."""
    inputs = {"query": torch.randn(6, 2, 4), "key": torch.randn(5, 2, 4), "value": torch.randn(5, 2, 3)}
    blocks, many = Blocks((0, 2, 4, 6), (0, 0, 3), (0, 3, 5)), torch.randn(3, *inputs[batched].shape)
    found = torch.vmap(lambda x: sparse_attention(**{**inputs, batched: x}, edge_index=blocks))(many)
    expected = [sparse_attention(**{**inputs, batched: x}, edge_index=blocks) for x in many]
    torch.testing.assert_close(found, torch.stack(expected))
    assert (found[:, :2] == 0).all()


def test_gradients_of_torch_func():
    q, k, v = (torch.randn(4, 2, 8, dtype=torch.double, requires_grad=True) for _ in range(3))
    edges = torch.tensor([[0, 1, 2, 3, 1], [0, 0, 1, 3, 3]])
    expected = torch.autograd.grad(sparse_attention(q, k, v, edges).square().sum(), (q, k, v))
    got = torch.func.grad(lambda *t: sparse_attention(*t, edges).square().sum(), (0, 1, 2))(q, k, v)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
