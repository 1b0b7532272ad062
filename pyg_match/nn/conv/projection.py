"""Projections to queries, keys and values, and checks of the inputs of layers."""

from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear, is_uninitialized_parameter
from torch_geometric.typing import PairTensor

from pyg_match.checks import check_tensor, shown
from pyg_match.ops.linear import OrderedWeight, is_rounded, linear, onednn_type


class Projection(Linear):
    """PyG's linear layer, faster in inference on the CPU unless the result has to be ``exact`` to the last bit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Its weight and bias for inference; see GraphMatcher.freeze.
        self.ordered: Optional[OrderedWeight] = None

    def forward(self, x: Tensor, exact: bool = False) -> Tensor:
        """The projection of ``x``; see :func:`pyg_match.ops.linear.linear`."""
        if exact or onednn_type(x, self.weight, self.bias) is None:
            if self.ordered is not None and x.dtype != self.weight.dtype and is_rounded(x):
                return F.linear(x, *self.ordered.rounded(x.dtype))
            out: Tensor = super().forward(x)
            return out
        weight = self.weight if self.ordered is None else self.ordered.of(x, self.bias)
        return linear(x, weight, self.bias)


def project(lin: Any, x: Tensor, exact: bool) -> Tensor:
    """What a projection, or any module in its place, makes of ``x``."""
    out: Tensor = lin(x, exact) if isinstance(lin, Projection) else lin(x)
    return out


def weight_of(lin: Any) -> Optional[Tensor]:
    """The weight of a linear layer; ``None`` for what stands in its place and has none, as quantised layers."""
    weight = getattr(lin, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def check_features(
    x: Union[Tensor, PairTensor], source_weight: Optional[Tensor], target_weight: Optional[Tensor] = None
) -> PairTensor:
    """The features of sources and targets, checked against the weights of the layers that they go into.

    Raises:
        TypeError: If they are no tensors of floating-point numbers, or of another precision than the weights.
        ValueError: If they have another width than the layers expect, or lie on another device.
    """
    if not isinstance(x, Tensor) and not (isinstance(x, (list, tuple)) and len(x) == 2):
        raise TypeError(
            f"'x' must be a tensor of node features, or one of sources and one of targets, got {shown(x)}"
        )
    source, target = (x, x) if isinstance(x, Tensor) else x
    for features, weight in ((source, source_weight), (target, target_weight)):
        if not isinstance(features, Tensor):
            raise TypeError(f"'x' must be a tensor of node features, got {type(features).__name__}")
        # Layers of unknown width take it from the first features; autocast brings types together.
        if weight is None or is_uninitialized_parameter(weight):
            continue
        check_tensor("x", features, (None, weight.size(1)))
        if features.device != weight.device:
            raise ValueError(
                f"'x' must be on the device of the layer, {weight.device}, got {features.device}"
            )
        if features.dtype != weight.dtype and not torch.is_autocast_enabled(features.device.type):
            raise TypeError(
                f"'x' must have the type of the layer's weights, {weight.dtype}, got {features.dtype}"
            )
    return source, target
