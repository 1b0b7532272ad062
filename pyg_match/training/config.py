"""The settings of a training run, read from a preset or a YAML file."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Optional, Union

from pyg_match.checks import shown, whole_number
from pyg_match.datasets.synthetic_homographies import POSITIVE
from pyg_match.fields import build, check_names, mapping
from pyg_match.files import is_file, user_path
from pyg_match.nn import MatcherConfig
from pyg_match.nn.matcher_config import MatcherShape
from pyg_match.pretrained import check_name
from pyg_match.transforms import graph_from_recipe

PRESETS = ("sparse", "finetune", "scratch-small", "scratch-full")
_LARGEST_SEED = (1 << 63) - 1  # of torch's generators


@dataclass(frozen=True)
class DataConfig:
    """Pairs of photos and their warped copies, see :class:`~pyg_match.datasets.SyntheticHomographies`.

    Example:
        >>> DataConfig(num_pairs=64, warps={"rotation": 180.0}).size
        (640, 480)
    """

    #: Name of the detector, see pyg_match.features.extractor.
    extractor: str = "aliked"
    #: Its arguments.
    extractor_options: dict[str, Any] = field(default_factory=dict)
    #: Largest number of keypoints of an image.
    max_num_keypoints: int = 512
    #: The least limit that a training pair may have; each draws its own between the two. None for the same limit.
    min_num_keypoints: Optional[int] = None
    #: Width and height of the images in pixels.
    size: tuple[int, int] = (640, 480)
    #: Number of pairs of warped photos for training.
    num_pairs: int = 1000
    #: Number of pairs of warped photos for validation.
    validation_pairs: int = 32
    #: Share of all photos that only validation sees.
    validation_photos: float = 0.1
    #: Pixels from every keypoint of the other view that prove a keypoint unmatched.
    negative_threshold: float = 6.0
    #: Share of pairs with repeated structure.
    repeats: float = 0.0
    #: Share of training pairs of warped photos that show two different ones.
    unrelated: float = 0.0
    #: File of pairs of photos of the same scene to train on as well, two names in a line; see PhotoPairs.
    photo_pairs: Optional[str] = None
    #: With how many similar photos each photo is compared to find such pairs, see related_photos; 0 to look for none.
    related: int = 0
    #: Number of training pairs made of them; more than there are need photo_warps. None for one of each.
    num_photo_pairs: Optional[int] = None
    #: Arguments of HomographyWarps for them; None to show photos as they are.
    photo_warps: Optional[dict[str, Any]] = None
    #: Arguments of HomographyWarps.
    warps: dict[str, Any] = field(default_factory=dict)
    #: Arguments of Photometric.
    photometric: dict[str, Any] = field(default_factory=dict)
    #: Seed of warps and of the split of the photos.
    seed: int = 0
    #: Whether keypoints of warped photos are found when they are trained on, on the device that trains, instead of
    #: before and once; num_pairs costs nothing then.
    live: bool = False
    #: Folder of the features; None for "features" beside the checkpoints.
    cache: Optional[str] = None
    #: Processes that draw edges, or render views of live pairs, or read photos for a GPU that does.
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("max_num_keypoints", "num_pairs"):
            whole_number(f"data.{name}", getattr(self, name))
        for name in ("validation_pairs", "num_workers", "related"):
            whole_number(f"data.{name}", getattr(self, name), least=0)
        for name in ("min_num_keypoints", "num_photo_pairs"):
            if getattr(self, name) is not None:
                whole_number(f"data.{name}", getattr(self, name))
        for length in self.size:
            whole_number("data.size", length, least=2)
        if not 0 < self.validation_photos < 1:
            raise ValueError(
                f"'data.validation_photos' must be between 0 and 1, got {self.validation_photos}"
            )
        if (self.min_num_keypoints or 0) > self.max_num_keypoints:
            raise ValueError(
                f"'data.min_num_keypoints' must be at most 'data.max_num_keypoints' = {self.max_num_keypoints}, got "
                f"{self.min_num_keypoints}"
            )
        for name in ("repeats", "unrelated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"'data.{name}' must be in [0, 1], got {getattr(self, name)}")
        if not POSITIVE <= self.negative_threshold < math.inf:
            raise ValueError(
                f"'data.negative_threshold' must be at least {POSITIVE} px, within which keypoints are partners, got "
                f"{self.negative_threshold}"
            )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; 0 switches one off.

    Example:
        >>> LossConfig(layers="random:3", matchability=0.5).confidence
        1.0
    """

    #: Negative log-likelihood of the true assignment.
    assignment: float = 1.0
    #: Share of matched keypoints in it, against unmatched ones.
    balance: float = 0.5
    #: Layers supervised: "all", "last", a number, or "random:n".
    layers: Union[int, str] = "all"
    #: Factor on the weight of a layer for each layer behind it.
    layer_decay: float = 1.0
    #: Cross-entropy of matchability on its own.
    matchability: float = 0.0
    #: Cross-entropy of the confidence for early exit.
    confidence: float = 1.0
    #: Overlap of the scales of multi-scale branches.
    orthogonality: float = 0.1
    #: Divergence from the assignment of the teacher.
    distill_assignment: float = 0.0
    #: Distance to the descriptors of the teacher after each layer.
    distill_descriptors: float = 0.0

    @property
    def imitates(self) -> bool:
        """Whether there is a teacher to imitate."""
        return self.distill_assignment > 0 or self.distill_descriptors > 0

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self) if f.name != "layers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"'loss.{name}' must not be negative or infinite, got {getattr(self, name)}")
        if self.balance > 1:
            raise ValueError(f"'loss.balance' must be in [0, 1], got {self.balance}")
        spec = self.layers
        kind, _, number = str(spec).partition(":")
        drawn = kind == "random" and number.isdecimal() and int(number) > 0
        if not (spec in ("all", "last") or drawn or (isinstance(spec, int) and spec > 0)):
            raise ValueError(
                f"'loss.layers' must be 'all', 'last', a positive number or 'random:n', got {spec!r}"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a training run.

    Example:
        >>> load_config("finetune", ["steps=10", "loss.layers=3"]).steps
        10
    """

    #: Weights to start from; None for random ones.
    weights: Optional[str] = "aliked-lightglue"
    #: Weights of a matcher to imitate, see loss.distill_*.
    teacher: Optional[str] = None
    #: Whether the teacher sees the edges that the matcher sees, instead of complete graphs.
    teacher_edges: bool = False
    #: Fields of MatcherConfig.
    matcher: dict[str, Any] = field(default_factory=dict)
    #: Transforms and their arguments; none of them leave the graph complete.
    graph: list[dict[str, Any]] = field(default_factory=list)
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    #: Number of optimiser steps.
    steps: int = 1000
    #: Pairs in a step, over all processes.
    batch_size: int = 2
    #: Parts that a process splits its share of a batch into.
    accumulate: int = 1
    #: Largest learning rate.
    learning_rate: float = 1e-4
    #: Steps until it is reached.
    warmup: int = 20
    #: Share of it at the end of the cosine.
    final_learning_rate: float = 0.02
    #: Weight decay of AdamW.
    weight_decay: float = 0.0
    #: Largest norm of the gradient; 0 for no limit.
    clip: float = 1.0
    #: Decay of the averaged weights; 0 for none.
    ema: float = 0.99
    #: Precision of Lightning Fabric.
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    #: Steps between lines of the log.
    log_every: int = 10
    #: Steps between validations; 0 for the end only.
    validate_every: int = 200
    #: Most steps between checkpoints; 0 for no limit.
    checkpoint_every: int = 100
    #: Most minutes between checkpoints; 0 for no limit.
    checkpoint_minutes: float = 10.0
    #: Fields of MatcherConfig that the result has and training has not, such as assign_on_edges.
    result: dict[str, Any] = field(default_factory=dict)
    #: Whether temperatures and threshold of the result are chosen on validation pairs; see calibrate.
    calibrate: bool = False
    #: Whether the weights of the result are written in half precision.
    half: bool = False
    #: Seed of initial weights and of the order of the data.
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be positive, got {getattr(self, name)}")
        intervals = ("validate_every", "checkpoint_every", "checkpoint_minutes")
        for name in ("learning_rate", "final_learning_rate", "warmup", "weight_decay", "clip", *intervals):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"'{name}' must not be negative or infinite, got {getattr(self, name)}")
        for name, seed in (("seed", self.seed), ("data.seed", self.data.seed)):
            whole_number(name, seed, least=0, most=_LARGEST_SEED)
        for name, weights in (("weights", self.weights), ("teacher", self.teacher)):
            if weights is not None:
                check_name(weights, f"'{name}'")
        if not 0 <= self.ema < 1:
            raise ValueError(f"'ema' must be in [0, 1), got {self.ema}")
        for section, values in (("matcher.", self.matcher), ("result.", self.result)):
            check_names(values, [f.name for f in dataclasses.fields(MatcherConfig)], section)
        shape = {f.name for f in dataclasses.fields(MatcherShape)} - {"assign_on_edges"}
        for name in ("depth_confidence", "width_confidence"):
            if self.matcher.get(name) is not None:
                raise ValueError(
                    f"'matcher.{name}' must be None, as all keypoints go through all layers in training, got "
                    f"{self.matcher[name]}; set 'result.{name}' instead"
                )
        for name in self.result:
            if name in shape:
                raise ValueError(f"'result.{name}' is fixed by training; set 'matcher.{name}' instead")
        if self.calibrate and self.data.validation_pairs == 0:
            raise ValueError("'calibrate' needs 'data.validation_pairs', got 0")
        graph_from_recipe(self.graph)
        if self.loss.imitates and self.teacher is None:
            raise ValueError("the distillation losses need a 'teacher', got None")
        if self.teacher_edges and self.teacher is None:
            raise ValueError("'teacher_edges' needs a 'teacher', got None")
        data = self.data
        if data.photo_pairs is not None and data.related:
            raise ValueError(
                f"'data.photo_pairs' leave nothing for 'data.related' to find, got {data.related}"
            )
        has_photo_pairs = data.photo_pairs is not None or data.related > 0
        if has_photo_pairs and self.teacher is None:
            raise ValueError("pairs of photos are labelled by a 'teacher', got None")
        for name in ("photo_warps", "num_photo_pairs"):
            if getattr(data, name) is not None and not has_photo_pairs:
                raise ValueError(f"'data.{name}' needs 'data.photo_pairs' or 'data.related', got neither")


def load_config(source: Union[str, Path], overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read the settings of a training run.

    Args:
        source: The name of a preset (``"sparse"``, ``"finetune"``, ``"scratch-small"``, ``"scratch-full"``) or a YAML
            file, which may name a preset to start from under ``preset``.
        overrides: Settings to change, as ``"key=value"`` with the value in YAML; ``"data.num_pairs=50"`` reaches
            into a section.

    Raises:
        FileNotFoundError: If there is neither such a preset nor such a file.
        ValueError: If a setting is unknown or has the wrong type or value.

    Example:
        >>> load_config("scratch-small", ["data.size=[320, 240]"]).data.size
        (320, 240)
    """
    values = _read(source)
    for item in overrides:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"a setting must be given as key=value, got {item!r}")
        changes: Any = parse_yaml(value, item)
        for part in reversed(key.strip().split(".")):
            changes = {part: changes}
        values = _merged(values, changes)
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """The settings in nested dictionaries, such as :func:`dataclasses.asdict` gives.

    Args:
        values: Settings by name; those that are not named have their defaults.

    Raises:
        ValueError: If a setting is unknown or has the wrong type or value.

    Example:
        >>> config_from_dict({"steps": 10, "data": {"size": [320, 240]}}).data.size
        (320, 240)
    """
    return build(TrainingConfig, values)


def _read(source: Union[str, Path]) -> dict[str, Any]:
    if str(source) in PRESETS:
        file = resources.files("pyg_match.training") / "presets" / f"{source}.yaml"
        return mapping(parse_yaml(file.read_text(encoding="utf-8"), f"preset {source}"), f"preset {source}")
    path = user_path(source)
    if not is_file(path):
        raise FileNotFoundError(
            f"no settings at {shown(str(source))}; expected a YAML file or one of {', '.join(PRESETS)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be YAML in UTF-8, got other bytes: {error}") from None
    values = mapping(parse_yaml(text, str(path)), str(path))
    preset = values.pop("preset", None)
    if preset is None:
        return values
    if preset not in PRESETS:
        raise ValueError(f"'preset' must be one of {', '.join(PRESETS)}, got {preset!r}")
    return _merged(_read(preset), values)


def parse_yaml(text: str, what: str) -> Any:
    """The value that a YAML text describes.

    Raises:
        ValueError: If ``what``, as errors name it, is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    # Tags before what they do not fit raise KeyError, IndexError, AttributeError, ...
    except Exception as error:
        reason = "too many brackets" if isinstance(error, RecursionError) else error
        raise ValueError(f"{what if len(what) < 200 else shown(what)} is not YAML: {reason}") from None


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``, section by section; a list replaces a list."""
    out = dict(values)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out
