import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyg_match.metrics import error_auc, recall_curve

INF = float("inf")


def test_hand_computed():
    # One pair at 1 px and one at 3 px: the curve is (0, 0), (1, .5), (3, 1).
    # Up to 1: the point at 1 itself is not below the threshold, so the curve stays at 0.
    # Up to 2: the triangle to 1 (.25) and .5 to 2.  Up to 4: .25, the trapezoid to 3 (1.5) and 1 to 4.
    assert error_auc([3.0, 1.0], [1, 2, 4]) == pytest.approx([0.0, 0.75 / 2, 2.75 / 4])


def test_perfect_and_failed():
    assert error_auc([0.0, 0.0], [1, 5]) == [1.0, 1.0]
    assert error_auc([0.0], [9e307, 1e-310]) == [1.0, 1.0]
    assert error_auc([INF, float("nan")], [1, 5]) == [0.0, 0.0]
    # A failed pair halves the area.
    assert error_auc([0.0, INF], [3]) == [0.5]
    assert all(np.isnan(error_auc([], [1, 5])))


def test_curve():
    error, recall = recall_curve([2.0, INF, 0.5, float("nan")])
    assert error.tolist() == [0.0, 0.5, 2.0] and recall.tolist() == [0.0, 0.25, 0.5]


@given(
    errors=st.lists(st.one_of(st.floats(0, 20), st.just(INF)), min_size=1, max_size=30),
    threshold=st.floats(0.1, 15),
)
def test_equals_piecewise_integration(errors, threshold):
    # The same integral written as a sum over single pairs of points.
    ordered = sorted(e for e in errors if e < threshold)
    x, y, area = 0.0, 0.0, 0.0
    for i, error in enumerate(ordered):
        recall = (i + 1) / len(errors)
        area += (error - x) * (y + recall) / 2
        x, y = error, recall
    area += (threshold - x) * y
    (auc,) = error_auc(errors, [threshold])
    assert auc == pytest.approx(area / threshold, abs=1e-12)
    assert 0 <= auc <= 1 + 1e-12
    assert error_auc(errors[::-1], [threshold]) == [auc]


def test_errors():
    with pytest.raises(ValueError, match="negative"):
        error_auc([-1.0], [1])
    with pytest.raises(ValueError, match="positive"):
        error_auc([1.0], [0])
    with pytest.raises(ValueError, match="one dimension"):
        error_auc([[1.0]], [1])


def test_errors_as_tensors():
    errors = torch.tensor([0.5, 2.0, 7.0], requires_grad=True)
    assert error_auc(errors, [1.0, 5.0]) == error_auc([0.5, 2.0, 7.0], [1.0, 5.0])
    with pytest.raises(TypeError, match="'errors' must be real numbers, got"):
        recall_curve(np.array([1j]))
