"""Pixels of image files, upright and, where a JPEG photo is far larger than it is needed, smaller."""

import io
import os
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeAlias

import numpy as np

from pyg_match.arrays import Array
from pyg_match.checks import shown
from pyg_match.files import is_file

# From width and height to the whole number by which an image may be shrunk.
Shrink: TypeAlias = Callable[[int, int], int]

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_DRAWINGS = ("EPS", "WMF")  # formats that Pillow hands to other programs
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


@dataclass
class Pixels:
    """Pixels of an image.

    Attributes:
        values: ``[H, W]`` or ``[H, W, C]``; each stands for a square of the original.
        factor: Side of those squares in pixels.
    """

    values: Array
    factor: int = 1


def read_file(path: Path, shrink: Shrink | None) -> Pixels:
    """The pixels of an image file.

    Args:
        path: The file.
        shrink: By how much an image may be shrunk; ``None`` for not at all. JPEG files are decoded at a smaller scale
            if it divides their sides.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, cut off, or too large to decode safely.
    """
    from PIL import Image, UnidentifiedImageError

    if os.path.isdir(path):
        raise ValueError(f"expected an image file, got the folder {path}")
    if not is_file(path):
        raise FileNotFoundError(f"no image at {shown(str(path))}")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path} is empty (0 bytes), expected an image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in _DRAWINGS:
                raise ValueError(
                    f"it is a drawing ({image.format}), which other programs would have to render"
                )
            return _decode(image, data, shrink, str(path))
    except UnidentifiedImageError as error:
        values = _read_tiff(data, str(path)) if data.startswith(_TIFF) else None
        if values is not None:
            return Pixels(values)
        raise ValueError(f"{path} {_unsupported(data)}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} is too large to decode safely: {error} (PIL.Image.MAX_IMAGE_PIXELS sets the limit)"
        ) from error
    except Warning:  # where warnings are errors
        raise
    except Exception as error:  # the decoders raise OSError, SyntaxError, struct.error, … on damaged data
        raise ValueError(
            f"{path} ({len(data)} bytes) cannot be decoded; it is damaged, cut off or unusual: {error}"
        ) from error


def pixels_of(image: Any, name: str) -> Array:
    """The pixels of a PIL image, upright."""
    image.load()  # which turns TIFF files upright by itself
    return _orient(_values(image, name), orientation_of(image))


def orientation_of(image: Any) -> int:
    """The EXIF orientation of a PIL image, from 1 to 8; 1, which is upright, where none can be read."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # EXIF data that are none raise SyntaxError, struct.error, TypeError, ...
        return 1
    return value if value in range(1, 9) else 1


def _decode(image: Any, data: bytes, shrink: Shrink | None, name: str) -> Pixels:
    deep = _is_deep(image)
    orientation = orientation_of(image)
    width, height = image.size
    scale = _jpeg_scale(image, 1 if shrink is None else shrink(width, height))
    if scale > 1:
        image.draft(image.mode, (width // scale, height // scale))
        scale = width // image.width
    image.load()  # raises where the data is cut off, which OpenCV would pass over
    coarse = pixels_of(image, name)
    if deep:
        fine = _read_by_opencv(data)
        if fine is not None and fine.dtype == np.uint16 and fine.shape[2:] in ((3,), (4,)):
            # Whether OpenCV has applied the orientation depends on the format and its version.
            for upright in (fine, _orient(fine, orientation)):
                if upright.shape == coarse.shape and np.abs(upright / 257 - coarse).max() <= 1:
                    return Pixels(upright)
    return Pixels(coarse, scale)


def _jpeg_scale(image: Any, factor: int) -> int:
    """The largest scale up to ``factor`` at which a JPEG file can be decoded and that divides its sides."""
    if image.format not in ("JPEG", "MPO"):
        return 1
    scales = (scale for scale in (8, 4, 2) if scale <= factor)
    return next((s for s in scales if image.width % s == 0 and image.height % s == 0), 1)


def _read_by_opencv(data: bytes) -> Optional[Array]:
    """Pixels with channels in the order of RGB, as they are in the file."""
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is not None and values.ndim == 3 and values.shape[2] in (3, 4):
        return values[..., [2, 1, 0, 3][: values.shape[2]]]
    return values


def _read_tiff(data: bytes, name: str) -> Optional[Array]:
    """A TIFF file that Pillow does not know, such as one of several channels of floating-point numbers."""
    import cv2
    from PIL import Image, TiffImagePlugin

    try:
        header: Any = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])
        file = io.BytesIO(data)
        file.seek(header.next)
        header.load(file)
        size = int(header.get(256, 0)) * int(header.get(257, 0))
        most = 2 * (Image.MAX_IMAGE_PIXELS or size)
        if size > most:
            raise ValueError(f"{name} is too large to decode safely: {size} pixels, more than {most}")
        return _read_by_opencv(data)
    except (cv2.error, SyntaxError, TypeError, KeyError, struct.error, OSError) as error:
        raise ValueError(
            f"{name} ({len(data)} bytes) cannot be decoded; it is damaged or unusual: {error}"
        ) from error


def _unsupported(data: bytes) -> str:
    """What is wrong with a file that neither Pillow nor OpenCV reads."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and b"avif" not in data[:64]:
        return (
            "is a HEIC image, which Pillow reads only with the package pillow-heif "
            "(pillow_heif.register_heif_opener()); convert it to JPEG or PNG"
        )
    for start, kind in ((b"#?R", "a Radiance HDR"), (b"\x76\x2f\x31\x01", "an OpenEXR")):
        if data.startswith(start):
            return f"is {kind} image, whose range has no bounds; map it to [0, 1] or to 8 or 16 bits first"
    return f"is not an image, or cut off; its content begins with {data[:16]!r}"


def _is_deep(image: Any) -> bool:
    """Whether an opened file has several channels of 16 bits."""
    if len(image.getbands()) == 1 or not image.tile:
        return False
    arguments = image.tile[0][3]
    if image.format == "PPM":
        return isinstance(arguments, tuple) and arguments[-1] == 65535
    return ";16" in str(arguments)


def _orient(values: Array, orientation: int) -> Array:
    """Apply an EXIF orientation (1–8) to ``[H, W]`` or ``[H, W, C]`` pixels."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _values(image: Any, name: str) -> Array:
    """The pixels of a PIL image as ``[H, W]`` or ``[H, W, C]``."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        return _as_16_bit(np.asarray(image), name)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _as_16_bit(values: Array, name: str) -> Array:
    """Whole numbers of 32 bits, of which the highest 16 are kept that are used."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0:
        raise ValueError(f"integer pixels run from {low} to {high}, expected none below 0")
    bits = high.bit_length()
    if bits > 16:
        warnings.warn(
            f"{name}: integer pixels up to {high} are taken as numbers of {bits} bits", stacklevel=2
        )
    return (values >> max(bits - 16, 0)).astype(np.uint16)
