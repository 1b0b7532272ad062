"""Early exit and pruning: pairs that stop before the last layer, and keypoints that are left out."""

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_match.nn.pair_graph import PairGraph


def adapt(
    matcher: Any, i: int, x: Tensor, graph: PairGraph, num_keypoints: Tensor
) -> tuple[tuple[bool, ...], Optional[Tensor]]:
    """Whether each pair stops after a layer, and the mask of nodes that go on; ``None`` if all do.

    Values are read back from a GPU.

    Args:
        matcher: The matcher.
        i: The layer, counted from 0.
        x: The descriptors of the nodes.
        graph: The graph of the pairs that have not stopped.
        num_keypoints: Number of keypoints of both images of all pairs of the batch, before any was pruned.

    Shapes:
        - **x:** :math:`(N, D)`
        - **num_keypoints:** :math:`(B, 2)`
        - **output:** the second one :math:`(N)`

    Source: LightGlue (https://arxiv.org/abs/2306.13643), section 3.3.
    """
    stops, config = (False,) * len(graph.pairs), matcher.config
    depth, width = config.depth_confidence, config.width_confidence
    if depth is None and width is None:
        return stops, None
    keep = torch.ones(x.size(0), dtype=torch.bool, device=x.device)
    if width is not None:
        keep = matcher.assignment_head(i).matchability(x).sigmoid() > 1 - width
    if depth is not None:
        # From this confidence on a keypoint counts as sure after this layer.
        threshold = matcher.confidence_thresholds[i]
        sure = matcher.confidences[i](x.detach()).squeeze(-1).sigmoid()
        keep |= sure <= threshold
        sizes = [sum(counts) for counts in graph.counts]
        totals = num_keypoints.sum(1)[list(graph.pairs)].tolist()
        parts = zip((sure < threshold).split(sizes), totals, strict=True)
        stops = tuple(1 - int(part.sum()) / max(total, 1) > depth for part, total in parts)
        keep &= ~graph.nodes_of(stops)
    return stops, None if bool(keep.all()) else keep
