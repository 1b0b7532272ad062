"""Which geometry the matches speak for."""

import numpy as np
import pytest

from pyg_match.geometry import warp_points
from pyg_match.model_selection import Geometry, estimate_geometry, thresholds_for

SIZE = np.array([640.0, 480.0])


def uniform(rng, count):
    return rng.uniform(0, 1, (count, 2)) * SIZE


def planar(rng, count):
    """Points of image 0 and where a homography takes them."""
    angle = rng.uniform(-0.8, 0.8)
    scale = rng.uniform(0.7, 1.3)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    H = np.eye(3)
    H[:2, :2], H[:2, 2], H[2, :2] = turn, rng.uniform(-60, 60, 2), rng.uniform(-4e-4, 4e-4, 2)
    points = uniform(rng, count)
    return points, warp_points(points, H)


def deep(rng, count):
    """Points of a scene with depth, seen by two cameras."""
    K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    points = uniform(rng, count)
    depth = rng.uniform(3, 9, (count, 1))
    space = (np.hstack([points, np.ones((count, 1))]) @ np.linalg.inv(K).T) * depth
    a = rng.uniform(-0.15, 0.15)
    R = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    seen = (space @ R.T + [rng.uniform(0.5, 0.9), rng.uniform(-0.3, 0.3), 0.1]) @ K.T
    return points, seen[:, :2] / seen[:, 2:]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("scene", "kind"), [(planar, "homography"), (deep, "fundamental")])
def test_scenes_with_noise_and_outliers(scene, kind, seed):
    rng = np.random.default_rng(seed)
    points0, points1 = scene(rng, 200)
    points1 = points1 + rng.normal(0, 0.7, points1.shape)
    wrong = 20 * (seed + 1)  # of 220 to 320 matches
    points0 = np.concatenate([points0, uniform(rng, wrong)])
    points1 = np.concatenate([points1, uniform(rng, wrong)])
    geometry = estimate_geometry(points0, points1)
    assert geometry.kind == kind and geometry.model.shape == (3, 3)
    assert geometry.inliers.shape == (200 + wrong,)
    assert geometry.inliers[:200].mean() > 0.9
    assert geometry.inliers[200:].mean() < 0.1
    again = estimate_geometry(points0, points1)
    assert np.array_equal(again.model, geometry.model) and np.array_equal(again.inliers, geometry.inliers)


@pytest.mark.parametrize("seed", range(20))
def test_matches_of_the_same_places_prove_no_more_than_one(seed):
    """As SIFT has them, whose keypoints share places."""
    rng = np.random.default_rng(seed)
    for count, times in ((4, 3), (20, 2)):
        points = np.repeat(uniform(rng, 2 * count).reshape(count, 4), times, axis=0)
        assert estimate_geometry(points[:, :2], points[:, 2:]).kind == "none"
    points0, points1 = planar(rng, 60)
    geometry = estimate_geometry(np.repeat(points0, 2, axis=0), np.repeat(points1, 2, axis=0))
    assert geometry.kind == "homography" and geometry.inliers.all() and len(geometry.inliers) == 120


@pytest.mark.parametrize("share", [0.5, 0.8, 0.88])
def test_a_plane_with_something_before_it_is_no_plane(share):
    rng = np.random.default_rng(7)
    points0 = uniform(rng, 300)
    wall = int(300 * share)
    # A camera that moves to the side sees all of a wall move alike, and what is nearer more.
    shift = np.where(np.arange(300) < wall, 38.0, rng.uniform(60, 160, 300))
    points1 = points0 + np.stack([shift, np.zeros(300)], 1)
    geometry = estimate_geometry(points0, points1)
    assert geometry.kind == "fundamental" and geometry.inliers.mean() > 0.97


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 20, 100, 1000])
def test_random_matches_have_no_geometry(count):
    rng = np.random.default_rng(count)
    geometry = estimate_geometry(uniform(rng, count), uniform(rng, count))
    assert geometry.kind == "none" and geometry.model is None
    assert geometry.inliers.shape == (count,) and not geometry.inliers.any()


def test_matches_between_two_small_areas_have_no_geometry():
    """Two similar things in unrelated images hold most of the matches."""
    rng = np.random.default_rng(0)
    points0 = np.concatenate([rng.normal(200, 25, (60, 2)), uniform(rng, 25)])
    points1 = np.concatenate([rng.normal(300, 25, (60, 2)), uniform(rng, 25)])
    assert estimate_geometry(points0, points1).kind == "none"


def test_a_small_area_lies_near_the_epipolar_lines_of_whatever_it_is_matched_with():
    rng = np.random.default_rng(0)
    spot, anywhere = rng.normal(300, 1, (60, 2)), uniform(rng, 60)
    assert estimate_geometry(spot, anywhere).kind == "none"
    assert estimate_geometry(anywhere, spot).kind == "none"


def test_matches_that_share_a_place_in_one_image_are_different_ones():
    rng = np.random.default_rng(0)
    points0, points1 = planar(rng, 40)
    both = np.repeat(points0, 2, axis=0), np.stack([uniform(rng, 40), points1], 1).reshape(-1, 2)
    for one, other in (both, both[::-1]):
        geometry = estimate_geometry(one, other)
        assert geometry.kind != "none" and geometry.inliers[1::2].all() and geometry.inliers[::2].mean() < 0.3


def test_degenerate_input():
    line = np.stack([np.linspace(0, 600, 50), np.full(50, 9.0)], 1)
    assert estimate_geometry(line, line).kind == "none"
    same = np.full((50, 2), 3.0)
    assert estimate_geometry(same, same).kind == "none"
    points = uniform(np.random.default_rng(0), 50)
    assert estimate_geometry(points, np.where(points > 600, np.nan, points)).kind == "none"
    few = estimate_geometry(points[:10], points[:10] + 5)
    assert few.kind == "homography" and few.inliers.all()
    with pytest.raises(ValueError, match=r"two arrays of points of shape \[N, 2\]"):
        estimate_geometry(points, points[:3])
    with pytest.raises(ValueError, match="unknown method"):
        estimate_geometry(points, points, method="guess")


def test_thresholds():
    rng = np.random.default_rng(0)
    points0, points1 = planar(rng, 200)
    points1 = points1 + rng.normal(0, 2, points1.shape)
    narrow, wide = (estimate_geometry(points0, points1, "poselib", *[t] * 2) for t in (3.0, 9.0))
    assert wide.kind == "homography" and wide.threshold == 9 and wide.inliers.mean() > 0.97
    assert narrow.threshold == 3 and narrow.inliers.sum() < wide.inliers.sum()
    assert thresholds_for((800, 600), (1024, 500)) == (3.0, 2.0)
    # A homography errs in image 1; epipolar errors are those of the smaller image.
    assert thresholds_for((800, 600), (600, 4096)) == (12.0, 2.0)
    assert thresholds_for((600, 4096), (800, 600)) == (3.0, 2.0)
    assert thresholds_for((600, 4096), (2048, 600)) == (6.0, 4.0)


def test_of_a_result():
    import torch

    from pyg_match import MatchResult

    points0, points1 = (torch.from_numpy(4 * p).float() for p in planar(np.random.default_rng(1), 60))
    order = torch.arange(60)
    size = (2560, 1920)
    result = MatchResult(points0, points1, torch.stack([order, order], 1), torch.ones(60), size, size)
    geometry = result.geometry()
    assert isinstance(geometry, Geometry) and geometry.kind == "homography" and geometry.inliers.all()
    assert geometry.threshold == 7.5
    assert result.geometry(threshold=2.0).threshold == 2.0
    assert result.geometry("opencv").kind == "homography"
