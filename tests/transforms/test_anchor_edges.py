import pytest
import torch
from helpers import random_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from point_sets import edge_set, point_sets
from torch_geometric.data import Data

from pyg_match.transforms import AnchorEdges, EqualPartition, KNNGraph

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


def test_repr_and_errors():
    assert str(AnchorEdges(4, "farthest")) == "AnchorEdges(4, method='farthest', loop=False)"
    with pytest.raises(ValueError, match="'num_anchors' must be positive, got 0"):
        AnchorEdges(0)
    with pytest.raises(ValueError, match="'method' must be 'parts' or 'farthest', got 'random'"):
        AnchorEdges(3, method="random")
    data = KNNGraph(2)(Data(pos=torch.rand(5, 2)))
    data.edge_mask = torch.ones(10, dtype=torch.bool)
    with pytest.raises(ValueError, match="before setting edge_mask"):
        AnchorEdges(3)(data)
    with pytest.raises(ValueError, match="'pos' holds NaN"):
        AnchorEdges(2)(Data(pos=torch.full((3, 2), torch.nan)))
