"""Images as tensors: reading whatever people have, and resizing with known coordinates."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyg_match.checks import one_of, shown, whole_number
from pyg_match.files import is_file, user_path

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor | Image"

# Interpolation may overshoot [0, 1] a little; values further out mean that the range was never [0, 1].
_OVERSHOOT = 0.1


def load_image(source: ImageLike) -> Tensor:
    """Read an image as an RGB tensor with values in [0, 1].

    Files are read by Pillow (JPEG, PNG, PPM, TIFF, …); several 16-bit channels, which Pillow cuts to 8
    bits, are read by OpenCV. The orientation that a camera wrote into the EXIF data is applied, grey images
    are repeated to three channels, transparent ones are laid over black (the value that a warped image has
    outside its frame), colour profiles are ignored.

    Args:
        source: A path, a PIL image, an array, or a tensor. Arrays are ``[H, W]`` or ``[H, W, C]``, tensors
            ``[H, W]`` or ``[C, H, W]``, with 1 (grey), 3 (RGB) or 4 (RGBA) channels. Their type is
            ``bool``, ``uint8`` (0–255), ``uint16`` (0–65535), or floating point with values in [0, 1].
            Arrays from OpenCV are BGR: reverse their channels first.

    Returns:
        The image as a ``float32`` tensor, on the device of the tensor that was given.

    Shapes:
        - **output:** :math:`(3, H, W)`

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is no image, is cut off or is too large to decode safely, or if the pixels are
            empty, not finite, out of range, or of an unexpected shape or type.
        TypeError: If ``source`` is none of the above.

    Example:
        >>> import numpy as np
        >>> load_image(np.zeros((480, 640), dtype=np.uint8)).shape
        torch.Size([3, 480, 640])
    """
    if isinstance(source, Tensor):
        return _to_rgb(_unit_range(_channels_first(source, "tensor"), "tensor"))
    if isinstance(source, np.ndarray):
        return _from_array(source, "array")
    if isinstance(source, str | os.PathLike):
        path = user_path(source)
        return _from_array(_read_file(path), str(path))

    from PIL import Image, ImageOps

    if isinstance(source, Image.Image):
        return _from_array(_pixels(ImageOps.exif_transpose(source)), "PIL image")
    raise TypeError(f"expected a path, an array, a tensor or a PIL image, got {type(source).__name__}")


def resize_image(
    image: Tensor,
    size: int,
    side: str = "long",
    upscale: bool = True,
    interpolation: str = "bilinear",
    antialias: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Resize an image, keeping its proportions, and return by how much.

    The other side is cut to whole pixels, so the two axes are scaled slightly differently. A position in
    the resized image goes back to the original with
    :math:`p = (p_\mathrm{resized} + 0.5) / s - 0.5`, because the centre of the top-left pixel is (0, 0).

    Source: ``ImagePreprocessor`` of LightGlue and glue-factory (for HPatches ``size=480, side="short"``),
    which is kornia's ``resize``: Gaussian smoothing before shrinking, then interpolation.

    Args:
        image: The image, floating point.
        size: Length in pixels of the chosen side.
        side: ``"long"`` or ``"short"``.
        upscale: If ``False``, an image whose chosen side is at most ``size`` stays as it is.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"area"`` or ``"nearest"``.
        antialias: Whether to smooth before shrinking.

    Returns:
        The resized image, and the scale :math:`s` = new / old size of the x and of the y axis.

    Shapes:
        - **image:** :math:`(C, H, W)`
        - **output:** :math:`(C, H', W')` and :math:`(2)`

    Raises:
        ValueError: If an argument has an unexpected value or the image an unexpected shape.
        TypeError: If the image is not floating point.

    Example:
        >>> image, scale = resize_image(torch.rand(3, 480, 640), 320)
        >>> image.shape, scale
        (torch.Size([3, 240, 320]), tensor([0.5000, 0.5000]))
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"expected an image tensor, got {type(image).__name__}; see load_image")
    if image.dim() != 3 or image.numel() == 0:
        raise ValueError(f"expected an image of shape [C, H, W], got {list(image.shape)}")
    if not image.is_floating_point():
        raise TypeError(f"expected a floating-point image, got {image.dtype}; see load_image")
    size = whole_number("size", size)
    one_of("side", side, ("long", "short"))
    one_of("interpolation", interpolation, ("bilinear", "bicubic", "area", "nearest"))

    height, width = image.shape[-2:]
    chosen = max(height, width) if side == "long" else min(height, width)
    if upscale or chosen > size:
        from kornia.geometry.transform import resize

        aspect_ratio = width / height
        if (side == "short") ^ (aspect_ratio < 1):
            new_size = size, max(1, int(size * aspect_ratio))
        else:
            new_size = max(1, int(size / aspect_ratio)), size
        image = resize(image, new_size, interpolation=interpolation, antialias=antialias)
    scale = torch.tensor([image.shape[-1] / width, image.shape[-2] / height], device=image.device)
    return image, scale


def _read_file(path: Path) -> np.ndarray[Any, Any]:
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
            return _decode(image, data)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image, or cut off; its content begins with {data[:16]!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} is too large to decode safely: {error} (PIL.Image.MAX_IMAGE_PIXELS sets the limit)"
        ) from error
    except Exception as error:  # the decoders raise OSError, SyntaxError, struct.error, … on damaged data
        raise ValueError(
            f"{path} ({len(data)} bytes) cannot be decoded; it is damaged, cut off or unusual: {error}"
        ) from error


def _decode(image: Any, data: bytes) -> np.ndarray[Any, Any]:
    from PIL import ImageOps

    deep = _is_deep(image)
    orientation = image.getexif().get(0x0112, 1)
    image.load()  # raises where the data is cut off, which OpenCV would pass over
    coarse = _pixels(ImageOps.exif_transpose(image))
    if not deep:
        return coarse

    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.dtype == np.uint16 and pixels.shape[2:] in ((3,), (4,)):
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
        # Whether OpenCV has applied the orientation depends on the format and its version.
        for fine in (pixels, _orient(pixels, orientation)):
            if fine.shape == coarse.shape and np.abs(fine / 257 - coarse).max() <= 1:
                return fine
    return coarse


def _is_deep(image: Any) -> bool:
    """Whether an opened file has several channels of 16 bits."""
    if len(image.getbands()) == 1 or not image.tile:
        return False
    arguments = image.tile[0][3]
    if image.format == "PPM":
        return isinstance(arguments, tuple) and arguments[-1] == 65535
    return ";16" in str(arguments)


def _orient(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Apply an EXIF orientation (1–8) to ``[H, W, C]`` pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _pixels(image: Any) -> np.ndarray[Any, Any]:
    """The pixels of a PIL image as ``[H, W]`` or ``[H, W, C]``."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        pixels = np.asarray(image)
        low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
        if low < 0 or high > 65535:
            raise ValueError(f"integer pixels run from {low} to {high}, expected 0 to 65535")
        return pixels.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _from_array(pixels: np.ndarray[Any, Any], name: str) -> Tensor:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected shape [H, W] or [H, W, C] with 1, 3 or 4 channels, got {list(pixels.shape)}"
        )
    dtype = pixels.dtype.newbyteorder("=")
    if dtype not in (np.bool_, np.uint8, np.uint16) and not np.issubdtype(dtype, np.floating):
        raise ValueError(f"{name}: expected bool, uint8, uint16 or floating-point pixels, got {pixels.dtype}")
    native = np.array(
        pixels.transpose(2, 0, 1), dtype=dtype, order="C"
    )  # a copy: the pixels of files are read-only
    return _to_rgb(_unit_range(torch.from_numpy(native), name))


def _channels_first(image: Tensor, name: str) -> Tensor:
    if image.dim() == 2:
        image = image[None]
    if image.dim() != 3 or image.size(0) not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected shape [H, W] or [C, H, W] with 1, 3 or 4 channels, got {list(image.shape)}"
        )
    return image


def _unit_range(image: Tensor, name: str) -> Tensor:
    if image.numel() == 0:
        raise ValueError(f"{name}: the image has no pixels, its shape [C, H, W] is {list(image.shape)}")
    if image.is_meta:
        raise ValueError(f"{name}: the image is on the meta device, which holds no numbers")
    full = {torch.bool: 1.0, torch.uint8: 255.0, torch.uint16: 65535.0}.get(image.dtype)
    if full is not None:
        return image.float() / full
    if not image.is_floating_point():
        raise ValueError(f"{name}: expected bool, uint8, uint16 or floating-point pixels, got {image.dtype}")
    finite = torch.isfinite(image)
    if not finite.all():
        raise ValueError(f"{name}: {int((~finite).sum())} of {image.numel()} values are NaN or infinite")
    low, high = (float(bound) for bound in image.detach().aminmax())
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ValueError(f"{name}: expected floating-point pixels in [0, 1], got {low:.4g} to {high:.4g}")
    return image.float().clamp(0, 1)


def _to_rgb(image: Tensor) -> Tensor:
    if image.size(0) == 4:
        image = image[:3] * image[3:]
    return image.expand(3, -1, -1).contiguous()
