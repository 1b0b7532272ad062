"""Photos that lie turned in their files."""

from pathlib import Path

import numpy as np
from PIL import Image

_ORIENTATION = 274  # tag of EXIF


def exif_orientation(path: Path) -> int:
    """How a photo lies in its file, from 1 to 8; 1 for upright, and for images that do not tell."""
    with Image.open(path) as image:
        value = image.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


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
    x, y = points.T if orientation < 5 else points[:, ::-1].T
    if orientation in (2, 3, 7, 8):
        x = width - 1 - x
    if orientation in (3, 4, 6, 7):
        y = height - 1 - y
    return np.stack([x, y], axis=1)
