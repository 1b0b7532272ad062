import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_match.ops import largest as module
from pyg_match.ops.largest import LargestOfColumns, largest_indices, nearest_indices


def by_sorting(values, k):
    return values.argsort(dim=1, descending=True, stable=True)[:, :k]


def squared_distances(points, nodes):
    distance = points.new_zeros(nodes.numel(), points.size(0))
    for column in points.unbind(1):
        distance += (column[nodes].unsqueeze(1) - column) ** 2
    return distance


@settings(deadline=None)
@given(
    st.integers(0, 9),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 4),
    st.sampled_from([torch.float, torch.double]),
    st.integers(0, 1000),
)
def test_nearest_points_are_those_of_sorted_distances(rows, length, k, dimensions, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(length, dimensions, generator=generator, dtype=dtype)
    nodes = torch.randint(length, (rows,), generator=generator)
    k = min(k, length)
    assert torch.equal(nearest_indices(points, nodes, k), by_sorting(-squared_distances(points, nodes), k))
    # Steps of a quarter: many are equally far.
    steps = (4 * points).round() / 4
    distance, found = squared_distances(steps, nodes), nearest_indices(steps, nodes, k)
    assert torch.equal(distance.gather(1, found), distance.sort(1).values[:, :k])
    assert all(len(set(row)) == k for row in found.tolist())


@pytest.mark.parametrize("threads", [1, 3])
def test_nearest_points_of_every_kind(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    points = torch.rand(2000, 2, dtype=torch.double)
    points[:600] = 0.5
    nodes = torch.arange(2000).flip(0)
    distance, found = squared_distances(points, nodes), nearest_indices(points, nodes, 40)
    assert torch.equal(distance.gather(1, found), distance.sort(1).values[:, :40])
    monkeypatch.setattr(module, "_CACHED_NUMBERS", 1 << 12)
    monkeypatch.setattr(module, "library", lambda: None)
    plain = nearest_indices(points, nodes, 40)
    assert torch.equal(distance.gather(1, plain), distance.gather(1, found))


@settings(deadline=None)  # compiled in the first call
@given(
    st.integers(1, 9),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([torch.float, torch.double]),
    st.integers(0, 1000),
)
def test_it_sorts_as_a_stable_sort_does(rows, length, k, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, length, generator=generator, dtype=dtype)
    k = min(k, length)
    assert torch.equal(largest_indices(values, k), by_sorting(values, k))
    # Steps of a quarter: many are equal.
    steps = (4 * values).round() / 4
    found = largest_indices(steps, k)
    assert torch.equal(steps.gather(1, found), steps.gather(1, by_sorting(steps, k)))
    assert all(len(set(row)) == k for row in found.tolist())


def test_equal_numbers_come_in_their_order():
    values = torch.zeros(2, 200)
    values[0, [5, 70, 130]] = 1.0
    values[1, 199] = 1.0
    values[1, :64:8] = 0.5
    assert largest_indices(values, 3)[0].tolist() == [5, 70, 130]
    assert largest_indices(values, 4)[1].tolist() == [199, 0, 8, 16]


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_of_every_kind(threads):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(700, 2048, generator=generator)
    rows[3] = 2.5  # all equal: left to torch
    rows[5] = torch.arange(2048.0)
    rows[7] = -torch.arange(2048.0)
    rows[9] = 1e30 * rows[9]
    rows[11, 4:] = -torch.inf
    rows[13, 100:120] = torch.inf
    rows[15] = 1e-40
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = largest_indices(rows, 32)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(rows.gather(1, found), rows.topk(32, dim=1).values)
    assert all(len(set(row)) == 32 for row in found.tolist())
    plain = [i for i in range(700) if i not in (3, 11, 13, 15)]
    assert torch.equal(found[plain], by_sorting(rows, 32)[plain])


def test_views_and_gradients():
    values = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    for other in (values.t().contiguous().t(), values[:, ::2], values.clone().requires_grad_()):
        assert torch.equal(largest_indices(other, 5), by_sorting(other.detach(), 5))


def test_what_the_kernel_does_not_take():
    values = torch.randn(4, 900, generator=torch.Generator().manual_seed(0))
    found = largest_indices(values, 600)
    assert torch.equal(found, by_sorting(values, 600))
    assert torch.equal(largest_indices(values.half(), 5), values.half().topk(5, dim=1).indices)
    assert largest_indices(values[:0], 5).shape == (0, 5) and largest_indices(values, 0).shape == (4, 0)
    assert largest_indices(values[:, :0], 0).shape == (4, 0)
    with pytest.raises(RuntimeError):
        largest_indices(values, 901)


def test_a_default_device_changes_nothing():
    values = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        found = largest_indices(values, 4)
    assert torch.equal(found, by_sorting(values, 4))


def test_without_kernels(monkeypatch):
    values = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    expected = largest_indices(values, 5)
    monkeypatch.setattr(module, "library", lambda: None)
    assert torch.equal(largest_indices(values, 5), expected)


def test_compiled():
    values = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(lambda x: largest_indices(x, 4), fullgraph=True)
    assert torch.equal(compiled(values), largest_indices(values, 4))


def of_columns(values, k, step):
    largest = LargestOfColumns(values.size(1), k)
    for rows in values.split(step):
        largest.add(rows)
    return largest.indices()


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 150),
    st.integers(1, 400),
    st.integers(1, 300),
    st.sampled_from([torch.float, torch.double]),
    st.integers(0, 1000),
)
def test_columns_are_sorted_as_a_stable_sort_does(rows, columns, k, step, dtype, seed):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    k = min(k, rows)
    for numbers in (values, (2 * values).round(), -values.abs().sort(dim=0, descending=True).values):
        assert torch.equal(of_columns(numbers, k, step), by_sorting(numbers.t(), k))


@pytest.mark.parametrize("threads", [1, 3])
def test_columns_of_every_kind(threads):
    values = torch.randn(700, 333, generator=torch.Generator().manual_seed(0))
    values[:, 3] = 2.5
    values[:, 5] = torch.arange(700.0)
    values[:, 9] *= 1e30
    values[:, 10] *= torch.finfo().max
    values[4:, 11] = -torch.inf
    values[100:120, 13] = torch.inf
    values[:, 332] = 1e-40
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = of_columns(values, 32, 100)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, by_sorting(values.t(), 32))


def test_columns_with_nan_do_no_harm():
    values = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    values[:, 3] = torch.nan
    values[::2, 17] = torch.nan
    found = of_columns(values, 20, 77)
    assert found.min() >= 0 and found.max() < 300
    others = [column for column in range(40) if column not in (3, 17)]
    assert torch.equal(found[others], by_sorting(values.t(), 20)[others])


def test_columns_that_the_kernel_does_not_take(monkeypatch):
    values = torch.randn(900, 7, generator=torch.Generator().manual_seed(0))
    expected = by_sorting(values.t(), 600)
    assert torch.equal(of_columns(values, 600, 100), expected)
    half = values.half().t().topk(5, dim=1).values.t()
    assert torch.equal(values.half().gather(0, of_columns(values.half(), 5, 100).t()), half)
    monkeypatch.setattr(module, "library", lambda: None)
    assert torch.equal(of_columns(values, 5, 100), expected[:, :5])


def test_columns_need_rows():
    largest = LargestOfColumns(3, 0)
    assert largest.indices().shape == (3, 0)
    largest.add(torch.rand(2, 3))
    assert largest.indices().shape == (3, 0)
    largest = LargestOfColumns(3, 4)
    largest.add(torch.rand(3, 3).t()[:, :3])
    with pytest.raises(RuntimeError, match="4 numbers of each column are wanted, but only 3 rows have come"):
        largest.indices()
    assert of_columns(torch.rand(3, 0), 2, 2).shape == (0, 2)


def test_rows_of_another_kind_are_refused():
    largest = LargestOfColumns(3, 2)
    largest.add(torch.rand(40, 3))
    with pytest.raises(ValueError, match=r"must have 3 columns, got shape \[40, 4\]"):
        largest.add(torch.rand(40, 4))
    with pytest.raises(ValueError, match="the type and device of those before"):
        largest.add(torch.rand(40, 3).double())


def test_a_default_device_changes_nothing_for_columns():
    values = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        found = of_columns(values, 4, 20)
    assert torch.equal(found, by_sorting(values.t(), 4))


def test_columns_may_be_asked_twice():
    largest = LargestOfColumns(1, k=2)
    largest.add(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert largest.indices().tolist() == largest.indices().tolist() == [[3, 2]]
    largest.add(torch.tensor([[5.0]]))
    assert largest.indices().tolist() == [[4, 3]]
