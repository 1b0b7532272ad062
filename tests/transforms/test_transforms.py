import pytest
import torch
from helpers import random_pair, random_set
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

import pyg_match
from pyg_match.data import KeypointPair
from pyg_match.ops import candidates
from pyg_match.transforms import (
    CandidateEdges,
    CompleteGraph,
    DiverseKNN,
    KNNGraph,
    NestedPartition,
    RingPartition,
)

COUNTS = [(9, 6), (1, 3), (0, 4), (1, 1), (0, 0)]


@pytest.mark.parametrize(
    "transform",
    [
        KNNGraph(3),
        KNNGraph(3, loop=True),
        CompleteGraph(),
        CandidateEdges(2),
        CandidateEdges(50, symmetric=False),
    ],
)
def test_batch_equals_single(transform):
    pairs = [random_pair(*counts) for counts in COUNTS]
    single = Batch.from_data_list([transform(pair.clone()) for pair in pairs])
    batched = transform(Batch.from_data_list(pairs))
    assert batched.validate()
    for key in ("edge_index", "cross_edge_index"):
        if key in single:
            assert torch.equal(single[key], batched[key])
            assert batched[key].is_sorted_by_col
            for apart, pair in zip(batched.to_data_list(), single.to_data_list(), strict=True):
                assert torch.equal(apart[key], pair[key])


def test_repr():
    assert str(KNNGraph(k=8)) == "KNNGraph(k=8, loop=False)"
    assert str(CompleteGraph()) == "CompleteGraph(within=True, cross=True, loop=True)"
    assert str(CandidateEdges(k=8)) == "CandidateEdges(k=8, symmetric=True)"


def test_knn_graph_is_per_image_and_leaves_the_input_alone():
    pair = random_pair(20, 30)
    out = KNNGraph(4, loop=True)(pair)
    assert pair.edge_index is None
    expected = [
        pyg_match.knn_graph(pair.image(0).pos, 4, loop=True),
        pyg_match.knn_graph(pair.image(1).pos, 4, loop=True) + 20,
    ]
    assert torch.equal(out.edge_index.as_tensor(), torch.cat(expected, 1))


def test_knn_graph_more_neighbours_than_keypoints():
    out = KNNGraph(100)(random_set(4))
    assert out.edge_index.size(1) == 12
    assert KNNGraph(100, loop=True)(random_set(1)).edge_index.tolist() == [[0], [0]]
    assert KNNGraph(100)(random_set(0)).edge_index.shape == (2, 0)


@pytest.mark.parametrize("transform", [KNNGraph, DiverseKNN, RingPartition, NestedPartition])
def test_neighbours_are_found_by_the_backend_that_is_named(transform):
    k = 3 if transform in (KNNGraph, DiverseKNN) else [3]
    with pytest.raises(ValueError, match="'backend' must be"):
        transform(k, backend="tree")(random_set(9))


def test_complete_graph():
    out = CompleteGraph()(random_pair(2, 1))
    assert out.edge_index.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 1, 2]]
    assert out.cross_edge_index.tolist() == [[2, 2, 0, 1], [0, 1, 2, 2]]
    out = CompleteGraph(cross=False, loop=False)(random_pair(2, 1))
    assert out.edge_index.tolist() == [[1, 0], [0, 1]]
    assert "cross_edge_index" not in out
    out = CompleteGraph(loop=False)(random_pair(2, 1))
    assert out.edge_index.tolist() == [[1, 0], [0, 1]]
    assert out.cross_edge_index.tolist() == [[2, 2, 0, 1], [0, 1, 2, 2]]
    data = Batch.from_data_list([Data(pos=torch.rand(n, 3)) for n in (2, 1)])
    assert CompleteGraph()(data).edge_index.size(1) == 5


@pytest.mark.parametrize("symmetric", [True, False])
def test_candidates_against_dense(symmetric):
    pair = random_pair(40, 25)
    x0, x1 = pair.image(0).x, pair.image(1).x
    k = 3
    similarity = x0 @ x1.t()
    to0 = torch.zeros(40, 25, dtype=torch.bool).scatter_(1, similarity.topk(k, 1).indices, True)
    to1 = torch.zeros(40, 25, dtype=torch.bool).scatter_(0, similarity.topk(k, 0).indices, True)
    if symmetric:
        to0 = to1 = to0 | to1
    edges = CandidateEdges(k, symmetric)(pair).cross_edge_index
    expected = {(40 + j, i) for i, j in to0.nonzero().tolist()} | {
        (i, 40 + j) for i, j in to1.nonzero().tolist()
    }
    assert {tuple(e) for e in edges.t().tolist()} == expected
    assert edges.size(1) == len(expected)


def test_candidates_chunks_do_not_matter(monkeypatch):
    pair = random_pair(40, 25)
    expected = CandidateEdges(3)(pair.clone()).cross_edge_index
    monkeypatch.setattr("pyg_match.ops.candidates._CHUNK_ELEMENTS", 60)
    assert torch.equal(CandidateEdges(3)(pair).cross_edge_index, expected)


@pytest.mark.parametrize("waits", [True, False])
def test_candidates_do_not_depend_on_autocast(waits, monkeypatch):
    monkeypatch.setattr(candidates, "waits_for_counts", lambda device: waits)
    pair = random_pair(200, 150)
    expected = CandidateEdges(4)(pair).cross_edge_index
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CandidateEdges(4)(pair).cross_edge_index, expected)


def test_candidates_errors():
    with pytest.raises(TypeError, match="needs a KeypointPair, got KeypointSet"):
        CandidateEdges(2)(random_set(3))
    with pytest.raises(ValueError, match="'k' must be a whole number of at least 1, got 0"):
        CandidateEdges(0)
    with pytest.raises(ValueError, match="'k' must be a whole number of at least 1, got -1"):
        KNNGraph(-1)
    pair = random_pair(3, 3)
    pair.x[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        CandidateEdges(2)(pair)


def test_composes():
    out = Compose([KNNGraph(4), CandidateEdges(3)])(random_pair(20, 30))
    assert out.validate()
    assert out.num_edges == 200


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("dtype", "length"), [(torch.half, 512.0), (torch.bfloat16, 1.0), (torch.half, 1.0)])
def test_candidates_of_descriptors_in_half_precision(dtype, length, together, monkeypatch):
    """Products are those of the same numbers in single precision, which hold them."""
    if together:
        monkeypatch.setattr(candidates, "waits_for_counts", lambda device: True)
    pair = random_pair(90, 90)
    x = torch.nn.functional.normalize(torch.rand(90, 128), dim=1).mul(length).repeat(2, 1).to(dtype)
    found, expected = (
        CandidateEdges(1)(KeypointPair(pair.num_keypoints, pos=pair.pos, x=descriptors)).cross_edge_index
        for descriptors in (x, x.float())
    )
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert ((found[0] - found[1]).abs() == 90).sum() == 180
