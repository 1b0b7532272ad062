"""Numbers as a user gave them, as arrays in double precision."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyg_match.checks import shown

Array: TypeAlias = npt.NDArray[Any]
ArrayLike: TypeAlias = npt.ArrayLike | Tensor


def to_array(values: ArrayLike) -> Array:
    """Numbers as a user gave them, of any shape in double precision; TypeError if they are no real numbers."""
    if isinstance(values, Tensor):
        if values.is_complex() or values.is_meta:
            raise TypeError(f"expected a tensor of real numbers, got {values.dtype} on {values.device}")
        values = values.double().numpy(force=True)
    try:
        if np.iscomplexobj(values):
            raise TypeError
        # In order, as torch reads no array that runs backwards.
        return np.asarray(values, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"expected an array of real numbers, got {shown(values)}") from None


def point_pairs(points0: ArrayLike, points1: ArrayLike) -> tuple[Array, Array]:
    """Matched points as a user gave them, ``[N, 2]`` in double precision each.

    Raises:
        TypeError: If they are no real numbers.
        ValueError: If a shape is not as expected, or they differ in number.
    """
    p0, p1 = to_array(points0), to_array(points1)
    if p0.ndim != 2 or p0.shape[1] != 2 or p0.shape != p1.shape:
        raise ValueError(
            f"expected two arrays of points of shape [N, 2], got {list(p0.shape)} and {list(p1.shape)}"
        )
    return p0, p1
