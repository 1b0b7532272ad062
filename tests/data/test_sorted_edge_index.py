"""PyG's own calls on the edges that transforms draw."""

import io
import pickle

import pytest
import torch
import torch_geometric.transforms as T
from helpers import random_pair
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import is_undirected, to_undirected

from pyg_match.data import KeypointPair, KeypointSet, sorted_edges
from pyg_match.nn import MaskedAttentionConv
from pyg_match.transforms import CandidateEdges, KNNGraph


def drawn() -> tuple[Data, Data]:
    """Data as a transform leaves it, and the same with plain edges."""
    data = KNNGraph(3)(Data(pos=torch.rand(9, 2), x=torch.rand(9, 4)))
    plain = data.clone()
    plain.edge_index = data.edge_index.as_tensor()
    return data, plain


def test_questions_about_data():
    data, plain = drawn()
    for name in ("is_undirected", "is_coalesced", "has_self_loops", "has_isolated_nodes"):
        assert getattr(data, name)() == getattr(plain, name)(), name
    both = to_undirected(plain.edge_index)
    data.edge_index = sorted_edges(both, 9)
    assert is_undirected(both) and data.is_undirected()


def test_changes_of_data():
    data, plain = drawn()
    for change in (
        lambda d: d.coalesce(),
        lambda d: d.sort(),
        lambda d: d.sort(sort_by_row=False),
        lambda d: d.subgraph(torch.arange(5)),
        T.ToUndirected(),
        T.AddSelfLoops(),
        T.LargestConnectedComponents(),
    ):
        got, expected = (change(d.clone()).edge_index for d in (data, plain))
        got_plain = got.as_tensor() if isinstance(got, EdgeIndex) else got
        assert torch.equal(got_plain, expected)
        if isinstance(got, EdgeIndex) and got.is_sorted_by_col:
            assert bool((got_plain[1].diff() >= 0).all())
        if isinstance(got, EdgeIndex) and got.is_sorted_by_row:
            assert bool((got_plain[0].diff() >= 0).all())


@pytest.mark.parametrize("transform", [T.ToSparseTensor(), T.GDC(), T.LineGraph()])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_transforms_of_pyg(transform):
    data, plain = (transform(d.clone()) for d in drawn())
    for key in plain.keys():  # noqa: SIM118
        got, expected = data[key], plain[key]
        if isinstance(expected, torch.Tensor):
            got, expected = (t.to_dense() if t.layout != torch.strided else t for t in (got, expected))
            torch.testing.assert_close(got.as_tensor() if isinstance(got, EdgeIndex) else got, expected)


def test_edges_of_a_target_keep_their_order():
    edge_index = torch.tensor([[3, 1, 0, 2, 3], [1, 0, 1, 0, 0]])
    assert sorted_edges(edge_index, 4).tolist() == [[1, 2, 3, 3, 0], [0, 0, 0, 1, 1]]


def test_one_edge_in_all():
    sets = [KeypointSet(pos=torch.rand(n, 2), x=torch.rand(n, 8), image_size=(9, 9)) for n in (1, 0)]
    one = KNNGraph(4, loop=True)(KeypointPair.from_sets(*sets))
    none = KNNGraph(4, loop=True)(KeypointPair.from_sets(sets[1], sets[1]))
    for pairs in ([one], [one, none], [none, one], [one, one], [none]):
        batch = Batch.from_data_list(pairs)
        assert batch.edge_index.tolist() == [list(range(sum(p is one for p in pairs)))] * 2
        assert batch.edge_index.is_sorted_by_col and len(batch.to_data_list()) == len(pairs)
    batches = list(DataLoader([one, one, none], batch_size=1))
    assert [batch.edge_index.size(1) for batch in batches] == [1, 1, 0]


def test_batches_and_copies_stay_sorted():
    pairs = [CandidateEdges(2)(KNNGraph(2)(random_pair(5, n))) for n in (3, 6)]
    batch = Batch.from_data_list(pairs)
    for data in (batch, pickle.loads(pickle.dumps(batch)), batch.clone(), *batch.to_data_list()):
        for name in ("edge_index", "cross_edge_index"):
            edges = data[name]
            assert edges.is_sorted_by_col and edges.sparse_size() == (data.num_nodes, data.num_nodes)
            (colptr, row), _ = edges.get_csc()
            assert colptr.numel() == data.num_nodes + 1 and torch.equal(row, edges.as_tensor()[0])
            # Rows are plain tensors, whatever one does with them.
            source, target = edges
            for part in (source, target, edges[0], edges[1]):
                assert type(part) is torch.Tensor


def test_saved_data_loads_without_running_code():
    file = io.BytesIO()
    torch.save({"edge_index": drawn()[0].edge_index}, file)
    file.seek(0)
    edges = torch.load(file, weights_only=True)["edge_index"]
    assert edges.is_sorted_by_col and edges.sparse_size() == (9, 9)


@pytest.mark.parametrize(
    "change",
    [lambda e: e.flip(0), lambda e: e.sort_by("row").values, lambda e: e.flip(0).sort_by("col").values],
)
def test_products_with_edges_in_another_order(change):
    edges = change(drawn()[0].edge_index)
    x = torch.randn(9, 4, requires_grad=True)
    to_targets = edges.is_sorted_by_col
    product = edges.matmul(x, transpose=to_targets)
    matrix = torch.zeros(9, 9).index_put_(tuple(edges.as_tensor()), torch.ones(27))
    dense = matrix.t() if to_targets else matrix
    torch.testing.assert_close(product, dense @ x)
    weight = torch.randn_like(product)
    found, expected = (torch.autograd.grad((out * weight).sum(), x)[0] for out in (product, dense @ x))
    torch.testing.assert_close(found, expected)
    assert torch.equal(edges.to_dense(), matrix)


@pytest.mark.parametrize("layer", [SAGEConv(4, 3), MaskedAttentionConv(4, 3)])
def test_layers_compile_along_them(layer):
    data, _ = drawn()
    torch.testing.assert_close(
        torch.compile(layer, backend="aot_eager")(data.x, data.edge_index), layer(data.x, data.edge_index)
    )


@pytest.mark.parametrize(
    ("edge_index", "num_nodes", "error", "message"),
    [
        (torch.tensor([[1 << 27, 1], [0, 1]]), 2, ValueError, "names node 134217728, but there are 2"),
        (torch.tensor([[-1, 1], [0, 1]]), 2, ValueError, "names node -1, but there are 2"),
        (torch.tensor([[0, 1], [0, 2]]), 2, ValueError, "names node 2, but there are 2"),
        (torch.tensor([0, 1]), 2, ValueError, r"'edge_index' must have shape \[2, N\], got \[2\]"),
        (torch.tensor([[0.0], [1.0]]), 2, TypeError, "'edge_index' must be a tensor of int64 or int32"),
        (torch.tensor([[0], [1]]), 2.5, ValueError, r"'num_nodes' must be a whole number .* got 2\.5"),
    ],
)
def test_edges_that_are_refused(edge_index, num_nodes, error, message):
    """A source that does not exist leads PyG's products to foreign memory."""
    with pytest.raises(error, match=message):
        sorted_edges(edge_index, num_nodes)
