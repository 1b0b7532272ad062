import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from point_sets import edge_set, neighbour_distances, point_sets, points
from torch_geometric.data import Batch, Data

from pyg_match.transforms import AnchorEdges, EqualPartition, KNNGraph, scales
from pyg_match.transforms.equal_partition import equal_parts, fewest_parts


@settings(max_examples=80, deadline=None)
@example(pos=points("random", 40, 0), parts=13)
@given(pos=point_sets(), parts=st.integers(1, 20))
def test_parts_cover_all_nodes_once_and_differ_by_at_most_one(pos, parts):
    data = EqualPartition(parts)(Data(pos=pos))
    sizes = torch.bincount(data.part, minlength=parts)
    assert data.part.shape == (len(pos),) and sizes.numel() == parts
    assert int(sizes.max() - sizes.min()) <= 1
    same = data.part[:, None] == data.part
    expected = {(j, i) for i, j in (same & ~torch.eye(len(pos), dtype=torch.bool)).nonzero().tolist()}
    assert edge_set(data.edge_index) == expected
    assert data.edge_index.is_sorted_by_col
    looped = EqualPartition(parts, loop=True)(Data(pos=pos)).edge_index
    assert edge_set(looped) == expected | {(i, i) for i in range(len(pos))}


@settings(max_examples=30, deadline=None)
@given(pos=point_sets(), parts=st.integers(1, 5), k=st.integers(1, 6))
def test_nearest_inside_the_part(pos, parts, k):
    data = EqualPartition(parts, k=k)(Data(pos=pos))
    source, target = data.edge_index.as_tensor()
    assert torch.equal(data.part[source], data.part[target])
    assert data.edge_index.is_sorted_by_col and (target.diff() >= 0).all()
    distance = (pos[source].double() - pos[target].double()).norm(dim=1)
    for part in data.part.unique():
        inside = data.part == part
        expected = neighbour_distances(pos[inside], k)
        assert np.allclose(distance[inside[target]].numpy(), expected.reshape(-1))


def test_parts_are_regions():
    """Four parts of a square are its quarters, and a part is a rectangle that no other reaches into."""
    pos = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    part = equal_parts(pos, 4)
    quarter = (pos[:, 0] >= 4).long() * 2 + (pos[:, 1] >= 4).long()
    assert len({(a, b) for a, b in zip(part.tolist(), quarter.tolist(), strict=True)}) == 4
    pos = torch.rand(300, 2)
    part = equal_parts(pos, 7)
    for number in range(7):
        low, high = pos[part == number].amin(0), pos[part == number].amax(0)
        assert not ((pos > low) & (pos < high)).all(1)[part != number].any()


def test_groups_are_divided_apart():
    pos = torch.rand(50, 3)
    groups = torch.tensor([0] * 12 + [1] * 3 + [4] * 35)
    part = equal_parts(pos, 5, groups)
    for group in (0, 1, 4):
        assert torch.equal(part[groups == group], equal_parts(pos[groups == group], 5))


@settings(max_examples=60, deadline=None)
@given(pos=point_sets(), parts=st.integers(1, 7), k=st.integers(1, 20), loop=st.booleans())
def test_rank_modulo_graphs_partition_the_neighbours(pos, parts, k, loop):
    data = Data(pos=pos)
    whole = KNNGraph(k, loop=loop)(data).edge_index.as_tensor()
    graphs = scales(EqualPartition(parts, by="edges", k=k, loop=loop)(data))
    assert len(graphs) == parts
    union = [edge for graph in graphs for edge in edge_set(graph)]
    assert len(union) == whole.size(1) and set(union) == edge_set(whole)
    size = whole.size(1) // max(1, len(pos))
    for part, graph in enumerate(graphs):
        expected = whole[0].view(len(pos), size)[:, part::parts] if size else whole[:1]
        assert torch.equal(graph[0], expected.reshape(-1))


def test_parts_beyond_the_nodes_cost_nothing_and_change_nothing():
    pos, groups = torch.rand(60, 2), torch.arange(60) // 25
    data = Batch.from_data_list([Data(pos=part) for part in pos.split(25)])
    for transform in (EqualPartition(10**12), AnchorEdges(10**12, loop=True), EqualPartition(10**12, k=3)):
        drawn = transform(data.clone())
        assert "anchor" not in drawn or bool(drawn.anchor.all())
    assert EqualPartition(10**12)(data.clone()).edge_index.size(1) == 0
    for parts in (25, 26, 49, 50, 51, 99, 400, 401):
        fewer = fewest_parts(parts, groups, 60)
        assert fewer == parts if parts < 50 else 25 <= fewer < 50
        assert torch.equal(equal_parts(pos, parts, groups), equal_parts(pos, fewer, groups))


def test_repr_and_errors():
    assert str(EqualPartition(3)) == "EqualPartition(parts=3, by='nodes', k=None, loop=False)"
    with pytest.raises(ValueError, match="'parts' must be a whole number of at least 1, got 0"):
        EqualPartition(0)
    with pytest.raises(ValueError, match="'by' must be 'nodes' or 'edges', got 'parts'"):
        EqualPartition(2, by="parts")
    with pytest.raises(ValueError, match="needs their number 'k'"):
        EqualPartition(2, by="edges")
    with pytest.raises(ValueError, match="'k' must be a whole number of at least 1, got 0"):
        EqualPartition(2, k=0)
    with pytest.raises(ValueError, match="'pos' holds NaN"):
        EqualPartition(2)(Data(pos=torch.full((3, 2), torch.nan)))


def parts_one_by_one(pos, parts, index, first=0):
    """The same, a region at a time: ``[(node, part), ...]`` of the nodes in ``index``."""
    if parts == 1 or len(index) == 0:
        return [(node, first) for node in index]
    smaller, larger = divmod(len(index), parts)
    left = parts // 2
    extent = pos[index].amax(0) - pos[index].amin(0)
    axis = int(extent.argmax())
    index = sorted(index, key=lambda node: (float(pos[node, axis]), node))
    cut = left * smaller + min(left, larger)
    return [
        *parts_one_by_one(pos, left, index[:cut], first),
        *parts_one_by_one(pos, parts - left, index[cut:], first + left),
    ]


@settings(max_examples=60, deadline=None)
@given(pos=point_sets(), parts=st.integers(1, 12), data=st.data())
def test_equals_a_region_at_a_time(pos, parts, data):
    """Groups in any order, with numbers that are left out, and coordinates that are equal."""
    pos = (8 * pos).round() if data.draw(st.booleans()) else pos
    groups = torch.tensor(
        data.draw(st.lists(st.sampled_from([0, 2, 5]), min_size=len(pos), max_size=len(pos)))
    )
    part = equal_parts(pos, parts, groups.long())
    for group in (0, 2, 5):
        members = (groups == group).nonzero().flatten().tolist()
        assert all(part[node] == number for node, number in parts_one_by_one(pos, parts, members))


@pytest.mark.parametrize("dtype", [torch.int, torch.long, torch.uint8])
def test_positions_in_whole_numbers(dtype):
    pos = torch.tensor([[0, 0], [3, 1], [5, 5], [2, 9], [7, 7]])
    found, expected = (EqualPartition(2)(Data(pos=p)) for p in (pos.to(dtype), pos.double()))
    assert torch.equal(found.part, expected.part)
    assert torch.equal(found.edge_index.as_tensor(), expected.edge_index.as_tensor())
