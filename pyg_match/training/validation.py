"""How good a matcher is on pairs with known homographies."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyg_match.data import KeypointPair
from pyg_match.geometry import corner_error, estimate_homography
from pyg_match.metrics import error_auc, matching_precision, matching_recall
from pyg_match.nn import GraphMatcher


@torch.no_grad()
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
        ``recall``, and where there are homographies ``precision``, ``auc@5_dlt`` and ``auc@5_poselib``.
    """
    was_training = matcher.training
    matcher.eval()
    try:
        return _validate(matcher, pairs, threshold)
    finally:
        matcher.train(was_training)


def _validate(matcher: GraphMatcher, pairs: Sequence[KeypointPair], threshold: float) -> dict[str, float]:
    device = next(matcher.parameters()).device
    recall, precision = [], []
    errors: dict[str, list[float]] = {"dlt": [], "poselib": []}
    for index in range(len(pairs)):
        pair: Any = copy.copy(pairs[index]).to(device)
        matches, scores = (value.cpu() for value in matcher(pair).pair_matches())
        count0 = int(pair.num_keypoints[0, 0])
        recall.append(matching_recall(matches, pair.y[:count0].cpu()))
        if "homography" not in pair or bool(pair.homography.isnan().all()):
            continue
        pos = pair.pos.cpu()
        points0, points1 = pos[matches[:, 0]], pos[count0 + matches[:, 1]]
        homography = pair.homography[0].cpu()
        precision.append(matching_precision(points0, points1, homography, threshold))
        for method, found in errors.items():
            estimate, _ = estimate_homography(
                points0.numpy(), points1.numpy(), method=method, scores=scores.numpy()
            )
            found.append(corner_error(estimate, homography.numpy(), pair.image_size[0].cpu().numpy()))
    known = [value for value in recall if not math.isnan(value)]
    metrics = {"recall": float(np.mean(known)) if known else math.nan}
    if precision:
        metrics["precision"] = float(np.mean(precision))
        metrics |= {f"auc@5_{method}": error_auc(found, [5.0])[0] for method, found in errors.items()}
    return metrics
