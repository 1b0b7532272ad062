"""Figures of where single keypoints attend to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import numpy as np

from pyg_match.checks import whole_number
from pyg_match.data import KeypointPair
from pyg_match.features.image import ImageLike
from pyg_match.visualization.attention import AttentionRecord, Head
from pyg_match.visualization.canvas import (
    BLUE,
    FONT,
    GREEN,
    PAGE,
    VERMILION,
    YELLOW,
    Canvas,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kinds = Literal["self", "cross", "both"]
COLOURS = {"self": BLUE, "cross": VERMILION}


@dataclass(frozen=True)
class AttentionPanel:
    """One panel of a figure: where a keypoint attends to.

    Attributes:
        pair: The pair that the matcher was given.
        record: What was recorded.
        node: Number of the query keypoint in the pair.
        layer: Number of the layer from 0, or from the end if negative.
        kind: ``"self"``, ``"cross"`` or ``"both"``.
        head: Number of a head, ``"mean"`` or ``"max"``.
        partner: Its right match, a keypoint of the other image, which gets a green ring.
        title: Text above.
    """

    pair: KeypointPair
    record: AttentionRecord
    node: int
    layer: int
    kind: Kinds = "both"
    head: Head = "mean"
    partner: Optional[int] = None
    title: Optional[str] = None


def draw_attention(axes: "Axes", canvas: Canvas, panel: AttentionPanel, max_lines: int = 200) -> None:
    """Draw the attention of one keypoint as lines into existing axes.

    Blue lines lead to keypoints of the same image, vermilion ones to the other image. The opacity of a line is its
    coefficient over the largest one of its kind.

    Args:
        axes: Where to draw.
        canvas: Both images.
        panel: What to draw.
        max_lines: Draw at most that many lines of a kind, those of the largest coefficients.

    Raises:
        ValueError: If the node, its partner, layer or head does not exist, or the pair is a batch.

    Example:
        >>> import torch
        >>> from pyg_match.visualization import EdgeAttention
        >>> pair, record = KeypointPair(pos=torch.rand(4, 2), num_keypoints=(2, 2)), AttentionRecord()
        >>> step = EdgeAttention(torch.tensor([[0, 1, 2], [0, 0, 0]]), torch.rand(3, 2))
        >>> record.self_attention = record.cross_attention = [step, step]
        >>> canvas, axes = Canvas(torch.rand(3, 64, 64), torch.rand(3, 64, 64)), new_figure(4, 2).subplots()
        >>> draw_attention(axes, canvas, AttentionPanel(pair, record, node=0, layer=1))
        >>> [lines.get_label() for lines in axes.collections[::2]]
        ['self', 'cross', 'query']
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    max_lines = whole_number("max_lines", max_lines, least=0)
    points = places(canvas, panel.pair)
    if not 0 <= panel.node < len(points):
        raise ValueError(
            f"keypoint {panel.node} does not exist, expected a number from 0 to {len(points) - 1}"
        )
    canvas.draw(axes, panel.title)
    query = points[panel.node]
    for kind in ("self", "cross") if panel.kind == "both" else (panel.kind,):
        source, alpha = (t.cpu().numpy() for t in panel.record.of(panel.node, panel.layer, kind, panel.head))
        order = np.argsort(alpha, kind="stable")[max(0, len(alpha) - max_lines) :]
        ends = points[source[order]]
        opacity = alpha[order] / max(alpha.max(initial=0.0), 1e-12)
        colours = np.tile(to_rgba(COLOURS[kind]), (len(order), 1))
        colours[:, 3] = opacity
        lines = np.stack([np.broadcast_to(query, ends.shape), ends], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=0.7, label=kind))
        axes.scatter(ends[:, 0], ends[:, 1], s=3, c=colours, linewidths=0)
    ring: dict[str, Any] = {"s": 16, "facecolors": "none", "linewidths": 0.9, "zorder": 3}
    axes.scatter(*query, edgecolors=YELLOW, label="query", **ring)
    if panel.partner is not None and panel.partner >= 0:
        count0, count1 = panel.pair._single()
        first, count = (count0, count1) if panel.node < count0 else (0, count0)
        if panel.partner >= count:
            raise ValueError(
                f"'partner' must be the index of one of the {count} keypoints of the other image, got {panel.partner}"
            )
        other = first + int(panel.partner)
        axes.scatter(*points[other], edgecolors=GREEN, label="match", **ring)


def plot_attention(
    image0: ImageLike,
    image1: ImageLike,
    pair: KeypointPair,
    record: AttentionRecord,
    node: int,
    layer: int = -1,
    kind: Kinds = "both",
    head: Head = "mean",
    partner: Optional[int] = None,
    title: Optional[str] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw where one keypoint attends to, over both images.

    Args:
        image0: Image 0, anything that :func:`pyg_match.features.load_image` reads.
        image1: Image 1.
        pair: Their keypoints, as the matcher was given them.
        record: What :func:`record_attention` has recorded.
        node: Number of the keypoint in the pair; keypoints of image 1 follow those of image 0.
        layer: Number of the layer from 0, or from the end if negative.
        kind: Attention to the same image (``"self"``), to the other image (``"cross"``), or ``"both"``.
        head: Number of a head, or ``"mean"`` or ``"max"`` over the heads.
        partner: Its right match, the index of a keypoint of the other image, to be marked.
        title: Text above.
        path: Where to save the figure, if anywhere; the ending decides the format.

    Example:
        >>> import torch
        >>> from pyg_match.nn import GraphMatcher
        >>> from pyg_match.visualization import record_attention
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=64 * torch.rand(5, 2), x=torch.randn(5, 8), image_size=(64, 64)) for _ in "ab"
        ... ]
        >>> pair = KeypointPair.from_sets(*sets)
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> with record_attention(matcher) as record:
        ...     output = matcher(pair)
        >>> image = torch.rand(3, 64, 64)
        >>> plot_attention(image, image, pair, record, node=0, title="Keypoint 0").axes[0].get_title()
        'Keypoint 0'
    """
    panel = AttentionPanel(pair, record, node, layer, kind, head, partner, title)
    return plot_attention_panels(image0, image1, [[panel]], path=path)


def plot_attention_panels(
    image0: ImageLike,
    image1: ImageLike,
    rows: Sequence[Sequence[AttentionPanel]],
    row_titles: Optional[Sequence[str]] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw a table of panels over the same two images.

    Args:
        image0: Image 0.
        image1: Image 1.
        rows: The panels of each row.
        row_titles: Text to the left of each row.
        path: Where to save the figure, if anywhere.

    Raises:
        ValueError: If there is no panel, or rows are not equally long.

    Example:
        >>> import torch
        >>> from pyg_match.visualization import EdgeAttention
        >>> pair, record = KeypointPair(pos=torch.rand(4, 2), num_keypoints=(2, 2)), AttentionRecord()
        >>> step = EdgeAttention(torch.tensor([[0, 1, 2], [0, 0, 0]]), torch.rand(3, 2))
        >>> record.self_attention = record.cross_attention = [step, step]
        >>> image = torch.rand(3, 64, 64)
        >>> panels = [AttentionPanel(pair, record, node=0, layer=i) for i in (0, 1)]
        >>> len(plot_attention_panels(image, image, [panels], row_titles=["keypoint 0"]).axes)
        2
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected rows of equally many panels, got {[len(row) for row in rows]}")
    columns = lengths.pop()
    canvas = Canvas(image0, image1, max_side=max(160, 640 // columns))
    width = PAGE / columns
    titles = max(bool(panel.title) for row in rows for panel in row) * 0.16
    figure = new_figure(PAGE, len(rows) * (width * canvas.ratio + 0.02) + titles)
    table = figure.subplots(len(rows), columns, squeeze=False)
    for number, (row, axes_row) in enumerate(zip(rows, table, strict=True)):
        for panel, axes in zip(row, axes_row, strict=True):
            draw_attention(axes, canvas, panel)
        if row_titles is not None:
            axes_row[0].text(
                -0.02, 0.5, row_titles[number], transform=axes_row[0].transAxes, fontsize=FONT,
                rotation=90, ha="right", va="center",
            )  # fmt: skip
    save(figure, path)
    return figure


def plot_attention_grid(
    image0: ImageLike,
    image1: ImageLike,
    pair: KeypointPair,
    record: AttentionRecord,
    node: int,
    kind: Kinds = "cross",
    layers: Optional[Sequence[int]] = None,
    partner: Optional[int] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw where one keypoint attends to, a row for each layer and a column for each head.

    See :func:`plot_attention` for the arguments; ``layers`` chooses some of them.

    Example:
        >>> import torch
        >>> from pyg_match.visualization import EdgeAttention
        >>> pair, record = KeypointPair(pos=torch.rand(4, 2), num_keypoints=(2, 2)), AttentionRecord()
        >>> step = EdgeAttention(torch.tensor([[0, 1, 2], [0, 0, 0]]), torch.rand(3, 2))
        >>> record.self_attention = record.cross_attention = [step, step]
        >>> image = torch.rand(3, 64, 64)
        >>> len(plot_attention_grid(image, image, pair, record, node=0).axes)  # 2 layers, 2 heads
        4
    """
    layers = range(record.num_layers) if layers is None else layers
    rows = [
        [
            AttentionPanel(pair, record, node, i, kind, h, partner, f"head {h}" if i == layers[0] else None)
            for h in range(record.heads)
        ]
        for i in layers
    ]
    return plot_attention_panels(image0, image1, rows, [f"layer {i}" for i in layers], path)


def plot_attention_comparison(
    image0: ImageLike,
    image1: ImageLike,
    records: Mapping[str, tuple[KeypointPair, AttentionRecord]],
    node: int,
    layers: Sequence[int],
    kind: Kinds = "both",
    head: Head = "mean",
    partner: Optional[int] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw where the same keypoint attends to in several models or graphs, a column for each, a row for each layer.

    Args:
        image0: Image 0.
        image1: Image 1.
        records: For each name the pair and what was recorded; the keypoints must be the same.
        node: Number of the keypoint.
        layers: Numbers of the layers, negative ones from the end.
        kind: See :func:`plot_attention`.
        head: See :func:`plot_attention`.
        partner: See :func:`plot_attention`.
        path: Where to save the figure, if anywhere.

    Example:
        >>> import torch
        >>> from pyg_match.visualization import EdgeAttention
        >>> pair, record = KeypointPair(pos=torch.rand(4, 2), num_keypoints=(2, 2)), AttentionRecord()
        >>> step = EdgeAttention(torch.tensor([[0, 1, 2], [0, 0, 0]]), torch.rand(3, 2))
        >>> record.self_attention = record.cross_attention = [step, step]
        >>> image = torch.rand(3, 64, 64)
        >>> records = {"one": (pair, record), "other": (pair, record)}
        >>> len(plot_attention_comparison(image, image, records, node=0, layers=[0, -1]).axes)
        4
    """
    rows = [
        [
            AttentionPanel(pair, record, node, i, kind, head, partner, name if i == layers[0] else None)
            for name, (pair, record) in records.items()
        ]
        for i in layers
    ]
    titles = [f"layer {i}" for i in layers]
    return plot_attention_panels(image0, image1, rows, titles, path)


def places(canvas: Canvas, pair: KeypointPair) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Where the keypoints of both images lie on the canvas, :math:`(N, 2)`."""
    pos = pair.pos.detach().cpu().double().numpy()
    images = np.split(pos, pair._single()[:1])
    return np.concatenate([canvas.place(points, image) for image, points in enumerate(images)])
