"""Every backend of the operators against their definition, on whatever device there is.

``triton`` runs the kernels for GPUs on the CPU, through Triton's interpreter; ``cuda`` runs them for real, and
``cuda64`` with tiles of the size that they have there.
"""

import os

import pytest
import torch
from attention_cases import edge_set, nodes, random_case, windows
from helpers import random_pair
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.nn import GraphMatcher, pair_graph
from pyg_match.ops import Blocks, EdgeSet, attention_weights, edge_scores, sparse_attention, to_csr
from pyg_match.ops import attention_operators as operators
from pyg_match.ops.edge_padding import pad_edges
from pyg_match.ops.native import library
from pyg_match.transforms import AnchorEdges, CandidateEdges, KNNGraph

# Counting lines makes Triton's interpreter, which is written in Python, less than half as fast. The smaller cases, in
# which they are counted, reach all of them.
uncounted = pytest.mark.no_cover


@pytest.fixture(
    params=["c", "triton", *(pytest.param(n, marks=pytest.mark.cuda) for n in ("cuda", "cuda64"))]
)
def device(request, monkeypatch):
    """The device whose operators run on the backend."""
    if request.param == "c":
        if library.library() is None:
            pytest.skip("the library is missing")
        yield torch.device("cpu")
        return
    if not operators.has_triton():
        pytest.skip("Triton 3.2 or newer is not installed")
    from pyg_match.ops import attention_cuda

    if request.param != "cuda64":
        monkeypatch.setattr(attention_cuda, "_TILE", 16)  # so that few nodes fill several tiles
    if request.param.startswith("cuda"):
        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        yield torch.device("cuda")
        return
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton does not interpret in this process")
    with torch.library._scoped_library("pyg_match", "IMPL") as instead:
        for name, function in operators.implementations(lambda: attention_cuda).items():
            instead.impl(name, function, "CPU", allow_override=True)
        yield torch.device("cpu")


def to(device, *tensors):
    return [t if t is None else t.to(device) for t in tensors]


def compare(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        size = max([1.0, *other.detach().abs().flatten().tolist()])
        torch.testing.assert_close(one.detach().cpu().double(), other.double(), rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("mask_mode", [None, "remove", "zero"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("shape", "hub"),
    [
        ((7, 6, 40, 3, 5, 9), False),
        pytest.param((9, 12, 150, 1, 17, 4), True, marks=uncounted),
        ((3, 5, 2, 2, 1, 1), False),
        ((5, 4, 0, 2, 4, 4), False),
        ((0, 3, 0, 2, 4, 4), False),
        ((3, 0, 0, 2, 4, 4), False),
    ],
    ids=str,
)
def test_listed_edges(device, shape, hub, with_bias, mask_mode):
    q, k, v, edge_index, bias, mask = random_case(3, *shape, hub=hub)
    options = {"mask": mask, "mask_mode": mask_mode} if mask_mode else {}
    outputs = []
    for place, backend in ((device, "kernel"), ("cpu", "reference")):
        leaves = [t.to(place).requires_grad_() for t in (q, k, v, bias)]
        edges, given = edge_index.to(place), {
            name: value.to(place) if name == "mask" else value for name, value in options.items()
        }  # fmt: skip
        out = sparse_attention(*leaves[:3], edges, leaves[3] if with_bias else None, **given, backend=backend)
        scores = edge_scores(*leaves[:2], edges, backend=backend)
        given |= {"bias": leaves[3] if with_bias else None, "backend": backend}
        alpha = attention_weights(*leaves[:2], edges, **given)
        wanted = leaves if with_bias else leaves[:3]
        total = out.square().sum() + scores.square().sum() + alpha.square().sum()
        outputs.append([out, scores, alpha, *torch.autograd.grad(total, wanted)])
    compare(*outputs, 1e-12)


@pytest.mark.parametrize("widths", [(4, 4), *(pytest.param(w, marks=uncounted) for w in ((3, 20), (80, 8)))])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(("weighted", "ordered"), [(True, False), (False, False), (True, True)])
def test_dense_groups(device, widths, listed, weighted, ordered):
    edges = edge_set(weighted=weighted, listed=listed, ordered=ordered).with_transpose()
    tensors = nodes(*widths)
    outputs = []
    for place, backend in ((device, "kernel"), ("cpu", "reference")):
        leaves = [t.clone().to(place).requires_grad_() for t in tensors]
        moved = [None if t is None else t.to(place) for t in (edges.groups, edges.source, edges.log_weight)]
        if weighted:
            leaves.append(moved[2].clone().requires_grad_())
            moved[2] = leaves[3]
        transposed = None if edges.transposed is None else tuple(to(place, *edges.transposed))
        graph = EdgeSet(edges.rowptr.to(place), edges.col.to(place), 12, None, transposed, *moved)
        graph = graph._replace(target=None if edges.target is None else edges.target.to(place))
        out = sparse_attention(*leaves[:3], graph, backend=backend)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    compare(*outputs, 1e-12)


@pytest.mark.parametrize("count", [1, 15, 40])
@pytest.mark.parametrize("cross", [True, False])
def test_complete_graphs_of_any_size(device, count, cross):
    """Sources are ranges of nodes, and tiles are full or not."""
    sizes = (count, 3)
    ptr = (0, count, count + 3)
    ranges = [(ptr[i], ptr[i + 1]) for i in ((1, 0) if cross else (0, 1))]
    blocks = Blocks(ptr, *zip(*ranges, strict=True))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, sum(sizes), 2, 8, generator=generator, dtype=torch.double)
    outputs = []
    for place, backend in ((device, "kernel"), ("cpu", "reference")):
        leaves = [t.clone().to(place).requires_grad_() for t in x]
        out = sparse_attention(*leaves, blocks, backend=backend)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    compare(*outputs, 1e-12)


@pytest.mark.parametrize("with_source", [True, False])
def test_groups_may_share_sources(device, with_source):
    """More tiles than sources would have if each were in one group."""
    groups = [[0, 2, 0, 40], [2, 3, 0, 40], [3, 3, 0, 40], [3, 6, 0, 35], [6, 8, 5, 40], [0, 8, 10, 30]]
    listed = EdgeSet.of(torch.tensor([[3, 39, 3], [0, 0, 7]]), 8, 40)
    graph = listed.with_groups(groups, torch.arange(40).flip(0) if with_source else None)
    assert graph.rounds == 2 and not graph.is_dense
    x = [torch.randn(n, 2, 4, dtype=torch.double) for n in (8, 40, 40)]
    outputs = []
    for place, backend in ((device, "kernel"), ("cpu", "reference")):
        leaves = [t.clone().to(place).requires_grad_() for t in x]
        rowptr, col, groups, source = to(place, graph.rowptr, graph.col, graph.groups, graph.source)
        moved = EdgeSet(rowptr, col, 40, groups=groups, source=source, rounds=2)
        out = sparse_attention(*leaves, moved, backend=backend)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    compare(*outputs, 1e-12)


def test_no_heads_and_sums_of_logarithms(device):
    none = torch.randn(6, 0, 8, device=device, requires_grad=True)
    blocks = Blocks((0, 6), (0,), (6,))
    out = sparse_attention(none, none, none, blocks, backend="kernel")
    assert out.shape == (6, 0, 8)
    assert torch.autograd.grad(out.sum(), none)[0].shape == none.shape
    edges = edge_set()
    moved = to(device, edges.rowptr, edges.col, edges.groups, edges.source, edges.log_weight)
    graph = EdgeSet(*moved[:2], 12, groups=moved[2], source=moved[3], log_weight=moved[4], rounds=2)
    leaves = [t.to(device).requires_grad_() for t in nodes()]
    grads = []
    for grad in (torch.ones(12, 2, dtype=torch.double, device=device), None):
        lse = operators.attention(*leaves, graph, None, None, False, 0.5)[1]
        grads.append(torch.autograd.grad(lse if grad is not None else lse.sum(), leaves[:2], grad))
    compare(grads[1], [t.cpu() for t in grads[0]], 1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float, 1e-5, marks=uncounted),
        (torch.bfloat16, 3e-2),
        pytest.param(torch.half, 4e-3, marks=uncounted),
    ],
)
def test_precisions(device, dtype, tolerance):
    q, k, v, edge_index, bias, _ = random_case(0, 20, 20, 200, 2, 16, 16)
    low = [t.to(dtype) for t in (q, k, v)]
    edges = EdgeSet.of(edge_index, 20, 20)
    edges = edges.with_groups([[0, 12, 0, 3], [12, 20, 3, 9]], torch.arange(9) * 2)
    outputs = []
    for place, backend in ((device, "kernel"), ("cpu", "reference")):
        kind = dtype if backend == "kernel" else torch.double
        leaves = [t.to(place, kind).requires_grad_() for t in low]
        perm = None if edges.perm is None else edges.perm.to(place)
        moved = to(place, edges.groups, edges.source)
        graph = EdgeSet(edges.rowptr.to(place), edges.col.to(place), 20, perm, None, *moved)
        listed = sparse_attention(*leaves, edge_index.to(place), bias.to(place, kind), backend=backend)
        out = listed + sparse_attention(*leaves, graph, backend=backend)
        assert out.dtype == kind
        outputs.append([out, *torch.autograd.grad(out.float().sum(), leaves)])
    compare(*outputs, tolerance)


@uncounted
@pytest.mark.parametrize("removes", [None, True, False])
def test_gradients_of_the_operator(device, removes):
    edges, tensors = edge_set(), nodes(3, 2)
    bias = torch.randn(24, 2, dtype=torch.double)
    keep = None if removes is None else (torch.rand(24) < 0.6).to(device)
    moved = to(device, edges.rowptr, edges.col, edges.groups, edges.source)

    def attend(query, key, value, bias, log_weight):
        graph = EdgeSet(*moved[:2], 12, None, None, *moved[2:], log_weight)
        return operators.attention(query, key, value, graph, bias, keep, bool(removes), 0.7)

    leaves = [t.to(device).requires_grad_() for t in (*tensors, bias, edges.log_weight)]
    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(lambda *t: attend(*t)[1], leaves, fast_mode=True)


@pytest.mark.parametrize("mask_mode", [None, "remove", "zero"])
def test_gradients_of_scores_in_which_logarithms_are_lost(device, mask_mode):
    """In single precision, the logarithm of a small sum is nothing beside a thousand million."""
    q, k, v, edge_index, bias, mask = random_case(3, 9, 8, 60, 2, 5, 4, torch.float)
    # All edges of three targets, and some of the others'.
    bias[(edge_index[1] < 3) | (torch.arange(60) % 4 == 0)] = -1e9
    outputs = []
    for place, backend in ((torch.device("cpu"), "reference"), (device, "auto")):
        leaves = [t.to(place).requires_grad_() for t in (q, k, v, bias)]
        masked = {} if mask_mode is None else {"mask": mask.to(place), "mask_mode": mask_mode}
        out = sparse_attention(*leaves[:3], edge_index.to(place), bias=leaves[3], backend=backend, **masked)
        weight = torch.arange(out.numel(), device=place).view_as(out).cos()
        outputs.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    compare(outputs[1], [t.cpu() for t in outputs[0]], 1e-5)


def test_layouts_in_memory(device):
    """Nodes by head, channels apart, biases shared by heads, and a gradient that is one number."""
    q, k, v, edge_index, bias, _ = random_case(4, 12, 9, 60, 3, 5, 5)
    csr = to_csr(edge_index, 12)
    single = csr.sorted(bias[:, :1].contiguous())
    layouts = [lambda t: t, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)]
    layouts.append(lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0))
    outputs = []
    for layout in layouts:
        leaves = [layout(t.to(device)).requires_grad_() for t in (q, k, v)]
        shared = single.to(device).requires_grad_()
        graph = EdgeSet(csr.rowptr.to(device), csr.col.int().to(device), 9)
        out, _ = operators.attention(*leaves, graph, shared.expand(-1, 3), None, False, 0.5)
        outputs.append([out, *torch.autograd.grad(out.sum(), (*leaves, shared))])
    for other in outputs[1:]:
        compare(other, [t.cpu() for t in outputs[0]], 1e-12)


def test_rows_that_are_not_finite_stay_alone(device):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(n, 2, 16, generator=generator) for n in (3, 40, 40))
    edge_index = torch.stack([torch.arange(27) % 40, torch.arange(3).repeat_interleave(9)])
    for bad in (torch.nan, torch.inf):
        bias = torch.zeros(27, 2)
        bias[9:12, 0] = bad
        out = sparse_attention(*to(device, q, k, v, edge_index, bias)).cpu()
        expected = sparse_attention(q, k, v, edge_index, backend="reference")
        assert out[1, 0].isnan().all()
        compare([out[[0, 2]], out[1, 1]], [expected[[0, 2]], expected[1, 1]], 1e-5)
    bias[9:18] = -torch.inf
    assert (sparse_attention(*to(device, q, k, v, edge_index, bias))[1] == 0).all()


@uncounted
@pytest.mark.parametrize(
    "options", [{}, {"redraw_after": 1, "redraw_k": 4}, {"assign_on_edges": True}], ids=str
)
def test_matcher(device, options, monkeypatch):
    """A whole matcher on edges, anchors that are not listed and complete graphs, and its gradients."""
    model = GraphMatcher(in_channels=16, hidden_channels=16, num_layers=2, heads=2, **options).double()
    pairs = Batch.from_data_list([random_pair(12, 9), random_pair(3, 20)])
    drawn = [
        KNNGraph(3, loop=True),
        AnchorEdges(3, loop=True, weighted=True, listed=False),
        CandidateEdges(3),
    ]
    batches = [Compose(drawn)(pairs)] + ([] if options else [pairs])
    outputs = []
    for place in (device, torch.device("cpu")):
        if outputs:
            for module in (operators, pair_graph):
                monkeypatch.setattr(module, "has_kernels", lambda *_: False)
        model.to(place)
        for batch in batches:
            out = model(batch.to(place))
            parts = out.log_assignment if out.edge_log_assignment is None else [out.edge_log_assignment]
            loss = sum(part.masked_fill(part == -torch.inf, 0).square().sum() for part in parts)
            grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            outputs.append([out.matches, out.scores, loss, *(g for g in grads if g is not None)])
    half = len(outputs) // 2
    for found, expected in zip(outputs[:half], outputs[half:], strict=True):
        compare(found, [t.cpu() for t in expected], 1e-9)


@pytest.mark.parametrize("kind", ["listed", "groups", "both", "in another order", "windows"])
def test_padding(device, kind):
    """New nodes change nothing for the others, whatever they hold."""
    divided = edge_set(listed=kind != "groups", ordered=kind == "in another order")
    edges = windows() if kind == "windows" else divided
    if kind == "listed":
        edges = EdgeSet(edges.rowptr, edges.col, edges.num_sources)
    count = edges.num_targets
    num_edges = edges.col.numel() + 7 if edges.col.numel() > 0 else 0
    num_groups = 0 if edges.groups is None else edges.groups.size(0) + edges.rounds + 2
    num_sources = 0 if edges.source is None else edges.source.numel() + 3
    padded = pad_edges(edges, count + 5, num_edges, num_groups, num_sources)
    assert padded.col.numel() == num_edges and padded.num_targets == padded.num_sources == count + 5
    tensors = [torch.randn(count + 5, 2, 4, dtype=torch.double) for _ in range(3)]
    there = EdgeSet(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in padded))
    found = sparse_attention(*to(device, *tensors), there, backend="kernel")
    expected = sparse_attention(*(t[:count] for t in tensors), edges, backend="reference")
    compare([found[:count]], [expected], 1e-10)


def test_padding_keeps_what_edges_are_given(device):
    """Biases and masks in the order that the user gave the edges in."""
    q, k, v, edge_index, bias, mask = random_case(3, 9, 9, 60, 2, 4, 4)
    edges = EdgeSet.of(edge_index, 9, 9)
    padded = pad_edges(edges, num_nodes=14, num_edges=67, num_groups=0, num_sources=0)
    assert edges.perm is not None
    there = EdgeSet(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in padded))
    tensors = [torch.cat([t, torch.randn(5, *t.shape[1:], dtype=t.dtype)]) for t in (q, k, v)]
    values = torch.cat([bias, torch.randn(7, 2, dtype=bias.dtype)]), torch.cat([mask, mask[:7]])
    found = sparse_attention(*to(device, *tensors), there, *to(device, *values), backend="kernel")
    expected = sparse_attention(q, k, v, edge_index, bias, mask, backend="reference")
    compare([found[:9]], [expected], 1e-10)
