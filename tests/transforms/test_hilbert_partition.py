"""Equal divisions along a Hilbert curve."""

import pytest
import torch
from helpers import random_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from point_sets import point_sets
from torch_geometric.data import Batch, Data

from pyg_match.transforms import AnchorEdges, HilbertPartition, KNNGraph, RemovePairs, graph_from_recipe
from pyg_match.transforms.hilbert_partition import hilbert_ranks


def positions(count, seed=0):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([640.0, 480.0])


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_curve_steps_from_square_to_square(level):
    """Each square once, and each next to the one before: the curve's definition; rows and columns do neither."""
    side = torch.arange(1 << level)
    pos = torch.cartesian_prod(side, side) + 0.5
    # So that the smallest squares are those of the curve of that level.
    pos = torch.cat([pos, torch.tensor([[0.0, 0.0], [1 << level, 1 << level]])])
    rank, count = hilbert_ranks(pos)
    assert count.tolist() == [len(pos)] * len(pos) and rank.sort().values.tolist() == list(range(len(pos)))
    ordered = pos[:-2][rank[:-2].argsort()]
    assert (ordered.diff(dim=0).abs().sum(1) == 1).all()
    assert ordered[0].tolist() == [0.5, 0.5] and ordered[-1].tolist() == [(1 << level) - 0.5, 0.5]


@pytest.mark.parametrize("axis", [0, 1])
def test_the_curve_fills_the_square_on_the_longer_side(axis):
    side = torch.arange(8.0)
    square = torch.cat([torch.cartesian_prod(side, side) + 0.5, torch.tensor([[0.0, 0.0], [8.0, 8.0]])])
    lower = square[:-1, 1 - axis] < 4
    flat = torch.cat([square[:-1][lower], torch.tensor([[8.0, 4.0], [4.0, 8.0]][axis])[None]])
    rank = hilbert_ranks(flat)[0][:-1]
    assert torch.equal(rank.argsort(), hilbert_ranks(square)[0][:-1][lower].argsort())


@settings(max_examples=60)
@given(pos=point_sets(), size=st.integers(1, 20), shift=st.booleans())
def test_parts_follow_each_other_and_differ_by_at_most_one(pos, size, shift):
    pos = pos[:, :2]
    window = HilbertPartition(size, shift)(Data(pos=pos)).window
    assert window.shape == (len(pos), 1 + shift)
    rank = hilbert_ranks(pos)[0]
    in_order = window[rank.argsort()]
    assert (in_order.diff(dim=0) >= 0).all() and (in_order.diff(dim=0) <= 1).all()
    sizes = torch.bincount(window[:, 0])
    assert len(sizes) == -(-len(pos) // size)
    assert len(pos) == 0 or (sizes.max() <= size and sizes.max() - sizes.min() <= 1)
    if shift and len(sizes) > 1:
        starts = [0, *(sizes.cumsum(0)[:-1]).tolist()]
        middles = [start + int(n) // 2 for start, n in zip(starts, sizes, strict=True)]
        expected = [sum(place >= middle for middle in middles) for place in range(len(pos))]
        # Of a part with one node, nothing lies before its middle.
        assert in_order[:, 1].tolist() == expected
    elif shift:
        assert torch.equal(window[:, 1], window[:, 0])


def test_keypoints_of_a_part_are_near_each_other():
    pos = positions(2048)
    window = HilbertPartition(128)(Data(pos=pos)).window[:, 0]
    far = torch.stack([torch.pdist(pos[window == part]).mean() for part in window.unique()])
    # 16 parts of 640 x 480 pixels: squares of their area have a mean distance of 72 pixels, the image has 300.
    assert far.mean() < 90


@pytest.mark.parametrize("shift", [False, True])
def test_images_are_divided_apart(shift):
    pairs = [random_pair(*counts) for counts in ((30, 25), (3, 1), (0, 7), (0, 0), (12, 40))]
    transform = HilbertPartition(8, shift)
    alone = [transform(pair.clone()) for pair in pairs]
    batch = transform(Batch.from_data_list(pairs))
    assert torch.equal(batch.window, torch.cat([pair.window for pair in alone]))
    for found, expected in zip(batch.to_data_list(), alone, strict=True):
        assert torch.equal(found.window, expected.window)
        image0 = HilbertPartition(8, shift)(Data(pos=expected.pos[: expected.num_keypoints[0, 0]]))
        assert torch.equal(expected.window[: len(image0.window)], image0.window)


def test_order_of_nodes_and_units_do_not_matter():
    pos, order = positions(200), torch.randperm(200)
    window = HilbertPartition(16, shift=True)(Data(pos=pos)).window
    assert torch.equal(HilbertPartition(16, shift=True)(Data(pos=pos[order])).window, window[order])
    moved = HilbertPartition(16, shift=True)(Data(pos=pos.double() * 4 - 1000)).window
    assert torch.equal(moved, window)


def test_nodes_at_one_place():
    window = HilbertPartition(3)(Data(pos=torch.full((7, 2), 5.0))).window
    assert window.flatten().tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_other_edges_within_images_give_way():
    pair = AnchorEdges(3, loop=True, listed=False)(KNNGraph(3)(random_pair(20, 10)))
    divided = HilbertPartition(4)(pair)
    assert "edge_index" not in divided and "anchor" not in divided and "anchor_weight" not in divided
    assert "window" not in KNNGraph(3)(divided) and "edge_index" in KNNGraph(3)(divided)
    with pytest.raises(ValueError, match="no 'edge_index' to remove pairs from"):
        RemovePairs(min_distance=3.0)(HilbertPartition(4)(random_pair(20, 10)))


@pytest.mark.parametrize("weighted", [True, False])
def test_anchors_stand_for_what_is_not_seen(weighted):
    pair = HilbertPartition(8)(random_pair(50, 3))
    joined = AnchorEdges(5, loop=True, weighted=weighted, listed=False)(pair)
    assert "edge_index" not in joined and torch.equal(joined.window, pair.window)
    assert joined.anchor[:50].sum() == 5 and joined.anchor[50:].sum() == 3
    if not weighted:
        assert (joined.anchor_weight == 1).all()
        return
    seen = (pair.window == pair.window.T)[:50, :50].sum(1)
    torch.testing.assert_close(joined.anchor_weight[:50, 0], (50 - seen) / 5)
    assert (joined.anchor_weight[50:] == 0).all()  # all are in one part
    with pytest.raises(ValueError, match="need listed=False, got listed=True"):
        AnchorEdges(5, loop=True)(pair)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HilbertPartition(0), "'size'"),
        (lambda: HilbertPartition(2.5), "'size'"),
        (
            lambda: HilbertPartition(4)(Data(pos=torch.rand(5, 3))),
            r"must have the shape \(N, 2\), got \[5, 3\]",
        ),
        (lambda: HilbertPartition(4)(Data(pos=torch.full((5, 2), torch.nan))), "'pos'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_recipe():
    recipe = [{"HilbertPartition": {"size": 64, "shift": True}}, {"CandidateEdges": {"k": 8}}]
    assert str(graph_from_recipe(recipe)).splitlines()[1].strip() == "HilbertPartition(64, shift=True),"
    assert repr(HilbertPartition()) == "HilbertPartition(128)"
