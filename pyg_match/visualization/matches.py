"""Matches drawn between two images."""

from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

import numpy as np

from pyg_match.features.image import ImageLike, load_image
from pyg_match.visualization.canvas import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyg_match.matcher import MatchResult

# Okabe and Ito's palette, told apart by colour-blind readers.
CORRECT, WRONG = "#009E73", "#D55E00"


def plot_matches(
    image0: ImageLike,
    image1: ImageLike,
    result: "MatchResult",
    correct: Optional[np.ndarray] = None,
    max_lines: Optional[int] = 400,
    title: Optional[str] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw two images side by side with their keypoints and matches.

    Args:
        image0: Image 0, anything that :func:`pyg_match.features.load_image` reads.
        image1: Image 1.
        result: The matches.
        correct: Whether each match is right, for example an inlier; lines are green or vermilion then, and coloured
            by score otherwise.
        max_lines: Draw at most that many matches, the surest ones; ``None`` for all.
        title: Text above the images.
        path: Where to save the figure, if anywhere; the ending decides the format, vector formats included.

    Shapes:
        - **correct:** :math:`(M)`
    """
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    left, right = (load_image(image).detach().permute(1, 2, 0).cpu().numpy() for image in (image0, image1))
    gap = max(2, left.shape[1] // 100)
    height = max(left.shape[0], right.shape[0])
    shift = np.array([left.shape[1] + gap, 0])
    canvas = np.ones((height, left.shape[1] + gap + right.shape[1], 3), dtype=np.float32)
    canvas[: left.shape[0], : left.shape[1]] = left
    canvas[: right.shape[0], shift[0] :] = right

    width = 10.0
    figure = Figure(
        figsize=(width, width * height / canvas.shape[1] + (0.3 if title else 0.0)), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.imshow(canvas, interpolation="antialiased")
    axes.set_axis_off()
    for keypoints, offset in ((result.keypoints0, 0), (result.keypoints1, shift)):
        points = keypoints.cpu().numpy() + offset
        axes.scatter(points[:, 0], points[:, 1], s=1.5, c="#F0E442", linewidths=0, alpha=0.6)

    scores = result.scores.cpu().numpy()
    if correct is not None and correct.shape != scores.shape:
        raise ValueError(f"'correct' must have shape {list(scores.shape)}, got {list(correct.shape)}")
    # The surest last, on top.
    order = np.argsort(scores, kind="stable")
    order = order if max_lines is None else order[max(len(order) - max_lines, 0) :]
    ends = np.stack([result.points0.cpu().numpy(), result.points1.cpu().numpy() + shift], axis=1)[order]
    by_score = colormaps["viridis"](scores[order])
    colours = by_score if correct is None else np.where(correct[order], CORRECT, WRONG)
    axes.add_collection(LineCollection(list(ends), colors=colours, linewidths=0.6, alpha=0.7))
    if title:
        axes.set_title(title, fontsize=9)
    save(figure, path, dpi=150)
    return figure
