"""Estimation of homographies and fundamental matrices, and errors of homographies."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_match.arrays import Array, ArrayLike, point_pairs, to_array
from pyg_match.checks import real_number, shown, whole_number
from pyg_match.dlt import dlt, dlt_lu, scaled

# Settings of OpenCV's estimators in glue-factory; 3,000 is more than OpenCV's own 2,000.
_OPENCV_ITERATIONS = 3000
_OPENCV_CONFIDENCE = 0.995

_FEWEST_EPIPOLAR = 8  # seven leave up to three fundamental matrices


def estimate_homography(
    points0: ArrayLike,
    points1: ArrayLike,
    method: str = "poselib",
    threshold: float = 2.0,
    scores: ArrayLike | None = None,
    min_iterations: int = 1000,
) -> tuple[Array | None, Array]:
    r"""Estimate the homography :math:`\mathbf{H}` with :math:`\mathbf{p}_1 \sim \mathbf{H} \mathbf{p}_0`.

    There is none if fewer than four matches are given, if a value is not finite, or if the inliers (for ``"dlt"`` and
    ``"dlt-lu"`` all matches) do not determine one, because all but one of them lie on a line, or coincide; for the
    other methods also if all inliers lie within ``threshold`` of a line in either image. ``"poselib"`` and
    ``"magsac"`` find none of mirror images. The same input gives the same result.

    Args:
        points0: Matched points of image 0 in pixels.
        points1: Their partners in image 1.
        method: ``"poselib"`` (PoseLib's LO-RANSAC), ``"opencv"`` (OpenCV's RANSAC with 3,000 iterations and
            confidence 0.995), ``"magsac"`` (OpenCV's MAGSAC++), ``"dlt"`` (least squares over all matches, by
            SVD) or ``"dlt-lu"``.
        threshold: Largest distance in pixels, in image 1, of an inlier to its prediction.
        scores: Weights of the matches for ``"dlt"`` and ``"dlt-lu"``, not negative; the others do not use
            them.
        min_iterations: How many iterations ``"poselib"`` makes at least; the others do not use it. With few
            correct matches, 1,000 leave much to chance.

    Returns:
        The matrix, with its last element 1, or ``None``; and which matches are inliers of this matrix.

    Shapes:
        - **points0**, **points1:** :math:`(N, 2)`
        - **scores:** :math:`(N)`
        - **output:** :math:`(3, 3)` ``float64`` and :math:`(N)` ``bool``

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape, the method, the threshold, the sign of a score or the number of iterations is
            not as expected.

    .. note::
        ``"dlt-lu"`` is what kornia's ``find_homography_dlt`` does unless told otherwise, and so what stands
        behind glue-factory's DLT figures: :math:`\mathbf{h}` solves :math:`\mathbf{A}^\top \mathbf{W}
        \mathbf{A} \mathbf{h} = \mathbf{1}` instead of being the singular vector. Use it to compare with
        those figures only: with noise it goes wrong where the elements of :math:`\mathbf{H}` (for normalised
        points) nearly add up to zero, such as for a rotation by 120°.

    Source: ``robust_estimators/homography`` and ``eval/utils.py`` of glue-factory.

    Example:
        >>> points = np.random.default_rng(0).uniform(0, 640, (20, 2))
        >>> H, inliers = estimate_homography(points, points + 5, method="opencv")
        >>> bool(np.abs(H - [[1, 0, 5], [0, 1, 5], [0, 0, 1]]).max() < 1e-6)
        True
    """
    p0, p1 = point_pairs(points0, points1)
    threshold = real_number("threshold", threshold, positive=True)
    weights = None if scores is None else _check_scores(scores, len(p0))
    if weights is not None and len(weights) > 0:  # by a power of two, so that sums stay in range
        weights = np.ldexp(weights, -np.frexp(weights.max())[1])
    _check_method(method, ("poselib", "opencv", "magsac", "dlt", "dlt-lu"))
    min_iterations = whole_number("min_iterations", min_iterations)
    nothing = np.zeros(len(p0), dtype=bool)
    if len(p0) < 4 or not (np.isfinite(p0).all() and np.isfinite(p1).all()):
        return None, nothing

    if method in ("dlt", "dlt-lu"):
        H = dlt(p0, p1, weights)
        if H is not None and method == "dlt-lu":
            H = dlt_lu(p0, p1, weights)
        return H, nothing if H is None else transfer_error(H, p0, p1) <= threshold
    if method == "poselib":
        import poselib

        limits = {"min_iterations": min_iterations, "max_iterations": max(100_000, min_iterations)}
        H, _ = poselib.estimate_homography(p0, p1, {"max_reproj_error": threshold, **limits})
    else:
        H = _opencv("findHomography", method, p0, p1, threshold)
    H = None if H is None else scaled(H)
    inliers = nothing if H is None else transfer_error(H, p0, p1) <= threshold
    if inliers.sum() < 4 or _on_a_line(p0[inliers], p1[inliers], threshold):
        return None, nothing
    return (None, nothing) if dlt(p0[inliers], p1[inliers]) is None else (H, inliers)


def estimate_fundamental(
    points0: ArrayLike, points1: ArrayLike, method: str = "poselib", threshold: float = 1.0
) -> tuple[Array | None, Array]:
    r"""Estimate the fundamental matrix :math:`\mathbf{F}` with :math:`\mathbf{p}_1^\top \mathbf{F}
    \mathbf{p}_0 = 0`.

    There is none if fewer than eight matches are given or are inliers, if a value is not finite, or if all inliers lie
    within ``threshold`` of a line, in either image. Matches on a plane leave it ambiguous, which is not noticed. The
    same input gives the same result.

    Args:
        points0: Matched points of image 0 in pixels.
        points1: Their partners in image 1.
        method: ``"poselib"`` (PoseLib's LO-RANSAC), ``"opencv"`` (OpenCV's RANSAC with 3,000 iterations and
            confidence 0.995; below 15 matches, least median of squares) or ``"magsac"`` (OpenCV's MAGSAC++).
        threshold: Largest distance in pixels of an inlier to its epipolar line, by Sampson's approximation.

    Returns:
        The matrix, with Frobenius norm 1, or ``None``; and which matches are inliers of this matrix.

    Shapes:
        - **points0**, **points1:** :math:`(N, 2)`
        - **output:** :math:`(3, 3)` ``float64`` and :math:`(N)` ``bool``

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape, the method or the threshold is not as expected.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> points, depth = rng.uniform(0, 640, (20, 2)), rng.uniform(1, 3, 20)
        >>> F, inliers = estimate_fundamental(
        ...     points, points + [[50, 0]] / depth[:, None]
        ... )  # a move to the side
        >>> bool(inliers.all())
        True
    """
    p0, p1 = point_pairs(points0, points1)
    threshold = real_number("threshold", threshold, positive=True)
    _check_method(method, ("poselib", "opencv", "magsac"))
    nothing = np.zeros(len(p0), dtype=bool)
    if len(p0) < _FEWEST_EPIPOLAR or not (np.isfinite(p0).all() and np.isfinite(p1).all()):
        return None, nothing

    if method == "poselib":
        import poselib

        F, _ = poselib.estimate_fundamental(p0, p1, {"max_epipolar_error": threshold})
    else:
        F = _opencv("findFundamentalMat", method, p0, p1, threshold)
    norm = 0.0 if F is None or F.shape != (3, 3) else np.linalg.norm(F)
    if F is None or not np.isfinite(norm) or norm == 0:
        return None, nothing
    F = np.asarray(F / norm, dtype=np.float64)
    inliers = sampson_distance(F, p0, p1) <= threshold
    if inliers.sum() < _FEWEST_EPIPOLAR or _on_a_line(p0[inliers], p1[inliers], threshold):
        return None, nothing
    return F, inliers


def warp_points(points: ArrayLike, H: ArrayLike) -> Any:
    r"""Map points by a homography.

    .. math:: (x', y', w)^\top = \mathbf{H} (x, y, 1)^\top, \qquad (x, y) \mapsto (x' / w, y' / w)

    Args:
        points: Points in pixels, a tensor or an array.
        H: The homography, of either type.

    Returns:
        The mapped points, a tensor of the same type where ``points`` is one (of torch's default type for whole
        numbers), else a ``float64`` array. A point that is mapped to infinity becomes infinite (or NaN).

    Shapes:
        - **points:** :math:`(*, 2)`
        - **H:** :math:`(3, 3)`
        - **output:** :math:`(*, 2)`

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape is not as expected.

    Example:
        >>> warp_points(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 1]]))
        tensor([[2., 4.]])
    """
    if isinstance(points, Tensor):
        if points.is_complex() or points.is_meta:
            raise TypeError(f"expected a tensor of real numbers, got {points.dtype} on {points.device}")
        values: Any = points if points.is_floating_point() else points.to(torch.get_default_dtype())
        if not isinstance(H, Tensor):
            H = to_array(H)
        elif H.is_complex() or H.is_meta:
            raise TypeError(f"expected a homography of real numbers, got {H.dtype} on {H.device}")
        dtype = values.dtype
        values = values.to(torch.promote_types(dtype, torch.float))
        matrix: Any = torch.as_tensor(H, dtype=values.dtype, device=points.device)
    else:
        matrix, values, dtype = to_array(H), to_array(points), None
    if matrix.shape != (3, 3):
        raise ValueError(f"expected a homography of shape [3, 3], got {list(matrix.shape)}")
    if values.ndim == 0 or values.shape[-1] != 2:
        raise ValueError(f"expected points of shape [..., 2], got {list(values.shape)}")
    # An autocast of the caller would round pixels to eight bits.
    plain = torch.autocast(points.device.type if isinstance(points, Tensor) else "cpu", enabled=False)
    with np.errstate(divide="ignore", invalid="ignore"), plain:
        mapped = values @ matrix[:, :2].T + matrix[:, 2]
        mapped = mapped[..., :2] / mapped[..., 2:]
    return mapped if dtype is None else mapped.to(dtype)


def homography_matrix(homography: ArrayLike) -> Tensor:
    """A homography as a user gave it, ``[3, 3]`` in double precision on the CPU.

    Raises:
        TypeError: If it does not consist of numbers.
        ValueError: If it has another shape, is not finite, or cannot be inverted.
    """
    matrix = to_array(homography)
    if matrix.shape != (3, 3):
        raise ValueError(f"'homography' must have shape [3, 3], got {list(matrix.shape)}")
    if not (np.isfinite(matrix).all() and np.linalg.cond(matrix) < 1 / np.finfo(matrix.dtype).eps):
        raise ValueError(f"'homography' must be finite and invertible, got {matrix.tolist()}")
    return torch.from_numpy(matrix)


def corner_error(H_est: ArrayLike | None, H_true: ArrayLike, image_size: ArrayLike) -> float:
    r"""Mean distance between the corners of image 0 mapped by two homographies, in pixels of image 1.

    The corners are (0, 0), (w, 0), (w, h) and (0, h), as in glue-factory's ``homography_corner_error``:
    half a pixel off the pixel centres (0, 0) … (w - 1, h - 1), which does not change the figure noticeably.

    Args:
        H_est: The estimate; ``None`` for a failed one.
        H_true: The truth.
        image_size: ``(width, height)`` of image 0 in pixels.

    Returns:
        The mean over the four corners; infinite if there is no estimate or if it maps a corner to infinity.

    Shapes:
        - **H_est**, **H_true:** :math:`(3, 3)`
        - **image_size:** :math:`(2)` or :math:`(1, 2)`

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape is not as expected.

    Example:
        >>> corner_error(np.eye(3), np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1]]), (640, 480))
        5.0
    """
    size = to_array(image_size).reshape(-1)
    if size.shape != (2,):
        raise ValueError(f"expected an image size (width, height), got {shown(size.tolist())}")
    if H_est is None:
        return float("inf")
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    offset = warp_points(corners, to_array(H_est)) - warp_points(corners, to_array(H_true))
    error = float(np.linalg.norm(offset, axis=1).mean())
    return error if np.isfinite(error) else float("inf")


def _check_scores(scores: ArrayLike, num_matches: int) -> Array:
    weights = to_array(scores)
    if weights.shape != (num_matches,):
        raise ValueError(f"expected {num_matches} scores, one per match, got shape {list(weights.shape)}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("'scores' must be finite and not negative")
    return weights


def _check_method(method: str, methods: tuple[str, ...]) -> None:
    if not isinstance(method, str) or method not in methods:
        raise ValueError(f"unknown method {shown(method)}; expected one of {', '.join(methods)}")


def _opencv(function: str, method: str, p0: Array, p1: Array, threshold: float) -> Array | None:
    import cv2

    solver = cv2.USAC_MAGSAC if method == "magsac" else cv2.RANSAC  # the same number as cv2.FM_RANSAC
    try:
        matrix, _ = getattr(cv2, function)(
            p0, p1, solver, threshold, maxIters=_OPENCV_ITERATIONS, confidence=_OPENCV_CONFIDENCE
        )
    except cv2.error:  # raised for some degenerate sets of points
        return None
    return None if matrix is None else np.asarray(matrix, dtype=np.float64)


def transfer_error(H: ArrayLike, p0: ArrayLike, p1: ArrayLike) -> Array:
    """The distance in pixels of each point of image 1 to its prediction by a homography; NaN where there is none.

    Shapes:
        - **H:** :math:`(3, 3)`
        - **p0**, **p1:** :math:`(N, 2)`
        - **output:** :math:`(N)`

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape is not as expected.

    Example:
        >>> transfer_error(np.eye(3), np.zeros((1, 2)), np.array([[3.0, 4.0]]))
        array([5.])
    """
    p0, p1 = point_pairs(p0, p1)
    return np.asarray(np.linalg.norm(warp_points(p0, H) - p1, axis=1))


def sampson_distance(F: ArrayLike, p0: ArrayLike, p1: ArrayLike) -> Array:
    """The first-order distance in pixels of each match to the epipolar geometry of a fundamental matrix.

    Shapes:
        - **F:** :math:`(3, 3)`
        - **p0**, **p1:** :math:`(N, 2)`
        - **output:** :math:`(N)`

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape is not as expected.

    Source: Sampson (CGIP 1982), by :func:`kornia.geometry.epipolar.sampson_epipolar_distance`.

    Example:
        >>> F = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a move to the side: rows stay rows
        >>> sampson_distance(F, np.array([[0.0, 0.0]]), np.array([[9.0, 2.0]]))
        array([1.41421356])
    """
    from kornia.geometry.epipolar import sampson_epipolar_distance

    F = to_array(F)
    if F.shape != (3, 3):
        raise ValueError(f"expected a fundamental matrix of shape [3, 3], got {list(F.shape)}")
    q0, q1, matrix = (torch.from_numpy(v)[None] for v in (*point_pairs(p0, p1), F))
    return np.asarray(sampson_epipolar_distance(q0, q1, matrix, squared=False)[0].numpy())


def _on_a_line(points0: Array, points1: Array, threshold: float) -> bool:
    """Whether the points of one of the images lie within ``threshold`` of the line that fits them best."""
    for points in (points0, points1):
        centred = points - points.mean(axis=0)
        normal = np.linalg.svd(centred, full_matrices=False)[2][1]
        if np.abs(centred @ normal).max() <= threshold:
            return True
    return False
