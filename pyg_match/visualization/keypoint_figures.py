"""Figures of keypoints coloured by what is known about them."""

from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

from torch import Tensor

from pyg_match.data import KeypointPair
from pyg_match.features.image import ImageLike
from pyg_match.visualization.attention import AttentionRecord, Head, over_heads
from pyg_match.visualization.attention_figures import places
from pyg_match.visualization.canvas import (
    CYCLE,
    FONT,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    VERMILION,
    YELLOW,
    Canvas,
    new_figure,
    save,
)
from pyg_match.visualization.difficulty import EASY, HARD, MEDIUM, NAMES, UNKNOWN, Difficulty

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIFFICULTY_COLOURS = {UNKNOWN: GREY, EASY: GREEN, MEDIUM: ORANGE, HARD: VERMILION}


def plot_difficulty(
    image0: ImageLike,
    image1: ImageLike,
    pair: KeypointPair,
    difficulty: Difficulty,
    title: Optional[str] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw the keypoints of both images by their difficulty: easy green, medium orange, hard vermilion, unknown grey.

    Args:
        image0: Image 0, anything that :func:`pyg_match.features.load_image` reads.
        image1: Image 1.
        pair: Their keypoints.
        difficulty: What :func:`difficulty` says about them.
        title: Text above.
        path: Where to save the figure, if anywhere; the ending decides the format.

    Raises:
        ValueError: If there are not as many labels as keypoints.

    Example:
        >>> import torch
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=64 * torch.rand(5, 2), x=torch.randn(5, 8), image_size=(64, 64)) for _ in "ab"
        ... ]
        >>> pair = KeypointPair.from_sets(*sets)
        >>> labels = torch.tensor([EASY] * 4 + [HARD] * 6)
        >>> image, found = torch.rand(3, 64, 64), Difficulty(labels, torch.ones(10), torch.zeros(10))
        >>> figure = plot_difficulty(image, image, pair, found)
        >>> figure.axes[0].get_legend().get_texts()[1].get_text()
        'easy (4)'
    """
    if difficulty.labels.shape != pair.pos.shape[:1]:
        raise ValueError(f"expected {pair.pos.size(0)} labels, got {list(difficulty.labels.shape)}")
    canvas = Canvas(image0, image1)
    points = places(canvas, pair)
    figure = new_figure(PAGE, PAGE * canvas.ratio + 0.3)
    axes = figure.subplots()
    canvas.draw(axes, title)
    labels = difficulty.labels.cpu().numpy()
    for label, colour in DIFFICULTY_COLOURS.items():
        own = points[labels == label]
        size = 2 if label == UNKNOWN else 6
        name = f"{NAMES[label]} ({len(own)})"
        axes.scatter(own[:, 0], own[:, 1], s=size, c=colour, linewidths=0, label=name)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, fontsize=FONT, frameon=False, markerscale=2
    )
    save(figure, path)
    return figure


def plot_repeated_groups(
    image: ImageLike,
    pos: Tensor,
    groups: Tensor,
    record: Optional[AttentionRecord] = None,
    group: Optional[int] = None,
    layer: int = 0,
    head: Head = "mean",
    first_node: int = 0,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw the largest groups of repeated keypoints and, on the right, where the attention of one group goes.

    On the right each keypoint's area is the self-attention that it gets from the members of the group, on average,
    and the members have rings.

    Args:
        image: The image.
        pos: Its keypoints in pixels.
        groups: Their groups, as :func:`repeated_groups` gives them.
        record: What was recorded; ``None`` to draw the groups only.
        group: The group whose attention is drawn; the largest by default.
        layer: Number of the layer from 0, or from the end if negative.
        head: Number of a head, ``"mean"`` or ``"max"``.
        first_node: Number of the image's first keypoint in the pair that was recorded.
        path: Where to save the figure, if anywhere; the ending decides the format.

    Shapes:
        - **pos:** :math:`(N, 2)`
        - **groups:** :math:`(N)`

    Raises:
        ValueError: If shapes do not fit, or the group or layer does not exist.

    Example:
        >>> import torch
        >>> groups = torch.tensor([0, 0, -1])
        >>> figure = plot_repeated_groups(torch.rand(3, 64, 64), 64 * torch.rand(3, 2), groups)
        >>> figure.axes[0].get_title()
        '1 groups, the 1 largest in colour'
    """
    if groups.shape != pos.shape[:1]:
        raise ValueError(f"'groups' must have shape [{pos.size(0)}], got {list(groups.shape)}")
    canvas = Canvas(image)
    panels = 1 if record is None else 2
    figure = new_figure(PAGE, PAGE / 2 * canvas.ratio + 0.2)
    left, *right = figure.subplots(1, panels, squeeze=False)[0]
    points = pos.detach().cpu().numpy()
    numbers = groups[groups >= 0].unique().tolist()
    canvas.draw(left, f"{len(numbers)} groups, the {min(len(numbers), len(CYCLE))} largest in colour")
    labels = groups.cpu().numpy()
    left.scatter(*points[labels < 0].T, s=1, c=GREY, linewidths=0)
    for rank, number in enumerate(numbers):
        own = points[labels == number]
        colour = CYCLE[rank] if rank < len(CYCLE) else "white"
        left.scatter(*own.T, s=9 if rank < len(CYCLE) else 5, c=colour, edgecolors="black", linewidths=0.3)
    if record is not None:
        group = (numbers[0] if numbers else -1) if group is None else group
        if group not in numbers:
            raise ValueError(f"group {group} does not exist, expected one of {numbers}")
        received = _received(record._step("self", layer), groups == group, first_node, head)
        members = points[labels == group]
        name = f", head {head}" if isinstance(head, int) else ""
        share = float(received[groups.to(received.device) == group].sum())
        number = layer % len(record.self_attention)
        canvas.draw(right[0], f"layer {number}{name}: {100 * share:.0f} % stays in the group")
        right[0].scatter(*points.T, s=400 * received.cpu().numpy(), c=CYCLE[0], alpha=0.6, linewidths=0)
        right[0].scatter(*members.T, s=14, facecolors="none", edgecolors=YELLOW, linewidths=0.8)
    save(figure, path)
    return figure


def _received(step: tuple[Tensor, Tensor], members: Tensor, first_node: int, head: Head) -> Tensor:
    """The attention that each keypoint of an image gets from the members, divided by their number."""
    (source, target), alpha = step[0] - first_node, over_heads(step[1], head)
    inside = (target >= 0) & (target < len(members))
    inside[inside.clone()] = members.to(target.device)[target[inside]]
    recorded = max(target[inside].unique().numel(), 1)
    return alpha.new_zeros(len(members)).index_add(0, source[inside], alpha[inside]) / recorded
