import math

import pytest
import torch

from pyg_match.metrics import matching_precision, matching_recall, reprojection_error

HOMOGRAPHY = torch.tensor(
    [[2.0, 0.0, 10.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
)  # twice as large, 10 px to the right


def test_reprojection_error_is_the_mean_of_both_directions():
    points0 = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    points1 = torch.tensor([[10.0, 4.0], [20.0, 10.0]])
    # The first is 4 px off in image 1 and thus 2 px in image 0.
    assert reprojection_error(points0, points1, HOMOGRAPHY).tolist() == pytest.approx([3.0, 0.0])
    assert reprojection_error(points0, points1, HOMOGRAPHY).dtype == torch.float64
    assert matching_precision(points0, points1, HOMOGRAPHY.numpy()) == 0.5  # 3 px is too far


def test_reprojection_error_is_symmetric():
    points0, points1 = torch.rand(50, 2) * 100, torch.rand(50, 2) * 100
    homography = torch.tensor([[1.1, 0.1, 5.0], [-0.2, 0.9, 3.0], [1e-4, 2e-4, 1.0]], dtype=torch.float64)
    forward = reprojection_error(points0, points1, homography)
    assert torch.allclose(forward, reprojection_error(points1, points0, torch.linalg.inv(homography)))
    assert torch.allclose(forward, reprojection_error(points0, points1, -3 * homography))


def test_precision():
    points0 = torch.zeros(4, 2)
    points1 = torch.tensor([[10.0, 0.0], [10.0, 4.0], [10.0, 3.9], [200.0, 0.0]])
    assert matching_precision(points0, points1, HOMOGRAPHY) == 0.5  # exactly 3 px is wrong
    assert matching_precision(points0, points1, HOMOGRAPHY, threshold=3.1) == 0.75
    assert matching_precision(points0, points1, HOMOGRAPHY, threshold=1.0) == 0.25


def test_no_matches_have_no_precision():
    assert matching_precision(torch.empty(0, 2), torch.empty(0, 2), HOMOGRAPHY) == 0.0


def test_point_at_infinity_is_wrong():
    homography = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.1, 0.0, 1.0]])
    assert matching_precision(torch.tensor([[10.0, 0.0]]), torch.tensor([[10.0, 0.0]]), homography) == 0.0


def test_recall():
    truth = torch.tensor([4, -1, 2, -2, 0])
    assert matching_recall(torch.tensor([[0, 4], [2, 2], [4, 0]]), truth) == 1.0
    # Matches of keypoints without a partner do not count, either way.
    assert matching_recall(torch.tensor([[0, 4], [1, 3], [3, 1], [2, 0]]), truth) == pytest.approx(1 / 3)
    assert matching_recall(torch.empty(0, 2, dtype=torch.long), truth) == 0.0


def test_recall_without_true_matches_is_undefined():
    assert math.isnan(matching_recall(torch.tensor([[0, 0]]), torch.tensor([-1, -2])))
    assert math.isnan(matching_recall(torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long)))


def test_errors():
    with pytest.raises(ValueError, match=r"\[M, 2\].*\[3, 2\] and \[2, 2\]"):
        reprojection_error(torch.zeros(3, 2), torch.zeros(2, 2), HOMOGRAPHY)
    with pytest.raises(ValueError, match="'matches'"):
        matching_recall(torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="'ground_truth0'"):
        matching_recall(torch.tensor([[0, 1]]), torch.tensor([[0]]))


def test_reprojection_errors_have_gradients_of_the_homography():
    points, H = torch.rand(5, 2) * 9, torch.eye(3, dtype=torch.double, requires_grad=True)
    reprojection_error(points, points + 1, H).sum().backward()
    assert bool(torch.isfinite(H.grad).all()) and bool((H.grad != 0).any())


def test_recall_counts_what_is_found_once_and_no_partner_never():
    assert matching_recall(torch.tensor([[0, 5], [0, 5], [0, 5]]), torch.tensor([5, 7])) == 0.5
    assert matching_recall(torch.tensor([[0, -1]]), torch.tensor([-1, 3])) == 0.0
    assert matching_recall(torch.tensor([[0, -2], [1, 3]]), torch.tensor([-2, 3])) == 1.0
