import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from pyg_match import knn_graph
from pyg_match.ops import knn, knn_batched
from pyg_match.ops.knn import available_backends


def brute_force(points, k, loop):
    """Neighbours by (distance, index), one point at a time."""
    edges = []
    for target, point in enumerate(points.double()):
        distance = ((points.double() - point) ** 2).sum(1).tolist()
        if loop:
            distance[target] = -1.0
        order = sorted((d, i) for i, d in enumerate(distance) if loop or i != target)
        edges += [[source, target] for _, source in order[:k]]
    return torch.tensor(edges, dtype=torch.long).view(-1, 2).t()


@pytest.mark.parametrize("backend", ["auto", *available_backends()])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_brute_force_ties_included(backend, data):
    n = data.draw(st.integers(0, 40))
    k = data.draw(st.integers(1, 50))
    loop = data.draw(st.booleans())
    seed = data.draw(st.integers(0, 999))
    grid = data.draw(st.sampled_from([1, 3, 1000]))  # 1: all points equal, 3: many ties
    points = torch.randint(0, grid, (n, 2), generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(knn_graph(points, k, loop=loop, backend=backend), brute_force(points, k, loop))


@pytest.mark.parametrize("backend", ["auto", "scipy"])
@pytest.mark.parametrize("k", [8, 20, 44])
def test_equal_distances_that_rounding_tells_apart(k, backend):
    """Steps of a tenth: many squared distances are equal but for their last bit."""
    points = torch.cartesian_prod(torch.arange(25), torch.arange(25)).double() / 10
    assert torch.equal(knn_graph(points, k, backend=backend), brute_force(points, k, loop=False))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_all_examples_at_once_give_the_same(data):
    """As on a GPU, with few distances at a time, ties and empty examples."""
    sizes = data.draw(st.lists(st.integers(0, 15), max_size=5))
    k, loop = data.draw(st.integers(1, 18)), data.draw(st.booleans())
    seed, grid = data.draw(st.integers(0, 999)), data.draw(st.sampled_from([1, 3, 1000]))
    points = torch.randint(0, grid, (sum(sizes), 2), generator=torch.Generator().manual_seed(seed)).float()
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    expected = knn_graph(points, k, batch, loop=loop, batch_size=len(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn_batched, "_ELEMENTS", data.draw(st.sampled_from([1, 40, 1 << 26])))
        assert torch.equal(knn_batched.batched_knn(points, ptr, k, loop), expected)


def test_equals_ckdtree_on_random_points():
    points = torch.rand(500, 2)
    _, expected = cKDTree(points.numpy()).query(points.numpy(), k=9)
    edge_index = knn_graph(points, 8)
    assert np.array_equal(edge_index[0].view(500, 8).numpy(), expected[:, 1:])
    assert torch.equal(edge_index[1], torch.arange(500).repeat_interleave(8))


def test_batch_flow_cosine_and_one_dimension():
    points = torch.rand(30, 5)
    batch = torch.tensor([0] * 12 + [2] * 18)
    edge_index = knn_graph(points, 4, batch, batch_size=4)
    parts = [knn_graph(points[:12], 4), knn_graph(points[12:], 4) + 12]
    assert torch.equal(edge_index, torch.cat(parts, 1))
    assert torch.equal(knn_graph(points, 4, batch, flow="target_to_source"), edge_index.flip(0))
    near = torch.nn.functional.normalize(points, dim=1)
    nearest = (near @ near.t()).fill_diagonal_(-2).argmax(1)
    assert torch.equal(knn_graph(points, 1, cosine=True)[0], nearest)
    assert knn_graph(torch.tensor([0.0, 1.0, 3.0]), 1).tolist() == [[1, 0, 1], [0, 1, 2]]


@pytest.mark.skipif(
    importlib.util.find_spec("torch_cluster") is None, reason="torch-cluster is not installed"
)
def test_equals_torch_cluster():
    from torch_cluster import knn_graph as peer

    points = torch.rand(300, 2)
    ours, theirs = knn_graph(points, 8, backend="torch_cluster"), peer(points, 8)
    assert {tuple(e) for e in ours.t().tolist()} == {tuple(e) for e in theirs.t().tolist()}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"k": 0}, "'k' must be a whole number of at least 1, got 0"),
        ({"flow": "up"}, "'flow' must be"),
        ({"backend": "faiss"}, "'backend' must be .* got 'faiss'"),
        ({"batch": torch.tensor([1, 0, 1])}, "'batch' must be sorted"),
        ({"batch": torch.tensor([0, 1])}, r"'batch' must have shape \[3\], got \[2\]"),
        ({"x": torch.tensor([[0.0], [torch.nan], [1.0]])}, "'x' holds NaN"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        knn_graph(**{"x": torch.rand(3, 1), "k": 1, **kwargs})


@pytest.mark.parametrize("name", ["num_workers", "batch_size"])
@pytest.mark.parametrize("value", [-2, 1.5, "2"])
def test_other_numbers_are_checked(name, value):
    batch = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=f"'{name}' must be a whole number of at least"):
        knn_graph(torch.rand(3, 2), 1, batch, backend="scipy", **{name: value})


def test_missing_backend_says_what_to_install():
    if importlib.util.find_spec("torch_cluster") is None:
        with pytest.raises(ImportError, match="torch-cluster"):
            knn_graph(torch.rand(3, 2), 1, backend="torch_cluster")
    if "pyg" not in available_backends():
        with pytest.raises(ImportError, match="pyg-lib"):
            knn_graph(torch.rand(3, 2), 1, backend="pyg")


@pytest.mark.parametrize("backend", ["auto", "scipy", "torch"])
@pytest.mark.parametrize("dimensions", [1, 2, 7])
@pytest.mark.parametrize("scale", [1e200, 1e300, 1e-200, 1e-300, 1e160])
def test_squares_beyond_the_range_of_numbers(scale, dimensions, backend):
    points = torch.rand(60, dimensions, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    assert torch.equal(knn_graph(points * scale, 5, backend=backend), knn_graph(points, 5))


@pytest.mark.parametrize(("dimensions", "k"), [(3, 520), (9, 5), (8, 30)])
@pytest.mark.parametrize("backend", ["auto", "scipy", "torch"])
def test_ties_whatever_the_search_rounds(dimensions, k, backend):
    points = torch.randint(0, 6, (600, dimensions), generator=torch.Generator().manual_seed(0)).double() * 0.7
    assert torch.equal(knn_graph(points, k, backend=backend), brute_force_of_sums(points, k))


def brute_force_of_sums(points, k):
    """By (distance, index), with squares summed one coordinate after the other."""
    distance = points.new_zeros(points.size(0), points.size(0))
    for column in points.unbind(1):
        distance += (column.unsqueeze(1) - column) ** 2
    source = distance.fill_diagonal_(torch.inf).argsort(dim=1, stable=True)[:, :k]
    return torch.stack([source.flatten(), torch.arange(points.size(0)).repeat_interleave(k)])


def test_points_that_coincide_are_ranked_some_at_a_time(monkeypatch):
    points = torch.rand(300, 2).round(decimals=1)
    expected = knn_graph(points, 7)
    monkeypatch.setattr(knn, "_MOST_FOUND", 1000)
    assert torch.equal(knn_graph(points, 7), expected)
    assert torch.equal(knn_graph(points, 7), brute_force(points, 7, loop=False))
