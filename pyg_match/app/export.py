"""Files to take away: the figure and the numbers of a keypoint."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from pyg_match.app.drawing import COLOURS, Layout, drawn_lines
from pyg_match.app.exploration import IMAGES, Features, Matching
from pyg_match.app.report import KINDS, PointReport
from pyg_match.app.settings import WITHOUT_K
from pyg_match.visualization.canvas import save

FORMATS = ("png", "svg", "pdf")


def numbers(features: Features, matching: Matching, report: PointReport) -> dict[str, Any]:
    """What the page says about a keypoint, as plain values for JSON; keypoints are named by image and index."""

    def name(node: int) -> dict[str, Any]:
        image, index = features.place(node)
        x, y = features.pair.pos[node].tolist()
        return {"image": IMAGES[image], "keypoint": index, "x": x, "y": y}

    return {
        "setting": {
            "graph": matching.setting.graph,
            "k": None if matching.setting.graph in WITHOUT_K else matching.setting.k,
            "value_source": matching.setting.value_source,
        },
        "layer": report.layer + 1,
        "head": report.head,
        "keypoint": name(report.node),
        "match": name(report.match) if report.match >= 0 else None,
        "probability": report.score,
        "right": report.right,
        "difficulty": report.difficulty,
        "found_after_layers": report.stable,
        "look_alikes": report.repetition,
        "group": [name(node) for node in report.group.tolist()],
        "candidates": [name(node) for node in report.candidates.tolist()],
        "attention": {
            kind: {
                "effective_keypoints": attended.spread,
                "mean_distance_px": attended.span,
                "sources": [
                    {**name(node), "weight": weight, "weight_by_head": by_head}
                    for node, weight, by_head in zip(
                        attended.nodes.tolist(),
                        attended.weights.tolist(),
                        attended.by_head.tolist(),
                        strict=True,
                    )
                ],
            }
            for kind, attended in report.attended.items()
        },
    }


def write_csv(path: Path, all_numbers: list[dict[str, Any]]) -> None:
    """One row for each keypoint attended to, with the weight of every head."""
    heads = max(
        (
            len(source["weight_by_head"])
            for one in all_numbers
            for kind in KINDS
            for source in one["attention"][kind]["sources"]
        ),
        default=0,
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head_names = [f"weight_head_{head}" for head in range(heads)]
    writer.writerow(
        [
            "graph",
            "k",
            "value_source",
            "layer",
            "kind",
            "target_image",
            "target",
            "head",
            "rank",
            "source_image",
            "source",
            "x",
            "y",
            "weight",
            *head_names,
        ]
    )
    for one in all_numbers:
        setting, target = one["setting"], one["keypoint"]
        start = [setting["graph"], setting["k"], setting["value_source"], one["layer"]]
        for kind in KINDS:
            for rank, source in enumerate(one["attention"][kind]["sources"], start=1):
                where = [source["image"], source["keypoint"], source["x"], source["y"]]
                row = [kind, target["image"], target["keypoint"], one["head"], rank, *where]
                writer.writerow([*start, *row, source["weight"], *source["weight_by_head"]])
    _write(path, stream.getvalue())


def write_json(path: Path, all_numbers: list[dict[str, Any]]) -> None:
    """Everything that the page says about the keypoint, one item for each setting."""
    _write(path, json.dumps(all_numbers, indent=1))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_figure(
    path: Path,
    features: Features,
    views: list[tuple[Matching, PointReport]],
    parts: tuple[str, ...],
    threshold: float,
) -> None:
    """Draw what the page shows, one row for each setting; lines stay vectors in ``.svg`` and ``.pdf``."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    layout = Layout.side_by_side(features.sizes)
    points = layout.points(features)
    width, height = layout.size
    figure = Figure(figsize=(7, len(views) * (7 * height / width + 0.3)), layout="constrained")
    for axes, (matching, report) in zip(figure.subplots(len(views), squeeze=False)[:, 0], views, strict=True):
        for image, (left, top), size in zip(features.images, layout.offsets, layout.image_sizes, strict=True):
            extent = (left - 0.5, left + size[0] - 0.5, top + size[1] - 0.5, top - 0.5)
            axes.imshow(image, cmap="gray", vmin=-64, vmax=446, extent=extent)
        if "keypoints" in parts:
            axes.scatter(*points.T, s=2, color=COLOURS["keypoint"], linewidths=0)
        if "match" in parts and report.match >= 0:
            axes.plot(*points[[report.node, report.match]].T, color=COLOURS["match"], linewidth=3, zorder=1)
        for kind, attended in report.attended.items():
            if kind not in parts or attended.nodes.numel() == 0:
                continue
            nodes, share = drawn_lines(attended, threshold)
            ends = points[nodes]
            lines = np.stack([np.broadcast_to(points[report.node], ends.shape), ends], axis=1)[::-1]
            axes.add_collection(
                LineCollection(
                    list(lines),
                    colors=COLOURS[kind],
                    alpha=np.clip(share[::-1], 0, 1),
                    linewidths=1,
                    label=kind,
                )
            )
        style = {"facecolors": "none", "linewidths": 1.2}
        if "alike" in parts and len(report.group):
            axes.scatter(
                *points[report.group.numpy()].T, s=16, marker="D", edgecolors=COLOURS["alike"], **style
            )
        if "candidates" in parts:
            where = points[report.candidates.numpy()]
            axes.scatter(*where.T, s=22, marker="s", edgecolors=COLOURS["keypoint"], **style)
            for rank, point in enumerate(where, start=1):
                axes.annotate(str(rank), point, (3, 3), textcoords="offset points", fontsize=5, color="white")
        if "match" in parts and report.match >= 0:
            axes.scatter(*points[report.match], s=40, edgecolors=COLOURS["match"], **style)
        axes.scatter(*points[report.node], s=40, edgecolors=COLOURS["keypoint"], **style)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.set_axis_off()
        axes.set_title(f"{matching.setting}; layer {report.layer + 1}, head {report.head}", fontsize=8)
    save(figure, path)
