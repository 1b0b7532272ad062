"""Photos that lie turned in their files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pyg_match.features.image_file import orientation_of


def exif_orientation(path: Path) -> int:
    """How a photo lies in its file, from 1 to 8; 1 for upright, and for images that do not tell."""
    try:
        with Image.open(path) as image:
            return orientation_of(image)
    except UnidentifiedImageError:  # which OpenCV may read, as it is
        return 1


def size_in_file(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height in its file of a photo that was turned upright, or the other way round.

    Example:
        >>> size_in_file(3, 4, orientation=6)
        (4, 3)
    """
    return (width, height) if orientation < 5 else (height, width)


def to_file(points: np.ndarray, orientation: int, width: int, height: int) -> np.ndarray:
    """Points of a photo that was turned upright, in the pixels of its file.

    Args:
        points: Points, of which (0, 0) is the centre of the first pixel.
        orientation: See :func:`exif_orientation`.
        width: Width of the image in the file.
        height: Height of the image in the file.

    Shapes:
        - **points:** :math:`(N, 2)`
        - **output:** :math:`(N, 2)`

    Example:
        >>> to_file(np.array([[0.0, 0.0]]), 3, width=4, height=3).tolist()
        [[3.0, 2.0]]
    """
    return _mirrored(points if orientation < 5 else points[:, ::-1], orientation, width, height)


def to_upright(points: np.ndarray, orientation: int, width: int, height: int) -> np.ndarray:
    """Points of a photo in the pixels of its file, once it is turned upright; the inverse of :func:`to_file`.

    It takes what :func:`to_file` takes.

    Example:
        >>> to_upright(np.array([[0.0, 0.0]]), 6, width=4, height=3).tolist()
        [[2.0, 0.0]]
    """
    points = _mirrored(points, orientation, width, height)
    return points if orientation < 5 else points[:, ::-1]


def turned_angles(
    angles: np.ndarray, orientation: int, turn: Callable[[np.ndarray, int, int, int], np.ndarray]
) -> np.ndarray:
    """Directions after :func:`to_file` or :func:`to_upright`.

    Args:
        angles: Angles in radians from the x axis towards the y axis.
        orientation: See :func:`exif_orientation`.
        turn: One of these.

    Shapes:
        - **angles**, **output:** :math:`(N)`

    Example:
        >>> [turned_angles(np.array([0.0]), 4, turn).tolist() for turn in (to_file, to_upright)]
        [[0.0], [0.0]]
    """
    if orientation == 1:
        return angles
    directions = turn(np.stack([np.cos(angles), np.sin(angles)], axis=1), orientation, 1, 1)
    return np.arctan2(directions[:, 1], directions[:, 0])


def _mirrored(points: np.ndarray, orientation: int, width: int, height: int) -> np.ndarray:
    x, y = points.T
    if orientation in (2, 3, 7, 8):
        x = width - 1 - x
    if orientation in (3, 4, 6, 7):
        y = height - 1 - y
    return np.stack([x, y], axis=1)
