"""True matches of two keypoint sets, from the homography between their images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from pyg_match.checks import check_points, real_number
from pyg_match.data.checks import check_image_sizes, image_sizes
from pyg_match.geometry import homography_matrix, warp_points

UNMATCHED, IGNORED = -1, -2


def homography_ground_truth(
    pos0: Tensor,
    pos1: Tensor,
    homography: Tensor,
    size0: Any = None,
    size1: Any = None,
    threshold: float = 3.0,
    negative_threshold: float = 6.0,
) -> tuple[Tensor, Tensor]:
    r"""Label each keypoint with its true partner in the other image.

    The distance of keypoint :math:`i` of image 0 and :math:`j` of image 1 is the larger of both transfer
    distances,

    .. math::
        d_{ij} = \max \left( \lVert H p_i - q_j \rVert, \lVert p_i - H^{-1} q_j \rVert \right)

    * :math:`i` and :math:`j` are partners if they are each other's nearest by :math:`d` and
      :math:`d_{ij} <` ``threshold``.
    * A keypoint without a partner is *unmatched* (``-1``) if its projection lies further than
      ``negative_threshold`` from every keypoint of the other image or, where the size of the other image is
      given, outside of it.
    * Everything in between is undecided and *ignored* (``-2``).

    Only pairs within ``threshold`` of each other are ever listed, so memory grows with the keypoints and not
    with their product.

    Args:
        pos0: Keypoints of image 0 in pixels.
        pos1: Keypoints of image 1 in pixels.
        homography: Homography from pixels of image 0 to pixels of image 1.
        size0: ``(width, height)`` of image 0 in pixels, if known.
        size1: ``(width, height)`` of image 1 in pixels, if known.
        threshold: Largest distance of partners in pixels (exclusive).
        negative_threshold: Smallest distance in pixels (exclusive) that proves a keypoint to be without a
            partner.

    Shapes:
        - **pos0:** :math:`(N_0, 2)`
        - **pos1:** :math:`(N_1, 2)`
        - **homography:** :math:`(3, 3)`
        - **output:** labels :math:`(N_0)` and :math:`(N_1)`, on the device of ``pos0``

    Raises:
        ValueError: If a shape is wrong, a keypoint is not finite, the homography is singular, or the
            thresholds are not in order.

    Source: glue-factory, ``gt_matches_from_homography`` (the rule without image sizes).

    Example:
        >>> pos0 = torch.tensor([[0.0, 0.0], [50.0, 0.0], [90.0, 0.0]])
        >>> pos1 = torch.tensor([[51.0, 0.0], [94.0, 0.0]])
        >>> homography_ground_truth(pos0, pos1, torch.eye(3))
        (tensor([-1,  0, -2]), tensor([ 1, -2]))
    """
    threshold = real_number("threshold", threshold)
    negative_threshold = real_number("negative_threshold", negative_threshold)
    if not 0 < threshold <= negative_threshold:
        raise ValueError(
            "thresholds must fulfil 0 < threshold <= negative_threshold, "
            f"got {threshold} and {negative_threshold}"
        )
    H = homography_matrix(homography)
    points0, points1 = _points(pos0, "pos0"), _points(pos1, "pos1")
    projected0 = warp_points(points0, H).numpy()
    projected1 = warp_points(points1, torch.linalg.inv(H)).numpy()

    truth0 = _unmatched(projected0, points1.numpy(), size1, negative_threshold)
    truth1 = _unmatched(projected1, points0.numpy(), size0, negative_threshold)
    index0, index1 = _partners(points0.numpy(), points1.numpy(), projected0, projected1, threshold)
    truth0[index0], truth1[index1] = index1, index0
    return torch.from_numpy(truth0).to(pos0.device), torch.from_numpy(truth1).to(pos0.device)


def _points(pos: Tensor, name: str) -> Tensor:
    if isinstance(pos, Tensor) and (pos.dim() != 2 or pos.size(1) != 2):
        raise ValueError(f"'{name}' must have shape [N, 2], got {list(pos.shape)}")
    check_points(name, pos)
    return pos.detach().to("cpu", torch.float64)


def _unmatched(
    projected: NDArray[np.float64], others: NDArray[np.float64], size: Any, threshold: float
) -> NDArray[np.int64]:
    """-1 where a projection is outside the image or far from all keypoints there, -2 elsewhere."""
    labels = np.full(len(projected), IGNORED, dtype=np.int64)
    finite = np.isfinite(projected).all(axis=1)
    labels[~finite] = UNMATCHED
    if len(others) == 0:
        labels[:] = UNMATCHED
    elif finite.any():
        distance, _ = cKDTree(others).query(projected[finite])
        labels[finite] = np.where(distance > threshold, UNMATCHED, IGNORED)
    if size is not None:
        # Pixel centres are whole numbers, so the image ends half a pixel before the first and after the last.
        sizes = image_sizes(size)
        check_image_sizes(sizes, num_images=1)
        with np.errstate(invalid="ignore"):
            inside = ((projected >= -0.5) & (projected <= np.array(sizes[0].tolist()) - 0.5)).all(axis=1)
        labels[~inside] = UNMATCHED
    return labels


def _partners(
    points0: NDArray[np.float64],
    points1: NDArray[np.float64],
    projected0: NDArray[np.float64],
    projected1: NDArray[np.float64],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the mutual nearest pairs closer than the threshold; ties go to the smaller index."""
    kept0 = np.flatnonzero(np.isfinite(projected0).all(axis=1))
    empty = np.empty(0, dtype=np.int64)
    if len(kept0) == 0 or len(points1) == 0:
        return empty, empty
    # Whoever is nearer than a partner within the threshold is within the threshold too: no other pair
    # matters.
    near = cKDTree(projected0[kept0]).sparse_distance_matrix(
        cKDTree(points1), threshold, output_type="ndarray"
    )
    index0, index1 = kept0[near["i"]], near["j"].astype(np.int64)
    distance = np.maximum(near["v"], np.linalg.norm(points0[index0] - projected1[index1], axis=1))
    close = distance < threshold
    index0, index1, distance = index0[close], index1[close], distance[close]

    order0 = np.lexsort((index1, distance, index0))
    order1 = np.lexsort((index0, distance, index1))
    best0 = order0[np.unique(index0[order0], return_index=True)[1]]
    best1 = order1[np.unique(index1[order1], return_index=True)[1]]
    mutual = np.intersect1d(best0, best1)
    return index0[mutual], index1[mutual]
