import pytest
import torch
from helpers import random_pair
from point_sets import edge_set
from torch_geometric.data import Batch, Data

from pyg_match.transforms import CandidateEdges, CompleteGraph, KNNGraph, RemovePairs


def keep(data, allowed, key="edge_index"):
    return {(s, t) for s, t in edge_set(data[key]) if allowed(s, t)}


def test_by_index_in_both_directions():
    data = CompleteGraph()(Data(pos=torch.rand(4, 2)))
    expected = keep(data, lambda s, t: {s, t} not in ({0, 2}, {3}))
    for pairs in ([[2, 3], [0, 3]], torch.tensor([[0, 3], [2, 3]])):
        assert edge_set(RemovePairs(pairs)(data).edge_index) == expected
    data.forbidden_index = torch.tensor([[2, 3], [0, 3]])
    assert edge_set(RemovePairs("forbidden_index")(data).edge_index) == expected
    assert data.edge_index.size(1) == 16


def test_by_index_in_a_batch():
    pairs = []
    for count in (5, 7):
        pair = CompleteGraph(cross=False)(random_pair(count, count))
        pair.forbidden_index = torch.tensor([[0, count + 1], [2, count]])
        pairs.append(pair)
    transform = RemovePairs("forbidden_index")
    expected = Batch.from_data_list([transform(pair) for pair in pairs])
    out = transform(Batch.from_data_list(pairs))
    assert torch.equal(out.edge_index, expected.edge_index)
    assert out.edge_index.size(1) == 2 * (25 + 49) - 8


def test_pairs_by_a_name_that_holds_none():
    data = Data(pos=torch.rand(3, 2), edge_index=torch.tensor([[1], [0]]))
    with pytest.raises(ValueError, match="the data has no 'bad_index', which names the pairs to forbid"):
        RemovePairs("bad_index")(data)
    data.bad_index = torch.tensor([[0.9], [1.2]])
    with pytest.raises(TypeError, match=r"'bad_index' must be whole numbers, got torch.float32"):
        RemovePairs("bad_index")(data)
    data.bad_index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"'bad_index' must have shape \[2, M\], got \[2\]"):
        RemovePairs("bad_index")(data)


def test_descriptors_that_are_no_numbers():
    data = Data(x=torch.full((2, 3), torch.nan), edge_index=torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="'x' holds NaN"):
        RemovePairs(min_similarity=0.9)(data)


def test_by_index_of_many_nodes_with_short_numbers():
    edge_index = torch.tensor([[59_999, 0], [59_998, 1]], dtype=torch.int32)
    data = Data(pos=torch.zeros(60_000, 2), edge_index=edge_index)
    assert RemovePairs([[59_998], [59_999]])(data).edge_index.tolist() == [[0], [1]]


def test_by_distance_and_similarity():
    pair = CandidateEdges(5)(KNNGraph(6)(random_pair(30, 20)))
    keys = ("edge_index", "cross_edge_index")
    distance = torch.cdist(pair.pos.double(), pair.pos.double())
    cosine = pair.x @ pair.x.t()
    near, far = (
        distance[tuple(pair.edge_index.as_tensor())].quantile(torch.tensor([0.2, 0.7]).double()).tolist()
    )
    for kwargs, allowed in (
        ({"min_distance": near}, lambda s, t: distance[s, t] >= near),
        ({"max_distance": far}, lambda s, t: distance[s, t] <= far),
        ({"min_similarity": 0.05}, lambda s, t: cosine[s, t] >= 0.05),
        ({"max_similarity": 0.2}, lambda s, t: cosine[s, t] <= 0.2),
        (
            {"max_similarity": 0.2, "max_distance": far},
            lambda s, t: cosine[s, t] <= 0.2 and distance[s, t] <= far,
        ),
    ):
        out = RemovePairs(**kwargs, key=keys)(pair)
        assert out.validate()
        for key in keys:
            assert edge_set(out[key]) == keep(pair, allowed, key)
            assert out[key].is_sorted_by_col


def test_limits_are_allowed_themselves():
    pos, edge_index = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[1, 0], [0, 1]])
    data = Data(pos=pos, x=torch.eye(2), edge_index=edge_index)
    for name, limit in (("distance", 5.0), ("similarity", 0.0)):
        for bound in ("min", "max"):
            assert RemovePairs(**{f"{bound}_{name}": limit})(data).edge_index.size(1) == 2, (bound, name)


def test_by_function_and_only_the_named_edges():
    pair = CandidateEdges(5)(KNNGraph(6)(random_pair(30, 20)))
    out = RemovePairs(function=lambda data, s, t: data.score[s] < data.score[t], key="cross_edge_index")(pair)
    assert edge_set(out.cross_edge_index) == keep(
        pair, lambda s, t: pair.score[s] >= pair.score[t], "cross_edge_index"
    )
    assert out.edge_index is pair.edge_index


def test_mask_and_drop_say_the_same():
    pair = KNNGraph(6)(random_pair(30, 20))
    masked = RemovePairs(max_similarity=0.2, mode="mask")(pair)
    dropped = RemovePairs(max_similarity=0.2)(pair)
    assert torch.equal(masked.edge_index, pair.edge_index)
    assert masked.edge_mask.dtype == torch.bool and 0 < masked.edge_mask.sum() < masked.edge_mask.numel()
    assert torch.equal(masked.edge_index.as_tensor()[:, masked.edge_mask], dropped.edge_index.as_tensor())
    again = RemovePairs(pairs=[[0], [1]], mode="mask")(masked)
    assert not (again.edge_mask & ~masked.edge_mask).any()
    cross = RemovePairs(max_similarity=0.2, mode="mask", key="cross_edge_index")(CandidateEdges(4)(pair))
    assert cross.cross_edge_mask.shape == (cross.cross_edge_index.size(1),)
    assert "edge_mask" not in cross


def test_what_edges_carry_goes_with_them():
    edge_index = torch.tensor([[1, 2, 0, 3], [2, 0, 1, 0]])
    data = Data(pos=torch.arange(4.0).view(4, 1), edge_index=edge_index, edge_attr=edge_index.t() * 10)
    out = RemovePairs(max_distance=2.0)(data)
    assert out.edge_index.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert torch.equal(out.edge_attr, out.edge_index.as_tensor().t() * 10)
    masked = RemovePairs(max_distance=2.0, mode="mask")(data)
    assert masked.edge_index.tolist() == [[2, 3, 0, 1], [0, 0, 1, 2]]
    assert masked.edge_mask.tolist() == [True, False, True, True]
    assert torch.equal(masked.edge_attr, masked.edge_index.as_tensor().t() * 10)


def test_no_edges():
    out = RemovePairs(max_distance=1.0, max_similarity=0.5, mode="mask")(KNNGraph(3)(random_pair(1, 0)))
    assert out.edge_index.shape == (2, 0) and out.edge_mask.shape == (0,)


def test_repr_and_errors():
    assert str(RemovePairs([[0], [1]], max_distance=2.5)) == (
        "RemovePairs(pairs, max_distance=2.5, key=edge_index, mode='drop')"
    )
    with pytest.raises(ValueError, match="no criterion is given"):
        RemovePairs()
    with pytest.raises(ValueError, match="'mode' must be 'drop' or 'mask', got 'zero'"):
        RemovePairs(max_distance=1.0, mode="zero")
    with pytest.raises(ValueError, match=r"'pairs' must have shape \[2, M\], got \[3\]"):
        RemovePairs([0, 1, 2])
    with pytest.raises(ValueError, match="must contain 'index'"):
        RemovePairs("forbidden")
    with pytest.raises(ValueError, match=r"'key' must contain 'index', .* got 'adj'"):
        RemovePairs(max_distance=1.0, key=("edge_index", "adj"))
    with pytest.raises(ValueError, match="has no 'cross_edge_index' to remove pairs from"):
        RemovePairs(max_distance=1.0, key="cross_edge_index")(random_pair(3, 3))
    data = KNNGraph(2)(Data(pos=torch.rand(5, 2)))
    with pytest.raises(ValueError, match=r"must return a mask torch.bool \[10\], got torch.int64 \[10\]"):
        RemovePairs(function=lambda data, s, t: s)(data)


def test_nodes_that_do_not_exist():
    data = CompleteGraph()(Data(pos=torch.rand(8, 2)))
    for pairs, seen in (([[0], [10]], 10), ([[-1], [3]], -1)):
        with pytest.raises(ValueError, match=f"'pairs' name node {seen}, but there are 8"):
            RemovePairs(pairs)(data)


def test_attributes_that_are_missing():
    data = CompleteGraph()(Data(pos=torch.rand(8, 2)))
    with pytest.raises(TypeError, match="the data lacks 'x', which RemovePairs"):
        RemovePairs(min_similarity=0.5)(data)
    data.pos = None
    with pytest.raises(TypeError, match="the data lacks 'pos'"):
        RemovePairs(max_distance=0.5)(data)


@pytest.mark.parametrize("kind", [torch.long, torch.half])
def test_whole_and_short_numbers(kind):
    pos, x = torch.tensor([[0, 0], [400, 0], [900, 0]]), torch.eye(3)[[0, 0, 1]]
    data = CompleteGraph()(Data(pos=pos.to(kind), x=x.to(kind)))
    near = keep(data, lambda s, t: {s, t} != {0, 2})
    assert edge_set(RemovePairs(max_distance=500.0)(data).edge_index) == near
    alike = keep(data, lambda s, t: s == t or {s, t} == {0, 1})
    assert edge_set(RemovePairs(min_similarity=0.5)(data).edge_index) == alike


@pytest.mark.parametrize("mode", ["mask", "drop"])
def test_all_that_edges_have_goes_with_them(mode):
    data = Data(
        pos=torch.tensor([[0.0], [1.0], [3.0]]),
        edge_index=torch.tensor([[1, 2, 0], [1, 0, 2]]),
        edge_type=torch.tensor([0, 1, 2]),
        edge_time=torch.tensor([5.0, 6.0, 7.0]),
    )
    out = RemovePairs(max_distance=9.0 if mode == "mask" else 2.0, mode=mode)(data)
    types = {ends: kind for kind, ends in enumerate([(1, 1), (2, 0), (0, 2)])}
    ends = [tuple(edge) for edge in out.edge_index.as_tensor().t().tolist()]
    assert len(ends) == (3 if mode == "mask" else 1)
    assert out.edge_type.tolist() == [types[edge] for edge in ends]
    assert out.edge_time.tolist() == [5.0 + types[edge] for edge in ends]
    out.validate()


def test_what_has_as_many_rows_as_there_are_edges_by_chance_stays():
    pair = random_pair(3, 4)
    pair.edge_index = torch.tensor([[0, 4], [1, 3]])
    sizes = pair.image_size.clone()
    out = RemovePairs(torch.tensor([[0], [1]]))(pair)
    assert out.edge_index.as_tensor().tolist() == [[4], [3]]
    assert torch.equal(out.image_size, sizes)
