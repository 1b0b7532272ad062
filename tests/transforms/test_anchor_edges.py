import copy

import pytest
import torch
from helpers import random_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from point_sets import edge_set, point_sets
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import AnchorEdges, CandidateEdges, EqualPartition, KNNGraph

METHODS = ("parts", "farthest")


@settings(max_examples=60, deadline=None)
@given(pos=point_sets(), count=st.integers(1, 12), method=st.sampled_from(METHODS), loop=st.booleans())
def test_every_node_sees_the_anchors_and_what_it_saw_before(pos, count, method, loop):
    data = Data(pos=pos)
    alone = AnchorEdges(count, method, loop)(data)
    nodes = range(len(pos))
    anchors = alone.anchor.nonzero().squeeze(1).tolist()
    assert len(anchors) == min(count, len(pos))
    expected = {(a, i) for a in anchors for i in nodes if loop or a != i}
    assert edge_set(alone.edge_index) == expected
    before = KNNGraph(3)(data)
    after = AnchorEdges(count, method, loop)(before)
    assert edge_set(after.edge_index) == expected | edge_set(before.edge_index)
    assert after.edge_index.is_sorted_by_col and (after.edge_index.as_tensor()[1].diff() >= 0).all()
    assert after.edge_index.size(1) == len(expected | edge_set(before.edge_index))  # none twice


def test_unsorted_edges_are_kept_too():
    edge_index = torch.tensor([[4, 0, 1], [3, 2, 0]])
    out = AnchorEdges(1)(Data(pos=torch.arange(5.0).view(5, 1), edge_index=edge_index))
    assert edge_set(out.edge_index) == {(4, 3), (0, 2), (1, 0), (2, 0), (2, 1), (2, 3), (2, 4)}
    assert (out.edge_index.as_tensor()[1].diff() >= 0).all()


def test_loops_that_are_listed_stay_and_are_listed_once():
    looped = KNNGraph(3, loop=True)(Data(pos=torch.rand(12, 2)))
    for loop in (False, True):
        out = AnchorEdges(2, loop=loop)(looped)
        source, target = out.edge_index.as_tensor()
        assert torch.equal(source[source == target], torch.arange(12))
        assert out.edge_index.size(1) == len(edge_set(out.edge_index))


@pytest.mark.parametrize("method", METHODS)
def test_of_keypoints_as_near_to_the_centre_the_first_is_the_anchor(method):
    assert AnchorEdges(1, method)(Data(pos=torch.tensor([[3.0], [1.0]]))).anchor.tolist() == [True, False]


def test_parts_choose_the_most_central_keypoint_of_each_part():
    data = Data(pos=torch.rand(60, 2))
    anchor = AnchorEdges(7)(data).anchor
    part = EqualPartition(7)(data).part
    for number in range(7):
        members = (part == number).nonzero().squeeze(1)
        pos = data.pos[members].double()
        centre = members[(pos - pos.mean(0)).norm(dim=1).argmin()]
        assert anchor[members].sum() == 1 and anchor[centre]


def test_farthest_points_against_a_loop():
    pair = random_pair(40, 25)
    anchor = AnchorEdges(6, method="farthest")(pair).anchor
    for start, end in ((0, 40), (40, 65)):
        pos = pair.pos[start:end].double()
        chosen = [int((pos - pos.mean(0)).norm(dim=1).argmin())]
        while len(chosen) < 6:
            chosen.append(int(torch.cdist(pos, pos[chosen]).amin(1).argmax()))
        assert sorted(chosen) == anchor[start:end].nonzero().squeeze(1).tolist()


def test_three_dimensions_and_few_keypoints():
    for method in METHODS:
        out = AnchorEdges(9, method)(random_pair(2, 0))
        assert edge_set(out.edge_index) == {(0, 1), (1, 0)}
        assert AnchorEdges(3, method)(Data(pos=torch.rand(10, 3))).anchor.sum() == 3


@settings(max_examples=60, deadline=None)
@given(pos=point_sets(), count=st.integers(1, 12), method=st.sampled_from(METHODS), loop=st.booleans())
def test_weights_sum_to_all_keypoints(pos, count, method, loop):
    """What a keypoint sees stands for all keypoints, each once; what is no anchor for itself alone."""
    data = AnchorEdges(count, method, loop, weighted=True)(KNNGraph(3)(Data(pos=pos)))
    source, target = data.edge_index.as_tensor()
    assert data.edge_weight.shape == source.shape and (data.edge_weight >= 1).all()
    assert (data.edge_weight[~data.anchor[source]] == 1).all()
    total = torch.zeros(len(pos)).index_add_(0, target, data.edge_weight.float())
    sees_an_anchor = torch.zeros(len(pos), dtype=torch.bool).index_fill_(0, target[data.anchor[source]], True)
    assert torch.allclose(total[sees_an_anchor], torch.tensor(float(len(pos))))
    plain = AnchorEdges(count, method, loop)(KNNGraph(3)(Data(pos=pos)))
    assert torch.equal(plain.edge_index.as_tensor(), data.edge_index.as_tensor())
    assert "edge_weight" not in plain


def test_weights_stay_positive_with_edges_listed_twice():
    edge_index = torch.tensor([[0, 1, 3, 4] * 3, [4] * 12])
    out = AnchorEdges(1, weighted=True)(Data(pos=torch.arange(5.0).view(5, 1), edge_index=edge_index))
    assert (out.edge_weight >= 1).all()


def test_weights_of_whole_positions_are_no_whole_numbers():
    out = AnchorEdges(2, weighted=True, loop=True)(Data(pos=torch.arange(5).view(5, 1)))
    assert (out.edge_weight == 2.5).all()


def test_cross_anchors():
    pair = CandidateEdges(2)(random_pair(30, 20))
    before = edge_set(pair.cross_edge_index)
    out = AnchorEdges(4, weighted=True, cross=True)(pair)
    anchor = out.cross_anchor
    assert torch.equal(anchor, AnchorEdges(4)(random_pair_like(pair)).anchor)
    first, second = (part.nonzero().squeeze(1).tolist() for part in anchor.split([30, 20]))
    expected = {(a, i) for a in first for i in range(30, 50)} | {
        (30 + a, i) for a in second for i in range(30)
    }
    assert edge_set(out.cross_edge_index) == before | expected
    assert out.cross_edge_index.size(1) == len(before | expected)
    out.validate()
    source, target = out.cross_edge_index.as_tensor()
    assert (out.cross_edge_weight[~anchor[source]] == 1).all()
    total = torch.zeros(50).index_add_(0, target, out.cross_edge_weight)
    assert torch.allclose(total, torch.tensor([20.0] * 30 + [30.0] * 20))
    assert edge_set(AnchorEdges(4, cross=True)(random_pair_like(pair)).cross_edge_index) == expected
    with pytest.raises(TypeError, match="cross=True needs a KeypointPair, got Data"):
        AnchorEdges(4, cross=True)(Data(pos=torch.rand(3, 2)))


def random_pair_like(pair):
    return KeypointPair.from_sets(pair.image(0), pair.image(1))


def test_batches_come_apart_with_weights():
    steps = (KNNGraph(4, loop=True), AnchorEdges(5, weighted=True), CandidateEdges(3))
    transform = Compose([*steps, AnchorEdges(2, weighted=True, cross=True)])
    pairs = [random_pair(20, 15), random_pair(3, 1), random_pair(0, 7)]
    alone = [transform(copy.copy(pair)) for pair in pairs]
    for batch in (Batch.from_data_list(alone), transform(Batch.from_data_list(pairs))):
        for found, expected in zip(batch.to_data_list(), alone, strict=True):
            for name in ("edge_index", "edge_weight", "cross_edge_index", "cross_edge_weight", "anchor"):
                plain = [d[name].as_tensor() if "index" in name else d[name] for d in (found, expected)]
                assert torch.equal(*plain), name


def test_complete_anchors_give_the_complete_graph():
    """With every keypoint an anchor nothing is left out, and all weights are 1."""
    pair = random_pair(12, 9)
    pair = AnchorEdges(12, loop=True, weighted=True)(AnchorEdges(12, weighted=True, cross=True)(pair))
    matcher = GraphMatcher(in_channels=16, hidden_channels=16, num_layers=2).double().eval()
    expected = matcher(random_pair_like(pair)).log_assignment[0]
    assert torch.allclose(matcher(pair).log_assignment[0], expected, atol=1e-9)
    assert (pair.edge_weight == 1).all() and (pair.cross_edge_weight == 1).all()


def test_repr_and_errors():
    assert str(AnchorEdges(4, "farthest")) == "AnchorEdges(4, method='farthest', loop=False)"
    assert str(AnchorEdges(2, weighted=True, cross=True)).endswith("loop=False, weighted=True, cross=True)")
    with pytest.raises(ValueError, match="'num_anchors' must be a whole number of at least 1, got 0"):
        AnchorEdges(0)
    with pytest.raises(ValueError, match="'method' must be 'parts' or 'farthest', got 'random'"):
        AnchorEdges(3, method="random")
    data = KNNGraph(2)(Data(pos=torch.rand(5, 2)))
    data.edge_mask = torch.ones(10, dtype=torch.bool)
    with pytest.raises(ValueError, match="before setting edge_mask"):
        AnchorEdges(3)(data)
    with pytest.raises(ValueError, match="'pos' holds NaN"):
        AnchorEdges(2)(Data(pos=torch.full((3, 2), torch.nan)))


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        (torch.tensor([[0, -1], [1, 2]]), ValueError, "names node -1, but there are 6"),
        (torch.tensor([[0, 9], [1, 2]]), ValueError, "names node 9, but there are 6"),
        (torch.tensor([[0, 1], [9, 2]]), ValueError, "names node 9, but there are 6"),
        (torch.tensor([0, 1]), ValueError, r"must have shape \[2, E\], got \[2\]"),
        (torch.eye(6).to_sparse_csr(), TypeError, "must be a tensor of int64"),
    ],
)
def test_edges_that_are_none_are_refused(edges, error, message):
    with pytest.raises(error, match=message):
        AnchorEdges(2)(Data(pos=torch.rand(6, 2), edge_index=edges))


def test_edges_of_32_bits():
    edge_index, pos = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.rand(6, 2)
    found, expected = (
        AnchorEdges(2)(Data(pos=pos, edge_index=e)).edge_index for e in (edge_index.int(), edge_index)
    )
    assert torch.equal(found.as_tensor(), expected.as_tensor())
