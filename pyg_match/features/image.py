"""Images as tensors: reading of files, arrays and tensors, and resizing with known coordinates."""

import math
import os
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_match.arrays import Array
from pyg_match.checks import one_of, whole_number
from pyg_match.features.image_file import Pixels, Shrink, pixels_of, read_file
from pyg_match.files import user_path

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor | Image"

# Interpolation may overshoot [0, 1] a little; values further out mean that the range was never [0, 1].
_OVERSHOOT = 0.1

# An image whose brightest pixel is darker may have another range than was thought. One of 16 bits is taken as numbers
# of so many.
_NEARLY_BLACK = 1 / 16
_DEPTHS = (8, 12)

# A photo is shrunk before anything else is done with it while it stays so many times as large as it is needed, and has
# so many pixels in each direction.
_SPARE = 2
_LEAST_SIDE = 16


def load_image(source: ImageLike) -> Tensor:
    """Read an image as an RGB tensor with values in [0, 1].

    Files are read by Pillow (JPEG, PNG, PPM, TIFF, …); several 16-bit channels, which Pillow cuts to 8 bits, and
    several of floating-point numbers are read by OpenCV. The orientation that a camera wrote into the EXIF data is
    applied, grey images are repeated to three channels, transparent ones are laid over black (the value that a
    warped image has outside its frame), colour profiles are ignored.

    Args:
        source: A path, a PIL image, an array, or a tensor. Arrays are ``[H, W]`` or ``[H, W, C]``, tensors
            ``[H, W]`` or ``[C, H, W]``, with 1 (grey), 3 (RGB) or 4 (RGBA) channels. Their type is
            ``bool``, ``uint8`` (0–255), ``uint16`` (0–65535), or floating point with values in [0, 1]. A 16-bit
            image whose numbers stay below 4,096 is taken as one of 12 bits, below 256 of 8 bits, and 32-bit
            numbers in files as those of as many bits as they use, with a warning. Other images that are nearly
            black are warned about.
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
    return _load(source)[0]


def load_resized(
    source: ImageLike, size: int, side: str = "long", device: torch.device | None = None
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    r"""Read an image at the size at which it is needed.

    It is what :func:`resize_image` makes of the whole image, and nearly that where the image is at least four times as
    large: then it is shrunk by a whole number first, a JPEG file while it is decoded, so that memory hardly grows with
    it, and what is left of the Gaussian smoothing is done on the smaller image. Images of fewer than 16 pixels in both
    directions are not enlarged.

    Args:
        source: Whatever :func:`load_image` takes.
        size: Length in pixels of the chosen side.
        side: ``"long"`` or ``"short"``.
        device: Where to resize; where the image is by default.

    Returns:
        The image; the scale :math:`s` of the x and of the y axis, of which positions go back to the original by
        :math:`p = (p_\mathrm{resized} + 0.5) / s - 0.5`; width and height of the original.

    Shapes:
        - **output:** :math:`(3, H, W)`, :math:`(2)`

    Raises:
        ValueError: If an argument has an unexpected value, or as :func:`load_image`, which raises the others as well.

    Example:
        >>> import numpy as np
        >>> image, scale, size = load_resized(np.zeros((3000, 5000), dtype=np.uint8), 500)
        >>> image.shape, scale, size
        (torch.Size([3, 300, 500]), tensor([0.1000, 0.1000]), (5000, 3000))
    """
    size = whole_number("size", size)
    one_of("side", side, ("long", "short"))

    def shrink(width: int, height: int) -> int:
        chosen = (max if side == "long" else min)(width, height)
        return max(1, min(chosen // (_SPARE * size), min(width, height) // _LEAST_SIDE))

    image, width, height, factor = _load(source, shrink)
    image = image if device is None else image.to(device)
    if factor == 1:
        upscale = max(width, height) >= _LEAST_SIDE
        image, scale = resize_image(image, size, side, upscale=upscale)
        return image, scale, (width, height)
    new_height, new_width = _new_size(width, height, size, side)
    smoothed = _smooth(image, [height / new_height, width / new_width], factor)
    resized = F.interpolate(smoothed.unsqueeze(0), (new_height, new_width), mode="bilinear").squeeze(0)
    covered = image.new_tensor([image.size(2) * factor, image.size(1) * factor])
    return resized, image.new_tensor([new_width, new_height]) / covered, (width, height)


def _load(source: ImageLike, shrink: Shrink | None = None) -> tuple[Tensor, int, int, int]:
    """An image, width and height of the original, and by what it has been shrunk."""
    if isinstance(source, Tensor):
        return _from_tensor(source, shrink)
    name = "array"
    if isinstance(source, np.ndarray):
        pixels = Pixels(source)
    elif isinstance(source, str | os.PathLike):
        path = user_path(source)
        pixels, name = read_file(path, shrink), str(path)
    else:
        from PIL import Image

        name = "PIL image"
        if not isinstance(source, Image.Image):
            raise TypeError(
                f"expected a path, an array, a tensor or a PIL image, got {type(source).__name__}"
            )
        pixels = Pixels(pixels_of(source, name))
    return _from_pixels(pixels, name, shrink)


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

        new_size = _new_size(width, height, size, side)
        with torch.autocast(image.device.type, enabled=False):  # which would round what smooths
            image = resize(image, new_size, interpolation=interpolation, antialias=antialias)
    factors = [image.shape[-1] / width, image.shape[-2] / height]
    scale = torch.tensor(factors, dtype=torch.float, device=image.device)
    return image, scale


def _new_size(width: int, height: int, size: int, side: str) -> tuple[int, int]:
    """Height and width of an image whose chosen side is ``size``."""
    aspect_ratio = width / height
    if (side == "short") ^ (aspect_ratio < 1):
        return size, max(1, int(size * aspect_ratio))
    return max(1, int(size / aspect_ratio)), size


def _smooth(image: Tensor, ratios: list[float], factor: int) -> Tensor:
    """Smooth a shrunk image as kornia's ``resize`` smooths a whole one, less what shrinking has done.

    Args:
        image: The image, shrunk by ``factor``.
        ratios: Old / new height and width of the whole image.
        factor: Side of the squares whose means were taken.
    """
    from kornia.filters import gaussian_blur2d

    done = (factor**2 - 1) / 12  # the variance of a square
    sigmas = [math.sqrt(((ratio - 1) / 2) ** 2 - done) / factor for ratio in ratios]
    # As far as the reflected border reaches.
    sides = [
        2 * min(int(max(2 * sigma, 1)), length - 1) + 1
        for sigma, length in zip(sigmas, image.shape[1:], strict=True)
    ]
    return gaussian_blur2d(image.unsqueeze(0), (sides[0], sides[1]), (sigmas[0], sigmas[1])).squeeze(0)


def _from_pixels(pixels: Pixels, name: str, shrink: Shrink | None) -> tuple[Tensor, int, int, int]:
    values, factor = pixels.values, pixels.factor
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected shape [H, W] or [H, W, C] with 1, 3 or 4 channels, got {list(values.shape)}"
        )
    dtype = values.dtype.newbyteorder("=")
    if dtype not in (np.bool_, np.uint8, np.uint16) and not np.issubdtype(dtype, np.floating):
        raise ValueError(f"{name}: expected bool, uint8, uint16 or floating-point pixels, got {values.dtype}")
    wider = np.issubdtype(dtype, np.floating) and dtype.itemsize > 8  # than what torch knows
    values = values.astype(np.float64 if wider else dtype, copy=False)
    white = _white_of_array(values, name)
    height, width = (length * factor for length in values.shape[:2])
    more = 1 if shrink is None else shrink(width, height) // factor
    if more > 1 and values.shape[2] < 4 and values.dtype in (np.uint8, np.uint16, np.float32, np.float64):
        values, factor = _means(values, more), factor * more
    native = np.array(values.transpose(2, 0, 1), order="C")  # a copy: the pixels of files are read-only
    return _to_rgb(_unit_range(torch.from_numpy(native), white)), width, height, factor


def _white_of_array(values: Array, name: str) -> float:
    """:func:`_white`, without a copy where pixels are whole numbers."""
    if values.size > 0 and values.dtype in (np.uint8, np.uint16):
        return _white_of(int(values.max()), values.dtype == np.uint16, name)
    # Torch takes neither arrays that are read-only without a warning nor those that run backwards.
    return _white(torch.from_numpy(np.array(values)).movedim(2, 0), name)


def _means(values: Array, side: int) -> Array:
    """The means of squares; rows and columns that fill none are left out."""
    import cv2

    height, width = (length // side for length in values.shape[:2])
    whole = np.ascontiguousarray(values[: height * side, : width * side])
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)


def _from_tensor(source: Tensor, shrink: Shrink | None) -> tuple[Tensor, int, int, int]:
    image = source[None] if source.dim() == 2 else source
    if image.dim() != 3 or image.size(0) not in (1, 3, 4):
        raise ValueError(
            f"tensor: expected shape [H, W] or [C, H, W] with 1, 3 or 4 channels, got {list(image.shape)}"
        )
    image = _to_rgb(_unit_range(image, _white(image, "tensor")))
    height, width = image.shape[1:]
    factor = 1 if shrink is None else shrink(width, height)
    return F.avg_pool2d(image, factor) if factor > 1 else image, width, height, factor


def _white(image: Tensor, name: str) -> float:
    """The number that means white, after a look at all of them."""
    if image.numel() == 0:
        raise ValueError(f"{name}: the image has no pixels, its shape [C, H, W] is {list(image.shape)}")
    if image.is_meta:
        raise ValueError(f"{name}: the image is on the meta device, which holds no numbers")
    if image.dtype == torch.bool:
        return 1.0
    if image.dtype in (torch.uint8, torch.uint16):
        # Torch knows little of this type.
        high = int((image.to(torch.int32) if image.dtype == torch.uint16 else image).max())
        return _white_of(high, image.dtype == torch.uint16, name)
    if not image.is_floating_point():
        raise ValueError(f"{name}: expected bool, uint8, uint16 or floating-point pixels, got {image.dtype}")
    finite = torch.isfinite(image)
    if not finite.all():
        raise ValueError(f"{name}: {int((~finite).sum())} of {image.numel()} values are NaN or infinite")
    low, largest = (float(bound) for bound in image.detach().aminmax())
    if low < -_OVERSHOOT or largest > 1 + _OVERSHOOT:
        raise ValueError(f"{name}: expected floating-point pixels in [0, 1], got {low:.4g} to {largest:.4g}")
    _warn_if_nearly_black(largest, name)
    return 1.0


def _white_of(high: int, deep: bool, name: str) -> float:
    """The number that means white among whole numbers of 8 bits, or of 16 if ``deep``, up to ``high``."""
    white = 65535.0 if deep else 255.0
    if deep and 0 < high < 1 << _DEPTHS[-1]:
        bits = next(depth for depth in _DEPTHS if high < 1 << depth)
        white = float((1 << bits) - 1)
        warnings.warn(f"{name}: 16-bit pixels up to {high} are taken as numbers of {bits} bits", stacklevel=2)
    _warn_if_nearly_black(high / white, name)
    return white


def _warn_if_nearly_black(high: float, name: str) -> None:
    if 0 < high < _NEARLY_BLACK:
        warnings.warn(
            f"{name}: the image is nearly black, its brightest pixel is {high:.2g} of 1; is that its range?",
            stacklevel=2,
        )


def _unit_range(image: Tensor, white: float) -> Tensor:
    if image.is_floating_point():
        return image.float().clamp(0, 1)
    return image.float() / white


def _to_rgb(image: Tensor) -> Tensor:
    if image.size(0) == 4:
        image = image[:3] * image[3:]
    return image.expand(3, -1, -1).contiguous()
