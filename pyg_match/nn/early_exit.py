"""Early exit and pruning: pairs that stop before the last layer, and keypoints that are left out."""

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.pair_graph import PairGraph


def adapt(
    config: MatcherConfig,
    assignment: Any,
    confidence: Any,
    threshold: Tensor,
    x: Tensor,
    graph: PairGraph,
    num_keypoints: Tensor,
) -> tuple[tuple[bool, ...], Optional[Tensor]]:
    """Which pairs stop after a layer, and which nodes go on; ``None`` if all do. Values are read back from a GPU.

    Args:
        config: Its ``depth_confidence`` and ``width_confidence``.
        assignment: The assignment head of the layer.
        confidence: The head of the layer that tells how sure each keypoint is.
        threshold: The confidence from which on a keypoint counts as sure after this layer.
        x: The descriptors of the nodes.
        graph: The graph of the pairs that have not stopped.
        num_keypoints: Number of keypoints of both images of all pairs of the batch, before any was pruned.

    Shapes:
        - **x:** :math:`(N, D)`
        - **num_keypoints:** :math:`(B, 2)`
        - **output:** the second one :math:`(N)`

    Source: LightGlue (https://arxiv.org/abs/2306.13643), section 3.3.
    """
    stops = (False,) * len(graph.pairs)
    keep = torch.ones(x.size(0), dtype=torch.bool, device=x.device)
    if config.width_confidence is not None:
        keep = assignment.matchability(x).sigmoid() > 1 - config.width_confidence
    if config.depth_confidence is not None:
        sure = confidence(x.detach()).squeeze(-1).sigmoid()
        keep |= sure <= threshold
        sizes = [sum(counts) for counts in graph.counts]
        totals = num_keypoints.sum(1)[list(graph.pairs)].tolist()
        parts = zip((sure < threshold).split(sizes), totals, strict=True)
        stops = tuple(1 - int(part.sum()) / max(total, 1) > config.depth_confidence for part, total in parts)
        keep &= ~graph.nodes_of(stops)
    return stops, None if bool(keep.all()) else keep
