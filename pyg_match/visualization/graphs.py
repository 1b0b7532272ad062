"""Graphs drawn over the image whose keypoints they join."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from pyg_match.features.image import ImageLike, load_image
from pyg_match.visualization.canvas import CYCLE, YELLOW, Canvas, bounded_ratio, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_graph(
    axes: "Axes",
    image: ImageLike,
    data: Data,
    keys: tuple[str, ...] = ("edge_index",),
    node: Optional[int] = None,
    max_edges: int = 20_000,
) -> None:
    """Draw the edges of one image's graph into existing axes, each edge set in its own colour.

    Args:
        axes: Where to draw.
        image: The image, anything that :func:`pyg_match.features.load_image` reads.
        data: Keypoints ``pos`` in pixels of that image, and edges.
        keys: Names of the edge sets.
        node: Draw only the edges into this keypoint, which gets a ring; all edges otherwise.
        max_edges: Draw at most that many edges of a set, evenly chosen.

    Raises:
        ValueError: If an edge set is missing or the keypoint does not exist.

    Example:
        >>> import torch
        >>> from pyg_match import knn_graph
        >>> pos, axes = 64 * torch.rand(20, 2), new_figure(3, 3).subplots()
        >>> draw_graph(axes, torch.rand(3, 64, 64), Data(pos=pos, edge_index=knn_graph(pos, k=4)))
        >>> len(axes.collections[1].get_segments())
        80
    """
    from matplotlib.collections import LineCollection

    points = data.pos.detach().cpu().float().numpy()
    if node is not None and not 0 <= node < len(points):
        raise ValueError(f"keypoint {node} does not exist, expected a number from 0 to {len(points) - 1}")
    Canvas(image, max_side=1500).draw(axes)
    axes.scatter(points[:, 0], points[:, 1], s=2, c=YELLOW, linewidths=0)
    for number, key in enumerate(keys):
        if data.get(key) is None:
            raise ValueError(
                f"there are no edges '{key}', expected some of {[name for name, _ in data if 'edge' in name]}"
            )
        edges = data[key].as_tensor() if isinstance(data[key], EdgeIndex) else data[key]
        source, target = edges.cpu().numpy()
        if node is not None:
            source, target = source[target == node], target[target == node]
        chosen = np.linspace(0, len(source) - 1, min(len(source), max_edges)).astype(int)
        lines = np.stack([points[source[chosen]], points[target[chosen]]], axis=1)
        style: dict[str, Any] = (
            {"linewidths": 0.8, "alpha": 0.9} if node is not None else {"linewidths": 0.25, "alpha": 0.35}
        )
        axes.add_collection(
            LineCollection(list(lines), colors=CYCLE[number % len(CYCLE)], label=key, **style)
        )
    if node is not None:
        axes.scatter(
            points[node, 0], points[node, 1], s=30, facecolors="none", edgecolors=YELLOW, linewidths=1.2
        )


def plot_graph(
    image: ImageLike,
    data: Data,
    keys: tuple[str, ...] = ("edge_index",),
    node: Optional[int] = None,
    title: Optional[str] = None,
    path: Union[str, Path, None] = None,
) -> "Figure":
    """Draw what a transform has drawn: for one keypoint on the left, for all on the right.

    Args:
        image: The image.
        data: Keypoints and edges, see :func:`draw_graph`.
        keys: Names of the edge sets, each in its own colour.
        node: The keypoint on the left; the one nearest to the centre of the image by default.
        title: Text above.
        path: Where to save the figure, if anywhere.

    Example:
        >>> import torch
        >>> from pyg_match import knn_graph
        >>> pos = 64 * torch.rand(20, 2)
        >>> figure = plot_graph(torch.rand(3, 64, 64), Data(pos=pos, edge_index=knn_graph(pos, k=4)))
        >>> len(figure.axes)
        2
    """
    pixels = load_image(image)
    if node is None and data.pos.size(0) > 0:
        centre = data.pos.new_tensor([pixels.size(2), pixels.size(1)]) / 2
        node = int((data.pos - centre).norm(dim=1).argmin())
    figure = new_figure(7, 7 * bounded_ratio(pixels.size(1) / pixels.size(2) / 2) + (0.3 if title else 0))
    left, right = figure.subplots(1, 2)
    draw_graph(left, pixels, data, keys, node)
    draw_graph(right, pixels, data, keys)
    if title:
        figure.suptitle(title, fontsize=9)
    save(figure, path, dpi=150)
    return figure
