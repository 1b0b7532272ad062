"""Edges that transforms draw, against what one would draw by hand."""

import numpy as np
import torch
from fuzz.oracle import accepted, attempt, fuzz
from fuzz.strategies import attributes, counts, edges, either, junk, numbers, points
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data, HeteroData

from pyg_match import knn_graph
from pyg_match.data import KeypointPair
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    CompleteGraph,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    PrecomputedEdges,
    RemovePairs,
    RingPartition,
    graph_from_recipe,
    scales,
)

# Two that are right, one that falls, and one that starts below 0.
BATCHES = [
    lambda size: torch.arange(size) // 3,
    lambda size: torch.arange(size) * 2,
    lambda size: torch.arange(size).flip(0) // 2,
    lambda size: torch.arange(size) - 1,
]


@st.composite
def transforms(draw):
    """A call that makes a transform, with arguments that may be anything."""
    kind = draw(st.integers(0, 9))
    k, flag = draw(counts), draw(st.booleans())
    ks = draw(st.one_of(st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(sorted), junk))
    by = draw(st.sampled_from(["nodes", "nodes", "edges", "parts", None]))
    other = draw(st.one_of(st.none(), counts))
    makers = [
        lambda: KNNGraph(k, loop=flag),
        lambda: CandidateEdges(k, symmetric=flag),
        lambda: DiverseKNN(k, pool=other, loop=flag),
        lambda: AnchorEdges(k, loop=flag, weighted=by == "nodes"),
        lambda: EqualPartition(k, by=by, k=other, loop=flag),
        lambda: RingPartition(ks, loop=flag),
        lambda: NestedPartition(ks, loop=flag),
        lambda: CompleteGraph(loop=flag),
        lambda: AnchorEdges(k, loop=True, listed=False),
        lambda: DiverseKNN(k, distance_weight=other, space="direction"),
    ]
    return makers[kind]


@st.composite
def graphs(draw):
    """Data, pairs and batches, some of which are none."""
    kind = draw(st.integers(0, 9))
    if kind <= 4:
        sizes = (draw(st.integers(0, 7)), draw(st.integers(0, 7)))
        pair = KeypointPair(num_keypoints=sizes, **attributes(draw, sum(sizes)))
        if draw(st.integers(0, 4)) == 0:
            return Batch.from_data_list([pair, pair.clone()])
        if draw(st.integers(0, 9)) == 0:
            pair[draw(st.sampled_from(["pos", "x", "num_keypoints"]))] = draw(junk)
        return pair
    if kind <= 7:
        size = draw(st.integers(0, 9))
        data = Data(pos=points(draw, size), x=points(draw, size, 3) - 32)
        if draw(st.booleans()):
            data.batch = either(draw, BATCHES[draw(st.integers(0, 3))](size))
        return data
    if kind == 8:
        return Data(**{name: draw(junk) for name in draw(st.sampled_from([["pos"], ["x"], ["pos", "x"]]))})
    makers = [HeteroData, Data, lambda: None, lambda: "data", lambda: Data(x=torch.ones(3, 2))]
    return draw(st.sampled_from(makers))()


def groups_of(data) -> list[int]:
    if isinstance(data, KeypointPair):
        return data.image_batch.tolist()
    batch = data.get("batch")
    return [0] * len(data.pos) if batch is None else batch.tolist()


def check_edges(edge_index, groups, cross) -> None:
    source, target = edge_index.as_tensor()
    assert bool((target[1:] >= target[:-1]).all())
    listed = list(zip(source.tolist(), target.tolist(), strict=True))
    assert len(set(listed)) == len(listed), "an edge is listed twice"
    for s, t in listed:
        assert 0 <= s < len(groups) and 0 <= t < len(groups)
        assert groups[s] == groups[t] ^ int(cross)


@fuzz
@given(make=transforms(), data=graphs())
def test_transforms(make, data):
    made, transform = accepted(make)
    if not made:
        return
    repr(transform)
    drawn, out = accepted(lambda: transform(data))
    if not drawn:
        return
    assert isinstance(data, Data)
    groups = groups_of(out)
    for name in ("edge_index", "cross_edge_index"):
        if out.get(name) is not None:
            check_edges(out[name], groups, name.startswith("cross"))
    for scale in scales(out):
        check_edges(scale, groups, False)
    if isinstance(transform, KNNGraph):
        check_nearest(out.edge_index.as_tensor(), out.pos, groups, transform.k, transform.loop)
    if isinstance(out, Batch):
        assert len(out.to_data_list()) == out.num_graphs
    elif out.get("edge_index") is not None and len(groups) > 0:
        # PyG's own calls take what a transform draws.
        alone = Data(pos=out.pos, edge_index=out.edge_index)
        attempt(alone.is_undirected)
        assert attempt(lambda: Batch.from_data_list([alone])).num_nodes == alone.num_nodes


def check_nearest(edge_index, pos, groups, k, loop) -> None:
    """By sorting the distances of all points, ties by number."""
    array = pos.double().numpy()
    expected = []
    for target in range(len(array)):
        others = [s for s in range(len(array)) if groups[s] == groups[target] and (loop or s != target)]
        distance = {
            s: -1.0 if s == target else float(((array[s] - array[target]) ** 2).sum()) for s in others
        }
        expected += [(s, target) for s in sorted(others, key=lambda s: (distance[s], s))[:k]]
    found = list(map(tuple, edge_index.t().tolist()))
    assert len(found) == len(expected)
    for (s, t), (other, target) in zip(found, expected, strict=True):
        assert t == target
        same = np.isclose(
            ((array[s] - array[t]) ** 2).sum(), ((array[other] - array[t]) ** 2).sum(), rtol=1e-6
        )
        assert same or s == other


@fuzz
@given(data=st.data())
def test_knn_graph(data):
    size = data.draw(st.integers(0, 9))
    x = points(data.draw, size) if data.draw(st.integers(0, 3)) else data.draw(junk)
    k, loop, cosine = data.draw(counts), data.draw(st.booleans()), data.draw(st.booleans())
    batch = None if data.draw(st.booleans()) else either(data.draw, torch.arange(size) // 4)
    options = {
        "loop": loop,
        "cosine": cosine,
        "flow": data.draw(st.sampled_from(["source_to_target", "x", None])),
    }
    good, out = accepted(lambda: knn_graph(x, k, batch, **options))
    if good:
        groups = [0] * len(x) if batch is None else batch.tolist()
        assert out.dtype == torch.long and out.shape[0] == 2
        if not cosine:
            check_nearest(
                out, x.double().flatten(1) if x.dim() > 1 else x.double().view(-1, 1), groups, int(k), loop
            )


@fuzz
@given(data=st.data())
def test_edges_of_others(data):
    size0, size1 = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    size, kind = size0 + size1, data.draw(st.integers(0, 3))
    graph = KeypointPair(num_keypoints=(size0, size1), **attributes(data.draw, size))
    if kind == 1:
        graph = Data(pos=graph.pos)
    elif kind == 2:
        graph = Data(pos=graph.pos, batch=torch.arange(size) // 3)
    elif kind == 3:
        graph, size = Batch.from_data_list([graph, graph.clone()]), 2 * size
    adjacency = data.draw(st.one_of(edges(size), junk, st.sampled_from(["edge_index", "dense"])))
    if isinstance(adjacency, str) and adjacency == "dense":
        adjacency = torch.eye(size, dtype=torch.bool)
    key = data.draw(st.sampled_from(["edge_index", "cross_edge_index", "edge_index_0", "other"]))
    good, out = accepted(lambda: PrecomputedEdges(adjacency, key)(graph))
    if good and isinstance(out.get("pos"), torch.Tensor):
        source, target = out[key].as_tensor()
        groups = groups_of(out)
        cross = isinstance(out, KeypointPair) and key.startswith("cross")
        groups = (
            [group // 2 for group in groups] if isinstance(out, KeypointPair) and key == "other" else groups
        )
        assert all(
            groups[s] == groups[t] ^ int(cross) for s, t in zip(source.tolist(), target.tolist(), strict=True)
        )
        assert bool((target[1:] >= target[:-1]).all())


@fuzz
@given(data=st.data())
def test_removing_pairs(data):
    graph = data.draw(graphs())
    size = (
        len(graph.pos)
        if isinstance(graph, Data) and isinstance(graph.get("pos"), torch.Tensor) and graph.pos.dim()
        else 3
    )
    if isinstance(graph, Data) and data.draw(st.booleans()):
        graph = graph.clone()
        graph.edge_index = data.draw(edges(size))
    options = {
        name: data.draw(numbers)
        for name in data.draw(
            st.lists(st.sampled_from(["min_distance", "max_distance", "max_similarity"]), max_size=2)
        )
    }
    if data.draw(st.booleans()):
        options["pairs"] = data.draw(st.one_of(edges(size), junk))
    mode = data.draw(st.sampled_from(["drop", "mask", "other"]))
    good, out = accepted(lambda: RemovePairs(**options, mode=mode)(graph))
    if not good:
        return
    source, target = out.edge_index.as_tensor()
    keep = out.get("edge_mask", torch.ones_like(source, dtype=torch.bool))
    has_pos = isinstance(out.get("pos"), torch.Tensor)
    assert keep.shape == source.shape and bool((target[1:] >= target[:-1]).all())
    for s, t in zip(source[keep].tolist(), target[keep].tolist(), strict=True):
        distance = float((out.pos[s] - out.pos[t]).double().norm()) if has_pos else 0.0
        assert options.get("min_distance") is None or distance >= float(options["min_distance"]) - 1e-4
        assert options.get("max_distance") is None or distance <= float(options["max_distance"]) + 1e-4


@fuzz
@given(
    recipe=st.one_of(
        junk,
        st.lists(
            st.dictionaries(
                st.sampled_from(
                    ["KNNGraph", "CandidateEdges", "AnchorEdges", "RemovePairs", "Nothing", "scales"]
                ),
                st.one_of(
                    junk,
                    st.dictionaries(st.sampled_from(["k", "num_anchors", "loop", "x"]), numbers, max_size=2),
                ),
                max_size=2,
            ),
            max_size=3,
        ),
    )
)
def test_recipes(recipe):
    good, made = accepted(lambda: graph_from_recipe(recipe))
    if good:
        assert len(made.transforms) == len(recipe)
