"""Precision and recall of matches between two images related by a homography."""

from typing import Union

import numpy as np
import torch
from torch import Tensor

from pyg_match.checks import check_tensor, real_number
from pyg_match.geometry import homography_matrix, warp_points


def reprojection_error(points0: Tensor, points1: Tensor, homography: Union[Tensor, np.ndarray]) -> Tensor:
    r"""The symmetric transfer distance of matched points, in pixels.

    .. math::
        e = \tfrac{1}{2} \left( \lVert H p_0 - p_1 \rVert + \lVert H^{-1} p_1 - p_0 \rVert \right)

    Args:
        points0: Matched points of image 0 in pixels.
        points1: Their partners in image 1 in pixels.
        homography: Homography from pixels of image 0 to pixels of image 1.

    Shapes:
        - **points0**, **points1:** :math:`(M, 2)`
        - **homography:** :math:`(3, 3)`
        - **output:** :math:`(M)`, double precision

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If the shapes do not fit.

    Source: glue-factory, ``sym_homography_error``.

    Example:
        >>> reprojection_error(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.eye(3)).item()
        5.0
    """
    for name, points in (("points0", points0), ("points1", points1)):
        if not isinstance(points, Tensor):
            raise TypeError(f"'{name}' must be a tensor of points, got {type(points).__name__}")
        if points.is_meta or points.is_complex():
            raise TypeError(f"'{name}' must hold real numbers, got {points.dtype} on {points.device}")
    if points0.shape != points1.shape or points0.dim() != 2 or points0.size(1) != 2:
        raise ValueError(
            f"matched points must both have shape [M, 2], got {list(points0.shape)} and {list(points1.shape)}"
        )
    points0, points1 = points0.double(), points1.double()
    homography_matrix(homography)  # refuses what is none
    homography = torch.as_tensor(homography, dtype=torch.double, device=points0.device)
    forward = (warp_points(points0, homography) - points1).norm(dim=-1)
    backward = (warp_points(points1, torch.linalg.inv(homography)) - points0).norm(dim=-1)
    error: Tensor = (forward + backward) / 2
    return error


def matching_precision(
    points0: Tensor, points1: Tensor, homography: Union[Tensor, np.ndarray], threshold: float = 3.0
) -> float:
    r"""The share of matches whose :func:`reprojection_error` is below a threshold.

    Without any match the precision is 0, as in glue-factory: a matcher gains nothing by staying silent on a
    hard pair.

    Args:
        points0: Matched points of image 0 in pixels.
        points1: Their partners in image 1 in pixels.
        homography: Homography from pixels of image 0 to pixels of image 1.
        threshold: Largest error of a correct match in pixels (exclusive).

    Shapes:
        - **points0**, **points1:** :math:`(M, 2)`
        - **homography:** :math:`(3, 3)`

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If the shapes do not fit.

    Source: glue-factory, ``eval_matches_homography``.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
        >>> matching_precision(points, points + torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.eye(3))
        0.5
    """
    threshold = real_number("threshold", threshold, positive=True)
    error = reprojection_error(points0, points1, homography)
    # A point that is sent to infinity has a NaN or infinite error; neither is below the threshold.
    return float((error < threshold).double().mean()) if error.numel() > 0 else 0.0


def matching_recall(matches: Tensor, ground_truth0: Tensor) -> float:
    r"""The share of the true matches that were found.

    A pair without true matches has no recall: the result is NaN, and a mean over pairs should leave it out
    (``numpy.nanmean``). A pair with true matches of which none was found has recall 0.

    Args:
        matches: Index pairs (keypoint of image 0, keypoint of image 1).
        ground_truth0: For each keypoint of image 0 the index of its true partner in image 1, or a negative
            number, as from :func:`~pyg_match.metrics.homography_ground_truth`.

    Shapes:
        - **matches:** :math:`(M, 2)`
        - **ground_truth0:** :math:`(N_0)`

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> matching_recall(torch.tensor([[0, 5], [1, 6]]), torch.tensor([5, 7, -1]))
        0.5
    """
    check_tensor("matches", matches, (None, 2), "whole")
    check_tensor("ground_truth0", ground_truth0, (None,), "whole")
    if matches.is_meta or ground_truth0.is_meta:
        raise ValueError("'matches' or 'ground_truth0' is on the meta device, which holds no numbers")
    wrong = matches[(matches[:, 0] < 0) | (matches[:, 0] >= len(ground_truth0))]
    if len(wrong) > 0:
        raise ValueError(
            f"'matches' name keypoint {int(wrong[0, 0])} of image 0, but there are {len(ground_truth0)}"
        )
    total = int((ground_truth0 >= 0).sum())
    if total == 0:
        return float("nan")
    right = (ground_truth0[matches[:, 0]] == matches[:, 1]) & (matches[:, 1] >= 0)
    return matches[right, 0].unique().numel() / total
