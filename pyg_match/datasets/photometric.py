"""Photometric change: light, colour, blur, noise, compression."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyg_match.fields import convert, field_types

# Names of the effects in the order in which they happen between a scene and a file.
_EFFECTS = ("shadow", "illumination", "blur", "motion", "gamma", "colour", "noise", "jpeg")
# Those that draw numbers for all pixels, for which kornia takes the CPU unless it is told otherwise.
_OF_PIXELS = ("RandomPlasmaShadow", "RandomLinearIllumination", "RandomGaussianNoise")


@dataclass(frozen=True)
class Photometric:
    r"""Random change of light, contrast, colour, sharpness, noise and compression by kornia's augmentation.

    Every effect happens with ``probability``, in the order of a camera: shadow and uneven light fall on the
    scene, lens and motion blur it, exposure and colour change, the sensor adds noise, JPEG compresses. None of
    them moves a pixel. An effect of strength 0 (gamma: 1, JPEG: 100) never happens.

    Args:
        probability: Probability of each effect, in [0, 1].
        reference: Probability that the first view of a pair is changed at all; the second one always is.
        brightness: Largest change of the brightness factor from 1, in [0, 1].
        contrast: Largest change of the contrast factor from 1, in [0, 1].
        saturation: Largest change of the saturation factor from 1, in [0, 1].
        hue: Largest turn of the hue, as a share of the colour circle in [0, 0.5].
        gamma: Largest exponent, at least 1; the smallest is its inverse.
        shadow: Largest darkness of irregular shadows, in [0, 1].
        illumination: Largest change of brightness by a gradient of light, in [0, 1].
        blur: Largest standard deviation of Gaussian blur in pixels.
        motion: Largest length of motion blur in pixels, odd, or 0.
        noise: Largest standard deviation of Gaussian noise, the image being in [0, 1].
        jpeg: Lowest JPEG quality, in [1, 100].
        independent: Whether how strong effects are is drawn apart from which of them happen. Otherwise both come of the
            same numbers, with which the published weights were trained: strengths depend on effects, and some are
            never drawn.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> image = torch.rand(3, 48, 64)
        >>> bool((Photometric()(image, seed=1) == Photometric()(image, seed=1)).all())
        True
    """

    probability: float = 0.5
    reference: float = 0.3
    brightness: float = 0.35
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    gamma: float = 1.8
    shadow: float = 0.6
    illumination: float = 0.35
    blur: float = 2.0
    motion: int = 7
    noise: float = 0.05
    jpeg: float = 30.0
    independent: bool = True

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            object.__setattr__(self, name, convert(getattr(self, name), kind, name, words=False))
        shares = (
            "probability",
            "reference",
            "brightness",
            "contrast",
            "saturation",
            "shadow",
            "illumination",
        )
        ranges = {name: (0 <= getattr(self, name) <= 1, "in [0, 1]") for name in shares}
        ranges.update(
            {name: (0 <= getattr(self, name) < float("inf"), "in [0, ∞)") for name in ("blur", "noise")}
        )
        ranges["hue"] = (0 <= self.hue <= 0.5, "in [0, 0.5]")
        ranges["gamma"] = (1 <= self.gamma < float("inf"), "in [1, ∞)")
        ranges["motion"] = (
            self.motion == 0 or (self.motion >= 3 and self.motion % 2 == 1),
            "0 or odd and ≥ 3",
        )
        ranges["jpeg"] = (1 <= self.jpeg <= 100, "in [1, 100]")
        for name, (fulfilled, expected) in ranges.items():
            if not fulfilled:
                raise ValueError(f"'{name}' must be {expected}, got {getattr(self, name)}")

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Change an image; the same seed and image give the same result on one device.

        kornia draws from torch's global generators, whose state is put back afterwards.

        Args:
            image: RGB image with values in [0, 1].
            seed: Chooses all changes.

        Shapes:
            - **image:** :math:`(3, H, W)`
            - **output:** :math:`(3, H, W)`
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = (torch.rand(len(_EFFECTS), generator=generator) < self.probability).tolist()
        strength = float(torch.rand((), generator=generator))
        seed = int(torch.randint(1 << 62, (), generator=generator)) if self.independent else seed
        gpus = [image.device.index] if image.is_cuda else []
        with torch.random.fork_rng(devices=gpus):
            # Not torch.manual_seed, which would seed all GPUs, and others are not put back.
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu].manual_seed(seed)
            for effect in self._augmentations(dict(zip(_EFFECTS, chosen, strict=True)), strength):
                if gpus and type(effect).__name__ in _OF_PIXELS:
                    effect.set_rng_device_and_dtype(image.device, image.dtype)
                image = effect(image[None])[0].clamp(0, 1)
        return image

    def _augmentations(self, chosen: dict[str, bool], strength: float) -> Iterator[Any]:
        from kornia import augmentation as K

        if chosen["shadow"] and self.shadow > 0:
            yield K.RandomPlasmaShadow((0.1, 0.7), (-self.shadow, 0.0), (0.0, 1.0), p=1.0)
        if chosen["illumination"] and self.illumination > 0:
            yield K.RandomLinearIllumination((0.0, self.illumination), p=1.0)
        if chosen["blur"] and self.blur > 0:
            size = 2 * max(1, round(3 * self.blur)) + 1
            yield K.RandomGaussianBlur((size, size), (min(0.1, self.blur), self.blur), "replicate", p=1.0)
        if chosen["motion"] and self.motion > 0:
            # Direction 0 weights both ends alike; any other would shift the image.
            yield K.RandomMotionBlur(
                (3, self.motion), (0.0, 360.0), (0.0, 0.0), "replicate", "bilinear", p=1.0
            )
        if chosen["gamma"] and self.gamma > 1:
            # Half of the exponents darken and half lighten.
            limits = (1.0, self.gamma) if strength < 0.5 else (1 / self.gamma, 1.0)
            yield K.RandomGamma(limits, p=1.0)
        if chosen["colour"] and max(self.brightness, self.contrast, self.saturation, self.hue) > 0:
            yield K.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue, p=1.0)
        if chosen["noise"] and self.noise > 0:
            yield K.RandomGaussianNoise(0.0, self.noise * strength, p=1.0)
        if chosen["jpeg"] and self.jpeg < 100:
            yield K.RandomJPEG((self.jpeg, 100.0), p=1.0)
