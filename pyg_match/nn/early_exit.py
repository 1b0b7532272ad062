"""Early exit and pruning: pairs that stop before the last layer, and keypoints that are left out."""

import math
from collections.abc import Callable
from typing import Any, Optional, Self

import torch
from torch import Tensor, nn

from pyg_match.nn.pair_graph import PairGraph


class Adaptive(nn.Module):
    """A model with thresholds of confidence, which no file holds: they depend on its depth alone."""

    confidence_thresholds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_restored)

    def set_thresholds(self, depth: int) -> None:
        """Say from which confidence on a keypoint counts as sure after each of so many layers."""
        # Later layers may be less sure: LightGlue, section 3.3.
        thresholds = [min(0.8 + 0.1 * math.exp(-4.0 * i / depth), 1.0) for i in range(depth)]
        self.register_buffer("confidence_thresholds", torch.tensor(thresholds), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Change the device or type of the weights; what was on the meta device gets its thresholds again."""
        empty = self.confidence_thresholds.is_meta
        super()._apply(fn, recurse)
        if empty and not self.confidence_thresholds.is_meta:
            self._set_like(self.confidence_thresholds)
        return self

    def _set_like(self, tensor: Tensor) -> None:
        self.set_thresholds(self.confidence_thresholds.numel())
        self.confidence_thresholds = self.confidence_thresholds.to(tensor)


def _restored(model: Adaptive, _: Any = None) -> None:
    """Make thresholds where weights have replaced those on the meta device."""
    weight = next(model.parameters())
    if model.confidence_thresholds.is_meta and not weight.is_meta:
        model._set_like(weight)


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
