import pytest
import torch
from helpers import random_set
from torch_geometric.data import Batch

from pyg_match.data import KeypointSet


def test_attributes_and_batching():
    sets = [random_set(n) for n in (5, 0, 3)]
    assert [s.num_keypoints for s in sets] == [5, 0, 3]
    assert all(s.validate() for s in sets)
    batch = Batch.from_data_list(sets)
    assert batch.pos.shape == (8, 2)
    assert batch.image_size.tolist() == [[640, 480]] * 3
    for before, after in zip(sets, batch.to_data_list(), strict=True):
        assert isinstance(after, KeypointSet)
        assert torch.equal(before.pos, after.pos)
        assert torch.equal(before.x, after.x)


def test_optional_attributes_are_absent():
    data = KeypointSet(pos=torch.rand(2, 2), x=torch.rand(2, 4))
    assert "scale" not in data
    assert "image_size" not in data
    assert str(data) == "KeypointSet(x=[2, 4], pos=[2, 2])"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pos": torch.rand(4, 3)}, ValueError, r"'pos' must have shape \[4, 2\], got \[4, 3\]"),
        ({"x": torch.rand(3, 8)}, ValueError, r"'x' must have shape \[4, D\], got \[3, 8\]"),
        ({"x": torch.full((4, 8), torch.nan)}, ValueError, "'x' holds NaN"),
        ({"x": torch.ones(4, 8, dtype=torch.long)}, TypeError, "floating-point"),
        ({"x": None}, TypeError, "'x' must be a tensor"),
        ({"score": torch.rand(5)}, ValueError, r"'score' must have shape \[4\], got \[5\]"),
        ({"image_size": (0, 5)}, ValueError, "positive"),
    ],
)
def test_validate_names_the_fault(change, error, message):
    good = {"pos": torch.rand(4, 2), "x": torch.rand(4, 8), "score": torch.rand(4), "image_size": (9, 9)}
    data = KeypointSet(**{**good, **change})
    with pytest.raises(error, match=message):
        data.validate()
    assert data.validate(raise_on_error=False) is False
