"""Anchors whose edges nobody lists: the same answers as with listed edges."""

import pytest
import torch
import torch._dynamo.testing
from helpers import compiles, random_pair
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher, MaskedAttentionConv
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.ops import CSR, Anchored, EdgeSet, sparse_attention
from pyg_match.transforms import AnchorEdges, CandidateEdges, KNNGraph, RemovePairs
from pyg_match.visualization import record_attention


def graphs(num_anchors=5, weighted=True, k=4):
    """The same graph, with and without a list of its anchors' edges."""
    return [
        Compose(
            [
                KNNGraph(k, loop=True),
                AnchorEdges(num_anchors, loop=True, weighted=weighted, listed=listed),
                CandidateEdges(3),
            ]
        )
        for listed in (True, False)
    ]


def pairs():
    """The same ones at each call."""
    torch.manual_seed(0)
    sizes = ((30, 25), (3, 1), (0, 7), (0, 0), (12, 40))
    return [random_pair(*size) for size in sizes]


def pair_of_images():
    return pairs()[0]


def matcher(**options):
    torch.manual_seed(0)
    return GraphMatcher(in_channels=16, hidden_channels=16, num_layers=3, heads=2, **options).eval()


def anchored(dtype=torch.double, heads=2, channels=8):
    """Groups with and without anchors, one of them empty, and targets with and without edges."""
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 12, heads, channels, generator=generator, dtype=torch.double).to(dtype)
    edges = CSR(torch.tensor([0, 2, 2, 3, 3, 3, 3, 6, 6, 6, 6, 7, 7]), torch.tensor([0, 3, 1, 7, 8, 8, 11]))
    weight = torch.rand(12, generator=generator).to(dtype) * 5 + 0.5
    graph = Anchored(edges, (0, 5, 5, 10, 12), torch.tensor([0, 2, 4, 6, 9]), (0, 3, 3, 5, 5), weight.log())
    return query, key, value, graph


@pytest.mark.parametrize("dtype", [torch.double, torch.float, torch.bfloat16])
def test_operator_equals_listed_edges(dtype):
    query, key, value, graph = anchored(dtype)
    edges, bias = graph.listed()
    listed = {(int(s), int(t)) for s, t in edges.listed().t()}
    assert listed == {(int(s), int(t)) for s, t in graph.edges.listed().t()} | {
        *((a, t) for a in (0, 2, 4) for t in range(5)),
        *((a, t) for a in (6, 9) for t in range(5, 10)),
    }
    wide = [t.double() for t in (query, key, value)]
    expected = sparse_attention(*wide, edges, bias.double().unsqueeze(1).expand(-1, 2), backend="reference")
    tolerance = {torch.double: 1e-10, torch.float: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for backend in ("auto", "reference"):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                found = sparse_attention(query, key, value, graph, backend=backend)
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert (expected[11] == 0).all() and not (expected[10] == 0).all()  # no anchors there, and one edge


@pytest.mark.parametrize("place", [0, 1, 2])
def test_channels_may_lie_apart(place):
    *tensors, graph = anchored(torch.float)
    with torch.no_grad():
        expected = sparse_attention(*tensors, graph)
        tensors[place] = tensors[place].permute(2, 0, 1).contiguous().permute(1, 2, 0)
        torch.testing.assert_close(sparse_attention(*tensors, graph), expected, rtol=1e-5, atol=1e-5)


def test_operator_has_gradients():
    *tensors, graph = anchored()
    tensors = [t.requires_grad_() for t in tensors]
    torch.autograd.gradcheck(lambda *qkv: sparse_attention(*qkv, graph), tensors)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-10), (torch.float, 1e-5)])
def test_gradients_equal_those_of_listed_edges(dtype, tolerance):
    *tensors, graph = anchored(dtype)
    edges, bias = graph.listed()
    weight = torch.randn(12, 2, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    outputs = []
    for options in (
        {"edge_index": graph},
        {"edge_index": edges, "bias": bias.unsqueeze(1).expand(-1, 2), "backend": "reference"},
    ):
        leaves = [t.clone().requires_grad_() for t in tensors]
        out = sparse_attention(*leaves, **options)
        outputs.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_weights_of_anchors_have_gradients():
    *tensors, graph = anchored()
    weight = graph.log_weight.clone().requires_grad_()
    out = sparse_attention(*tensors, graph._replace(log_weight=weight))
    (grad,) = torch.autograd.grad(out.square().sum(), weight)
    reference = sparse_attention(*tensors, graph._replace(log_weight=weight), backend="reference")
    torch.testing.assert_close(grad, torch.autograd.grad(reference.square().sum(), weight)[0])
    assert grad.abs().sum() > 0


def test_anchors_of_no_weight_are_as_good_as_absent():
    *tensors, graph = anchored()
    weight = graph.log_weight.clone()
    weight[[0, 3, 7]] = -torch.inf  # with edges, and without any
    graph = graph._replace(log_weight=weight)
    outputs = []
    for backend in ("kernel", "reference"):
        leaves = [t.clone().requires_grad_() for t in tensors]
        out = sparse_attention(*leaves, graph, backend=backend)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)


@compiles
def test_compiled_for_any_number_of_nodes():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=counter, dynamic=True)
    def attend(query, key, value, graph):
        return sparse_attention(query, key, value, graph).relu()

    *tensors, graph = anchored(torch.float)
    for count in (12, 13, 14, 15, 16):
        extra = count - 12
        leaves = [torch.cat([t, t[:extra]]).requires_grad_() for t in tensors]
        rowptr = torch.cat([graph.edges.rowptr, graph.edges.rowptr[-1:].expand(extra)])
        bigger = Anchored(
            CSR(rowptr, graph.edges.col),
            (0, 5, 5, 10, count),
            graph.anchor,
            graph.anchor_ptr,
            torch.cat([graph.log_weight, graph.log_weight[:extra]]),
        )
        torch.testing.assert_close(attend(*leaves, bigger), sparse_attention(*leaves, bigger).relu())
    assert counter.frame_count <= 3


def test_operator_is_registered_as_torch_wants_it():
    *tensors, graph = anchored(torch.float)
    leaves = [t.requires_grad_() for t in (*tensors, graph.log_weight)]
    edges = EdgeSet.of(graph, 12, 12).with_transpose()
    for transposed in (edges.transposed, (None, None, None)):
        arguments = (
            *leaves[:3], edges.rowptr, edges.col, None, None, False, 0.3, *transposed, edges.groups, edges.source,
            leaves[3],
        )  # fmt: skip
        torch.library.opcheck(torch.ops.pyg_match.attention.default, arguments)
    out, total = torch.ops.pyg_match.attention.default(*arguments)
    assert out.requires_grad and total.requires_grad
    (grad,) = torch.autograd.grad(out.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


def test_operator_takes_values_of_another_width():
    query, key, value, graph = anchored()
    with torch.no_grad():
        found = sparse_attention(query, key, value[..., :3], graph)
        torch.testing.assert_close(found, sparse_attention(query, key, value, graph)[..., :3])
    for options in ({"bias": torch.zeros(7, 2)}, {"mask": torch.ones(7, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="neither a bias nor a mask"):
            sparse_attention(query, key, value, graph, **options)


def test_layer_lists_them_when_asked():
    query, *_, graph = anchored(torch.float)
    conv = MaskedAttentionConv(16, 8, heads=2)
    x = query.flatten(1)
    edges, bias = graph.listed()
    with torch.no_grad():
        expected, (edge_index, alpha) = conv(x, edges, edge_bias=bias, return_attention_weights=True)
        torch.testing.assert_close(conv(x, graph), expected)
        found = conv(x, graph, return_attention_weights=True)
    assert torch.equal(found[1][0], edge_index)
    torch.testing.assert_close(found[1][1], alpha)
    torch.testing.assert_close(found[0], expected)
    for options in ({"edge_bias": torch.zeros(7)}, {"edge_mask": torch.ones(7, dtype=torch.bool)}):
        for asked in (None, True):
            with pytest.raises(ValueError, match="neither a bias nor a mask"):
                conv(x, graph, return_attention_weights=asked, **options)


@pytest.mark.parametrize("grad", [True, False])
def test_operator_refuses_what_does_not_exist(grad):
    *tensors, graph = anchored()
    wrong = {
        "an anchor is source 12, but there are 12": {"anchor": torch.tensor([0, 2, 4, 6, 12])},
        "an anchor is source -1": {"anchor": torch.tensor([-1, 2, 4, 6, 9])},
        "groups and weights of 12 targets, got groups of 11": {"target_ptr": (0, 5, 5, 10, 11)},
        r"and weights \[3\]": {"log_weight": torch.zeros(3)},
        "must lead to 5 anchors in 4 steps": {"anchor_ptr": (0, 3, 3, 5)},
    }
    for message, fields in wrong.items():
        with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=message):
            sparse_attention(*tensors, graph._replace(**fields))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("num_anchors", [1, 5, 100])
def test_graph_is_the_same(weighted, num_anchors):
    listed, unlisted = (
        PairGraph.from_data(graph(Batch.from_data_list(pairs()))) for graph in graphs(num_anchors, weighted)
    )
    with torch.no_grad():
        kept = PairGraph.from_data(graphs(num_anchors, weighted)[1](Batch.from_data_list(pairs())))
    listed, unlisted, kept = listed.within[0], unlisted.within[0], kept.within[0]
    assert kept.edges.source is not None and kept.bias is None
    for step in (unlisted, kept):
        edges, bias = step.edges.listed() if step.edges.groups is not None else (step.edges, step.bias)
        expected = listed.bias if weighted else torch.zeros(listed.edges.col.numel())
        orders = [
            (e.csr().target() * e.rowptr.numel() + e.col).argsort() for e in (edges, listed.edges)
        ]  # each edge once
        for mine, theirs in (
            (edges.col, listed.edges.col),
            (edges.csr().target(), listed.edges.csr().target()),
        ):
            assert torch.equal(mine[orders[0]], theirs[orders[1]])
        torch.testing.assert_close(bias[orders[0]], expected[orders[1]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth_confidence": 0.9, "width_confidence": 0.6},
        {"width_confidence": 0.55},
        {"redraw_after": 1, "redraw_k": 4},
        {"value_source": "initial"},
        {"assign_on_edges": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("grad", [True, False])
def test_matcher_gives_the_same_answer(options, grad):
    model = matcher(**options).double()
    batches = [graph(Batch.from_data_list(pairs())) for graph in graphs()]
    with torch.set_grad_enabled(grad):
        listed, unlisted = (model(batch) for batch in batches)
    assert torch.equal(listed.matches, unlisted.matches)
    assert torch.equal(listed.depth, unlisted.depth)
    torch.testing.assert_close(listed.scores, unlisted.scores)
    for one, other in zip(listed.log_assignment or [], unlisted.log_assignment or [], strict=True):
        torch.testing.assert_close(one, other)


def test_matcher_has_the_same_gradients():
    model = matcher().double()
    found = []
    for graph in graphs():
        log_assignment = model(graph(pair_of_images())).log_assignment[0]
        found.append(torch.autograd.grad(log_assignment.sum(), list(model.parameters()), allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_batches_come_apart():
    graph = graphs()[1]
    alone = [graph(pair) for pair in pairs()]
    for batch in (Batch.from_data_list(alone), graph(Batch.from_data_list(pairs()))):
        for found, expected in zip(batch.to_data_list(), alone, strict=True):
            for name in ("anchor", "anchor_weight"):
                assert torch.equal(found[name], expected[name])
            assert torch.equal(found.edge_index.as_tensor(), expected.edge_index.as_tensor())
            found.validate()


def test_attention_is_recorded():
    model = matcher()
    records = []
    for graph in graphs():
        pair = graph(pair_of_images())
        with record_attention(model) as record, torch.no_grad():
            model(pair)
        records.append(record)
    listed, unlisted = records
    for layer in range(3):
        dense = []
        for record in (listed, unlisted):
            step = record.steps("self")[layer]
            dense.append(
                torch.zeros(55, 55, 2).index_put_(tuple(step.edge_index), step.alpha, accumulate=True)
            )
        torch.testing.assert_close(*dense)
        sources = [record.of(31, layer, "self")[0].sort().values for record in records]
        assert torch.equal(*sources)


def test_wrong_attributes():
    pair = graphs()[1](pair_of_images())
    wrong = {
        "edge_weight": (torch.ones(pair.edge_index.size(1)), "'edge_weight' cannot be used with anchors"),
        "edge_mask": (torch.ones(pair.edge_index.size(1)) > 0, "'edge_mask' cannot be used with anchors"),
        "anchor": (None, "'anchor_weight' needs 'anchor' and 'edge_index'"),
        "edge_index": (None, "'anchor_weight' needs 'anchor' and 'edge_index'"),
        "anchor_weight": (
            torch.full((55,), torch.nan),
            "'anchor_weight' must be positive and finite, got nan",
        ),
    }
    shapes = {
        "anchor": (torch.ones(54) > 0, r"'anchor' must have shape \[55\], got \[54\]"),
        "anchor_weight": (torch.ones(54), r"'anchor_weight' must have shape \[55\], got \[54\]"),
    }
    cases = [*wrong.items(), *shapes.items()]
    for name, (value, message) in cases:
        bad = pair.clone()
        bad[name] = value
        with pytest.raises(ValueError, match=message):
            matcher()(bad)
    with pytest.raises(ValueError, match="listed=False needs loop=True and cross=False, got loop=False"):
        AnchorEdges(3, listed=False)
    with pytest.raises(ValueError, match="got loop=True and cross=True"):
        AnchorEdges(3, loop=True, cross=True, listed=False)
    assert str(AnchorEdges(3, loop=True, listed=False)).endswith("loop=True, listed=False)")


def test_edges_drawn_anew_drop_the_anchors():
    """As they would drop listed edges of anchors."""
    graph = graphs()[1]
    pair = KNNGraph(3)(graph(pair_of_images()))
    assert "anchor_weight" not in pair
    assert "anchor_weight" in CandidateEdges(2)(graph(pair_of_images()))
    with pytest.raises(ValueError, match="draw the edges of anchors before setting anchor_weight"):
        AnchorEdges(3, loop=True)(graph(pair_of_images()))
    with pytest.raises(ValueError, match="edges of anchors must be listed for pairs to be removed"):
        RemovePairs(min_distance=5.0)(graph(pair_of_images()))


@pytest.mark.parametrize("options", [{"bfloat16": True}, {}], ids=str)
def test_half_precision(options):
    model = matcher(**options)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        listed, unlisted = (model(graph(pair_of_images())).log_assignment[0] for graph in graphs())
    torch.testing.assert_close(listed, unlisted, rtol=0.1, atol=0.1)


def test_compiled():
    torch._dynamo.reset()
    model, pair = matcher(), graphs()[1](pair_of_images())
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        expected = model(pair).log_assignment[0]
        torch.testing.assert_close(compiled(pair).log_assignment[0], expected, rtol=1e-4, atol=1e-4)


def test_without_other_edges():
    pair = AnchorEdges(55, loop=True, weighted=True, listed=False)(pair_of_images())
    assert pair.edge_index.size(1) == 0 and isinstance(pair, KeypointPair)
    with torch.no_grad():
        found = matcher()(pair)
        expected = matcher()(pair_of_images())
    torch.testing.assert_close(found.log_assignment[0], expected.log_assignment[0], rtol=1e-4, atol=1e-4)
