"""The numbers behind one keypoint."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_match.app.exploration import IMAGES, Features, Matching
from pyg_match.visualization.attention import Head, Kind, over_heads
from pyg_match.visualization.difficulty import NAMES

KINDS: tuple[Kind, Kind] = ("self", "cross")


@dataclass(frozen=True, eq=False)
class Attended:
    r"""What a keypoint attends to in one step, the largest weight first.

    Attributes:
        nodes: The sources, nodes of the pair, :math:`(E)`.
        weights: The coefficient of each, of the chosen head or over heads, :math:`(E)`.
        by_head: The coefficients of all heads, :math:`(E, H)`.
        spread: The number of sources that would have this entropy if all weighed the same, :math:`e^{H}`.
        span: The mean distance to the sources in pixels, weighted; only for self-attention.
    """

    nodes: Tensor
    weights: Tensor
    by_head: Tensor
    spread: float
    span: Optional[float]


@dataclass(frozen=True, eq=False)
class PointReport:
    """Everything that the page says about a keypoint with one setting.

    Attributes:
        node: The keypoint.
        layer: The layer, from 0.
        head: The head, ``"mean"`` or ``"max"``.
        match: The node that it was matched with, or -1.
        score: Probability of its best partner.
        right: Whether the match is right (a keypoint without partner stays without match); ``None`` where no truth
            is known.
        difficulty: ``"easy"``, ``"medium"``, ``"hard"`` or ``"unknown"``.
        stable: Number of layers after which the match was found and stayed; 0 for never.
        repetition: Number of keypoints of the same image that look the same.
        group: The nodes of its group of repeated keypoints, itself included; empty if it is in none.
        candidates: The nodes of the other image with the most similar descriptors.
        attended: What it attends to, for ``"self"`` and ``"cross"``.
    """

    node: int
    layer: int
    head: Head
    match: int
    score: float
    right: Optional[bool]
    difficulty: str
    stable: int
    repetition: int
    group: Tensor
    candidates: Tensor
    attended: dict[Kind, Attended]

    def marks(self, node: int) -> str:
        """What else a source is: the match, a candidate, or one of the repeated."""
        names = ["match"] if node == self.match else []
        names += ["candidate"] if node in self.candidates else []
        names += ["itself"] if node == self.node else ["looks alike"] if node in self.group else []
        return ", ".join(names)


def describe(features: Features, matching: Matching, node: int, layer: int, head: Head) -> PointReport:
    """Collect the numbers of a keypoint.

    Args:
        features: The pair.
        matching: The pair, matched.
        node: The keypoint.
        layer: The layer, from 0.
        head: Number of a head, ``"mean"`` or ``"max"``.

    Raises:
        IndexError: If there is no such keypoint or layer.
        ValueError: If there is no such head.
    """
    attended = {kind: _attended(features, matching, node, layer, kind, head) for kind in KINDS}
    image, _ = features.place(node)
    other_start = (1 - image) * features.counts[0]
    found = int(matching.found.matches[-1, node])
    right = None
    if features.pair.y is not None and int(features.pair.y[node]) != -2:
        right = found == int(features.pair.y[node])
    group = int(features.groups[node])
    return PointReport(
        node=node,
        layer=layer,
        head=head,
        match=found + other_start if found >= 0 else -1,
        score=float(matching.found.scores[-1, node]),
        right=right,
        difficulty=NAMES[int(matching.difficulty.labels[node])],
        stable=int(matching.difficulty.layer[node]),
        repetition=int(features.repetition[node]),
        group=(features.groups == group).nonzero().squeeze(1) if group >= 0 else torch.empty(0).long(),
        candidates=features.candidates[node],
        attended=attended,
    )


def _attended(
    features: Features, matching: Matching, node: int, layer: int, kind: Kind, head: Head
) -> Attended:
    nodes, by_head = matching.rows.of(node, layer, kind)
    weights = over_heads(by_head, head)
    order = weights.argsort(descending=True, stable=True)
    nodes, by_head, weights = nodes[order], by_head[order], weights[order]
    share = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
    spread = float(torch.special.entr(share).sum().exp()) if nodes.numel() > 0 else 0.0
    span = None
    if kind == "self":
        span = float((share * (features.pair.pos[nodes] - features.pair.pos[node]).norm(dim=1)).sum())
    return Attended(nodes, weights, by_head, spread, span)


def table(features: Features, report: PointReport, kind: Kind, top: int = 8) -> list[list[Any]]:
    """The largest weights of one step: rank, keypoint, its position in pixels, weight in per cent, and what it is."""
    attended = report.attended[kind]
    rows: list[list[Any]] = []
    for rank, (node, weight) in enumerate(
        zip(attended.nodes[:top].tolist(), attended.weights[:top].tolist(), strict=True), start=1
    ):
        image, index = features.place(node)
        x, y = features.pair.pos[node].tolist()
        rows.append(
            [rank, f"{IMAGES[image]} {index}", f"{x:.0f}, {y:.0f}", f"{weight:.1%}", report.marks(node)]
        )
    return rows
