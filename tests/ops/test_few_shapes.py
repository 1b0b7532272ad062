"""Matrix products see few numbers of rows, and give what they give without."""

import pytest
import torch
import torch.nn.functional as F

from pyg_match.ops import linear as ops_linear
from pyg_match.ops.largest import LargestOfColumns, largest_indices
from pyg_match.ops.linear import empty_rows, linear, similarities, whole_rows, with_room


def test_few_numbers_of_rows():
    for rows in range(0, 5000, 7):
        whole = whole_rows(rows)
        assert rows <= whole <= max(64 * -(-rows // 64), rows * 9 / 8) and whole_rows(whole) == whole
        assert whole_rows(whole_rows(rows, 256, 2)) == whole_rows(rows, 256, 2)
    assert len({whole_rows(rows) for rows in range(256, 8193)}) <= 40
    assert len({whole_rows(rows, 256, 2) for rows in range(256, 8193)}) <= 10


def test_room_is_used_where_it_is():
    x = empty_rows(300, torch.empty(0, 8)).fill_(1.0)
    assert x.shape == (300, 8) and with_room(x).data_ptr() == x.data_ptr() and with_room(x).shape == (320, 8)
    other = torch.ones(300, 8)
    assert with_room(other).shape == (320, 8) and bool((with_room(other)[300:] == 0).all())
    assert with_room(torch.ones(320, 8)[10:]).shape == (320, 8)
    assert with_room(x[:64]).data_ptr() == x.data_ptr() and with_room(x[:64]).shape == (64, 8)
    assert with_room(torch.ones(5, 3, requires_grad=True)).shape == (64, 3)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("shape", [(300, 700), (256, 256), (1, 5), (0, 4), (700, 300), (513, 1025)])
@torch.inference_mode()
def test_similarities(shape, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    x0, x1 = torch.randn(shape[0], 16), torch.randn(shape[1], 16)
    got = similarities(x0, x1)
    torch.testing.assert_close(got, F.linear(x0, x1), rtol=1e-5, atol=1e-4)
    k = min(3, *shape)
    columns = LargestOfColumns(shape[1], k)
    columns.add(got)
    assert torch.equal(columns.indices(), got.t().contiguous().topk(k, dim=1).indices.view(shape[1], k))
    if k > 0:
        assert torch.equal(largest_indices(got, k), got.contiguous().topk(k, dim=1).indices)


@torch.inference_mode()
def test_products_show_onednn_whole_rows(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    if ops_linear.onednn_type(torch.ones(300, 8), torch.ones(4, 8), None) is None:
        pytest.skip("torch has no oneDNN here")
    weight, seen = torch.randn(4, 8), []
    product = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda x, *rest: seen.append(x.size(0)) or product(x, *rest)
    )
    for rows in range(256, 1100, 13):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(linear(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)
    assert (
        len(seen) > 60
        and set(seen) == {whole_rows(rows) for rows in range(256, 1100, 13)}
        and len(set(seen)) <= 14
    )
