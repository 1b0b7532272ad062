"""What a visitor looks at, turned into pictures and text. Knows nothing of Gradio."""

from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_match.app.drawing import COLOURS, Layout, Pixels, background, overlay
from pyg_match.app.exploration import IMAGES, Exploration, Features, Matching, PairChoice
from pyg_match.app.export import numbers, write_csv, write_figure, write_json
from pyg_match.app.report import KINDS, PointReport, describe, table
from pyg_match.app.settings import Setting
from pyg_match.app.uploads import read_upload
from pyg_match.visualization import HARD, MEDIUM
from pyg_match.visualization.attention import Head


@dataclass(frozen=True)
class Look:
    """A pair, one or two settings, a keypoint, and what of it is shown.

    Args:
        choice: The pair.
        settings: One setting, or two to compare.
        node: The keypoint.
        layer: The layer, from 0.
        head: The number of a head, ``"mean"`` or ``"max"``.
        parts: What is drawn, some of :data:`~pyg_match.app.drawing.PARTS`.
        threshold: Share of the largest weight below which lines are left out.
    """

    choice: PairChoice
    settings: tuple[Setting, ...]
    node: int
    layer: int = 0
    head: Head = "mean"
    parts: tuple[str, ...] = ("self", "cross", "match", "alike")
    threshold: float = 0.05


def begin(exploration: Exploration, choice: PairChoice, settings: tuple[Setting, ...]) -> Look:
    """Match a pair, and start at a keypoint where attention has something to do: matched, not easy, look-alikes."""
    features = exploration.features(choice)
    matching = exploration.matching(choice, settings[0])
    own = slice(0, features.counts[0])
    matched = matching.found.matches[-1, own] >= 0
    labels = matching.difficulty.labels[own]
    interest = matching.found.scores[-1, own] + 2.0 * matched
    interest += matched * ((labels == MEDIUM) | (labels == HARD)) + 0.5 * matched * (
        features.groups[own] >= 0
    )
    return Look(choice, settings, int(interest.argmax()), layer=matching.rows.num_layers // 3)


def shape(exploration: Exploration, look: Look) -> tuple[int, int]:
    """Numbers of layers and heads of the matcher."""
    rows = exploration.matching(look.choice, look.settings[0]).rows
    return rows.num_layers, rows.heads


def check(exploration: Exploration, path: str, name: str) -> None:
    """Refuse an image that cannot be read, before the other one is there."""
    read_upload(path, exploration.limits, name)


def click(exploration: Exploration, look: Look, x: float, y: float) -> Look:
    """Go to the keypoint nearest to a position of the picture."""
    features = exploration.features(look.choice)
    found = Layout.side_by_side(features.sizes).locate(x, y)
    return look if found is None else replace(look, node=features.nearest(*found))


@lru_cache(4)
def _canvas(features: Features) -> tuple[Pixels, NDArray[np.float64]]:
    layout = Layout.side_by_side(features.sizes)
    return background(features.images, layout), layout.points(features)


def views(exploration: Exploration, look: Look) -> list[tuple[Matching, PointReport]]:
    """The keypoint with each setting; head or layer are cut to what the matcher has."""
    features = exploration.features(look.choice)
    found = []
    for setting in look.settings:
        matching = exploration.matching(look.choice, setting)
        layer = min(look.layer, matching.rows.num_layers - 1)
        head = look.head
        if isinstance(head, int) and head >= matching.rows.heads:
            head = "mean"
        found.append((matching, describe(features, matching, look.node, layer, head)))
    return found


def pictures(exploration: Exploration, look: Look) -> list[Pixels]:
    """One picture for each setting."""
    canvas, points = _canvas(exploration.features(look.choice))
    return [
        overlay(canvas, points, report, look.parts, look.threshold) for _, report in views(exploration, look)
    ]


def summary(exploration: Exploration, look: Look) -> str:
    """What has been matched, in a sentence for each setting."""
    features = exploration.features(look.choice)
    matchings = [exploration.matching(look.choice, setting) for setting in look.settings]
    text = f"{features.counts[0]} keypoints in image A, {features.counts[1]} in image B"
    for matching in matchings:
        text += f"; {matching.num_matches} matches"
        if features.pair.y is not None:
            found = matching.found.matches[-1, : features.counts[0]]
            truth = features.pair.y[: features.counts[0]]
            judged = (found >= 0) & (truth != -2)
            right = int((found == truth)[judged].sum())
            text += f", {right / int(judged.sum()):.1%} right" if bool(judged.any()) else ""
        text += f" ({matching.setting})"
    return text + "."


def details(exploration: Exploration, look: Look) -> str:
    """The numbers of the keypoint as HTML tables, a column for each setting."""
    features = exploration.features(look.choice)
    found = views(exploration, look)
    image, index = features.place(look.node)
    x, y = features.pair.pos[look.node].tolist()
    rows = [_facts(features, report) for _, report in found]
    head = "".join(f"<th scope='col'>{escape(str(matching.setting))}</th>" for matching, _ in found)
    body = "".join(
        f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{facts[name]}</td>" for facts in rows) + "</tr>"
        for name in rows[0]
    )
    title = f"Keypoint {index} of image {IMAGES[image]} at ({x:.0f}, {y:.0f}) px"
    html = f"<h3>{title}</h3><table class='facts'><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    tables = [
        _weights(features, report, kind, str(matching.setting) if len(found) > 1 else "")
        for kind in KINDS
        for matching, report in found
    ]
    html += "<div class='weights'>" + "".join(tables) + "</div>"
    return f"<div class='details'>{html}</div>"


def _facts(features: Features, report: PointReport) -> dict[str, str]:
    def name(node: int) -> str:
        image, index = features.place(node)
        return f"{IMAGES[image]} {index}"

    match = f"{name(report.match)}, probability {report.score:.2f}" if report.match >= 0 else "none"
    if report.right is not None:
        match += " (right)" if report.right else " (wrong)"
    stable = f"from layer {report.stable} on" if report.stable > 0 else "never"
    alike = f"{report.repetition} others"
    if len(report.group):
        alike += f", in a group of {len(report.group)}"
    own, cross = report.attended["self"], report.attended["cross"]
    on_match = "no match"
    if report.match >= 0:
        weight = cross.weights[cross.nodes == report.match]
        on_match = f"{float(weight.sum()):.1%}" if weight.numel() else "no edge to it"
    return {
        "Match": match,
        "Right match found": stable if features.pair.y is not None else f"{stable} (final match)",
        "Difficulty": report.difficulty if report.difficulty != "unknown" else "unknown (no partner)",
        "Looks like": alike,
        "Candidates by descriptor": ", ".join(name(node) for node in report.candidates.tolist()),
        "Self-attention spread": f"as over {own.spread:.0f} of {len(own.nodes)} keypoints, "
        f"{own.span or 0:.0f} px away on average",
        "Cross-attention spread": f"as over {cross.spread:.1f} of {len(cross.nodes)} keypoints",
        "Cross-attention on its match": on_match,
    }


def _weights(features: Features, report: PointReport, kind: Any, setting: str) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>"
        for row in table(features, report, kind)
    )
    if not rows:
        rows = "<tr><td colspan='5'>It has no such edges.</td></tr>"
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("#", "keypoint", "x, y", "weight", "is"))
    which = {"self": "Largest self-attention", "cross": "Largest cross-attention"}[kind]
    caption = f"<span class='swatch' style='background:{COLOURS[kind]}'></span>{which}"
    caption += f", {escape(setting)}" if setting else ""
    return (
        f"<table class='{kind}'><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def legend() -> str:
    """What the colours mean."""
    entries = [
        (COLOURS["keypoint"], "ring", "the keypoint you clicked"),
        (COLOURS["self"], "line", "self-attention (same image)"),
        (COLOURS["cross"], "line", "cross-attention (other image)"),
        (COLOURS["match"], "line", "its match"),
        (COLOURS["alike"], "diamond", "looks alike (same image)"),
        (COLOURS["keypoint"], "square", "candidates 1–5 by descriptor"),
    ]
    items = "".join(
        f"<span class='entry'><span class='{shape}' style='--colour:{colour}'></span>{text}</span>"
        for colour, shape, text in entries
    )
    items += "<span class='entry'>opacity = weight / largest weight</span>"
    return f"<div class='legend' aria-label='Legend'>{items}</div>"


def write_files(exploration: Exploration, look: Look, folder: Path, form: str) -> list[Path]:
    """Write the figure, and the numbers as CSV and JSON."""
    features = exploration.features(look.choice)
    found = views(exploration, look)
    image, index = features.place(look.node)
    report = found[0][1]
    stem = f"{IMAGES[image]}{index}_layer{report.layer + 1}_{report.head}"
    paths = [folder / f"{stem}.{ending}" for ending in (form, "csv", "json")]
    every = [numbers(features, matching, report) for matching, report in found]
    write_figure(paths[0], features, found, look.parts, look.threshold)
    write_csv(paths[1], every)
    write_json(paths[2], every)
    return paths


def head_of(name: Optional[str]) -> Head:
    """A head as the page writes it: ``"mean"``, ``"max"`` or a number.

    Raises:
        ValueError: If it is none of these.
    """
    if name in ("mean", "max"):
        return name  # type: ignore[return-value]
    if name is None or not name.isdigit():
        raise ValueError(f"'head' must be mean, max or a number, got {name!r}")
    return int(name)
