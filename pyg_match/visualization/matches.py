"""Matches drawn between two images."""

from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

import numpy as np

from pyg_match.features.image import ImageLike
from pyg_match.visualization.canvas import GREEN, VERMILION, YELLOW, Canvas, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyg_match.match_result import MatchResult

CORRECT, WRONG = GREEN, VERMILION


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

    canvas = Canvas(image0, image1, max_side=1500, colour=True)
    width = 10.0
    figure = Figure(figsize=(width, width * canvas.ratio + (0.3 if title else 0.0)), layout="constrained")
    axes = figure.add_subplot()
    canvas.draw(axes)
    first, second = canvas.shifts
    for keypoints, offset in ((result.keypoints0, first), (result.keypoints1, second)):
        points = keypoints.cpu().numpy() + offset
        axes.scatter(points[:, 0], points[:, 1], s=1.5, c=YELLOW, linewidths=0, alpha=0.6)

    scores = result.scores.cpu().numpy()
    if correct is not None and correct.shape != scores.shape:
        raise ValueError(f"'correct' must have shape {list(scores.shape)}, got {list(correct.shape)}")
    # The surest last, on top.
    order = np.argsort(scores, kind="stable")
    order = order if max_lines is None else order[max(len(order) - max_lines, 0) :]
    points = (result.points0.cpu().numpy() + first, result.points1.cpu().numpy() + second)
    ends = np.stack(points, axis=1)[order]
    by_score = colormaps["viridis"](scores[order])
    colours = by_score if correct is None else np.where(correct[order], CORRECT, WRONG)
    axes.add_collection(LineCollection(list(ends), colors=colours, linewidths=0.6, alpha=0.7))
    if title:
        axes.set_title(title, fontsize=9)
    save(figure, path, dpi=150)
    return figure
