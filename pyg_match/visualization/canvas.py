"""What the figures share: sizes, colours, and images to draw over."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import torch.nn.functional as F

from pyg_match.features.image import ImageLike, load_image
from pyg_match.files import user_path, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # width of a column of text, in inches
PAGE = 7.0  # width of a page of two columns
FONT = 7.0  # points, readable at these widths

_FLATTEST, _STEEPEST = 0.05, 4.0  # figures, in height over width

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


def check_format(path: Union[str, Path]) -> str:
    """The format that the ending of a figure's file stands for.

    Raises:
        ValueError: If there is none.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    ending = Path(path).suffix[1:].lower()
    if ending not in known:
        raise ValueError(f"figures are saved as {', '.join(known)}, got {Path(path).name!r}")
    return ending


def save(figure: "Figure", path: Union[str, Path, None], dpi: int = 200) -> None:
    """Write a figure whole or not at all; the ending decides the format, and the same figure gives the same file."""
    if path is None:
        return
    from matplotlib import rc_context

    path = user_path(path)
    ending = check_format(path)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "pyg_match"}):
        figure.savefig(buffer, format=ending, dpi=dpi, metadata=undated)
    write_whole(path, buffer.getvalue())


class Canvas:
    """Images side by side, whose pixels are the units of the axes.

    Args:
        *images: One or two images, anything that :func:`pyg_match.features.load_image` reads.
        max_side: Images are stored in the figure with at most that many pixels along the longer side.
        colour: Whether to show their colours; in a brightened grey otherwise, so that lines stand out.

    Attributes:
        shifts: For each image what to add to a keypoint's coordinates.
        width: Width of the whole in pixels.
        height: Height of the whole in pixels.
    """

    def __init__(self, *images: ImageLike, max_side: int = 640, colour: bool = False) -> None:
        self.pixels: list[Any] = []
        self.sizes: list[tuple[int, int]] = []
        self.shifts: list[Any] = []
        gap, left = 0, 0
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
            self.shifts.append(np.array([left, 0.0]))
            gap = gap or max(2, width // 100)
            left += width + gap
        self.width = left - gap
        self.height = max(height for _, height in self.sizes)

    @property
    def ratio(self) -> float:
        """Height over width of a figure of the images; very long ones get white beside them."""
        return min(max(self.height / self.width, _FLATTEST), _STEEPEST)

    def draw(self, axes: "Axes", title: Optional[str] = None) -> None:
        """Show the images."""
        for pixels, (width, height), shift in zip(self.pixels, self.sizes, self.shifts, strict=True):
            extent = (shift[0] - 0.5, shift[0] + width - 0.5, height - 0.5, -0.5)
            axes.imshow(pixels, cmap="gray", vmin=-100, vmax=280, extent=extent, interpolation="antialiased")
        axes.set_xlim(-0.5, self.width - 0.5)
        axes.set_ylim(self.height - 0.5, -0.5)
        axes.set_axis_off()
        if title:
            axes.set_title(title, fontsize=FONT, pad=2)
