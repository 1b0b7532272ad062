"""Temperatures and threshold of a trained matcher, chosen on validation pairs."""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn

from pyg_match.data import KeypointPair
from pyg_match.data.keypoint_pair import without_edges
from pyg_match.nn import GraphMatcher
from pyg_match.training import losses
from pyg_match.training.validation import cpu_matches, match_metrics

_LARGEST_LOG = math.log(4)  # of a temperature either way
_EVALUATIONS = 40
_THRESHOLDS = np.arange(2, 96) / 100
_NEARLY = 0.9  # of the best F-score that a threshold must have


@dataclass(frozen=True)
class Calibration:
    """What calibration has chosen, and how good the matcher is with it beside its teacher.

    Attributes:
        temperature: What similarities are divided by.
        matchability_temperature: What logits of matchability are divided by.
        filter_threshold: Least probability of a match.
        precision: Mean share of right matches of warped pairs, and that of the teacher.
        recall: Mean share of the true matches that are found, and that of the teacher.
        false_matches: Mean number of matches of different photos, and that of the teacher.

    Example:
        >>> nan = math.nan
        >>> Calibration(0.8, 1.0, 0.2, (0.95, nan), (0.9, nan), (3.0, nan)).to_dict()["precision"]
        [0.95, None]
    """

    temperature: float
    matchability_temperature: float
    filter_threshold: float
    precision: tuple[float, float]
    recall: tuple[float, float]
    false_matches: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON, which knows no NaN: ``None`` for what no pair tells."""
        return {
            name: [None if math.isnan(number) else number for number in value]
            if isinstance(value, tuple)
            else value
            for name, value in asdict(self).items()
        }


@torch.no_grad()
def calibrate(
    matcher: GraphMatcher,
    pairs: Sequence[KeypointPair],
    teacher: Optional[GraphMatcher] = None,
    teacher_edges: bool = False,
) -> Calibration:
    r"""Choose temperatures and threshold of a matcher on pairs that it was not trained on, and set them.

    The temperatures of similarities and of matchabilities are those of the highest likelihood of the true assignment
    after the last layer, `"On calibration of modern neural networks" <https://arxiv.org/abs/1706.04599>`_. They apply
    to all layers. The threshold is the lowest at which the matcher is as precise as its teacher and finds no more
    matches between different photos, so that it does not matter how certain either is. Only thresholds count whose
    F-score, of precision and recall, is at least 0.9 of the best one; if none of them will do, the one of the best
    F-score is taken. Without a teacher the threshold stays.

    Args:
        matcher: The matcher, whose weights and ``filter_threshold`` are changed. One that is frozen is so no more.
        pairs: Pairs with labels ``y`` and edges. Precision is that of pairs with a ``homography`` that is not NaN.
        teacher: A matcher to compare with, at its own threshold.
        teacher_edges: Whether the teacher sees the edges of the pair, instead of complete graphs.

    Raises:
        ValueError: If there are no pairs.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> sets = [KeypointSet(pos=torch.rand(4, 2), x=torch.eye(4), image_size=(9, 9)) for _ in range(2)]
        >>> pair = KeypointPair.from_sets(*sets, y=torch.arange(4).repeat(2))
        >>> matcher = GraphMatcher(in_channels=4, hidden_channels=16, num_layers=1)
        >>> calibrate(matcher, [pair]).filter_threshold
        0.1
    """
    if len(pairs) == 0:
        raise ValueError("calibration needs validation pairs, got none")
    was_training = matcher.training
    matcher.train().eval()  # not frozen, as its weights are changed
    if teacher is not None:
        teacher.eval()
    try:
        temperatures = (1.0, 1.0)
        if matcher.config.assignment == "dual_softmax":
            temperatures = _likeliest(matcher, pairs)
            scale_heads(matcher, *temperatures)
        own = _Curve(matcher, pairs)
        threshold, theirs = matcher.config.filter_threshold, (math.nan,) * 3
        if teacher is not None:
            theirs = _Curve(teacher, pairs, complete=not teacher_edges).at(teacher.config.filter_threshold)
            wanted = own.as_good_as(precision=theirs[0], false_matches=theirs[2])
            threshold = threshold if wanted is None else wanted
        matcher.config = replace(matcher.config, filter_threshold=threshold)
        return Calibration(*temperatures, threshold, *zip(own.at(threshold), theirs, strict=True))
    finally:
        matcher.train(was_training)


@torch.no_grad()
def scale_heads(matcher: GraphMatcher, temperature: float, matchability_temperature: float) -> None:
    """Divide the similarities and the logits of matchability of all assignments.

    Raises:
        ValueError: If the matcher has no softmax to apply a temperature to.
    """
    for name, value in (
        ("temperature", temperature),
        ("matchability_temperature", matchability_temperature),
    ):
        if value != 1 and matcher.config.assignment != "dual_softmax":
            raise ValueError(
                f"'{name}' needs assignment='dual_softmax', but the matcher has {matcher.config.assignment!r}"
            )
    if (temperature, matchability_temperature) == (1, 1):
        return
    for head in matcher.assignments:
        _scale_head(head, temperature, matchability_temperature)


def _scale_head(head: Any, temperature: float, matchability_temperature: float) -> None:
    # Similarities are products of two projections.
    for layer, factor in (
        (head.lin, temperature**-0.5),
        (head.lin_matchability, 1 / matchability_temperature),
    ):
        for parameter in layer.parameters():
            parameter.mul_(factor)


def _likeliest(matcher: GraphMatcher, pairs: Sequence[KeypointPair]) -> tuple[float, float]:
    """The temperatures with the highest likelihood of the true assignment of all pairs."""
    from scipy.optimize import minimize

    head: nn.Module = matcher.assignment_head(matcher.config.num_layers - 1)
    device = next(matcher.parameters()).device
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    config = matcher.config
    matcher.config = replace(config, depth_confidence=None, width_confidence=None)  # all reach the last layer
    try:
        for index in range(len(pairs)):
            pair: Any = copy.copy(pairs[index]).to(device)
            descriptors = matcher(pair, return_descriptors=True).descriptors[-1]
            seen.append((descriptors, pair.y, pair.num_keypoints))
    finally:
        matcher.config = config

    def mean_loss(logs: Any) -> float:
        scaled = copy.deepcopy(head)
        _scale_head(scaled, *np.exp(logs).tolist())
        total = 0.0
        for x, y, counts in seen:
            log_assignment = scaled(*x.split(counts[0].tolist()))
            partnered, alone = losses.dense_log_likelihoods([log_assignment], y)
            total += float(losses.assignment_nll(partnered, alone, y, losses.pair_of_nodes(counts), 1))
        return total / len(seen)

    bounds = [(-_LARGEST_LOG, _LARGEST_LOG)] * 2
    start = np.array([[0.0, 0.0], [0.25, 0.0], [0.0, 0.25]])
    options = {"maxfev": _EVALUATIONS, "initial_simplex": start, "xatol": 5e-3, "fatol": 1e-5}
    logs = minimize(mean_loss, start[0], method="Nelder-Mead", bounds=bounds, options=options).x
    temperature, matchability_temperature = (round(float(value), 3) for value in np.exp(logs))
    return temperature, matchability_temperature


class _Curve:
    """What a matcher finds on pairs, for any threshold."""

    def __init__(self, matcher: GraphMatcher, pairs: Sequence[KeypointPair], complete: bool = False) -> None:
        config = matcher.config
        least = min(float(_THRESHOLDS[0]), config.filter_threshold)
        matcher.config = replace(config, filter_threshold=least)
        self.found: list[tuple[KeypointPair, Tensor, Tensor]] = []
        try:
            for index in range(len(pairs)):
                pair: Any = copy.copy(pairs[index])
                matches, scores = cpu_matches(matcher, without_edges(pair) if complete else pair)
                self.found.append((pair.cpu(), matches, scores))
        finally:
            matcher.config = config

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Precision, recall, and number of matches of different photos; NaN where no pair tells."""
        rows = [match_metrics(pair, matches[scores > threshold]) for pair, matches, scores in self.found]
        means = []
        for name in ("precision", "recall", "false_matches"):
            known = [row[name] for row in rows if not math.isnan(row.get(name, math.nan))]
            means.append(float(np.mean(known)) if known else math.nan)
        return means[0], means[1], means[2]

    def as_good_as(self, precision: float, false_matches: float) -> float | None:
        """The lowest threshold that is as precise and has no more false matches, among those with nearly the best
        F-score; if there is none, the one with the best; ``None`` if no pair tells.
        """
        rows = [(float(threshold), *self.at(threshold)) for threshold in _THRESHOLDS.tolist()]
        scores = [_f_score(ours, recall) for _, ours, recall, _ in rows]
        best = max(scores)
        if math.isnan(precision) and math.isnan(false_matches):
            return None
        for (threshold, ours, _, false_ours), score in zip(rows, scores, strict=True):
            # Comparisons with NaN, what no pair tells, are false.
            if not (score < _NEARLY * best or ours < precision or false_ours > false_matches):
                return threshold
        return rows[scores.index(best)][0]


def _f_score(precision: float, recall: float) -> float:
    """The harmonic mean; recall alone if there is no precision."""
    if math.isnan(precision):
        return recall
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
