"""Checks of a matcher's pairs, descriptors and assignments."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_match.checks import check_tensor
from pyg_match.data import KeypointPair
from pyg_match.data.checks import NODE_NUMBERS, check_counts, check_image_sizes, check_nodes
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.pair_graph import PairGraph


@torch.compiler.disable
def check_pair(pair: KeypointPair, config: MatcherConfig, device: torch.device) -> None:
    """Refuse a pair that lacks something, or does not fit the configuration or the device of the matcher."""
    if not isinstance(pair, KeypointPair):
        raise TypeError(
            f"expected a KeypointPair, as KeypointPair.from_sets makes it of two sets, or a batch of them, got "
            f"{type(pair).__name__}"
        )
    needed = ["pos", "x", "num_keypoints", "image_size"]
    needed += ["scale", "orientation"] if config.use_scale_orientation else []
    needed += ["score"] if config.encoding == "mlp" else []
    missing = [name for name in needed if pair.get(name) is None]
    if missing:
        raise TypeError(f"the pair lacks {', '.join(missing)}, which this matcher needs")
    check_nodes(pair, [name for name in needed if name in NODE_NUMBERS])
    check_counts(pair.num_keypoints, pair.x.size(0))
    check_image_sizes(pair.image_size, pair.num_keypoints.numel())
    if pair.x.size(1) != config.in_channels:
        raise ValueError(f"descriptors must have shape [N, {config.in_channels}], got {list(pair.x.shape)}")
    if device != pair.pos.device:
        raise ValueError(f"the pair must be on the device of the matcher, {device}, got {pair.pos.device}")


@torch.compiler.disable
def check_descriptors(i: int, x: Tensor, nodes: Tensor) -> None:
    """Refuse descriptors that are not finite, of which no matches can be read."""
    finite = torch.isfinite(x).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(
            f"after layer {i} the descriptors of {int((~finite).sum())} of {x.size(0)} keypoints are NaN or infinite, "
            f"first of node {int(nodes[~finite][0])}: the weights are not finite, or the values too large for {x.dtype}"
        )


def allows_self_step(config: MatcherConfig) -> bool:
    """Whether later layers need nothing of what is before the self step of the first layer."""
    return config.value_source == "current" and config.branch is None


def check_self_step(stepped: Tensor, x: Tensor, config: MatcherConfig) -> Tensor:
    """Refuse descriptors after the first self step that do not fit the pair or the configuration."""
    if not allows_self_step(config):
        raise ValueError(
            f"'self_step' needs value_source='current' and no branch, got value_source={config.value_source!r} and "
            f"branch={config.branch!r}"
        )
    return check_tensor("self_step", stepped, tuple(x.shape)).to(x.dtype)


def check_scales(graph: PairGraph, config: MatcherConfig) -> None:
    """Refuse scales that do not fit the configuration."""
    found = len(graph.scales)
    if graph.refused and (config.branch is not None or config.layer_scales is not None):
        raise ValueError(
            f"scales have neither masks nor weights, got '{graph.refused[0]}'; drop edges instead of masking them"
        )
    if config.branch is not None and found != config.num_scales:
        raise ValueError(
            f"the branches need {config.num_scales} scales, but the pair has {found}; draw them with a partition"
        )
    if config.layer_scales is not None and max(config.layer_scales) >= found:
        raise ValueError(
            f"'layer_scales' names scale {max(config.layer_scales)}, but the pair has {found} scales"
        )


@torch.compiler.disable
def check_assignments(i: int, log_assignments: Sequence[Tensor]) -> None:
    """Refuse assignments that are NaN or infinite; minus infinity, the probability 0, is allowed."""
    for log_assignment in log_assignments:
        good = log_assignment < torch.inf
        if not bool(good.all()):
            raise ValueError(
                f"the assignment after layer {i} holds {int((~good).sum())} values that are NaN or infinite: "
                "its weights are not finite"
            )
