"""How good a matcher is on pairs with known homographies."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_match.data import KeypointPair
from pyg_match.geometry import corner_error, estimate_homography
from pyg_match.metrics import error_auc, matching_precision, matching_recall
from pyg_match.nn import GraphMatcher

_METHODS = ("dlt", "poselib")


def validate(
    matcher: GraphMatcher, pairs: Sequence[KeypointPair], threshold: float = 3.0
) -> dict[str, float]:
    """Mean precision and recall, and the area under the curve of homography errors.

    Args:
        matcher: The matcher; evaluated in evaluation mode and left in the mode that it was in.
        pairs: Pairs with labels ``y``, and with edges where the matcher needs them. Homographies are estimated for
            pairs with a ``homography`` that is not NaN.
        threshold: Largest reprojection error of a correct match in pixels.

    Returns:
        ``recall``, where there are homographies ``precision``, ``auc@5_dlt`` and ``auc@5_poselib``, and where there
        are pairs without a common keypoint ``false_matches``, their mean number.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> sets = [KeypointSet(pos=torch.rand(4, 2), x=torch.eye(4), image_size=(9, 9)) for _ in "ab"]
        >>> pair = KeypointPair.from_sets(*sets, y=torch.full((8,), -1))
        >>> matcher = GraphMatcher(in_channels=4, hidden_channels=16, num_layers=1, filter_threshold=1.0)
        >>> validate(matcher, [pair])
        {'recall': nan, 'false_matches': 0.0}
    """
    return mean_metrics(pair_metrics(matcher, pairs, threshold))


def mean_metrics(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What :func:`validate` gives, of what :func:`pair_metrics` gives."""
    known = {name: [value for value in values if not math.isnan(value)] for name, values in found.items()}
    metrics = {"recall": _mean(known["recall"])}
    if known["precision"]:
        metrics["precision"] = _mean(known["precision"])
        for method in _METHODS:
            metrics[f"auc@5_{method}"] = error_auc(known[f"error_{method}"], [5.0])[0]
    if known["false_matches"]:
        metrics["false_matches"] = _mean(known["false_matches"])
    return metrics


@torch.no_grad()
def pair_metrics(
    matcher: GraphMatcher, pairs: Sequence[KeypointPair], threshold: float = 3.0
) -> dict[str, list[float]]:
    """What :func:`validate` gives means of, one number for each pair, NaN where it has none.

    Returns:
        ``recall``; ``precision``, ``error_dlt`` and ``error_poselib`` of pairs with a homography, the errors in pixels;
        and ``false_matches``, their number, of pairs without a common keypoint.
    """
    was_training = matcher.training
    matcher.eval()
    try:
        rows = [_metrics(matcher, pairs[index], threshold) for index in range(len(pairs))]
    finally:
        matcher.train(was_training)
    names = ("recall", "precision", *(f"error_{method}" for method in _METHODS), "false_matches")
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def _metrics(matcher: GraphMatcher, pair: Any, threshold: float) -> dict[str, float]:
    matches, scores = cpu_matches(matcher, pair)
    pair = copy.copy(pair).cpu()
    found = match_metrics(pair, matches, threshold)
    if "precision" not in found:
        return found
    points0, points1 = _matched_points(pair, matches)
    homography = pair.homography[0]
    for method in _METHODS:
        estimate, _ = estimate_homography(
            points0.numpy(), points1.numpy(), method=method, scores=scores.numpy()
        )
        size = pair.image_size[0].numpy()
        found[f"error_{method}"] = corner_error(estimate, homography.numpy(), size)
    return found


def cpu_matches(matcher: GraphMatcher, pair: KeypointPair) -> tuple[Tensor, Tensor]:
    """Matches of a pair and their scores, on the CPU; the pair stays on its device."""
    moved = copy.copy(pair).to(next(matcher.parameters()).device)
    matches, scores = matcher(moved).pair_matches()
    return matches.cpu(), scores.cpu()


def match_metrics(pair: Any, matches: Tensor, threshold: float = 3.0) -> dict[str, float]:
    """How good matches of a pair are.

    Args:
        pair: The pair, on the CPU, with labels ``y``.
        matches: Indices of keypoints of image 0 and 1.
        threshold: Largest reprojection error of a correct match in pixels.

    Returns:
        ``recall``, NaN if there is nothing to find; ``precision`` if there is a homography; ``false_matches``, their
        number, if no keypoint has a partner.

    Shapes:
        - **matches:** :math:`(M, 2)`
    """
    y: Tensor = pair.y
    found = {"recall": matching_recall(matches, y[: int(pair.num_keypoints[0, 0])])}
    if y.numel() > 0 and bool((y == -1).all()):
        found["false_matches"] = float(len(matches))
    homography = pair.get("homography")
    if homography is not None and not bool(homography.isnan().all()):
        found["precision"] = matching_precision(*_matched_points(pair, matches), homography[0], threshold)
    return found


def _matched_points(pair: Any, matches: Tensor) -> tuple[Tensor, Tensor]:
    count0 = int(pair.num_keypoints[0, 0])
    return pair.pos[matches[:, 0]], pair.pos[count0 + matches[:, 1]]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
