"""Errors of relative poses."""

import numpy as np

from pyg_match.arrays import Array, ArrayLike, to_array


def pose_error(R: ArrayLike, t: ArrayLike, T_0to1: ArrayLike) -> tuple[Array, Array]:
    r"""The angles by which the rotation and the direction of the translation are wrong, in degrees.

    Two photos alone do not tell how far their cameras are apart, so the length of a translation does not count; its
    sign does. The error of a pose in :func:`~pyg_match.metrics.error_auc` is usually the larger of both angles.

    Args:
        R: Estimated rotations from camera 0 to camera 1, of one pair or any number of them.
        t: Estimated translations, of any length.
        T_0to1: True motions from camera 0 to camera 1.

    Returns:
        The angles of rotations and of translations; infinite where the estimate is not finite, or where a translation
        has no direction.

    Shapes:
        - **R:** :math:`(*, 3, 3)`
        - **t:** :math:`(*, 3)`
        - **T_0to1:** :math:`(*, 4, 4)`
        - **output:** :math:`(*), (*)` ``float64``

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If the shapes do not fit.

    Source: the protocol of SuperGlue (https://arxiv.org/abs/1911.11763), appendix.

    Example:
        >>> quarter_turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
        >>> [float(angle) for angle in pose_error(quarter_turn, [2, 0, 0], np.eye(4) + np.eye(4, k=3))]
        [90.0, 0.0]
    """
    rotation, translation, motion = to_array(R), to_array(t), to_array(T_0to1)
    shape = rotation.shape[:-2]
    expected = (*shape, 3, 3), (*shape, 3), (*shape, 4, 4)
    if rotation.ndim < 2 or (rotation.shape, translation.shape, motion.shape) != expected:
        shapes = ", ".join(str(list(values.shape)) for values in (rotation, translation, motion))
        raise ValueError(f"expected poses of shapes [*, 3, 3], [*, 3] and [*, 4, 4], got {shapes}")
    known, direction = motion[..., :3, :3], motion[..., :3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        trace = (rotation * known).sum(axis=(-2, -1))
        # Squares of lengths stay in range.
        translation, direction = (v / np.abs(v).max(axis=-1, keepdims=True) for v in (translation, direction))
        length = np.linalg.norm(translation, axis=-1) * np.linalg.norm(direction, axis=-1)
        cosine = (translation * direction).sum(axis=-1) / length
    return _angle((trace - 1) / 2), _angle(cosine)


def _angle(cosine: Array) -> Array:
    """Degrees, infinite where the cosine is no number."""
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return np.asarray(np.where(np.isfinite(cosine), angle, np.inf))
