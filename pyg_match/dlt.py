"""The direct linear transform: a homography by least squares."""

import numpy as np
import torch

from pyg_match.arrays import Array

# Relative size of a singular value that counts as zero: above the rounding of float32 pixels (1e-7), far
# below what matches spread over a thousandth of the image give.
_RANK_TOLERANCE = 1e-6


def dlt(p0: Array, p1: Array, weights: Array | None = None) -> Array | None:
    """Least squares of the algebraic error on normalised points, or None if they leave it undetermined."""
    T0, T1 = _normalisation(p0, weights), _normalisation(p1, weights)
    if T0 is None or T1 is None:
        return None
    q0, q1 = (p @ T[:2, :2].T + T[:2, 2] for p, T in ((p0, T0), (p1, T1)))
    ones, zeros = np.ones((len(q0), 1)), np.zeros((len(q0), 3))
    h0 = np.hstack([q0, ones])
    rows = np.stack([np.hstack([zeros, -h0, q1[:, 1:] * h0]), np.hstack([h0, zeros, -q1[:, :1] * h0])])
    if weights is not None:
        rows = rows * np.sqrt(weights)[:, None]
    # The triangular factor has the right singular vectors of the tall matrix.
    _, values, vectors = np.linalg.svd(np.linalg.qr(rows.reshape(-1, 9), mode="r"))
    if values[7] <= _RANK_TOLERANCE * values[0]:
        return None
    return scaled(np.linalg.inv(T1) @ vectors[8].reshape(3, 3) @ T0)


def dlt_lu(p0: Array, p1: Array, weights: Array | None) -> Array | None:
    """The homography of kornia's ``find_homography_dlt``, or None if that is no homography."""
    from kornia.geometry import find_homography_dlt

    q0, q1, w = (None if v is None else torch.from_numpy(v)[None] for v in (p0, p1, weights))
    return scaled(find_homography_dlt(q0, q1, w, solver="lu")[0].numpy())


def _normalisation(points: Array, weights: Array | None) -> Array | None:
    """Hartley's transform to mean 0 and mean distance sqrt(2), or None if all points coincide."""
    if weights is not None and weights.sum() == 0:
        return None
    mean = np.average(points, axis=0, weights=weights)
    distance = np.average(np.linalg.norm(points - mean, axis=1), weights=weights)
    if distance <= _RANK_TOLERANCE:
        return None
    scale = np.sqrt(2) / distance
    return np.array([[scale, 0, -scale * mean[0]], [0, scale, -scale * mean[1]], [0, 0, 1]])


def scaled(H: Array) -> Array | None:
    """Bring the last element to 1, as far as it is not 0; None for what is no homography."""
    if not np.isfinite(H).all() or not H.any():
        return None
    H = np.ldexp(H, -np.frexp(np.abs(H).max())[1])  # so that squares stay in range
    H = H / np.linalg.norm(H)
    return H / H[2, 2] if abs(H[2, 2]) > 1e-12 else H
