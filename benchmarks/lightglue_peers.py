"""LightGlue, of kornia and of its authors, as it is run on a GPU: one pair at a time, padded in batches, compiled."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import Call
from kornia.feature import LightGlue
from matcher import official_lightglue
from parity import as_kornia, kornia_lightglue
from torch import Tensor, nn

from pyg_match.data import KeypointPair

_COMPILED = (
    2048  # keypoints of an image at which compiled ones are timed, as each size takes a minute to compile
)


class LightGlues:
    """Both implementations with official weights, without early exit and pruning."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        models = {"kornia": kornia_lightglue("aliked-lightglue")}
        official = official_lightglue(models["kornia"], 9)
        if isinstance(official, nn.Module):
            models["official"] = official
        self.models = {name: model.to(device) for name, model in models.items()}

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
            sizes = {count for pair in pairs for count in pair.num_keypoints.flatten().tolist()}
            if len(pairs) == 1 and sizes == {_COMPILED}:
                found[f"{name} fp16, compiled"] = lambda model=model: self._call(
                    compiled(copy.deepcopy(model)), each, "fp16"
                )
        return found

    def _call(self, model: nn.Module, data: Sequence[Any], precision: str) -> Call:
        half = torch.half if self.device.type == "cuda" else torch.bfloat16

        def call() -> object:
            with torch.inference_mode(), torch.autocast(self.device.type, half, enabled=precision == "fp16"):
                return [model(each) for each in data]

        return call


def compiled(model: Any) -> nn.Module:
    """One of the two, compiled: the authors' as they do it themselves, kornia's as a whole."""
    if isinstance(model, LightGlue):
        return torch.compile(model, dynamic=False)  # type: ignore[return-value]
    model.compile(static_lengths=[_COMPILED])
    return model  # type: ignore[no-any-return]


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
