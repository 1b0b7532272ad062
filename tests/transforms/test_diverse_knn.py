import pytest
import torch
from helpers import random_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from point_sets import edge_set, point_sets
from torch_geometric.data import Data

from pyg_match.transforms import DiverseKNN, KNNGraph


def greedy(pos, vectors_of, target, k, distance_weight, orthogonality_weight, pool):
    """The neighbours of one node by the formula, with loops."""
    pos = pos.double()
    distance = (pos - pos[target]).square().sum(1)
    order = sorted((d, i) for i, d in enumerate(distance.tolist()) if i != target)[:pool]
    candidates = [i for _, i in order]
    vectors = vectors_of(target)
    farthest = max(order[-1][0] ** 0.5, 1e-300) if order else 1.0
    chosen = []
    while len(chosen) < min(k, len(candidates)):
        costs = []
        for rank, i in enumerate(candidates):
            if i in chosen:
                continue
            cosines = [float(torch.cosine_similarity(vectors[i], vectors[s], dim=0).abs()) for s in chosen]
            cost = distance_weight * distance[i].item() ** 0.5 / farthest
            costs.append((cost + orthogonality_weight * max(cosines, default=0.0), rank))
        chosen.append(candidates[min(costs)[1]])
    return sorted(chosen, key=candidates.index)


@pytest.mark.parametrize("space", ["descriptor", "direction"])
def test_equals_a_loop_over_nodes(space):
    data = random_pair(25, 9).image(0)
    x, pos = data.x.double(), data.pos.double()
    data.x = x
    out = DiverseKNN(4, 0.7, 1.3, pool=11, space=space)(data)
    for target in range(25):
        vectors_of = (lambda _: x) if space == "descriptor" else (lambda t: pos - pos[t])
        expected = greedy(pos, vectors_of, target, 4, 0.7, 1.3, 11)
        assert out.edge_index[0, out.edge_index[1] == target].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    pos=point_sets(),
    k=st.integers(1, 12),
    loop=st.booleans(),
    space=st.sampled_from(["descriptor", "direction"]),
)
def test_without_orthogonality_it_is_the_nearest_neighbours(pos, k, loop, space):
    data = Data(pos=pos, x=torch.randn(len(pos), 6))
    out = DiverseKNN(k, orthogonality_weight=0.0, space=space, loop=loop)(data)
    expected = KNNGraph(k, loop=loop)(data)
    assert torch.equal(out.edge_index, expected.edge_index)
    assert out.edge_index.is_sorted_by_col


@settings(max_examples=40, deadline=None)
@given(pos=point_sets(), k=st.integers(1, 8), weight=st.floats(0.1, 50.0), loop=st.booleans())
def test_neighbours_come_from_the_pool_sorted_by_distance(pos, k, weight, loop):
    data = Data(pos=pos, x=torch.randn(len(pos), 6))
    out = DiverseKNN(k, orthogonality_weight=weight, pool=2 * k, loop=loop)(data).edge_index.as_tensor()
    pool = KNNGraph(2 * k, loop=loop)(data).edge_index
    assert edge_set(out) <= edge_set(pool)
    assert out.size(1) == KNNGraph(k, loop=loop)(data).edge_index.size(1)
    distance = (pos[out[0]].double() - pos[out[1]].double()).norm(dim=1)
    same_target = out[1].diff() == 0
    assert (distance.diff()[same_target] >= -1e-9).all()


def test_threads_do_not_matter(monkeypatch):
    pair = random_pair(60, 35)
    expected = DiverseKNN(5)(pair).edge_index
    monkeypatch.setattr("pyg_match.ops.diverse._WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(DiverseKNN(5)(pair).edge_index, expected)


def test_zero_and_half_precision_descriptors():
    data = random_pair(30, 3).image(0)
    data.x[::3] = 0.0
    assert DiverseKNN(4)(data).edge_index.size(1) == 120
    data.x = data.x.half()
    assert DiverseKNN(4)(data).edge_index.size(1) == 120


def test_more_weight_gives_less_similar_neighbours():
    data = random_pair(300, 3, channels=8).image(0)
    x = torch.nn.functional.normalize(data.x, dim=1)
    means = []
    for weight in (0.0, 0.25, 1.0, 4.0, 16.0):
        source = DiverseKNN(8, orthogonality_weight=weight)(data).edge_index[0].view(300, 8)
        cosine = torch.bmm(x[source], x[source].transpose(1, 2)).abs()
        means.append(float(cosine.sum() - cosine.diagonal(dim1=1, dim2=2).sum()) / (300 * 56))
    assert all(b < a for a, b in zip(means[:-1], means[1:], strict=True)), means


def test_repr_and_errors():
    assert str(DiverseKNN(4)) == (
        "DiverseKNN(k=4, distance_weight=1.0, orthogonality_weight=1.0, pool=16, space='descriptor')"
    )
    for kwargs, message in (
        ({"k": 0}, "'k' must be a whole number of at least 1, got 0"),
        ({"pool": 3}, "'pool' must hold at least the k=4 neighbours to choose, got 3"),
        ({"distance_weight": -1.0}, "'distance_weight' must be a finite number of at least 0, got -1.0"),
        ({"orthogonality_weight": torch.nan}, "'orthogonality_weight' must be a finite number"),
        ({"space": "pixel"}, "'space' must be 'descriptor' or 'direction', got 'pixel'"),
    ):
        with pytest.raises(ValueError, match=message):
            DiverseKNN(**{"k": 4, **kwargs})
    with pytest.raises(TypeError, match="the data lacks 'x', which DiverseKNN needs"):
        DiverseKNN(2)(Data(pos=torch.rand(5, 2)))
    for x in (torch.empty(5, 0), torch.rand(5)):
        with pytest.raises(ValueError, match=r"'x' must hold descriptors of shape \[N, D\], got shape \[5"):
            DiverseKNN(2)(Data(pos=torch.rand(5, 2), x=x))
    with pytest.raises(ValueError, match="'x' holds NaN"):
        DiverseKNN(2)(Data(pos=torch.rand(3, 2), x=torch.full((3, 2), torch.nan)))


def test_a_default_device_changes_nothing():
    data = Data(pos=torch.rand(30, 2), x=torch.randn(30, 8))
    expected = DiverseKNN(3)(data).edge_index
    with torch.device("meta"):
        assert torch.equal(DiverseKNN(3)(data).edge_index, expected)


@pytest.mark.parametrize("space", ["descriptor", "direction"])
def test_the_same_choice_without_the_kernel(space, monkeypatch):
    pair = random_pair(60, 35)
    pair.pos, pair.x = pair.pos.double(), pair.x.double()
    expected = DiverseKNN(5, space=space)(pair.clone()).edge_index
    monkeypatch.setattr("pyg_match.ops.diverse.library", lambda: None)
    for most in (1 << 24, 1):  # all rows at once, and one after the other
        monkeypatch.setattr("pyg_match.ops.diverse._MOST_NUMBERS", most)
        assert torch.equal(DiverseKNN(5, space=space)(pair.clone()).edge_index, expected)


@pytest.mark.parametrize("space", ["descriptor", "direction"])
@pytest.mark.parametrize("factor", [2.0**130, 2.0**1000, 2.0**-200])
def test_only_the_ratio_of_weights_counts(space, factor):
    data = Data(pos=torch.rand(60, 2), x=torch.randn(60, 8))
    found, expected = (DiverseKNN(4, w, 2 * w, space=space)(data).edge_index for w in (factor, 1.0))
    assert torch.equal(found.as_tensor(), expected.as_tensor())
