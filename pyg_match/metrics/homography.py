"""The area under the recall curve of homography or pose errors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyg_match.arrays import ArrayLike, to_array
from pyg_match.checks import real_number, shown


def recall_curve(errors: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""The share of pairs whose error is at most :math:`e`, at every error :math:`e` that occurs.

    The curve starts at (0, 0). Failed pairs (infinite or NaN) count in the denominator and never enter the
    curve.

    Args:
        errors: One non-negative error per pair, in any unit.

    Shapes:
        - **errors:** :math:`(P)`
        - **output:** errors :math:`(F + 1)` in rising order and recall in [0, 1] of the same shape, for
          :math:`F` finite errors

    Raises:
        TypeError: If ``errors`` are no real numbers.
        ValueError: If they are not a list, or one is negative.

    Example:
        >>> error, recall = recall_curve([2.0, float("inf")])
        >>> error.tolist(), recall.tolist()
        ([0.0, 2.0], [0.0, 0.5])
    """
    try:
        values = to_array(errors)
    except TypeError:
        raise TypeError(f"'errors' must be real numbers, got {shown(errors)}") from None
    if values.ndim != 1:
        raise ValueError(f"'errors' must have one dimension, got shape {list(values.shape)}")
    if (values < 0).any():
        raise ValueError(f"'errors' must not be negative, got {values.min()}")
    finite = np.sort(values[np.isfinite(values)])
    recall = np.arange(len(finite) + 1) / max(len(values), 1)
    return np.concatenate([[0.0], finite]), recall


def error_auc(errors: ArrayLike, thresholds: Sequence[float]) -> list[float]:
    r"""The area under the recall curve up to a threshold, divided by the threshold.

    .. math::
        \mathrm{AUC}@t = \frac{1}{t} \int_0^t \mathrm{recall}(e) \, \mathrm{d}e

    The recall curve joins its points by straight lines (trapezoid rule, exact for that curve) and is
    continued horizontally from its last point below :math:`t` to :math:`t`. Nothing is binned or rounded.

    Args:
        errors: One non-negative error per pair; ``inf`` or NaN where the estimate failed.
        thresholds: Upper ends of the integral, in the unit of the errors.

    Shapes:
        - **errors:** :math:`(P)`
        - **output:** one number in [0, 1] per threshold; NaN if there are no pairs

    Raises:
        TypeError: If errors or thresholds are no real numbers.
        ValueError: If a threshold is not positive or an error is negative.

    Source: the protocol of SuperGlue (CVPR 2020), ``pose_auc``, and glue-factory, ``cal_error_auc``.

    Example:
        >>> error_auc([1.0, 3.0], thresholds=[1.0, 4.0])
        [0.0, 0.6875]
    """
    thresholds = [real_number("thresholds", threshold, positive=True) for threshold in thresholds]
    error, recall = recall_curve(errors)
    if np.size(errors) == 0:
        return [float("nan")] * len(thresholds)
    areas = []
    for threshold in thresholds:
        below = int(np.searchsorted(error, threshold))
        x = np.append(error[:below], threshold) / threshold
        y = np.append(recall[:below], recall[below - 1])
        areas.append(float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2))
    return areas
