"""Choice of the geometry of two images: a homography, a fundamental matrix, or none."""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from pyg_match.arrays import Array, ArrayLike, point_pairs
from pyg_match.geometry import estimate_fundamental, estimate_homography, transfer_error

Kind: TypeAlias = Literal["homography", "fundamental", "none"]

# Thresholds in pixels of images whose longer side has so many, the size at which keypoints are detected by default.
HOMOGRAPHY_THRESHOLD, FUNDAMENTAL_THRESHOLD = 3.0, 2.0
REFERENCE_SIDE = 1024

# A homography explains a pair when it keeps at least this share of the inliers of the fundamental matrix, of which at
# most that share lies so many thresholds away from its predictions: of a deeper scene it keeps one plane only.
_LEAST_KEPT, _MOST_OFF, _FAR = 0.8, 0.05, 3.0

# Of the number of false alarms, to base 10. Unrelated photos hardly come near it, and pairs with overlap are far below.
_LARGEST_LOG = -8.0
_DIGITS = 2  # of pixels, by which places are told apart


class Geometry(NamedTuple):
    """Geometric model of the matches of two images.

    Attributes:
        kind: ``"homography"``, ``"fundamental"`` or ``"none"``.
        model: The 3 x 3 matrix, ``None`` for ``"none"``.
        inliers: Which matches it explains.
        threshold: Largest error of an inlier in pixels; for ``"none"`` that of a homography.

    Shapes:
        - **inliers:** :math:`(M)` ``bool``

    Example:
        >>> Geometry("none", None, np.zeros(3, dtype=bool), 3.0).kind
        'none'
    """

    kind: Kind
    model: Array | None
    inliers: Array
    threshold: float


def estimate_geometry(
    points0: ArrayLike,
    points1: ArrayLike,
    method: str = "poselib",
    homography_threshold: float = HOMOGRAPHY_THRESHOLD,
    fundamental_threshold: float = FUNDAMENTAL_THRESHOLD,
) -> Geometry:
    r"""Estimate the geometry that the matches speak for.

    Both models are fitted. A plane, or a camera that only turns, is explained by either, and the homography, which
    says more, is chosen: if it keeps at least 80 % of the inliers of the fundamental matrix, and at most 5 % of these,
    apart from two, are farther than three thresholds from where it predicts them. A model counts only if its inliers
    are not to be expected of random matches: with :math:`n` matches, :math:`k` inliers, :math:`s` matches that
    determine the model, and the probability :math:`p` that a random match fits it, the number of false alarms

    .. math:: (n - s) \binom{n}{k} \binom{k}{s} p^{k - s}

    must be below :math:`10^{-8}`. Matches of the same two places count once. The same input gives the same result.

    Args:
        points0: Matched points of image 0 in pixels.
        points1: Their partners in image 1.
        method: ``"poselib"``, ``"opencv"`` or ``"magsac"``; see :func:`pyg_match.geometry.estimate_homography`.
        homography_threshold: Largest distance in pixels of an inlier to its prediction by a homography. The default
            is wider than the other, since few surfaces are planes to the pixel.
        fundamental_threshold: Largest distance in pixels of an inlier to its epipolar line.

    Shapes:
        - **points0**, **points1:** :math:`(N, 2)`

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape, the method or a threshold is not as expected.

    Source: the ratio of inliers follows ORB-SLAM (Mur-Artal et al., T-RO 2015), the number of false alarms Moisan and
    Stival (IJCV 2004).

    Example:
        >>> points = np.random.default_rng(0).uniform(0, 640, (50, 2))
        >>> geometry = estimate_geometry(points, points + 5)
        >>> geometry.kind, int(geometry.inliers.sum())
        ('homography', 50)
    """
    p0, p1 = point_pairs(points0, points1)
    H, near = estimate_homography(p0, p1, method, homography_threshold)
    F, close = estimate_fundamental(p0, p1, method, fundamental_threshold)
    # The area of a disc, and that of a strip across the image, as shares of the image.
    (area, diagonal), (area0, diagonal0) = _extent(p1), _extent(p0)
    disc = math.pi * homography_threshold**2 / area
    strip = 2 * fundamental_threshold * max(diagonal / area, diagonal0 / area0)
    # Detectors that find several keypoints at a place match it several times, which proves no more than once.
    rows = np.unique(np.hstack([p0, p1]).round(_DIGITS), axis=0, return_index=True)[1]
    log_planar = _log_false_alarms(len(rows), int(near[rows].sum()), 4, disc)
    log_deep = _log_false_alarms(len(rows), int(close[rows].sum()), 7, strip)
    if (
        F is not None
        and log_deep < _LARGEST_LOG
        and not _is_plane(H, p0[close], p1[close], homography_threshold)
    ):
        return Geometry("fundamental", F, close, fundamental_threshold)
    if H is not None and log_planar < _LARGEST_LOG:
        return Geometry("homography", H, near, homography_threshold)
    return Geometry("none", None, np.zeros(len(p0), dtype=bool), homography_threshold)


def thresholds_for(size0: tuple[int, int], size1: tuple[int, int]) -> tuple[float, float]:
    """The thresholds of a homography and of a fundamental matrix that suit images of these sizes.

    Images are shrunk to 1,024 pixels before keypoints are detected, so that errors grow with images that are larger.
    The error of a homography is measured in image 1, and that of a fundamental matrix is mostly one of the smaller
    image.

    Args:
        size0: ``(width, height)`` of image 0 in pixels.
        size1: The same of image 1.

    Example:
        >>> thresholds_for((640, 480), (2048, 1536))
        (6.0, 2.0)
    """
    side0, side1 = max(size0), max(size1)
    planar, deep = (max(1.0, side / REFERENCE_SIDE) for side in (side1, min(side0, side1)))
    return HOMOGRAPHY_THRESHOLD * planar, FUNDAMENTAL_THRESHOLD * deep


def _is_plane(H: Array | None, p0: Array, p1: Array, threshold: float) -> bool:
    """Whether a homography explains the inliers of a fundamental matrix."""
    if H is None:
        return False
    error = transfer_error(H, p0, p1)
    kept, off = int((error <= threshold).sum()), int((~(error <= _FAR * threshold)).sum())
    # Given a plane, a fundamental matrix can explain any two other matches, which prove nothing.
    total = len(p0) - 2
    return kept >= _LEAST_KEPT * total and off - 2 <= _MOST_OFF * total


def _extent(points: Array) -> tuple[float, float]:
    """Area and diagonal of the rectangle that points cover, at least a pixel each way.

    It is twice the one of the middle half of the points, which is all of it for evenly spread points. Where most
    matches of unrelated images lie on two similar things, a model fits them by chance more often.
    """
    if len(points) == 0 or not np.isfinite(points).all():
        return 1.0, 1.0
    low, high = np.quantile(points, [0.25, 0.75], axis=0)
    width, height = np.maximum(2 * (high - low), 1.0)
    return float(width * height), math.hypot(width, height)


def _log_false_alarms(matches: int, inliers: int, sample: int, probability: float) -> float:
    """Base-10 logarithm of how many models with so many inliers are expected of random matches."""
    if inliers <= sample:
        return math.inf
    choices = _log_binomial(matches, inliers) + _log_binomial(inliers, sample)
    fits = (inliers - sample) * math.log(min(probability, 1.0))
    return (math.log(max(matches - sample, 1)) + choices + fits) / math.log(10)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
