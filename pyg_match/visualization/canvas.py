"""What the figures share: sizes, colours, and images to draw over."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import torch.nn.functional as F

from pyg_match.features.image import ImageLike, load_image
from pyg_match.files import check_format, user_path, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # width of a column of text, in inches
PAGE = 7.0  # width of a page of two columns
FONT = 7.0  # points, readable at these widths

_FLATTEST, _STEEPEST = 0.05, 4.0  # figures, in height over width
_WIDEST = 8.0  # image, in widths of the other one

# Okabe and Ito's palette, told apart by colour-blind readers.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, YELLOW = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#F0E442",
)
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
GREY = "#999999"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure outside of pyplot's state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", path: Union[str, Path, None], dpi: int = 200) -> None:
    """Write a figure whole or not at all; the ending decides the format.

    The same figure gives the same PNG, JPEG, WebP, TIFF, SVG or PDF.
    """
    if path is None:
        return
    from matplotlib import rc_context

    path = user_path(path)
    ending = check_format(path)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
    metadata: dict[str, Any] = {} if undated is None else {"metadata": undated}
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "pyg_match"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of names in other scripts
        figure.savefig(buffer, format=ending, dpi=dpi, **metadata)
    write_whole(path, buffer.getvalue())


def bounded_ratio(ratio: float) -> float:
    """Height over width of a figure of something as high and wide, which may have white beside it."""
    return min(max(ratio, _FLATTEST), _STEEPEST)


class Canvas:
    """Images side by side, whose pixels are the units of the axes.

    Args:
        *images: One or two images, anything that :func:`pyg_match.features.load_image` reads.
        max_side: Images are stored in the figure with at most that many pixels along the longer side.
        colour: Whether to show their colours; in a brightened grey otherwise, so that lines stand out.
        same_height: Whether to enlarge the lower image to the height of the other one, whose pixels the units are
            then. Where one image is far wider for its height, it stays lower.

    Attributes:
        shifts: For each image what to add to a keypoint's coordinates, which are multiplied by :attr:`scales` before.
        scales: For each image by how much it is enlarged.
        width: Width of the whole in pixels.
        height: Height of the whole in pixels.

    Example:
        >>> canvas = Canvas(np.zeros((40, 100, 3)), np.zeros((40, 60, 3)))
        >>> canvas.place(np.array([[0.0, 0.0]]), image=1)
        array([[102.,   0.]])
    """

    def __init__(
        self, *images: ImageLike, max_side: int = 640, colour: bool = False, same_height: bool = False
    ) -> None:
        self.pixels: list[Any] = []
        self.sizes: list[tuple[float, float]] = []
        for image in images:
            shown = load_image(image).detach()
            shown = shown if colour else shown.mean(0, keepdim=True)
            height, width = shown.shape[1:]
            factor = max_side / max(height, width)
            if factor < 1:
                size = (max(1, round(height * factor)), max(1, round(width * factor)))
                shown = F.interpolate(shown[None], size, mode="area")[0]
            pixels = (255 * shown).round().byte().permute(1, 2, 0).cpu().numpy()
            self.pixels.append(pixels if colour else pixels[..., 0])
            self.sizes.append((width, height))
        self.scales = _scales(self.sizes) if same_height else [1.0] * len(images)
        self.sizes = [
            (width * f, height * f) for (width, height), f in zip(self.sizes, self.scales, strict=True)
        ]
        gap = max(2.0, self.sizes[0][0] // 100)
        left = 0.0
        self.shifts: list[Any] = []
        for (extent, _), factor in zip(self.sizes, self.scales, strict=True):
            # The centre of the first pixel is half a pixel from the border, whatever its size.
            self.shifts.append(np.array([left, 0.0]) + (factor - 1) / 2)
            left += extent + gap
        self.width = left - gap
        self.height = max(height for _, height in self.sizes)

    def place(self, points: Any, image: int) -> Any:
        """Where points of an image are drawn.

        Args:
            points: Positions in pixels of the image.
            image: Its number, 0 or 1.

        Shapes:
            - **points**, **output:** :math:`(N, 2)`
        """
        return points * self.scales[image] + self.shifts[image]

    @property
    def ratio(self) -> float:
        """Height over width of a figure of the images; very long ones get white beside them."""
        return bounded_ratio(self.height / self.width)

    def draw(self, axes: "Axes", title: Optional[str] = None, dim: float = 0.0) -> None:
        """Show the images, darker and paler by a share of ``dim``, so that lines of any colour stand out."""
        for i, pixels in enumerate(self.pixels):
            width, height = self.sizes[i]
            left, top = self.place(np.array([-0.5, -0.5]), i)
            extent = (left, left + width, top + height, top)
            shown = _dimmed(pixels, dim) if dim > 0 else pixels
            axes.imshow(shown, cmap="gray", vmin=-100, vmax=280, extent=extent, interpolation="antialiased")
        axes.set_xlim(-0.5, self.width - 0.5)
        axes.set_ylim(self.height - 0.5, -0.5)
        axes.set_axis_off()
        if title:
            axes.set_title(title, fontsize=FONT, pad=2)


def _dimmed(pixels: Any, share: float) -> Any:
    """Pixels nearer to black, and colours nearer to grey."""
    values = pixels.astype(np.float32)
    if values.ndim == 3:
        values += share * (values.mean(axis=2, keepdims=True) - values)
    return np.round((1 - share) * values).astype(np.uint8)


def _scales(sizes: list[tuple[float, float]]) -> list[float]:
    """What makes images equally high, or less where one would be more than so many times as wide as another."""
    height = max(height for _, height in sizes)
    narrowest = min(height * w / h for w, h in sizes)
    return [min(height / h, _WIDEST * narrowest / w) for w, h in sizes]
