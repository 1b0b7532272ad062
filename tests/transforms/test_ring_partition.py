import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from point_sets import edge_set, neighbour_distances, point_sets
from torch_geometric.data import Data

from pyg_match.transforms import KNNGraph, NestedPartition, RingPartition, scales

RANKS = st.lists(st.integers(1, 25), min_size=1, max_size=4, unique=True).map(sorted)


@settings(max_examples=60, deadline=None)
@given(pos=point_sets(), ks=RANKS, loop=st.booleans())
def test_rings_are_disjoint_and_their_union_is_the_outer_graph(pos, ks, loop):
    data = Data(pos=pos)
    rings = scales(RingPartition(ks, loop=loop)(data))
    nested = scales(NestedPartition(ks, loop=loop)(data))
    assert len(rings) == len(nested) == len(ks)
    seen = set()
    for number, (ring, graph, k) in enumerate(zip(rings, nested, ks, strict=True)):
        edges = edge_set(ring)
        assert not edges & seen
        seen |= edges
        assert edge_set(graph) == seen
        assert torch.equal(graph, KNNGraph(k, loop=loop)(data).edge_index)
        assert ring.is_sorted_by_col and ring.sparse_size() == (len(pos), len(pos))
        ring.validate(), graph.validate()
        if number > 0:
            assert edge_set(nested[number - 1]) <= edge_set(graph)


@settings(max_examples=60, deadline=None)
@given(pos=point_sets(), ks=RANKS)
def test_distances_are_those_of_a_kd_tree(pos, ks):
    expected = neighbour_distances(pos, ks[-1])
    start = 0
    for ring, k in zip(scales(RingPartition(ks)(Data(pos=pos))), ks, strict=True):
        source, target = ring.as_tensor()
        distance = (pos[source].double() - pos[target].double()).norm(dim=1).numpy()
        assert np.allclose(distance, expected[:, start:k].reshape(-1))
        start = k


def test_replaces_the_scales_that_were_there():
    data = RingPartition([1, 2, 3])(Data(pos=torch.rand(9, 2)))
    again = RingPartition([2, 4])(data)
    assert len(scales(again)) == 2
    assert len(scales(data)) == 3
    assert scales(Data(pos=torch.rand(3, 2))) == []


def test_repr_and_errors():
    assert str(RingPartition([2, 6])) == "RingPartition(ks=[2, 6], loop=False)"
    assert str(NestedPartition((2, 6), loop=True)) == "NestedPartition(ks=[2, 6], loop=True)"
    for transform in (RingPartition, NestedPartition):
        for ks in ([], [0, 3], [4, 4], [8, 2]):
            with pytest.raises(ValueError, match="'ks' must be growing positive numbers"):
                transform(ks)
