"""Geometry and metrics on points of any kind."""

import numpy as np
import torch
from fuzz.oracle import accepted, fuzz
from fuzz.strategies import counts, either, junk, numbers
from hypothesis import given
from hypothesis import strategies as st

from pyg_match.geometry import corner_error, estimate_fundamental, estimate_homography, warp_points
from pyg_match.metrics import error_auc, homography_ground_truth, matching_precision, matching_recall

METHODS = ["poselib", "opencv", "magsac", "dlt", "dlt-lu", "other"]


@st.composite
def points(draw):
    """Points in general position, on a line, all the same, huge, or none."""
    count = draw(st.integers(0, 14))
    out = np.random.default_rng(draw(st.integers(0, 999))).uniform(0, 640, (count, 2))
    kind = draw(st.sampled_from(["any", "any", "line", "same", "grid", "huge", "odd"]))
    if kind == "line":
        out[:, 1] = 3 * out[:, 0] + 1
    elif kind == "same":
        out[:] = 5.0
    elif kind == "grid":
        out = (out // 200) * 200
    elif kind == "huge":
        out = out * 1e30
    elif kind == "odd" and count:
        out[draw(st.integers(0, count - 1)), 0] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return out


@fuzz
@given(data=st.data())
def test_estimates(data):
    p0 = data.draw(st.one_of(points(), points(), junk))
    same = isinstance(p0, np.ndarray) and p0.ndim == 2 and data.draw(st.integers(0, 5))
    p1 = (
        warp_points(p0, [[1, 0.1, 5], [0, 1.2, -3], [1e-4, 0, 1]])
        if same and p0.shape[1:] == (2,)
        else data.draw(st.one_of(points(), junk))
    )
    method = data.draw(st.sampled_from(METHODS))
    threshold = data.draw(st.one_of(st.just(2.0), numbers))
    scores = data.draw(st.one_of(st.none(), junk))
    good, out = accepted(lambda: estimate_homography(p0, p1, method, threshold, scores))
    if good:
        H, inliers = out
        assert inliers.shape == (len(p0),) and inliers.dtype == bool and (H is not None or not inliers.any())
        if H is not None:
            assert np.isfinite(H).all()
            with np.errstate(all="ignore"):
                error = np.linalg.norm(warp_points(np.asarray(p0), H) - np.asarray(p1), axis=1)
            assert np.array_equal(inliers, error <= float(threshold))
    good, out = accepted(lambda: estimate_fundamental(p0, p1, method, threshold))
    if good:
        F, inliers = out
        assert inliers.shape == (len(p0),) and (F is None) == (not inliers.any())
        assert F is None or (np.isfinite(F).all() and np.isclose(np.linalg.norm(F), 1) and inliers.sum() >= 8)


@fuzz
@given(
    count=st.integers(4, 40),
    seed=st.integers(0, 999),
    noise=st.floats(0.1, 4),
    method=st.sampled_from(METHODS[:5]),
    threshold=st.floats(0.5, 5),
)
def test_inliers_are_those_of_the_matrix(count, seed, noise, method, threshold):
    generator = np.random.default_rng(seed)
    p0 = generator.uniform(0, 640, (count, 2))
    p1 = warp_points(p0, [[1, 0.1, 5], [0, 1.2, -3], [1e-4, 0, 1]]) + generator.normal(0, noise, (count, 2))
    H, inliers = estimate_homography(p0, p1, method, threshold)
    if H is None:
        assert not inliers.any()
        return
    error = np.linalg.norm(warp_points(p0, H) - p1, axis=1)
    settled = np.abs(error - threshold) > 1e-6
    assert np.array_equal(inliers[settled], (error <= threshold)[settled])


@fuzz
@given(data=st.data())
def test_metrics(data):
    pos = [either(data.draw, torch.rand(data.draw(st.integers(0, 6)), 2) * 9) for _ in range(2)]
    H = either(data.draw, torch.eye(3))
    good, truth = accepted(lambda: homography_ground_truth(pos[0], pos[1], H))
    if good:
        for labels, other in zip(truth, truth[::-1], strict=True):
            for index, label in enumerate(labels.tolist()):
                assert -2 <= label < len(other) and (label < 0 or int(other[label]) == index)
    accepted(lambda: matching_precision(pos[0], pos[1], H, data.draw(counts)))
    accepted(lambda: matching_recall(data.draw(junk), data.draw(junk)))
    accepted(lambda: warp_points(pos[0], H))
    accepted(
        lambda: corner_error(
            data.draw(st.one_of(st.none(), junk)), H, data.draw(st.one_of(st.just((4, 3)), junk))
        )
    )
    good, areas = accepted(
        lambda: error_auc(
            data.draw(st.lists(st.floats(0, 9), max_size=4)), data.draw(st.lists(numbers, max_size=2))
        )
    )
    assert not good or all(np.isnan(area) or 0 <= area <= 1 for area in areas)
