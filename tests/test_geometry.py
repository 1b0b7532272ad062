import cv2
import numpy as np
import poselib
import pytest
import torch
from kornia.geometry.homography import find_homography_dlt

from pyg_match.geometry import (
    corner_error,
    estimate_fundamental,
    estimate_homography,
    homography_matrix,
    sampson_distance,
    transfer_error,
    warp_points,
)

SIZE = (640, 480)
H_TRUE = np.array([[0.9, -0.2, 60.0], [0.15, 1.1, -20.0], [2e-4, -1e-4, 1.0]])
METHODS = ["poselib", "opencv", "magsac", "dlt", "dlt-lu"]


def homography_matches(num=200, noise=0.0, outliers=0.0, seed=0):
    rng = np.random.default_rng(seed)
    p0 = rng.uniform(0, SIZE, (num, 2))
    p1 = cv2.perspectiveTransform(p0[:, None], H_TRUE)[:, 0] + rng.normal(0, noise, (num, 2))
    wrong = np.arange(num) < outliers * num
    p1[wrong] = rng.uniform(0, SIZE, (int(wrong.sum()), 2))
    return p0, p1, ~wrong


def epipolar_matches(num=200, noise=0.0, outliers=0.0, seed=0):
    """Matches of two cameras, and the true fundamental matrix."""
    rng = np.random.default_rng(seed)
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    R, _ = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))
    t = np.array([1.0, 0.2, 0.1])
    X = np.c_[rng.uniform(-2, 2, (num, 2)), rng.uniform(4, 8, num)]
    p0, p1 = X @ K.T, (X @ R.T + t) @ K.T
    p0, p1 = (p[:, :2] / p[:, 2:] + rng.normal(0, noise, (num, 2)) for p in (p0, p1))
    wrong = np.arange(num) < outliers * num
    p1[wrong] = rng.uniform(0, SIZE, (int(wrong.sum()), 2))
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    F = np.linalg.inv(K).T @ cross @ R @ np.linalg.inv(K)
    return p0, p1, ~wrong, F / np.linalg.norm(F)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num", [4, 5, 200])
def test_exact_homography(method, num):
    p0, p1, _ = homography_matches(num)
    H, inliers = estimate_homography(p0, p1, method)
    assert H.shape == (3, 3) and H.dtype == np.float64 and H[2, 2] == 1
    assert inliers.shape == (num,) and inliers.dtype == bool and inliers.all()
    # OpenCV computes with float32 points.
    assert corner_error(H, H_TRUE, SIZE) < (1e-2 if method in ("opencv", "magsac") else 1e-5)


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_homography_with_noise_and_outliers(method):
    p0, p1, good = homography_matches(300, noise=0.3, outliers=0.5)
    H, inliers = estimate_homography(p0, p1, method, threshold=2.0)
    assert corner_error(H, H_TRUE, SIZE) < 0.5
    assert (inliers == good).mean() > 0.97
    again, inliers_again = estimate_homography(p0, p1, method, threshold=2.0)
    assert np.array_equal(H, again) and np.array_equal(inliers, inliers_again)


def test_poselib_settings():
    p0, p1, _ = homography_matches(60, noise=3.0, outliers=0.7)
    for num in (10, 20_000, 100_001):
        ours, inliers = estimate_homography(p0, p1, "poselib", threshold=2.0, min_iterations=num)
        theirs, info = poselib.estimate_homography(
            p0, p1, {"max_reproj_error": 2.0, "min_iterations": num, "max_iterations": max(num, 100_000)}
        )
        assert info["iterations"] >= num and inliers.tolist() == info["inliers"]
        np.testing.assert_allclose(ours, theirs / theirs[2, 2], rtol=1e-12)


def test_opencv_settings():
    p0, p1, _ = homography_matches(100, noise=1.0, outliers=0.5)
    for method, solver in (("opencv", cv2.RANSAC), ("magsac", cv2.USAC_MAGSAC)):
        H, mask = cv2.findHomography(p0, p1, solver, 0.5, maxIters=3000, confidence=0.995)
        ours, inliers = estimate_homography(p0, p1, method, threshold=0.5)
        np.testing.assert_allclose(ours, H, rtol=1e-9)
        if method == "opencv":  # MAGSAC tells inliers by another measure
            assert np.array_equal(inliers, mask[:, 0].astype(bool))


def test_dlt_equals_kornia_with_weights():
    p0, p1, good = homography_matches(60, noise=1.0, outliers=0.2)
    scores = np.random.default_rng(1).uniform(0.1, 1, 60)
    for weights in (None, scores):
        H, inliers = estimate_homography(p0, p1, "dlt", scores=weights, threshold=3.0)
        lu, _ = estimate_homography(p0, p1, "dlt-lu", scores=weights)
        tensors = [torch.from_numpy(v)[None] for v in (p0, p1, np.ones(60) if weights is None else weights)]
        peer = find_homography_dlt(*tensors, solver="svd")[0].numpy()
        np.testing.assert_allclose(H, peer, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(lu, find_homography_dlt(*tensors)[0].numpy(), rtol=1e-9)
        assert np.array_equal(inliers, np.linalg.norm(warp_points(p0, H) - p1, axis=1) <= 3.0)
    H, inliers = estimate_homography(p0, p1, "dlt", scores=good * scores, threshold=4.0)
    assert corner_error(H, H_TRUE, SIZE) < 3
    assert inliers[good].mean() > 0.9 and inliers[~good].mean() < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_no_homography(method):
    p0, p1, _ = homography_matches(20)
    line = np.c_[np.arange(20.0) * 7, np.arange(20.0) * 3 + 5]
    noise = np.random.default_rng(0).normal(0, 0.3, (20, 2))
    line_but_one = line.copy()
    line_but_one[3] = (50, 400)
    nan = p1.copy()
    nan[4, 1] = np.nan
    cases = {
        "none": (p0[:0], p1[:0]),
        "three": (p0[:3], p1[:3]),
        "one point": (np.ones((20, 2)), np.ones((20, 2))),
        "onto one point": (p0, np.ones((20, 2))),
        "line": (line, line + 1),
        "line but one": (line_but_one, line_but_one + 1),
        **{f"nearly a line, {n}": (line[:n] + noise[:n], line[:n] + 7 + noise[-n:]) for n in (4, 5, 7, 20)},
        "NaN": (p0, nan),
        "infinite": (np.where(p0 == p0[0], np.inf, p0), p1),
    }
    for name, (a, b) in cases.items():
        if name.startswith("nearly") and method.startswith("dlt"):
            continue  # which fits what it is given
        H, inliers = estimate_homography(a, b, method)
        assert H is None, name
        assert inliers.shape == (len(a),) and inliers.dtype == bool and not inliers.any(), name


def test_rotations_do_not_matter_to_dlt():
    p0 = np.random.default_rng(0).uniform(-200, 200, (300, 2))
    noise = np.random.default_rng(1).normal(0, 0.5, (300, 2))
    for angle in np.deg2rad(range(0, 360, 20)):
        c, s = np.cos(angle), np.sin(angle)
        H_true = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        H, _ = estimate_homography(p0, warp_points(p0, H_true) + noise, "dlt")
        assert corner_error(H, H_true, (200, 200)) < 0.5


def test_only_outliers():
    p0, p1, _ = homography_matches(100, outliers=1.0)
    for method in ("poselib", "opencv", "magsac"):
        H, inliers = estimate_homography(p0, p1, method, threshold=0.5)
        assert (H is None) == (not inliers.any()) and inliers.sum() < 10
    assert estimate_homography(p0, p1, "dlt", scores=np.zeros(100))[0] is None


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_fundamental(method):
    for noise, outliers in ((0.0, 0.0), (0.3, 0.4)):
        p0, p1, good, F_true = epipolar_matches(300, noise, outliers)
        F, inliers = estimate_fundamental(p0, p1, method, threshold=1.0)
        assert F.shape == (3, 3) and np.isclose(np.linalg.norm(F), 1) and np.linalg.svd(F)[1][2] < 1e-6
        assert inliers.dtype == bool and inliers[good].mean() > 0.85 and inliers[~good].sum() < 20
        # Symmetric epipolar distance of true matches without noise, in pixels.
        q0, q1, _, _ = epipolar_matches(300)
        h0, h1 = np.c_[q0, np.ones(300)], np.c_[q1, np.ones(300)]
        lines = h0 @ F.T
        distance = np.abs((lines * h1).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
        assert np.median(distance) < (1e-2 if noise == 0 else 0.5)
        again, inliers_again = estimate_fundamental(p0, p1, method, threshold=1.0)
        assert np.array_equal(F, again) and np.array_equal(inliers, inliers_again)
    assert min(np.abs(F - F_true).max(), np.abs(F + F_true).max()) < 0.1


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_no_fundamental(method):
    p0, p1, _, _ = epipolar_matches(40)
    line = np.c_[np.arange(40.0) * 7, np.arange(40.0) * 3]
    few, noise = 7, np.random.default_rng(0).normal(0, 0.3, (2, 40, 2))
    for a, b in (
        (p0[:0], p1[:0]),
        (p0[:few], p1[:few]),
        (line, line + 1),
        *((line[:count] + noise[0, :count], line[:count] + noise[1, :count] + 9) for count in (7, 8, 40)),
        (p0 * np.nan, p1),
        (p0 * 0, p1 * 0),
    ):
        F, inliers = estimate_fundamental(a, b, method)
        assert F is None
        assert inliers.shape == (len(a),) and not inliers.any()
    F, inliers = estimate_fundamental(p0[: few + 1], p1[: few + 1], method)
    assert F is None or F.shape == (3, 3)


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_a_fundamental_matrix_of_random_matches_has_eight_inliers_or_is_none(method):
    rng = np.random.default_rng(0)
    p0, p1 = rng.uniform(0, 1000, (2, 30, 2))
    F, inliers = estimate_fundamental(p0, p1, method, threshold=0.01)
    assert (F is None) == (inliers.sum() < 8)


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_points_on_a_line_in_one_image_tell_nothing(method):
    p0, _, _ = homography_matches(60)
    line = np.c_[p0[:, 0], 0.5 * p0[:, 0] + 20]
    for points in ((p0, line), (line, p0)):
        for estimate in (estimate_homography, estimate_fundamental):
            matrix, inliers = estimate(*points, method)
            assert matrix is None and not inliers.any()


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_inliers_are_those_of_the_returned_matrix(method):
    p0, p1, _ = homography_matches(80, noise=1.5, outliers=0.3)
    H, inliers = estimate_homography(p0, p1, method, threshold=2.0)
    assert np.array_equal(inliers, np.linalg.norm(warp_points(p0, H) - p1, axis=1) <= 2.0)
    p0, p1, _, _ = epipolar_matches(80, 0.7, 0.3)
    F, inliers = estimate_fundamental(p0, p1, method, threshold=1.0)
    h0, h1 = np.c_[p0, np.ones(80)], np.c_[p1, np.ones(80)]
    line1, line0 = h0 @ F.T, h1 @ F
    gradient = (line1[:, :2] ** 2).sum(1) + (line0[:, :2] ** 2).sum(1)
    assert np.array_equal(inliers, np.abs((line1 * h1).sum(1)) / np.sqrt(gradient) <= 1.0)


def test_tensors_are_accepted():
    p0, p1, _ = homography_matches(30)
    H, _ = estimate_homography(
        torch.from_numpy(p0), torch.from_numpy(p1).float(), "dlt", scores=torch.ones(30)
    )
    assert corner_error(torch.from_numpy(H), torch.from_numpy(H_TRUE), torch.tensor([SIZE])) < 1e-2


def test_errors():
    p = np.zeros((10, 2))
    for estimate in (estimate_homography, estimate_fundamental):
        with pytest.raises(ValueError, match=r"\[10, 2\] and \[9, 2\]"):
            estimate(p, p[:9])
        with pytest.raises(ValueError, match=r"\[N, 2\], got \[10, 3\]"):
            estimate(np.zeros((10, 3)), np.zeros((10, 3)))
        with pytest.raises(ValueError, match=r"unknown method 'lmeds'.*poselib"):
            estimate(p, p, method="lmeds")
        with pytest.raises(ValueError, match="'threshold'"):
            estimate(p, p, threshold=0)
    with pytest.raises(ValueError, match="10 scores"):
        estimate_homography(p, p, "dlt", scores=np.ones(9))
    with pytest.raises(ValueError, match="not negative"):
        estimate_homography(p, p, "dlt", scores=-np.ones(10))
    for num in (0, -3, 1000.5, float("nan"), True, "many"):
        with pytest.raises(
            ValueError, match=f"'min_iterations' must be a whole number of at least 1, got {num!r}"
        ):
            estimate_homography(p, p, min_iterations=num)


@pytest.mark.parametrize("method", ["poselib", "opencv", "magsac"])
def test_thresholds_of_any_type(method):
    p0, p1, _ = homography_matches(50)
    for threshold in (torch.tensor(2), np.float32(2), 2):
        for estimate in (estimate_homography, estimate_fundamental):
            expected, output = estimate(p0, p1, method, 2.0), estimate(p0, p1, method, threshold)
            np.testing.assert_array_equal(output[0], expected[0])
            np.testing.assert_array_equal(output[1], expected[1])


def test_warp_points():
    p0, p1, _ = homography_matches(50)
    np.testing.assert_allclose(warp_points(p0, H_TRUE), p1, atol=1e-9)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-2)):
        warped = warp_points(torch.from_numpy(p0).to(dtype).view(5, 10, 2), H_TRUE)
        assert warped.dtype == dtype and warped.shape == (5, 10, 2)
        np.testing.assert_allclose(warped.view(-1, 2).numpy(), p1, atol=tolerance)
    corners = [[0, 0], [640, 480]]
    warped = warp_points(torch.tensor(corners), H_TRUE)
    np.testing.assert_allclose(warped.numpy(), warp_points(corners, H_TRUE), rtol=1e-5)
    assert warp_points(np.zeros((0, 2)), H_TRUE).shape == (0, 2)
    to_infinity = np.array([[1.0, 0, 1], [0, 1, 1], [1, 0, 0]])
    assert np.isinf(warp_points([[0.0, 5.0]], to_infinity)).all()
    points = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    H = torch.from_numpy(H_TRUE).requires_grad_()
    assert torch.autograd.gradcheck(warp_points, (points, H))
    with pytest.raises(ValueError, match=r"\[3, 3\], got \[2, 3\]"):
        warp_points(p0, H_TRUE[:2])
    with pytest.raises(ValueError, match=r"\[..., 2\], got \[4, 3\]"):
        warp_points(np.zeros((4, 3)), H_TRUE)


def test_corner_error():
    shift = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert corner_error(shift, np.eye(3), SIZE) == 5
    assert corner_error(7 * shift, np.eye(3), SIZE) == pytest.approx(5)
    assert corner_error(np.diag([2.0, 1, 1]), np.eye(3), SIZE) == 320  # the mean of 0, 0, w and w
    assert corner_error(H_TRUE, H_TRUE, SIZE) == 0
    assert corner_error(None, H_TRUE, SIZE) == float("inf")
    assert corner_error(np.full((3, 3), np.nan), H_TRUE, SIZE) == float("inf")
    through_corner = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 640, 0, 1]])
    assert corner_error(through_corner, np.eye(3), SIZE) == float("inf")
    with pytest.raises(ValueError, match="image size"):
        corner_error(H_TRUE, H_TRUE, (1, 2, 3))


def test_arrays_that_run_backwards():
    (p0, p1, _), H = homography_matches(40), H_TRUE
    for method in ("poselib", "opencv", "magsac", "dlt", "dlt-lu"):
        found, _ = estimate_homography(p0[::-1], p1[::-1], method)
        np.testing.assert_allclose(found, estimate_homography(p0[::-1].copy(), p1[::-1].copy(), method)[0])
    turned = np.ascontiguousarray(H[::-1, ::-1])[::-1, ::-1]
    points = torch.from_numpy(p0.copy())
    assert torch.equal(warp_points(points, turned), warp_points(points, H))
    assert torch.equal(homography_matrix(turned), torch.from_numpy(H))


@pytest.mark.parametrize("factor", [1000.0, 1e-6, -1e-3])
def test_points_in_half_precision_are_mapped_in_single_precision(factor):
    points = torch.tensor([[640.0, 480.0], [3.0, 900.0]], dtype=torch.half)
    H = torch.tensor([[1.0, 0.1, 5.0], [-0.1, 1.0, 3.0], [1e-4, 0.0, 1.0]])
    mapped = warp_points(points, H * factor)
    assert mapped.dtype == torch.half
    torch.testing.assert_close(mapped, warp_points(points.double(), H.double()).half())


@pytest.mark.parametrize("method", ["dlt", "dlt-lu"])
@pytest.mark.parametrize("scale", [1e308, 1e200, 1e-200])
def test_only_the_ratio_of_scores_counts(scale, method):
    points = np.random.default_rng(0).uniform(0, 640, (20, 2))
    scores = np.linspace(0.1, 1, 20)
    noisy = points + 5 + np.random.default_rng(1).normal(0, 1, points.shape)
    expected, _ = estimate_homography(points, noisy, method, scores=scores)
    found, _ = estimate_homography(points, noisy, method, scores=scores * scale)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_an_autocast_of_the_caller_rounds_no_points():
    points, H = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 640, torch.from_numpy(H_TRUE)
    with torch.autocast("cpu", torch.bfloat16):
        warped = warp_points(points, H.float())
    assert torch.equal(warped, warp_points(points, H.float()))


@pytest.mark.parametrize("distance", [transfer_error, sampson_distance])
def test_distances_of_what_does_not_fit(distance):
    p0, p1 = np.random.default_rng(0).uniform(0, 640, (2, 5, 2))
    expected = distance(H_TRUE, p0, p1)
    given = [torch.tensor(v, requires_grad=True) for v in (H_TRUE, p0, p1)]
    np.testing.assert_array_equal(distance(*given), expected)
    for others in (p1[:1], p1[:, :1], p1[0], np.ones((5, 3)), p1[None]):
        with pytest.raises(ValueError, match=r"expected two arrays of points of shape \[N, 2\]"):
            distance(H_TRUE, p0, others)
    with pytest.raises(ValueError, match=r"of shape \[3, 3\], got \[2, 3\]"):
        distance(H_TRUE[:2], p0, p1)


def test_points_with_a_lazy_sign():
    points = torch.rand(5, 2, dtype=torch.double)
    lazy = torch.complex(torch.zeros_like(points), -points).conj().imag
    assert lazy.is_neg() and np.array_equal(
        transfer_error(H_TRUE, lazy, points), transfer_error(H_TRUE, points, points)
    )
