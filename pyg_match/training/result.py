"""What a run leaves at its end: the matcher, calibrated, and what its file says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.training.calibration import Calibration, calibrate
from pyg_match.training.config import TrainingConfig


def finished(
    config: TrainingConfig,
    average: GraphMatcher,
    teacher: Optional[GraphMatcher],
    pairs: Sequence[KeypointPair],
) -> tuple[GraphMatcher, Optional[Calibration]]:
    """The averaged weights as a matcher with the options of the result, and its calibration if one is wanted."""
    matcher = GraphMatcher(replace(average.config, **config.result))
    matcher.load_state_dict(average.state_dict())
    weight = next(average.parameters())
    matcher.to(weight.device, weight.dtype)
    found = calibrate(matcher, pairs, teacher, config.teacher_edges) if config.calibrate else None
    return matcher, found


def write_matcher(
    path: Path,
    config: TrainingConfig,
    matcher: GraphMatcher,
    half: bool = False,
    calibration: Optional[Calibration] = None,
) -> None:
    """Write a matcher with the graph and the detector that it was trained with."""
    data = config.data
    metadata: dict[str, Any] = {"graph": config.graph, "extractor": data.extractor}
    # How many keypoints are wanted is a question of its own where the matcher is used.
    options = {k: v for k, v in data.extractor_options.items() if k != "detection_threshold"}
    if options:
        metadata["extractor_options"] = options
    if calibration is not None:
        metadata["calibration"] = calibration.to_dict()
    matcher.save(path, half=half, metadata=metadata)
