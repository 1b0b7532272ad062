import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, GPSConv, HeteroConv, Sequential, to_hetero
from torch_geometric.testing import assert_module
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import add_self_loops, to_dense_adj, to_torch_csr_tensor

from pyg_match.data.edges import sorted_edges
from pyg_match.nn import MaskedAttentionConv, PartitionGCNConv, distance_weights
from pyg_match.transforms import KNNGraph, RingPartition, scales


def random_edges(num_sources, num_targets, num_edges):
    """Edges without duplicates, in no order."""
    chosen = torch.randperm(num_sources * num_targets)[:num_edges]
    return torch.stack([chosen % num_sources, chosen // num_sources])


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loops", [False, True])
def test_one_scale_equals_gcn_conv(flow, weighted, loops):
    x = torch.randn(30, 16, dtype=torch.double, requires_grad=True)
    edge_index = random_edges(30, 30, 150)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    edge_index = edge_index[:, (edge_index != 7).all(0)]  # node 7 is isolated
    weight = torch.rand(edge_index.size(1), dtype=torch.double) if weighted else None
    if loops:  # some nodes have a self-loop already
        own = torch.tensor([[2, 5], [2, 5]])
        edge_index = torch.cat([edge_index, own], 1)
        weight = torch.cat([weight, torch.tensor([0.3, 2.0]).double()]) if weighted else None
    if weighted:
        weight.requires_grad_()
    for add in (True, False):
        peer = GCNConv(16, 8, flow=flow, add_self_loops=add).double()
        conv = PartitionGCNConv(16, 8, flow=flow, add_self_loops=add).double()
        conv.load_state_dict(peer.state_dict())
        torch.nn.init.normal_(peer.bias)
        conv.load_state_dict(peer.state_dict())
        expected = peer(x, edge_index, weight)
        order = edge_index[1].argsort(stable=True)
        by_target = EdgeIndex(edge_index[:, order], sparse_size=(30, 30), sort_order="col")
        for edges, own in ((edge_index, weight), (by_target, weight[order] if weighted else None)):
            out = conv(x, edges, own)
            assert torch.allclose(out, expected, atol=1e-12)
            variables = [x, *conv.parameters(), *([weight] if weighted else [])]
            peers = [x, *peer.parameters(), *([weight] if weighted else [])]
            cotangent = torch.randn_like(out)
            mine = torch.autograd.grad((out * cotangent).sum(), variables, retain_graph=True)
            theirs = torch.autograd.grad((expected * cotangent).sum(), peers, retain_graph=True)
            names = dict(zip([n for n, _ in peer.named_parameters()], theirs[1:], strict=False))
            assert torch.allclose(mine[0], theirs[0], atol=1e-12)
            for (name, _), grad in zip(conv.named_parameters(), mine[1:], strict=False):
                assert torch.allclose(grad, names[name], atol=1e-12)
            if weighted:
                assert torch.allclose(mine[-1], theirs[-1], atol=1e-12)


def dense(conv, x, graphs, weights):
    """The sum over scales by dense matrices."""
    out = conv.bias
    for part, edge_index, weight in zip(conv.lin.weight.chunk(len(graphs)), graphs, weights, strict=True):
        adjacency = to_dense_adj(torch.as_tensor(edge_index).flip(0), edge_attr=weight, max_num_nodes=len(x))[
            0
        ]
        adjacency = adjacency + torch.eye(len(x))
        degree = adjacency.sum(1).rsqrt()
        out = out + degree[:, None] * adjacency * degree @ x @ part.t()
    return out


def test_each_scale_is_normalised_on_its_own():
    data = RingPartition([3, 9, 14])(Data(pos=torch.rand(30, 2), x=torch.randn(30, 16)))
    graphs = scales(data)
    conv = PartitionGCNConv(16, 8, num_scales=3)
    torch.nn.init.normal_(conv.bias)
    plain = [graph.as_tensor() for graph in graphs]
    assert torch.allclose(conv(data.x, graphs), dense(conv, data.x, plain, [None] * 3), atol=1e-5)
    weights = [torch.rand(graph.size(1)) for graph in graphs]
    assert torch.allclose(conv(data.x, graphs, weights), dense(conv, data.x, plain, weights), atol=1e-5)
    near = [distance_weights(data.pos, graph) for graph in graphs]
    assert torch.allclose(conv(data.x, graphs, pos=data.pos), conv(data.x, graphs, near), atol=1e-6)
    both = conv(data.x, graphs, weights, pos=data.pos)
    assert torch.allclose(
        both, conv(data.x, graphs, [a * b for a, b in zip(near, weights, strict=True)]), atol=1e-6
    )


def test_distance_weights():
    data = KNNGraph(4)(Data(pos=torch.rand(20, 2, dtype=torch.double)))
    weight = distance_weights(data.pos, data.edge_index)
    assert torch.allclose(weight, distance_weights(1000 * data.pos + 3, data.edge_index))
    source, target = data.edge_index.as_tensor()
    square = (data.pos[source] - data.pos[target]).square().sum(1).view(20, 4)
    assert torch.allclose(weight.view(20, 4), torch.exp(-square / (2 * square.mean(1, keepdim=True))))
    pos = torch.ones(5, 2, requires_grad=True)
    edge_index = random_edges(5, 5, 12)
    weight = distance_weights(pos, edge_index)
    assert (weight == 1).all()
    assert torch.isfinite(torch.autograd.grad(weight.sum(), pos)[0]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"edge_index": torch.tensor([[-1], [0]])}, ValueError, "names source -1, but there are 3"),
        ({"edge_index": torch.tensor([[1], [3]])}, ValueError, "names target 3, but there are 3"),
        ({"edge_index": torch.tensor([[1.0], [2.0]])}, TypeError, "'edge_index' must be a tensor of int64"),
        ({"pos": [[0.0, 1.0]]}, TypeError, r"'pos' must be a tensor of positions.* got \[\[0"),
        ({"pos": torch.rand(3)}, ValueError, r"'pos' must have shape \[N, M\], got \[3\]"),
        (
            {"pos": (torch.rand(3, 2), torch.rand(3, 1))},
            ValueError,
            r"must have shape \[N, 2\], got \[3, 1\]",
        ),
        ({"pos": torch.ones(3, 2, dtype=torch.bool)}, TypeError, "'pos' must be a tensor of real numbers"),
    ],
)
def test_distances_of_what_does_not_fit(change, error, message):
    given = {"pos": torch.rand(3, 2), "edge_index": torch.tensor([[0, 1], [1, 2]]), **change}
    with pytest.raises(error, match=message):
        distance_weights(**given)


def test_positions_of_other_nodes_are_refused():
    with pytest.raises(ValueError, match=r"'pos' must have shape \[5, N\], got \[6, 2\]"):
        PartitionGCNConv(4, 3)(torch.randn(5, 4), random_edges(5, 5, 8), pos=torch.rand(6, 2))


def test_repr_and_module_contract():
    conv = PartitionGCNConv(16, 32)
    assert str(conv) == "PartitionGCNConv(16, 32, num_scales=1)"
    assert_module(conv, torch.randn(30, 16), random_edges(30, 30, 200), expected_size=(30, 32), atol=1e-5)


@pytest.mark.parametrize("bipartite", [False, True])
def test_all_forms_of_edges_agree(bipartite):
    size = (20, 30) if bipartite else (30, 30)
    edge_index = random_edges(*size, 200)
    weight = torch.rand(200)
    x = (torch.randn(20, 16), torch.randn(30, 4)) if bipartite else torch.randn(30, 16)
    conv = PartitionGCNConv(16, 8, add_self_loops=not bipartite)
    expected = conv(x, edge_index, weight)
    if bipartite:
        adjacency = to_dense_adj(edge_index.flip(0), edge_attr=weight, max_num_nodes=30)[0, :, :20]
        normal = (
            adjacency.sum(1).clamp(min=1e-9).rsqrt()[:, None]
            * adjacency
            * adjacency.sum(0).clamp(min=1e-9).rsqrt()
        )
        assert torch.allclose(expected, normal @ x[0] @ conv.lin.weight.t(), atol=1e-5)
    order = edge_index[1].argsort(stable=True)
    by_row = edge_index[0].argsort(stable=True)
    forms = {
        "sorted": (edge_index[:, order], weight[order]),
        "int32": (edge_index.int(), weight),
        "EdgeIndex": (EdgeIndex(edge_index[:, order], sparse_size=size, sort_order="col"), weight[order]),
        "EdgeIndex without size": (EdgeIndex(edge_index[:, order], sort_order="col"), weight[order]),
        "EdgeIndex by row": (
            EdgeIndex(edge_index[:, by_row], sparse_size=size, sort_order="row"),
            weight[by_row],
        ),
        "EdgeIndex unsorted": (EdgeIndex(edge_index, sparse_size=size), weight),
        "CSR": (to_torch_csr_tensor(edge_index.flip(0), weight, size=size[::-1]), None),
        "CSC": (to_torch_csr_tensor(edge_index.flip(0), weight, size=size[::-1]).to_sparse_csc(), None),
        "COO": (to_torch_csr_tensor(edge_index.flip(0), weight, size=size[::-1]).to_sparse_coo(), None),
    }
    for name, (edges, own) in forms.items():
        assert torch.allclose(conv(x, edges, own), expected, atol=1e-5), name
    with pytest.raises(ValueError, match="holds the edge weights itself"):
        conv(x, forms["CSR"][0], weight)


@pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
def test_sparse_tensor():
    edge_index, weight, x = random_edges(30, 30, 200), torch.rand(200), torch.randn(30, 16)
    conv = PartitionGCNConv(16, 8)
    adjacency = SparseTensor(row=edge_index[1], col=edge_index[0], value=weight, sparse_sizes=(30, 30))
    assert torch.allclose(conv(x, adjacency), conv(x, edge_index, weight), atol=1e-5)
    adjacency = SparseTensor(row=edge_index[1], col=edge_index[0], sparse_sizes=(30, 30))
    assert torch.allclose(conv(x, adjacency), conv(x, edge_index), atol=1e-5)


@pytest.mark.filterwarnings("ignore:There exist node types")
def test_in_pyg_containers():
    x, edge_index = torch.randn(30, 16), random_edges(30, 30, 200)
    conv = PartitionGCNConv(16, 16)
    model = Sequential("x, edge_index", [(conv, "x, edge_index -> x"), torch.nn.ReLU()])
    assert torch.allclose(model(x, edge_index), conv(x, edge_index).relu())
    graphs = [edge_index, sorted_edges(random_edges(30, 30, 100), 30)]
    two = PartitionGCNConv(16, 16, num_scales=2)
    model = Sequential("x, graphs", [(two, "x, graphs -> x"), torch.nn.ReLU()])
    assert torch.allclose(model(x, graphs), two(x, graphs).relu())
    assert GPSConv(16, two, heads=4)(x, graphs).shape == (30, 16)
    y, cross = torch.randn(12, 8), random_edges(12, 30, 50)
    across = PartitionGCNConv(8, 16, add_self_loops=False)
    hetero = HeteroConv({("a", "to", "a"): two, ("b", "to", "a"): across}, aggr="sum")
    out = hetero({"a": x, "b": y}, {("a", "to", "a"): graphs, ("b", "to", "a"): cross})
    assert torch.allclose(out["a"], two(x, graphs) + across((y, x), cross), atol=1e-5)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = PartitionGCNConv(-1, 16, add_self_loops=False)
        self.conv2 = PartitionGCNConv(16, 4, add_self_loops=False)

    def forward(self, x, edge_index):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


def test_to_hetero():
    x = {"a": torch.randn(30, 16), "b": torch.randn(12, 8)}
    edges = {
        ("a", "to", "a"): random_edges(30, 30, 100),
        ("b", "to", "a"): random_edges(12, 30, 50),
        ("a", "to", "b"): random_edges(30, 12, 60),
    }
    model = to_hetero(Net(), (["a", "b"], list(edges)), aggr="sum")
    out = model(x, edges)
    assert out["a"].shape == (30, 4) and out["b"].shape == (12, 4)
    sorted_out = model(
        x,
        {
            key: EdgeIndex(
                e[:, e[1].argsort()], sparse_size=(len(x[key[0]]), len(x[key[2]])), sort_order="col"
            )
            for key, e in edges.items()
        },
    )
    assert torch.allclose(out["a"], sorted_out["a"], atol=1e-5)


def test_no_nodes_and_no_edges():
    conv = PartitionGCNConv(4, 3, num_scales=2)
    empty = torch.empty(2, 0, dtype=torch.long)
    assert conv(torch.randn(0, 4), [empty, empty]).shape == (0, 3)
    x = torch.randn(5, 4)
    expected = conv.lin(x).view(5, 2, 3).sum(1)
    assert torch.allclose(conv(x, [empty, sorted_edges(empty, 5)], pos=torch.rand(5, 2)), expected, atol=1e-6)


def test_errors():
    conv = PartitionGCNConv(4, 3, num_scales=2)
    edge_index = random_edges(5, 5, 8)
    with pytest.raises(ValueError, match="expected 2 graphs, got 1"):
        conv(torch.randn(5, 4), edge_index)
    with pytest.raises(ValueError, match="use add_self_loops=False"):
        PartitionGCNConv(4, 3)((torch.randn(5, 4), torch.randn(5, 4)), edge_index)
    with pytest.raises(ValueError, match="'num_scales' must be a whole number from 1 to 65536, got 0"):
        PartitionGCNConv(4, 3, num_scales=0)


def test_self_loops_listed_or_not():
    edge_index = random_edges(20, 20, 60)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    x = torch.randn(20, 4)
    conv = PartitionGCNConv(4, 3)
    assert torch.allclose(
        conv(x, add_self_loops(edge_index, num_nodes=20)[0]), conv(x, edge_index), atol=1e-6
    )


def test_other_aggregations_are_not_fused():
    data = RingPartition([4])(Data(pos=torch.rand(30, 2), x=torch.randn(30, 16)))
    graph = scales(data)[0]
    conv = PartitionGCNConv(16, 8, aggr="mean")
    assert torch.allclose(conv(data.x, graph), conv(data.x, graph.as_tensor()), atol=1e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.half])
def test_more_neighbours_than_half_precision_counts(half):
    """Every node sees all of 3,000; with positions, some of them thousands of pixels apart."""
    count = 3000
    edge_index = torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.long)])
    x, pos = torch.randn(count, 8), torch.rand(count, 2) * 3000
    conv = PartitionGCNConv(8, 8)
    for places in (None, pos):
        expected = conv(x, edge_index, pos=places)
        given = None if places is None else places.to(half)
        found = conv.to(half)(x.to(half), edge_index, pos=given).float()
        conv.float()
        assert torch.isfinite(found).all()
        assert (found - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("aggr", ["add", "mean", "max", "min"])
def test_loops_are_aggregated_as_other_messages(aggr):
    edge_index = random_edges(9, 9, 30)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    edge_index = torch.cat([edge_index, torch.tensor([[2], [2]])], dim=1)  # one node has its loop
    x = torch.randn(9, 4, dtype=torch.double)
    peer = GCNConv(4, 3, aggr=aggr).double()
    conv = PartitionGCNConv(4, 3, aggr=aggr).double()
    conv.load_state_dict(peer.state_dict())
    torch.testing.assert_close(conv(x, edge_index), peer(x, edge_index))
    torch.testing.assert_close(conv(x, sorted_edges(edge_index, 9)), peer(x, edge_index))


def forms_of(edge_index, size):
    """The same edges in all forms that may run as a sparse product."""
    order = edge_index[1].argsort(stable=True)
    in_order = edge_index[:, order]
    yield EdgeIndex(in_order, sparse_size=size, sort_order="col")
    yield EdgeIndex(in_order.int(), sparse_size=size, sort_order="col")
    yield edge_index.int()
    yield to_torch_csr_tensor(in_order.flip(0), size=size[::-1])


@pytest.mark.parametrize("size", [(9, 9), (9, 5)])
@pytest.mark.parametrize("dtype", [torch.float, torch.double, torch.bfloat16])
def test_gradients_of_all_forms_of_edges(size, dtype):
    edge_index = random_edges(*size, 20)
    conv = PartitionGCNConv(8, 3, add_self_loops=False).to(dtype)

    def gradients(edges):
        x = [features.clone().requires_grad_() for features in sets]
        conv.zero_grad()
        out = conv(x[0] if size[0] == size[1] else tuple(x), edges)
        (out * out.detach().cos()).sum().backward()
        return out, x[0].grad, conv.lin.weight.grad.clone()

    sets = [torch.randn(count, 8, dtype=dtype) for count in size]
    expected = gradients(edge_index)
    tolerance = {"atol": 0.05, "rtol": 0.05} if dtype == torch.bfloat16 else {}
    for edges in forms_of(edge_index, size):
        for found, wanted in zip(gradients(edges), expected, strict=True):
            torch.testing.assert_close(found, wanted, **tolerance)


def test_autocast_and_transforms_of_functions():
    conv, x = PartitionGCNConv(4, 3), torch.randn(12, 4)
    edges = KNNGraph(3)(Data(pos=torch.rand(12, 2))).edge_index
    for forms in (edges, edges.as_tensor()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            conv(x.clone().requires_grad_(), forms).float().sum().backward()
    plain = edges.as_tensor()
    gradient = torch.func.grad(lambda x, edges: conv(x, edges).square().sum())
    torch.testing.assert_close(gradient(x, edges), gradient(x, plain))
    _, along = torch.func.jvp(lambda x: conv(x, edges), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, conv(torch.ones_like(x), plain) - conv(torch.zeros_like(x), plain))


def test_a_matrix_that_is_not_transposed_is_refused():
    conv, matrix = PartitionGCNConv(8, 8, add_self_loops=False), torch.eye(9, 5).to_sparse_csr()
    with pytest.raises(ValueError, match=r"must have shape \(5, 9\), got \(9, 5\)"):
        conv((torch.randn(9, 8), torch.randn(5, 8)), matrix)


@pytest.mark.parametrize("kind", [PartitionGCNConv, MaskedAttentionConv])
def test_edges_that_were_sorted_another_way_before(kind):
    """PyG keeps the pointers of the order before."""
    conv, x = kind(8, 8), torch.randn(12, 8)
    drawn = KNNGraph(3)(Data(pos=torch.rand(12, 2))).edge_index
    plain = drawn.as_tensor()
    turned = EdgeIndex(plain.flip(0).contiguous(), sparse_size=(12, 12), sort_order="row")
    for edges in (turned.fill_cache_().sort_by("col").values, drawn.flip(0).sort_by("col").values):
        torch.testing.assert_close(conv(x, edges), conv(x, edges.as_tensor()))
