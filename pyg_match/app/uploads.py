"""Images that strangers hand in."""

import os
import warnings
from typing import Union

from torch import Tensor

from pyg_match.app.settings import Limits
from pyg_match.features import load_image
from pyg_match.files import user_path


def read_upload(path: Union[str, "os.PathLike[str]"], limits: Limits, name: str = "the image") -> Tensor:
    r"""Read an image that is not too large, judged by the size of the file and the header before decoding.

    Args:
        path: The file.
        limits: How large it may be.
        name: What messages call it.

    Shapes:
        - **output:** :math:`(3, H, W)`

    Raises:
        ValueError: If it is too large, no image, or damaged. The message names no folder.
        FileNotFoundError: If there is no such file.
    """
    from PIL import Image

    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file {path.name}")
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise ValueError(
            f"{name} is too large: {size / 2**20:.3g} MiB, at most {limits.max_bytes / 2**20:.3g} MiB are read"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(path) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # pixels, above which Pillow reads nothing
        raise ValueError(
            f"{name} is too large: it has more than {most / 1e6:.0f} megapixels, "
            f"at most {min(most, limits.max_pixels) / 1e6:.3g} are read"
        ) from None
    except Exception:  # the decoders raise OSError, SyntaxError, struct.error, ... on damaged headers
        raise ValueError(f"{name} cannot be read: {path.name} is not an image, or damaged") from None
    if width * height > limits.max_pixels:
        raise ValueError(
            f"{name} is too large: {width} x {height} pixels are {width * height / 1e6:.3g} megapixels, "
            f"at most {limits.max_pixels / 1e6:.3g} are read; make it smaller first"
        )
    try:
        return load_image(path)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read: {str(error).replace(str(path), path.name)}") from None
