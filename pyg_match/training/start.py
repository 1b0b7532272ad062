"""What a training run starts with."""

from collections.abc import Sequence

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import detector_of
from pyg_match.training.config import TrainingConfig
from pyg_match.training.objective import Objective

Pairs = Sequence[KeypointPair]


def check_detectors(config: TrainingConfig) -> None:
    """Refuse weights and teachers of other keypoints than those of the data, which may be as wide.

    Raises:
        ValueError: If a detector differs. Weights that do not tell theirs pass.
    """
    for role, name in (("weights are", config.weights), ("teacher is", config.teacher)):
        detector = None if name is None else detector_of(name)
        if detector not in (None, config.data.extractor):
            raise ValueError(
                f"the {role} of {detector} keypoints, but 'data.extractor' is {config.data.extractor!r}"
            )


def make_matcher(config: TrainingConfig) -> GraphMatcher:
    """The matcher that a run starts with, in training mode.

    Raises:
        ValueError: If its settings do not fit the weights.
    """
    adaptive = {"depth_confidence": None, "width_confidence": None}  # every keypoint goes through every layer
    try:
        if config.weights is not None:
            return GraphMatcher.from_pretrained(config.weights, **{**config.matcher, **adaptive}).train()
        return GraphMatcher(**{**config.matcher, **adaptive}).train()
    except TypeError as error:
        raise ValueError(f"'matcher': {error}") from None


def make_teacher(config: TrainingConfig) -> GraphMatcher | None:
    """The matcher that a run imitates, or compares its result with, on the CPU; ``None`` without one."""
    if config.teacher is None or not (config.loss.imitates or config.calibrate):
        return None
    half = config.precision == "bf16-mixed"
    whole = {"assign_on_edges": False, "depth_confidence": None, "width_confidence": None}
    return GraphMatcher.from_pretrained(config.teacher, bfloat16=half, **whole).requires_grad_(False)


def make_objective(config: TrainingConfig, matcher: GraphMatcher, teacher: GraphMatcher | None) -> Objective:
    """The losses of a run."""
    return Objective(matcher, config.loss, teacher if config.loss.imitates else None, config.teacher_edges)
