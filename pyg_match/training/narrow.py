"""Narrower feed-forward networks for trained matchers."""

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from pyg_match.checks import whole_number
from pyg_match.data import KeypointPair
from pyg_match.files import user_path
from pyg_match.nn import GraphMatcher
from pyg_match.spinner import spinner
from pyg_match.training.config import TrainingConfig
from pyg_match.training.result import write_matcher

_RIDGE = 1e-4  # on the moments of hidden features, as a share of their mean square


@torch.no_grad()
def narrow(matcher: GraphMatcher, ffn_channels: int, pairs: Sequence[KeypointPair]) -> GraphMatcher:
    r"""A copy of a matcher whose feed-forward networks are narrower inside, and which does nearly the same.

    Of each network :math:`\mathbf{W} \mathbf{h}` with hidden features :math:`\mathbf{h}`, the channel is dropped that
    changes the output on the pairs least when all others make up for it, the one with the smallest

    .. math::
        \frac{\lVert \mathbf{w}_c \rVert^2}{[(\sum \mathbf{h} \mathbf{h}^\top)^{-1}]_{cc}},

    then the next one, until ``ffn_channels`` are left. At last :math:`\mathbf{W}` is fitted anew to what the network
    gave, by least squares, as the layer norm now sees fewer channels.

    It costs accuracy as soon as channels go that the pairs need; some training with the former matcher as a teacher on
    the same edges (``teacher_edges``) brings it back.

    Args:
        matcher: The matcher; it stays as it is.
        ffn_channels: How many channels to keep, at most as many as there are.
        pairs: Pairs with the edges that the matcher is used with, some thousand keypoints at least.

    Raises:
        ValueError: If ``ffn_channels`` is not between 1 and the width that the matcher has, or there are no keypoints.

    Source: optimal brain surgeon (Hassibi and Stork, NeurIPS 1992), here for whole channels.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(9, 2), x=torch.randn(9, 8), image_size=(2, 2)) for _ in range(2)
        ... ]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> narrow(matcher, 24, [KeypointPair.from_sets(*sets)]).config.ffn_channels
        24
    """
    config = matcher.config
    width = config.ffn_channels or 2 * config.hidden_channels
    ffn_channels = whole_number("ffn_channels", ffn_channels, least=0)
    if not 1 <= ffn_channels <= width:
        raise ValueError(
            f"'ffn_channels' must be between 1 and the {width} of the matcher, got {ffn_channels}"
        )
    if sum(pair.num_nodes or 0 for pair in pairs) == 0:
        raise ValueError(f"narrowing needs pairs with keypoints, got none in {len(pairs)} pairs")
    small = GraphMatcher(replace(config, ffn_channels=ffn_channels)).to(next(matcher.parameters())).eval()
    wide = copy.deepcopy(matcher).train().eval()  # not frozen, and hooks do no harm to it
    # All layers see all keypoints.
    wide.config = replace(config, depth_confidence=None, width_confidence=None)
    networks, narrowed = _networks(wide), _networks(small)
    moments = [_Moments() for _ in networks]
    _watch(networks, wide, pairs, lambda i, _, hidden, __: moments[i].add(hidden))
    kept = [
        _kept_channels(moment.square, network[3].weight, ffn_channels)
        for moment, network in zip(moments, networks, strict=True)
    ]
    small.load_state_dict(_narrowed_state(matcher, kept))
    moments = [_Moments() for _ in networks]

    def refit(i: int, features: Tensor, _: Tensor, out: Tensor) -> None:
        moments[i].add(narrowed[i][:3](features), out)

    _watch(networks, wide, pairs, refit)
    for moment, network in zip(moments, narrowed, strict=True):
        last = torch.cat([network[3].weight.t(), network[3].bias.unsqueeze(0)]).double()
        # Where the pairs do not determine a weight, the ridge holds it to what it was.
        ridged = _ridged(moment.square)
        target = moment.product + (ridged - moment.square) @ last
        fitted = torch.linalg.solve(ridged, target).to(network[3].weight.dtype)
        network[3].weight.copy_(fitted[:-1].t())
        network[3].bias.copy_(fitted[-1])
    return small.train(matcher.training)


class _Moments:
    """Sums over all nodes of products of hidden features, with a constant one behind them, and of outputs."""

    def __init__(self) -> None:
        self.square: Any = 0.0
        self.product: Any = 0.0

    def add(self, hidden: Tensor, out: Optional[Tensor] = None) -> None:
        hidden = nn.functional.pad(hidden.double(), (0, 1), value=1.0)
        self.square = self.square + hidden.t() @ hidden
        if out is not None:
            self.product = self.product + hidden.t() @ out.double()


def _networks(matcher: GraphMatcher) -> list[Any]:
    layers: Any = matcher.layers
    return [block.ffn for layer in layers for block in (layer.self_attn, layer.cross_attn)]


def _watch(
    networks: Sequence[Any],
    matcher: GraphMatcher,
    pairs: Sequence[KeypointPair],
    see: Callable[[int, Tensor, Tensor, Tensor], None],
) -> None:
    """Match pairs, and call ``see`` with the number of each network, its input, its hidden features and its output."""
    features: dict[int, Tensor] = {}
    hooks = []
    for i, network in enumerate(networks):
        hooks.append(network[0].register_forward_pre_hook(lambda _, args, i=i: features.update({i: args[0]})))
        hooks.append(
            network[3].register_forward_hook(lambda _, args, out, i=i: see(i, features.pop(i), args[0], out))
        )
    device = next(matcher.parameters()).device
    for index in range(len(pairs)):
        matcher(copy.copy(pairs[index]).to(device))
    for hook in hooks:
        hook.remove()


def _ridged(square: Tensor) -> Tensor:
    """Moments that can be inverted even if features depend on each other, or on few nodes."""
    return square + _RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)


def _kept_channels(square: Tensor, weight: Tensor, count: int) -> Tensor:
    """The channels to keep, ascending. The constant one behind them, which stands for the bias, always stays."""
    inverse, weight = torch.linalg.inv(_ridged(square)), nn.functional.pad(weight.double(), (0, 1))
    left = torch.ones(weight.size(1), dtype=torch.bool, device=weight.device)
    for _ in range(weight.size(1) - 1 - count):
        loss = weight.square().sum(0) / inverse.diagonal()
        loss[~left] = torch.inf
        loss[-1] = torch.inf
        channel = int(loss.argmin())
        left[channel] = False
        share = inverse[channel] / inverse[channel, channel]
        weight = weight - weight[:, channel : channel + 1] * share
        inverse = inverse - inverse[:, channel : channel + 1] * share
        inverse[channel, channel] = 1.0  # anything but zero, by which nothing is divided any more
    return left[:-1].nonzero().squeeze(1)


def _narrowed_state(matcher: GraphMatcher, kept: list[Tensor]) -> dict[str, Tensor]:
    """The weights of the matcher without the channels that are not kept."""
    state = matcher.state_dict()
    names = [
        f"layers.{layer}.{block}.ffn."
        for layer in range(len(kept) // 2)
        for block in ("self_attn", "cross_attn")
    ]
    for name, channels in zip(names, kept, strict=True):
        for part in ("0.weight", "0.bias", "1.weight", "1.bias"):
            state[name + part] = state[name + part][channels]
        state[name + "3.weight"] = state[name + "3.weight"][:, channels]
    return state


def narrow_from_settings(
    config: TrainingConfig,
    images: Union[str, os.PathLike[str]],
    target: Union[str, os.PathLike[str]],
    ffn_channels: int,
) -> None:
    """:func:`narrow` the weights that a training run starts from on its training pairs, and write them to a file.

    The caller has to check that the file can be written, and that it is none of those that are read.

    Args:
        config: Settings of a run, of which ``weights``, ``matcher``, ``graph`` and ``data`` count.
        images: Folder of photos.
        target: The file to write, whose name ends in ``.safetensors``; the ``weights`` of a run to come.
        ffn_channels: See :func:`narrow`.

    Raises:
        FileNotFoundError: If there are no such weights or no such folder of photos.
        ValueError: If settings do not fit each other, or the target's name ends otherwise.
    """
    from pyg_match.training.data import make_datasets
    from pyg_match.training.start import check_detectors, make_matcher

    file = user_path(target)
    if file.suffix != ".safetensors":  # said before keypoints are found
        raise ValueError(f"matchers are saved as .safetensors, got {file.name!r}")
    check_detectors(config)
    matcher = make_matcher(config).eval()
    # A few pairs tell which channels matter; those of photos need not be looked for.
    data = replace(config.data, related=0, live=False)
    if data.photo_pairs is None:
        data = replace(data, photo_warps=None, num_photo_pairs=None)
    config = replace(config, data=data)
    with tempfile.TemporaryDirectory() as folder:
        pairs, _ = make_datasets(config, images, config.data.cache or folder)
        pairs.prepare(progress=True)
        with spinner(f"narrowing on {len(pairs):,} pairs"):
            small = narrow(matcher, ffn_channels, pairs)
    write_matcher(file, config, small)
