import pytest
import torch
from helpers import compiles
from torch_geometric import EdgeIndex
from torch_geometric.explain import AttentionExplainer, Explainer
from torch_geometric.nn import GPSConv, HeteroConv, Sequential, TransformerConv, to_hetero
from torch_geometric.testing import assert_module
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import to_torch_csc_tensor, to_torch_csr_tensor

from pyg_match.nn import MaskedAttentionConv, RotaryEncoding
from pyg_match.ops import Blocks, to_csr
from pyg_match.transforms import CompleteGraph


def random_edges(num_sources, num_targets, num_edges):
    """Edges without duplicates, in no order."""
    chosen = torch.randperm(num_sources * num_targets)[:num_edges]
    return torch.stack([chosen % num_sources, chosen // num_sources])


def dense(conv, x_source, x_target, edge_index, bias=None, mask=None):
    """Attention through a dense matrix, one head at a time."""
    heads, channels = conv.heads, conv.out_channels
    query = conv.lin_query(x_target)
    key = (conv.lin_key or conv.lin_query)(x_source)
    value = conv.lin_value(x_source)
    outs = []
    for h in range(heads):
        part = slice(h * channels, (h + 1) * channels)
        score = query[:, part] @ key[:, part].t() / channels**0.5
        edges = torch.zeros_like(score, dtype=torch.bool)
        edges[edge_index[1], edge_index[0]] = True
        allowed = edges.clone()
        if mask is not None:
            allowed[edge_index[1], edge_index[0]] = mask
        if bias is not None:
            extra = torch.zeros_like(score)
            extra[edge_index[1], edge_index[0]] = bias[:, h]
            score = score + extra
        seen = edges if conv.mask_mode == "zero" else allowed
        alpha = score.masked_fill(~seen, -torch.inf).softmax(1).nan_to_num() * allowed
        outs.append(alpha @ value[:, part])
    return torch.cat(outs, 1)


def test_equals_transformer_conv():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv = MaskedAttentionConv(16, 8, heads=4)
    peer = TransformerConv(16, 8, heads=4, root_weight=False)
    incompatible = peer.load_state_dict(conv.state_dict(), strict=False)
    assert all(key.startswith("lin_skip") for key in incompatible.missing_keys)
    x.requires_grad_()
    expected = peer(x, edge_index)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    out = conv(x, edge_index)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.allclose(grad, expected_grad, atol=1e-4)
    _, (edges, alpha) = conv(x, edge_index, return_attention_weights=True)
    _, (_, expected_alpha) = peer(x, edge_index, return_attention_weights=True)
    assert torch.equal(edges, edge_index)
    assert torch.allclose(alpha, expected_alpha, atol=1e-6)
    conv.concat = peer.concat = False
    peer.root_weight = False
    assert torch.allclose(conv(x, edge_index), peer(x, edge_index), atol=1e-5)


def test_repr_and_module_contract():
    conv = MaskedAttentionConv(16, 8, heads=4)
    assert str(conv) == "MaskedAttentionConv(16, 8, heads=4)"
    x = torch.randn(30, 16)
    edge_index = random_edges(30, 30, 200)
    # COO, CSC and EdgeIndex, with and without sizes.
    assert_module(conv, x, edge_index, expected_size=(30, 32), atol=1e-5)


@pytest.mark.parametrize("bipartite", [False, True])
def test_all_forms_of_edges_agree(bipartite):
    num_sources = 20 if bipartite else 30
    edge_index = random_edges(num_sources, 30, 200)
    edge_index = edge_index[:, (edge_index[1] * num_sources + edge_index[0]).argsort()]
    x = torch.randn(30, 16) if not bipartite else (torch.randn(num_sources, 12), torch.randn(30, 16))
    conv = MaskedAttentionConv((12, 16) if bipartite else 16, 8, heads=2)
    size = (num_sources, 30)
    shuffled = edge_index[:, torch.randperm(200)]
    by_row = edge_index[:, edge_index[0].argsort(stable=True)]
    expected = conv(x, edge_index, return_attention_weights=True)[0]
    forms = {
        "sorted": edge_index,
        "unsorted": shuffled,
        "int32": edge_index.int(),
        "EdgeIndex": EdgeIndex(edge_index, sparse_size=size, sort_order="col"),
        "EdgeIndex by row": EdgeIndex(by_row, sparse_size=size, sort_order="row"),
        "EdgeIndex unsorted": EdgeIndex(shuffled, sparse_size=size),
        "CSR": to_torch_csr_tensor(edge_index.flip(0), size=size[::-1]),
    }
    for name, edges in forms.items():
        assert torch.allclose(conv(x, edges), expected, atol=1e-5), name
        if name != "int32":
            assert torch.allclose(conv(x, edges, return_attention_weights=True)[0], expected, atol=1e-5), name


@pytest.mark.parametrize("mask_mode", ["remove", "zero"])
@pytest.mark.parametrize("shared", [False, True])
def test_masks_and_bias_against_dense(mask_mode, shared):
    conv = MaskedAttentionConv(16, 8, heads=2, mask_mode=mask_mode, shared_query_key=shared).double()
    x = torch.randn(20, 16, dtype=torch.double, requires_grad=True)
    edge_index = random_edges(20, 20, 150)
    edge_index = edge_index[:, edge_index[1] != 7]  # node 7 sees nobody
    mask = torch.rand(edge_index.size(1)) < 0.6
    mask[edge_index[1] == 3] = False  # node 3 may not look at anybody
    bias = torch.randn(edge_index.size(1), 2, dtype=torch.double, requires_grad=True)
    expected = dense(conv, x, x, edge_index, bias, mask)
    out = conv(x, edge_index, edge_bias=bias, edge_mask=mask)
    listed, (_, alpha) = conv(x, edge_index, edge_bias=bias, edge_mask=mask, return_attention_weights=True)
    assert torch.allclose(out, expected, atol=1e-10)
    assert torch.allclose(listed, expected, atol=1e-10)
    assert (alpha[~mask] == 0).all()
    assert (out[[3, 7]] == 0).all()
    weight = torch.randn_like(out)
    variables = [x, bias, *conv.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad((out * weight).sum(), variables),
        torch.autograd.grad((expected * weight).sum(), variables),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-10)
    kept = edge_index[:, mask]
    if mask_mode == "remove":
        assert torch.allclose(conv(x, kept, edge_bias=bias[mask]), out, atol=1e-10)
    else:
        assert not torch.allclose(conv(x, kept, edge_bias=bias[mask]), out, atol=1e-3)


def test_bias_for_all_heads():
    conv = MaskedAttentionConv(16, 8, heads=2)
    x, edge_index = torch.randn(20, 16), random_edges(20, 20, 100)
    bias = torch.randn(100)
    assert torch.allclose(conv(x, edge_index, bias), conv(x, edge_index, bias[:, None].expand(-1, 2)))


def test_rotation_depends_on_differences_of_position_only():
    conv, encoding = MaskedAttentionConv(16, 8, heads=2), RotaryEncoding(2, 8)
    x, edge_index, pos = torch.randn(20, 16), random_edges(20, 20, 100), torch.rand(20, 2)
    out = conv(x, edge_index, rotation=encoding(pos))
    assert torch.allclose(out, conv(x, edge_index, rotation=encoding(pos + 3.0)), atol=1e-4)
    assert not torch.allclose(out, conv(x, edge_index, rotation=encoding(2 * pos)), atol=1e-3)
    pair = (encoding(pos), encoding(pos))
    assert torch.allclose(out, conv((x, x), edge_index, rotation=pair), atol=1e-6)


def test_blocks_equal_listed_complete_graph():
    from torch_geometric.data import Batch, Data

    conv = MaskedAttentionConv(16, 8, heads=2)
    batch = CompleteGraph()(Batch.from_data_list([Data(pos=torch.rand(n, 2)) for n in (4, 0, 7)]))
    x = torch.randn(11, 16)
    blocks = Blocks((0, 4, 4, 11), (0, 4, 4), (4, 4, 11))
    assert torch.allclose(conv(x, blocks), conv(x, batch.edge_index), atol=1e-5)
    with pytest.raises(ValueError, match="CompleteGraph"):
        conv(x, blocks, return_attention_weights=True)


def test_inside_pyg_containers():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv = MaskedAttentionConv(16, 4, heads=4)
    model = Sequential("x, edge_index", [(conv, "x, edge_index -> x"), torch.nn.ReLU()])
    assert torch.allclose(model(x, edge_index), conv(x, edge_index).relu())
    gps = GPSConv(16, conv, heads=4)
    assert gps(x, edge_index).shape == (30, 16)
    y, cross = torch.randn(12, 8), random_edges(12, 30, 50)
    hetero = HeteroConv(
        {("a", "to", "a"): conv, ("b", "to", "a"): MaskedAttentionConv((8, 16), 4, heads=4)}, aggr="sum"
    )
    out = hetero({"a": x, "b": y}, {("a", "to", "a"): edge_index, ("b", "to", "a"): cross})
    expected = conv(x, edge_index) + hetero.convs[("b", "to", "a")]((y, x), cross)
    assert torch.allclose(out["a"], expected, atol=1e-5)


def test_inside_pyg_containers_with_other_forms_of_edges():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    edge_index = edge_index[:, edge_index[1].argsort(stable=True)]
    conv = MaskedAttentionConv(16, 4, heads=4)
    model = Sequential("x, edge_index", [(conv, "x, edge_index -> x"), torch.nn.ReLU()])
    gps = GPSConv(16, conv, heads=4).eval()
    hetero = HeteroConv({("a", "to", "a"): conv})
    for edges in (
        EdgeIndex(edge_index, sparse_size=(30, 30), sort_order="col"),
        to_torch_csr_tensor(edge_index.flip(0), size=(30, 30)),
    ):
        assert torch.allclose(model(x, edges), conv(x, edge_index).relu(), atol=1e-5)
        assert torch.allclose(gps(x, edges), gps(x, edge_index), atol=1e-5)
        out = hetero({"a": x}, {("a", "to", "a"): edges})["a"]
        assert torch.allclose(out, conv(x, edge_index), atol=1e-5)


@pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
def test_sparse_tensor():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    adjacency = SparseTensor(row=edge_index[1], col=edge_index[0], sparse_sizes=(30, 30))
    conv = MaskedAttentionConv(16, 4, heads=4)
    assert torch.allclose(conv(x, adjacency), conv(x, edge_index), atol=1e-5)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = MaskedAttentionConv(16, 4, heads=4)
        self.conv2 = MaskedAttentionConv(16, 4, heads=2)

    def forward(self, x, edge_index):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


def test_to_hetero():
    x = {"a": torch.randn(30, 16), "b": torch.randn(12, 16)}
    edges = {
        ("a", "to", "b"): random_edges(30, 12, 60),
        ("b", "to", "a"): random_edges(12, 30, 50),
    }
    model = to_hetero(Net(), (["a", "b"], list(edges)))
    out = model(x, edges)
    hidden = {
        target: getattr(model.conv1, f"{source}__to__{target}")((x[source], x[target]), edges[key]).relu()
        for key in edges
        for source, _, target in [key]
    }
    last = model.conv2.a__to__b
    assert torch.allclose(out["b"], last((hidden["a"], hidden["b"]), edges["a", "to", "b"]), atol=1e-5)
    sorted_edges = {
        key: EdgeIndex(e[:, e[1].argsort()], sparse_size=(len(x[key[0]]), len(x[key[2]])), sort_order="col")
        for key, e in edges.items()
    }
    assert torch.allclose(model(x, sorted_edges)["a"], out["a"], atol=1e-5)


def test_message_hooks_and_explainer_see_every_edge():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv = MaskedAttentionConv(16, 4, heads=4)
    _, (_, alpha) = conv(x, edge_index, return_attention_weights=True)
    seen = []
    handle = conv.register_message_forward_hook(lambda module, args, out: seen.append(out))
    out = conv(x, EdgeIndex(edge_index, sparse_size=(30, 30)))
    handle.remove()
    assert seen[0].shape == (200, 4, 4)
    assert torch.allclose(out, conv(x, edge_index), atol=1e-5)
    explainer = Explainer(
        conv,
        algorithm=AttentionExplainer(),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    assert torch.allclose(explainer(x, edge_index).edge_mask, alpha.max(dim=-1).values, atol=1e-5)


def test_messages_of_complete_graphs_are_computed_where_asked_for():
    conv, x = MaskedAttentionConv(16, 4, heads=2).double(), torch.randn(9, 16, dtype=torch.double)
    blocks, calls = Blocks((0, 5, 9), (0, 5), (5, 9)), []
    expected = conv(x, blocks)
    handle = conv.register_message_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(conv(x, blocks), expected)
    handle.remove()
    assert calls == [1]
    conv.fuse = False
    assert torch.autograd.gradgradcheck(lambda x: conv(x, blocks), x.requires_grad_())


def test_propagate_hooks_are_called_for_all_forms_of_edges():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv, calls = MaskedAttentionConv(16, 4, heads=4), []
    expected = conv(x, edge_index)
    conv.register_propagate_forward_hook(lambda module, args, out: calls.append(out))
    by_target = edge_index[:, edge_index[1].argsort(stable=True)]
    for edges in (
        edge_index,
        EdgeIndex(edge_index, sparse_size=(30, 30)),
        EdgeIndex(by_target, sparse_size=(30, 30), sort_order="col"),
        to_csr(edge_index, 30),
    ):
        assert torch.allclose(conv(x, edges), expected, atol=1e-5)
    assert len(calls) == 4


def test_messages_equal_the_operator_for_column_order_and_forbidding_biases():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv, bias = MaskedAttentionConv(16, 4, heads=4), torch.randn(200)
    for edges in (
        to_torch_csc_tensor(edge_index, size=(30, 30)).t(),
        to_torch_csr_tensor(edge_index, size=(30, 30)).t(),
    ):
        mask = torch.rand(200) < 0.7
        found = conv(x, edges, bias, mask, return_attention_weights=True)[0]
        assert torch.allclose(found, conv(x, edges, bias, mask), atol=1e-5)
    bias[edge_index[1] == 3] = -torch.inf
    bias[::7] = -torch.inf
    found = conv(x, edge_index, bias, return_attention_weights=True)[0]
    assert torch.allclose(found, conv(x, edge_index, bias), atol=1e-5) and (found[3] == 0).all()


def test_flow_target_to_source():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv = MaskedAttentionConv(16, 4, heads=2)
    reverse = MaskedAttentionConv(16, 4, heads=2, flow="target_to_source")
    reverse.load_state_dict(conv.state_dict())
    assert torch.allclose(reverse(x, edge_index.flip(0)), conv(x, edge_index), atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="'mask_mode' must be 'remove' or 'zero', got 'drop'"):
        MaskedAttentionConv(16, 4, mask_mode="drop")
    with pytest.raises(ValueError, match="equal width, got 8 and 16"):
        MaskedAttentionConv((8, 16), 4, shared_query_key=True)


def test_biases_of_no_edges():
    conv = MaskedAttentionConv(16, 4, heads=2)
    for shape in ((0,), (0, 2)):
        out = conv(torch.randn(3, 16), torch.empty(2, 0, dtype=torch.long), edge_bias=torch.empty(shape))
        assert torch.equal(out, torch.zeros(3, 8))


def test_bipartite_edges_may_flow_from_target_to_source():
    edge_index = torch.stack([torch.randint(5, (30,)), torch.randint(7, (30,))])
    x = (torch.randn(7, 8, dtype=torch.double), torch.randn(5, 8, dtype=torch.double))
    conv = MaskedAttentionConv((8, 8), 4, heads=2, flow="target_to_source").double()
    other = MaskedAttentionConv((8, 8), 4, heads=2).double()
    other.load_state_dict(conv.state_dict())
    assert torch.allclose(conv(x, edge_index), other(x, edge_index.flip(0)), atol=1e-10)


def test_projections_that_hooks_hold_are_not_overwritten():
    conv = MaskedAttentionConv(16, 8, heads=2).eval()
    x, edges, held = torch.randn(5, 16), torch.tensor([[0, 1, 2], [1, 2, 0]]), {}
    rotation = RotaryEncoding(2, 8)(torch.rand(5, 2))
    with torch.no_grad():
        expected = conv(x, edges, rotation=rotation)
        conv.lin_query.register_forward_hook(lambda module, args, out: held.setdefault("query", out))
        for _ in range(2):
            assert torch.equal(conv(x, edges, rotation=rotation), expected)
        assert torch.equal(
            held["query"], torch.nn.functional.linear(x, conv.lin_query.weight, conv.lin_query.bias)
        )


@pytest.mark.parametrize("aggr", ["mean", "max"])
def test_other_aggregations_are_not_fused(aggr):
    conv, x = MaskedAttentionConv(8, 4, heads=2, aggr=aggr), torch.randn(12, 8)
    edges = random_edges(12, 12, 50)
    expected, _ = conv(x, edges, return_attention_weights=True)
    by_target = EdgeIndex(edges[:, edges[1].argsort()], sparse_size=(12, 12), sort_order="col")
    for given in (edges, by_target, to_torch_csr_tensor(edges.flip(0), size=(12, 12))):
        assert torch.allclose(conv(x, given), expected, atol=1e-6)


def sorted_by_target(edges, size):
    return EdgeIndex(edges[:, edges[1].argsort(stable=True)], sparse_size=(size, size), sort_order="col")


@pytest.mark.parametrize("listed", [False, True])
def test_both_paths_refuse_the_same_in_the_same_words(listed):
    conv, x, edges = MaskedAttentionConv(8, 4, heads=2), torch.randn(6, 8), random_edges(6, 6, 12)
    rotation = RotaryEncoding(2, 4)(torch.rand(6, 2))
    for index, options, error, message in (
        (edges, {"edge_mask": torch.ones(11) > 0}, ValueError, r"'mask' must have shape \[12\], got \[11\]"),
        (edges, {"edge_mask": torch.ones(12)}, TypeError, "'mask' must be boolean, got torch.float32"),
        (
            edges,
            {"edge_bias": torch.ones(13)},
            ValueError,
            r"'bias' must have shape \[12, 2\], got \[13, 2\]",
        ),
        (
            edges,
            {"edge_bias": torch.ones(12, 3)},
            ValueError,
            r"'bias' must have shape \[12, 2\], got \[12, 3\]",
        ),
        (edges, {"edge_bias": torch.ones(12) > 0}, TypeError, "'bias' must be a tensor of real numbers"),
        (torch.tensor([[0, 6], [1, 2]]), {}, ValueError, "an edge names source 6, but there are 6"),
        (torch.tensor([[0, -1], [1, 2]]), {}, ValueError, "an edge names source -1, but there are 6"),
        (torch.tensor([[0, 1], [1, 9]]), {}, ValueError, "an edge names target 9, but there are 6"),
        (torch.tensor([[0, 1], [-1, 2]]), {}, ValueError, "an edge names target -1, but there are 6"),
        (
            edges,
            {"rotation": rotation[:5]},
            ValueError,
            r"'rotation' must have shape \[6, 2\], .* got \[5, 2\]",
        ),
        (edges, {"rotation": rotation.real}, TypeError, "'rotation' must be complex"),
        (
            edges,
            {"rotation": rotation[:, :1]},
            ValueError,
            r"'rotation' must have shape \[6, 2\], .* got \[6, 1\]",
        ),
    ):
        with pytest.raises(error, match=message):
            conv(x, index, return_attention_weights=listed, **options)


def test_a_layer_that_is_not_fused_answers_the_same():
    conv, x, edges = (
        MaskedAttentionConv(8, 4, heads=2).double(),
        torch.randn(6, 8).double(),
        random_edges(6, 6, 12),
    )
    plain = MaskedAttentionConv(8, 4, heads=2).double()
    plain.load_state_dict(conv.state_dict())
    plain.fuse = False
    called, message = [], plain.message
    plain.message = lambda *args, **kwargs: called.append(1) or message(*args, **kwargs)
    for given in (edges, sorted_by_target(edges, 6), to_torch_csr_tensor(edges.flip(0), size=(6, 6))):
        called.clear()
        assert torch.allclose(plain(x, given), conv(x, given), atol=1e-12)
        assert called, "messages were not computed"


def test_second_derivatives_without_fusing():
    conv, edges = MaskedAttentionConv(4, 2, heads=2).double(), random_edges(5, 5, 9)
    conv.fuse = False
    x = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    for given in (edges, sorted_by_target(edges, 5)):
        assert torch.autograd.gradgradcheck(lambda x, given=given: conv(x, given), (x,))


@pytest.mark.parametrize("fuse", [True, False])
def test_gradients_of_torch_func(fuse):
    conv, edges = MaskedAttentionConv(8, 4, heads=2).double(), random_edges(6, 6, 12)
    conv.fuse, x = fuse, torch.randn(6, 8).double()
    weight = torch.randn(6, 8).double()
    expected = torch.autograd.grad((conv(x.requires_grad_(), edges) * weight).sum(), x)[0]
    for given in (edges, sorted_by_target(edges, 6)):
        got = torch.func.grad(lambda x, given=given: (conv(x, given) * weight).sum())(x.detach())
        assert torch.allclose(got, expected, atol=1e-10)


def test_export_without_fusing(tmp_path):
    conv, x, edges = MaskedAttentionConv(8, 4, heads=2).eval(), torch.randn(6, 8), random_edges(6, 6, 12)
    conv.fuse = False
    program = torch.export.export(conv, (x, edges), strict=False)
    assert torch.allclose(program.module()(x, edges), conv(x, edges), atol=1e-6)
    assert not any("pyg_match" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize(
    "arguments", [{"heads": 0}, {"out_channels": 0}, {"heads": 1.5}, {"out_channels": "4"}]
)
def test_counts_that_are_none(arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"'{name}' must be a whole number from 1 to 65536, got"):
        MaskedAttentionConv(**{"in_channels": 8, "out_channels": 4, **arguments})


@compiles
def test_one_graph_for_all_sizes():
    conv = MaskedAttentionConv(8, 4, heads=2)
    compiled = torch.compile(conv, backend="eager", dynamic=True, fullgraph=True)
    for nodes, edges in ((6, 12), (7, 13), (11, 30)):
        x, edge_index = torch.randn(nodes, 8), random_edges(nodes, nodes, edges)
        assert torch.allclose(compiled(x, edge_index), conv(x, edge_index), atol=1e-6)


def test_widths_in_a_list_and_whole_biases():
    conv, edges = MaskedAttentionConv([8, 8], 4, heads=2), random_edges(6, 6, 12)
    x = torch.randn(6, 8)
    bias = torch.ones(12).long()
    assert torch.allclose(conv(x, edges, edge_bias=bias), conv(x, edges), atol=1e-6)
    with pytest.raises(TypeError, match="'x' must be a tensor of node features, got NoneType"):
        conv((x, None), edges)


def test_edges_that_name_their_targets_are_refused_in_the_other_direction():
    x, edge_index = torch.randn(4, 8), torch.tensor([[0, 1, 2], [1, 2, 3]])
    forms = [
        to_csr(edge_index, 4),
        to_torch_csr_tensor(edge_index.flip(0), size=(4, 4)),
        Blocks((0, 4), (0,), (4,)),
    ]
    conv = MaskedAttentionConv(8, 8, flow="target_to_source")
    for form in forms:
        with pytest.raises(ValueError, match=r"name their targets, .* got 'target_to_source'"):
            conv(x, form)
        assert MaskedAttentionConv(8, 8)(x, form).shape == (4, 8)
    assert (conv(x, edge_index)[3] == 0).all()


def test_other_aggregations_of_complete_graphs():
    x = torch.randn(5, 8)
    for aggr in ("mean", "max"):
        conv = MaskedAttentionConv(8, 8, aggr=aggr)
        everyone = torch.cartesian_prod(torch.arange(5), torch.arange(5)).t().flip(0)
        torch.testing.assert_close(conv(x, Blocks((0, 5), (0,), (5,))), conv(x, everyone))
