"""Edge sets: listed edges and dense groups, which may overlap, equal to a list of all of them."""

import itertools

import pytest
import torch
from attention_cases import GROUPS, SOURCE, edge_set, nodes, windows
from helpers import compiles, reads_numbers
from torch_geometric import EdgeIndex

from pyg_match.ops import CSR, Anchored, Blocks, EdgeSet, attention_weights, edge_scores, sparse_attention
from pyg_match.ops import attention_operators as operators
from pyg_match.ops.csr import to_csr
from pyg_match.ops.dense_groups import runs
from pyg_match.ops.edge_lists import _narrow, _transpose, narrow_edges, transpose_edges


def all_edges(order=None):
    """The groups in plain Python: source, target and place of the weight."""
    order = range(12) if order is None else order.tolist()
    found, weights = [], 0
    for first, stop, source, source_stop in GROUPS:
        for target, place in itertools.product(range(first, stop), range(source, source_stop)):
            found.append((SOURCE[place], order[target], weights + target - first))
        weights += stop - first
    return found


@pytest.mark.parametrize("ordered", [True, False])
def test_all_edges_are_listed(ordered):
    edges = edge_set(ordered=ordered)
    listed, bias = edges.listed()
    expected = [(s, t, float(edges.log_weight[w])) for s, t, w in all_edges(edges.target)]
    expected += [(s, t, 0.0) for s, t in edges.csr().listed().t().tolist()]
    source, target = listed.csr().listed().tolist()
    assert sorted(zip(source, target, bias.tolist(), strict=True)) == sorted(expected)
    assert target == sorted(target)
    counts = edges.rowptr.diff().tolist()
    for node, start in enumerate(listed.rowptr[:-1].tolist()):  # those of groups come last
        before = edges.col[edges.rowptr[node] : edges.rowptr[node + 1]].tolist()
        assert source[start : start + counts[node]] == before


@pytest.mark.parametrize("widths", [(4, 4), (3, 5), (5, 2)])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_groups_equal_their_list(widths, listed, weighted, ordered):
    edges, tensors = edge_set(weighted=weighted, listed=listed, ordered=ordered), nodes(*widths)
    weight = torch.randn(12, 2, widths[1], dtype=torch.double, generator=torch.Generator().manual_seed(2))
    outputs = []
    for backend in ("kernel", "reference"):
        leaves = [t.clone().requires_grad_() for t in tensors]
        if weighted:
            leaves.append(edges.log_weight.clone().requires_grad_())
            edges = edges._replace(log_weight=leaves[3])
        out = sparse_attention(*leaves[:3], edges, backend=backend)
        outputs.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [0.7, 1.0, -0.4, 0.0])
@pytest.mark.parametrize("removes", [None, True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_operator_has_all_gradients(scale, removes, ordered):
    """Of biases, of the weights of groups and of the log-sum-exp too."""
    edges = edge_set(ordered=ordered)
    bias = torch.randn(24, 2, dtype=torch.double)
    keep = None if removes is None else torch.rand(24) < 0.6

    def attend(query, key, value, bias, log_weight):
        graph = edges._replace(log_weight=log_weight)
        return operators.attention(query, key, value, graph, bias, keep, bool(removes), scale)

    leaves = [t.requires_grad_() for t in (*nodes(3, 2), bias, edges.log_weight)]
    assert torch.autograd.gradcheck(attend, leaves)
    assert torch.autograd.gradcheck(lambda *t: attend(*t)[1], leaves)
    for index in range(5):  # each without the others
        chosen = [t.detach().clone().requires_grad_(i == index) for i, t in enumerate(leaves)]
        (alone,) = torch.autograd.grad(attend(*chosen)[0].square().sum(), chosen[index])
        expected = torch.autograd.grad(attend(*leaves)[0].square().sum(), leaves[index])[0]
        torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize("removes", [True, False])
def test_biases_and_masks_of_listed_edges_beside_groups(removes):
    edges, tensors = edge_set(), nodes()
    bias, keep = torch.randn(24, 2, dtype=torch.double), torch.rand(24) < 0.6
    found, lse = operators.attention(*tensors, edges, bias, keep, removes, 0.5)
    listed, weight = edges.listed()
    count = edges.rowptr.diff()
    place = torch.cat([torch.arange(n) + start for n, start in zip(count, listed.rowptr, strict=False)])
    all_bias = weight.unsqueeze(1).repeat(1, 2)
    all_bias[place] = bias
    all_keep = torch.ones(len(all_bias), dtype=torch.bool)
    all_keep[place] = keep
    expected, total = operators.attention(*tensors, listed, all_bias, all_keep, removes, 0.5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(lse, total)


@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
def test_complete_graphs_in_low_precision(dtype):
    blocks = EdgeSet.of(Blocks((0, 5, 12), (5, 0), (12, 5)), 12, 12)
    assert blocks.is_dense and not edge_set().is_dense
    exact, low = ([t.to(kind) for t in nodes()] for kind in (torch.double, dtype))
    wide = [t.double().requires_grad_() for t in low]
    low = [t.requires_grad_() for t in low]
    expected, found = (sparse_attention(*t, blocks) for t in (wide, low))
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float else 3e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    grads = [torch.autograd.grad(out.sum(), t) for out, t in ((found, low), (expected, wide))]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        sparse_attention(*exact, blocks), sparse_attention(*exact, blocks, backend="reference")
    )


def test_kept_transposes_change_nothing():
    col = torch.randint(40, (300,), generator=torch.Generator().manual_seed(0))
    edges = EdgeSet.of(CSR(torch.arange(31) * 10, col), 30, 40)
    prepared = edges.with_transpose()
    assert prepared.with_transpose() is prepared
    q, k, v = (torch.randn(n, 2, 8).requires_grad_() for n in (30, 40, 40))
    results = []
    for graph in (edges, prepared, CSR(edges.rowptr, col)):
        total = sparse_attention(q, k, v, graph).square().sum() + edge_scores(q, k, graph).square().sum()
        results.append(torch.autograd.grad(total, (q, k, v)))
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("sizes", [(30, 40, 300), (1, 1, 0), (0, 5, 0), (5, 1, 9), (70, 3, 500)])
def test_checks_and_transposes_are_the_same_without_the_library(sizes):
    targets, sources, count = sizes
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(max(targets, 1), (count,), generator=generator).sort().values
    rowptr = torch.searchsorted(target, torch.arange(targets + 1))
    col = torch.randint(sources, (count,), generator=generator)
    short = narrow_edges(rowptr, col, sources)
    assert short.dtype == torch.int32 and torch.equal(short, _narrow(rowptr, col, sources))
    found, expected = transpose_edges(rowptr, short, sources), _transpose(rowptr, short, sources)
    assert [t.dtype for t in found] == [t.dtype for t in expected] == [torch.int64, torch.int32, torch.int32]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    colptr, row, perm = found
    assert torch.equal(col[perm], torch.arange(sources).repeat_interleave(colptr.diff()))
    assert torch.equal(target[perm], row.long())
    torch.library.opcheck(torch.ops.pyg_match.narrow_edges.default, (rowptr, col, sources))
    torch.library.opcheck(torch.ops.pyg_match.transpose_edges.default, (rowptr, short, sources))


@pytest.mark.parametrize("check", [narrow_edges, _narrow])
def test_lists_that_lead_nowhere_are_refused(check):
    wrong = {
        "'rowptr' must lead from 0 to 3, got from 1 to 3": ([1, 2, 3], [0, 1, 2]),
        "'rowptr' must lead from 0 to 3, got from 0 to 2": ([0, 2, 2], [0, 1, 2]),
        "'rowptr' must not fall": ([0, 4, 3], [0, 1, 2]),
        "an edge names source -2, but there are 5": ([0, 2, 3], [0, -2, 2]),
        "an edge names source 5, but there are 5": ([0, 2, 3], [0, 5, 2]),
    }
    for message, (rowptr, col) in wrong.items():
        with pytest.raises(ValueError, match=message):
            check(torch.tensor(rowptr), torch.tensor(col), 5)
    with pytest.raises(
        ValueError, match=r"at most 2\^31 - 1 nodes and edges, got 1 targets, 4294967296 sources"
    ):
        check(torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), 1 << 32)


def test_groups_that_lead_nowhere_are_refused():
    csr, none = CSR(torch.zeros(7, dtype=torch.long), torch.empty(0, dtype=torch.long)), torch.zeros(6)
    wrong = {
        "'target_ptr' must rise from 0": [
            Blocks((0, 4, 3, 6), (0, 0, 0), (1, 1, 1)),
            Blocks((1, 6), (0,), (6,)),
            Anchored(csr, (0, 7, 6), torch.tensor([0]), (0, 1, 1), none),
        ],
        "must be a range of the 6 that there are, got from 4 to 2": [Blocks((0, 6), (4,), (2,))],
        "must be a range of the 6 that there are, got from -1 to 2": [Blocks((0, 6), (-1,), (2,))],
        "'anchor_ptr' must rise from 0": [
            Anchored(csr, (0, 3, 6), torch.tensor([0, 1]), (0, 3, 2), none),
            Anchored(csr, (0, 6), torch.tensor([0, 1]), (1, 2), none),
        ],
    }
    for message, forms in wrong.items():
        for form in forms:
            with pytest.raises(ValueError, match=message):
                EdgeSet.of(form, 6, 6)


def test_edges_of_another_size_and_without_numbers_are_refused():
    edges, tensors = edge_set(), nodes()
    with pytest.raises(
        ValueError, match="expected edges of 11 targets and 12 sources, got those of 12 and 12"
    ):
        sparse_attention(tensors[0][:11], *tensors[1:], edges)
    for call in (edge_scores, attention_weights):
        with pytest.raises(ValueError, match="expected edges that are listed, got 6 dense groups"):
            call(*tensors[:2], edges)
    with pytest.raises(ValueError, match="mask_mode"):
        attention_weights(*tensors[:2], torch.tensor([[0], [0]]), mask_mode="none")
    for options in ({"bias": torch.zeros(24, 2)}, {"mask": torch.ones(24, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="neither a bias nor a mask"):
            sparse_attention(*tensors, edges, **options)


def test_order_of_the_user():
    edge_index = torch.tensor([[4, 1, 3, 0, 2], [1, 0, 2, 1, 0]])
    edges = EdgeSet.of(edge_index, 3, 5)
    assert torch.equal(edges.csr().listed(), edge_index)
    assert torch.equal(edges.sorted(torch.arange(5)), edges.perm)
    by_target = EdgeSet.of(EdgeIndex(edge_index[:, edges.perm], sparse_size=(5, 3), sort_order="col"), 3, 5)
    assert by_target.perm is None and torch.equal(by_target.col, edges.col)
    assert EdgeSet.of(edges, 3, 5) is edges


def test_edges_of_a_target_stay_in_the_order_of_the_user():
    edges = to_csr(torch.tensor([[4, 3, 1, 2, 0], [1, 0, 1, 0, 0]]), 2)
    assert edges.col.tolist() == [3, 2, 0, 4, 1] and edges.perm.tolist() == [1, 3, 4, 0, 2]


def test_some_of_the_edges_stay_in_the_order_of_the_user():
    edge_index = torch.tensor([[4, 1, 3, 0, 2], [1, 0, 2, 1, 0]])
    edges, keep = to_csr(edge_index, 3), torch.tensor([True, False, True, True, False])
    assert torch.equal(edges.subset(edges.sorted(keep)).listed(), edge_index[:, keep])


@pytest.mark.parametrize("size", [(9, 9), (None, None), (5, 2)])
def test_sorted_edges_whose_size_is_another_one_or_not_told(size):
    edge_index = torch.tensor([[4, 0, 2], [0, 1, 1]])
    told = EdgeIndex(edge_index, sparse_size=size, sort_order="col")
    assert to_csr(told, 3).rowptr.tolist() == [0, 1, 3, 3]
    assert torch.equal(to_csr(told, 3).listed(), edge_index)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_part_of_the_nodes(seed, with_source, listed, ordered):
    """The same as leaving out listed edges."""
    edges = edge_set(seed, listed=listed, ordered=ordered)
    if not with_source:
        edges = edges.with_groups(
            [[0, 4, 0, 4], [4, 9, 4, 9], [9, 12, 12, 12]], None, edges.log_weight[:12], edges.target
        )
    edges = edges.with_transpose()
    keep = torch.rand(12, generator=torch.Generator().manual_seed(seed)) < 0.6
    part, kept = edges.subset(keep)
    assert part.rounds == edges.rounds and part.is_dense == edges.is_dense
    assert part.num_targets == part.num_sources == int(keep.sum())
    assert (part.transposed is None) == (edges.transposed is None)
    number = keep.cumsum(0) - 1
    found = []
    for graph in (edges, part):
        all_listed, bias = graph.listed()
        found.append((all_listed.csr().listed(), bias))
    (source, target), bias = found[0]
    remain = keep[source] & keep[target]
    assert torch.equal(found[1][0], number[torch.stack([source, target])[:, remain]])
    assert torch.equal(found[1][1], bias[remain])
    source, target = edges.csr().listed()
    assert torch.equal(kept, keep[source] & keep[target])


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([[0, 3, 0, 3]], {}, "must go through all 12 targets, got none behind 3"),
        ([[6, 12, 0, 3], [0, 6, 0, 3]], {}, "through the 12 targets in order, got one from 6 to 12 after 12"),
        ([[0, 7, 0, 3], [6, 12, 0, 3]], {}, "in order, got one from 6 to 12 after 7"),
        ([[0, 13, 0, 3]], {}, "in order, got one from 0 to 13 after 0"),
        ([[0, 12, 0, 3], [0, 5, 0, 3]], {}, "must go through all 12 targets, got none behind 5"),
        ([], {}, "must go through all 12 targets"),
        ([[0, 12, 0, 13]], {}, "must be a range of the 12 that there are, got from 0 to 13"),
        ([[0, 12, 0, 3]], {"source": torch.tensor([1, 2])}, "a range of the 2 that there are"),
        ([[0, 12, 0, 1]], {"source": torch.tensor([12])}, "a group names source 12, but there are 12"),
        ([[0, 12, 0, 1]], {"source": torch.tensor([-1])}, "a group names source -1"),
        ([[0, 12, 0, 1]], {"log_weight": torch.zeros(5)}, r"each of the 12 targets of groups, got \[5\]"),
        (
            [[0, 12, 0, 1]],
            {"target": torch.arange(12).clamp(max=10)},
            "must hold each of the 12 targets once",
        ),
        ([[0, 12, 0, 1]], {"target": torch.arange(1, 13)}, "must hold each of the 12 targets once"),
    ],
)
def test_groups_are_checked(groups, options, message):
    with pytest.raises(ValueError, match=message):
        edge_set().with_groups(groups, **options)


@pytest.mark.parametrize(
    ("groups", "options", "error", "message"),
    [
        ([[0, 12, 0]], {}, ValueError, r"must be four whole numbers, .* got \[0, 12, 0\]"),
        ([[0, 12.0, 0, 3]], {}, ValueError, "must be four whole numbers"),
        (torch.arange(4), {}, ValueError, "must be four whole numbers, .* got 0"),
        ([[0, 12, 0, 1]], {"source": torch.tensor([1.0])}, TypeError, "'source'"),
        ([[0, 12, 0, 1]], {"source": torch.tensor([[1]])}, ValueError, "'source'"),
        (
            [[0, 12, 0, 1]],
            {"source": torch.ones(1, dtype=torch.long, device="meta")},
            ValueError,
            "on the device of",
        ),
        ([[0, 12, 0, 1]], {"log_weight": torch.ones(12, dtype=torch.long)}, TypeError, "'log_weight'"),
        ([[0, 12, 0, 1]], {"target": torch.zeros(12)}, TypeError, "'target'"),
        ([[0, 12, 0, 1]], {"target": torch.arange(11)}, ValueError, "'target'"),
    ],
)
def test_groups_of_another_kind_are_refused(groups, options, error, message):
    with pytest.raises(error, match=message):
        edge_set(weighted=False).with_groups(groups, **options)


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_small_groups_of_one_size_at_once(dtype):
    edges = windows()
    found = list(runs(edges))
    # Windows of three nodes, and one of four, twice; then the anchors of both images, which are of one size too.
    assert [(run.length, run.targets) for run in found] == [(4, 3), (1, 4), (4, 3), (1, 4), (2, 16)]
    x = torch.randn(3, 32, 2, 8, dtype=dtype)
    weight = torch.randn(32, 2, 8, dtype=dtype)
    outputs = []
    for backend in ("kernel", "reference"):
        leaves = [*(t.clone().requires_grad_() for t in x), edges.log_weight.to(dtype).requires_grad_()]
        out = sparse_attention(*leaves[:3], edges._replace(log_weight=leaves[3]), backend=backend)
        outputs.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    tolerance = 1e-10 if dtype == torch.double else 1e-5
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_groups_are_laid_out_for_kernels():
    """Whatever the strides and types of what they are made of."""
    order = torch.randperm(12)
    given = (order.int(), torch.arange(12, dtype=torch.int32), torch.rand(12).double())
    given = [torch.stack([t, t], dim=1)[:, 0] for t in given]
    none = EdgeSet.of(torch.empty(2, 0, dtype=torch.long), 12, 12)
    target, source, log_weight = given
    edges = none.with_groups([[0, 5, 0, 5], [5, 12, 5, 12]], source, log_weight, target)
    assert not any(t.is_contiguous() for t in given)
    assert all(t.is_contiguous() for t in (edges.target, edges.source, edges.log_weight))
    expected = sparse_attention(*nodes(), edges, backend="reference")
    torch.testing.assert_close(sparse_attention(*nodes(), edges, backend="kernel"), expected)


def test_groups_without_targets():
    none = EdgeSet.of(Blocks((0, 0, 0), (0, 0), (3, 5)), 0, 5)
    assert none.rounds == 1 and none.is_dense
    q, k = torch.randn(0, 2, 4), torch.randn(5, 2, 4, requires_grad=True)
    out = sparse_attention(q, k, k, none)
    assert out.shape == (0, 2, 4) and torch.equal(torch.autograd.grad(out.sum(), k)[0], torch.zeros(5, 2, 4))
    empty = EdgeSet.of(Blocks((0, 0, 4, 4), (0, 0, 0), (3, 5, 2)), 4, 5)
    assert empty.rounds == 1 and empty.is_dense


@pytest.mark.parametrize(
    ("groups", "source"),
    [
        ([[0, 12, 0, 2]], [5, 4]),
        ([[0, 12, 0, 3], [0, 12, 3, 6]], None),
        ([[0, 5, 0, 9], [5, 12, 0, 9]], None),
    ],
)
def test_without_kernels(groups, source, monkeypatch):
    none = CSR(torch.zeros(13, dtype=torch.long), torch.empty(0, dtype=torch.long))
    source = None if source is None else torch.tensor(source)
    edges = EdgeSet.of(none, 12, 12).with_groups(groups, source)
    tensors = nodes()
    expected = sparse_attention(*tensors, edges, backend="reference")
    torch.testing.assert_close(sparse_attention(*tensors, edges), expected)
    monkeypatch.setattr(operators, "has_kernels", lambda *_: False)
    torch.testing.assert_close(sparse_attention(*tensors, edges), expected)
    blocks = EdgeSet.of(Blocks((0, 5, 12), (5, 0), (12, 5)), 12, 12)
    assert blocks.is_dense
    expected = sparse_attention(*tensors, blocks, backend="reference")
    torch.testing.assert_close(sparse_attention(*tensors, blocks), expected)


@compiles
def test_complete_graphs_compile_and_have_forward_derivatives():
    torch._dynamo.reset()
    blocks, tensors = Blocks((0, 5, 12), (5, 0), (12, 5)), nodes()

    def attend(query, key, value):
        return sparse_attention(query, key, value, blocks)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), attend(*tensors))

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def of_any_size(x, first):
        return sparse_attention(x, x, x, Blocks((0, first, x.size(0)), (0, first), (first, x.size(0))))

    for count, first in ((12, 5), (13, 6), (15, 9)):
        x, blocks_of_size = torch.randn(count, 2, 4), Blocks((0, first, count), (0, first), (first, count))
        torch.testing.assert_close(of_any_size(x, first), sparse_attention(x, x, x, blocks_of_size))
    gradient = torch.func.grad(lambda q: attend(q, *tensors[1:]).square().sum())(tensors[0])
    query = tensors[0].clone().requires_grad_()
    expected = torch.autograd.grad(attend(query, *tensors[1:]).square().sum(), query)[0]
    torch.testing.assert_close(gradient, expected)


@reads_numbers
@pytest.mark.parametrize("derivative", [torch.func.jacfwd, torch.func.jacrev, torch.func.hessian])
def test_complete_graphs_have_all_derivatives(derivative):
    blocks, (query, key, value) = Blocks((0, 5, 12), (5, 0), (12, 5)), nodes()

    def attend(backend):
        return lambda q: sparse_attention(q, key, value, blocks, backend=backend).tanh().sum(dim=(1, 2))

    torch.testing.assert_close(derivative(attend("auto"))(query), derivative(attend("reference"))(query))


def test_edges_on_another_device_are_refused():
    edges, tensors = edge_set(listed=False, weighted=False), nodes()
    away = edges._replace(groups=edges.groups.to("meta"))
    with pytest.raises(ValueError, match="edges must be on the device of the nodes, cpu, got meta"):
        sparse_attention(*tensors, away)


def test_part_of_the_nodes_in_the_order_of_the_user():
    listed = torch.tensor([[1, 2, 0, 1, 0], [2, 0, 1, 0, 0]])
    keep, bias = torch.tensor([True, False, True]), torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    edges, kept = EdgeSet.of(listed, 3, 3).subset(keep)
    assert bias[kept].tolist() == [20.0, 50.0]
    nodes = torch.randn(2, 1, 4)
    assert torch.equal(edges.csr().listed(), torch.tensor([[1, 0], [0, 0]]))
    expected = sparse_attention(nodes, nodes, nodes, torch.tensor([[1, 0], [0, 0]]), bias[kept].view(2, 1))
    assert torch.equal(sparse_attention(nodes, nodes, nodes, edges, bias[kept].view(2, 1)), expected)


@pytest.mark.parametrize("shape", [(3, 2), (3, 5)])
def test_matrices_with_columns_for_other_sources_are_refused(shape):
    nodes = torch.randn(3, 1, 4)
    with pytest.raises(ValueError, match=f"a column for each of 3 sources, got {shape[1]}"):
        sparse_attention(nodes, nodes, nodes, torch.eye(*shape).to_sparse_csr())


@pytest.mark.parametrize("num_sources", [-1, 4.0, 10**12])
def test_numbers_of_sources_are_checked(num_sources):
    edge_index = torch.tensor([[0, 3], [1, 2]])
    with pytest.raises(ValueError, match="'num_sources' must be a whole number from 0 to"):
        EdgeSet.of(edge_index, 4, num_sources).with_transpose()


@pytest.mark.parametrize("field", ["rowptr", "col", "perm"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.to("meta"), ValueError, r"must be a dense tensor \[N\] with numbers, got .* on meta"),
        (lambda t: t.unsqueeze(0), ValueError, r"must be a dense tensor \[N\] with numbers, got shape \[1"),
        (lambda t: t.tolist(), TypeError, "must hold int32 or int64 numbers, got list"),
    ],
)
def test_fields_that_lead_to_foreign_memory_are_refused(field, change, error, message):
    csr = to_csr(torch.tensor([[0, 1, 2], [2, 0, 1]]), 3)
    csr = csr._replace(**{field: change(getattr(csr, field))})
    x = torch.randn(3, 1, 4)
    with pytest.raises(error, match=f"'{field}' {message}"):
        sparse_attention(x, x, x, csr)


@pytest.mark.parametrize("field", ["anchor", "log_weight"])
def test_anchors_that_are_no_tensors_are_refused(field):
    csr = to_csr(torch.tensor([[0, 1, 2], [2, 0, 1]]), 3)
    anchored = Anchored(csr, (0, 3), torch.tensor([1]), (0, 1), torch.zeros(3))
    with pytest.raises(TypeError, match=f"'{field}' must be a"):
        EdgeSet.of(anchored._replace(**{field: [0]}), 3, 3)


def test_orders_in_32_bits():
    edge_index = torch.tensor([[0, 1, 2], [2, 0, 1]])
    csr = to_csr(edge_index, 3)
    x = torch.randn(3, 1, 4)
    expected = edge_scores(x, x, edge_index)
    assert torch.equal(edge_scores(x, x, csr._replace(perm=csr.perm.int())), expected)


@pytest.mark.parametrize(
    ("mask", "error"), [(torch.tensor([1, 0, 1]), TypeError), (torch.tensor([True, False]), ValueError)]
)
def test_subsets_are_masks(mask, error):
    csr = to_csr(torch.tensor([[0, 1, 2], [2, 0, 1]]), 3)
    with pytest.raises(error, match="'mask' must"):
        csr.subset(mask)
    with pytest.raises(error, match="'keep' must"):
        EdgeSet.of(csr, 3, 3).subset(mask)
