"""LightGlue, of kornia and of its authors, as it is run on a GPU: one pair at a time, padded in batches, compiled."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import Call
from kornia.feature import LightGlue
from matcher import official_lightglue
from parity import as_kornia
from torch import Tensor, nn

from pyg_match.data import KeypointPair

# Keypoints of an image at which compiled ones are timed, as each size takes a minute to compile.
_COMPILED = 2048


class LightGlues:
    """Both implementations with random weights, without early exit and pruning."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        kornias = LightGlue(features=None, input_dim=128, depth_confidence=-1, width_confidence=-1).eval()
        # The reason in the place of one that is not installed.
        self.models = {"kornia": kornias, "official": official_lightglue(kornias, kornias.conf.n_layers)}
        for model in self.models.values():
            if isinstance(model, nn.Module):
                model.to(device)
        torch.backends.cudnn.deterministic = (
            False  # which the authors' module switches on when it is imported
        )

    def calls(self, pairs: Sequence[KeypointPair]) -> dict[str, Callable[[], Call]]:
        """What is timed on these pairs; what is made for that, when it is its turn."""
        moved = [pair.to(self.device) for pair in pairs]
        each = [as_kornia(pair) for pair in moved]
        found: dict[str, Callable[[], Call]] = {}
        for name, model in self.models.items():
            for precision in ("fp32", "fp16"):
                found[f"{name} {precision}"] = functools.partial(self._call, model, each, precision)
            if len(pairs) > 1:
                found[f"{name} fp16, padded"] = functools.partial(self._call, model, [padded(moved)], "fp16")
        return found

    def compiled_calls(self, pairs: Sequence[KeypointPair]) -> dict[str, Callable[[], Call]]:
        """What is timed on one pair of the size that is worth compiling; nothing for others."""
        each = [as_kornia(pair.to(self.device)) for pair in pairs]
        sizes = {count for pair in pairs for count in pair.num_keypoints.flatten().tolist()}
        if sizes != {_COMPILED}:
            return {}
        return {
            f"{name} fp16, compiled": lambda model=model: self._call(compiled(model), each, "fp16")
            for name, model in self.models.items()
        }

    def _call(self, model: Any, data: Sequence[Any], precision: str) -> Call:
        if isinstance(model, str):
            raise ModuleNotFoundError(model)
        half = torch.half if self.device.type == "cuda" else torch.bfloat16
        halves = precision == "fp16"

        def call() -> object:
            # Both switch autocast off inside unless they are told to use it.
            model.conf.mp = halves and self.device.type == "cuda"
            with torch.inference_mode(), torch.autocast(self.device.type, half, enabled=halves):
                return [model(each) for each in data]

        return call


def compiled(model: Any) -> Any:
    """A copy of one of the two, compiled: the authors' as they do it themselves, kornia's as a whole."""
    if isinstance(model, str):
        return model
    model = copy.deepcopy(model)
    if isinstance(model, LightGlue):
        return torch.compile(model, dynamic=False)
    model.compile(static_lengths=[_COMPILED])
    return model


def padded(pairs: Sequence[KeypointPair]) -> dict[str, dict[str, Tensor]]:
    """Pairs as one batch, in which all images have as many keypoints as the largest, at the corner and of zeros."""
    each = [as_kornia(pair) for pair in pairs]
    most = max(count for pair in pairs for count in pair.num_keypoints.flatten().tolist())

    def joined(image: str, name: str) -> Tensor:
        tensors = [one[image][name] for one in each]
        if name != "image_size":
            tensors = [nn.functional.pad(t, (0, 0, 0, most - t.size(1))) for t in tensors]
        return torch.cat(tensors)

    return {image: {name: joined(image, name) for name in of_image} for image, of_image in each[0].items()}
