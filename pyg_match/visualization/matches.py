"""Matches drawn between two images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import numpy as np

from pyg_match.arrays import Array
from pyg_match.checks import one_of, whole_number
from pyg_match.features.image import ImageLike
from pyg_match.model_selection import Geometry
from pyg_match.visualization.canvas import ORANGE, SKY, YELLOW, Canvas, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyg_match.match_result import MatchResult

# Told apart by colour-blind readers, and light enough for thin lines over dimmed photos.
CORRECT, WRONG = SKY, ORANGE

_WIDTH = 10.0  # of the figure in inches
_HIGHEST = 40.0
_STRIP = 0.3  # height of the caption and of the title
_LETTERS = 9.0  # points
_DIM = 0.3  # how much darker and paler photos are
_NAMES = {"homography": "homography", "fundamental": "fundamental matrix"}


def plot_matches(
    image0: ImageLike,
    image1: ImageLike,
    result: "MatchResult",
    correct: Optional[Array] = None,
    max_lines: Optional[int] = 400,
    title: Optional[str] = None,
    path: Union[str, Path, None] = None,
    color_by: Literal["inlier", "score"] = "inlier",
    geometry: Optional[Geometry] = None,
) -> "Figure":
    """Draw two images side by side at one height, with their keypoints and matches.

    Lines are blue where a match is an inlier of the geometry that the matches speak for, and orange elsewhere. The
    caption says how many matches there are and are drawn, what geometry it is, and how many are its inliers.

    Args:
        image0: Image 0, anything that :func:`pyg_match.features.load_image` reads.
        image1: Image 1.
        result: The matches.
        correct: Whether each match is right, which counts instead of the inliers of a geometry.
        max_lines: Draw at most that many matches, spread evenly over image 0, inliers and others in proportion;
            ``None`` for all.
        title: Text above the images.
        path: Where to save the figure, if anywhere; the ending decides the format, vector formats included.
        color_by: ``"inlier"``, or ``"score"`` for the probability of each match.
        geometry: The geometry, as :meth:`~pyg_match.MatchResult.geometry` gives it; estimated by default, unless
            ``correct`` is given or colours are those of scores.

    Shapes:
        - **correct:** :math:`(M)`

    Raises:
        ValueError: If ``correct`` or the geometry has not one value for each match, or an option is unknown.

    Example:
        >>> import torch
        >>> from pyg_match import MatchResult
        >>> points, order = 40 * torch.rand(30, 2), torch.arange(30)
        >>> pairs = torch.stack([order, order], 1)
        >>> result = MatchResult(points, points, pairs, torch.ones(30), (40, 40), (40, 40))
        >>> image = torch.rand(3, 40, 40)
        >>> plot_matches(image, image, result).texts[0].get_text()
        '30 matches, homography: 30 inliers (3 px)'
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    one_of("color_by", color_by, ("inlier", "score"))
    scores = result.scores.detach().cpu().float().numpy()
    correct = None if correct is None else np.asarray(correct, dtype=bool)
    if correct is not None and correct.shape != scores.shape:
        raise ValueError(f"'correct' must have shape {list(scores.shape)}, got {list(correct.shape)}")
    if geometry is not None and geometry.inliers.shape != scores.shape:
        raise ValueError(
            f"the inliers of 'geometry' must have shape {list(scores.shape)}, got {list(geometry.inliers.shape)}"
        )
    if geometry is None and correct is None and color_by == "inlier":
        geometry = result.geometry()
    right = correct if correct is not None or geometry is None else geometry.inliers

    canvas = Canvas(image0, image1, max_side=1500, colour=True, same_height=True)
    top = _STRIP if title else 0.0
    height = min(_WIDTH * canvas.ratio, _HIGHEST - _STRIP - top)
    figure = Figure(figsize=(_WIDTH, height + _STRIP + top))
    share = 1 / (height + _STRIP + top)
    axes = figure.add_axes((0.0, _STRIP * share, 1.0, height * share))
    canvas.draw(axes, dim=_DIM)
    for number, keypoints in enumerate((result.keypoints0, result.keypoints1)):
        places = canvas.place(keypoints.detach().cpu().float().numpy(), number)
        axes.scatter(places[:, 0], places[:, 1], s=1.5, c=YELLOW, linewidths=0, alpha=0.4)

    points0, points1 = (points.detach().cpu().float().numpy() for points in (result.points0, result.points1))
    drawn = _chosen(points0, scores, None if color_by == "score" else right, max_lines)
    # The surest last, on top.
    drawn = drawn[np.argsort(scores[drawn], kind="stable")]
    ends = np.stack([canvas.place(points0, 0), canvas.place(points1, 1)], axis=1)[drawn]
    strip = figure.add_axes((0.0, 0.0, 1.0, _STRIP * share))
    strip.set_axis_off()
    if color_by == "score" or right is None:
        colours = _colour_bar(figure, strip, share)(scores[drawn])
    else:
        colours = np.where(right[drawn], CORRECT, WRONG)
        names = ("right", "wrong") if correct is not None else ("inlier", "outlier")
        _legend(
            strip,
            {name: colour for name, colour in zip(names, (CORRECT, WRONG), strict=True) if colour in colours},
        )
    axes.add_collection(LineCollection(list(ends), colors=colours, linewidths=0.6, alpha=0.85))
    figure.text(0.008, _STRIP / 2 * share, _caption(len(drawn), len(scores), correct, geometry), **_text())
    if title:
        figure.text(0.008, 1 - _STRIP / 2 * share, title, **_text())
    save(figure, path, dpi=150)
    return figure


def even_sample(points: Array, count: int, scores: Optional[Array] = None) -> Array:
    r"""Some of many points, spread evenly over the area that they cover.

    The area is divided into about ``count`` square cells. The best point of each cell comes first, then the second of
    each, and so on; among points of one rank, better ones come first. The same input gives the same result.

    Args:
        points: Positions.
        count: How many to choose, all if there are no more.
        scores: How good each point is; without them, points that come first are better.

    Returns:
        Indices of the chosen points, in ascending order.

    Shapes:
        - **points:** :math:`(N, 2)`
        - **scores:** :math:`(N)`
        - **output:** :math:`(\min(N, \mathrm{count}))`

    Raises:
        ValueError: If ``count`` is negative.

    Example:
        >>> points = np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [9.0, 9.0]])
        >>> even_sample(points, 2, np.array([0.5, 0.9, 0.7, 0.1]))
        array([1, 3])
    """
    count = whole_number("count", count, least=0)
    total = len(points)
    if total <= count:
        return np.arange(total)
    if count == 0:
        return np.arange(0)
    order = np.arange(total) if scores is None else np.argsort(-scores, kind="stable")
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    # Points on a line are divided along it.
    side = max(np.sqrt(extent.prod() / count), extent.max() / count) or 1.0
    column, row = np.floor((points[order] - low) / side).astype(np.int64).T
    cell = np.unique(row * (column.max() + 1) + column, return_inverse=True)[1]
    by_cell = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[by_cell], np.arange(cell.max() + 1))
    rank = np.empty(total, dtype=np.int64)
    rank[by_cell] = np.arange(total) - starts[cell[by_cell]]
    return np.sort(order[np.argsort(rank, kind="stable")[:count]])


def _chosen(points: Array, scores: Array, right: Optional[Array], max_lines: Optional[int]) -> Array:
    """The matches to draw, right and wrong ones in proportion."""
    total = len(points)
    if max_lines is None or total <= max_lines:
        return np.arange(total)
    groups = [np.arange(total)] if right is None else [np.flatnonzero(right), np.flatnonzero(~right)]
    groups = [group for group in groups if len(group) > 0]
    # At least one of each kind if there is room, so that a single wrong match does not go unseen.
    least = min(1, max_lines // len(groups))
    counts = [max(least, round(max_lines * len(group) / total)) for group in groups]
    largest = int(np.argmax(counts))
    counts[largest] = max_lines - (sum(counts) - counts[largest])
    chosen = [
        group[even_sample(points[group], count, scores[group])]
        for group, count in zip(groups, counts, strict=True)
    ]
    return np.concatenate(chosen)


def _caption(drawn: int, total: int, correct: Optional[Array], geometry: Optional[Geometry]) -> str:
    """What is drawn.

    Example:
        >>> _caption(400, 1370, None, Geometry("homography", np.eye(3), np.ones(1370, dtype=bool), 3.0))
        '400 of 1,370 matches shown, homography: 1,370 inliers (3 px)'
    """
    if total == 0:
        return "no matches"
    matches = "1 match" if total == 1 else f"{total:,} matches"
    text = matches if drawn == total else f"{drawn:,} of {matches} shown"
    if correct is not None:
        return f"{text}, {int(correct.sum()):,} right"
    if geometry is None:
        return text
    if geometry.kind == "none":
        return f"{text}, explained by no homography or fundamental matrix"
    inliers = int(geometry.inliers.sum())
    return f"{text}, {_NAMES[geometry.kind]}: {inliers:,} inliers ({geometry.threshold:.3g} px)"


def _text() -> dict[str, Any]:
    return {"fontsize": _LETTERS, "va": "center", "ha": "left", "parse_math": False}


def _legend(strip: "Axes", colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    strip.legend(
        handles=[Line2D([], [], color=colour, linewidth=2.5, label=name) for name, colour in colours.items()],
        loc="center right",
        ncols=2,
        frameon=False,
        fontsize=_LETTERS,
        borderaxespad=0.3,
        handlelength=1.5,
        columnspacing=1.2,
    )


def _colour_bar(figure: "Figure", strip: "Axes", share: float) -> Any:
    """Colours from 0 to 1, with a bar in the strip that says so."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    # Without the darkest part, which does not stand out from dimmed photos.
    scale = ListedColormap(colormaps["viridis"](np.linspace(0.25, 1, 256)))
    bar = figure.add_axes((0.82, 0.4 * _STRIP * share, 0.13, 0.25 * _STRIP * share))
    drawn = figure.colorbar(ScalarMappable(cmap=scale), cax=bar, orientation="horizontal", ticks=[])
    drawn.outline.set_visible(False)
    style = {**_text(), "transform": strip.transAxes}
    strip.text(0.812, 0.5, "score 0", **{**style, "ha": "right"})
    strip.text(0.955, 0.5, "1", **style)
    return scale
