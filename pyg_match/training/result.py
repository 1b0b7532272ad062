"""What a run leaves: matchers with the options of the result, and what their files say."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import torch

from pyg_match.nn import GraphMatcher
from pyg_match.training.calibration import Calibration
from pyg_match.training.config import TrainingConfig


def with_result(config: TrainingConfig, average: GraphMatcher) -> GraphMatcher:
    """The averaged weights as a matcher with the options of the result."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
        matcher = GraphMatcher(replace(average.config, **config.result))
    matcher.load_state_dict(average.state_dict())
    weight = next(average.parameters())
    return matcher.to(weight.device, weight.dtype)


def write_matcher(
    path: Path,
    config: TrainingConfig,
    matcher: GraphMatcher,
    calibration: Optional[Calibration] = None,
) -> None:
    """Write a matcher with the graph and the detector that it was trained with, in half precision if set so."""
    data = config.data
    metadata: dict[str, Any] = {"graph": config.graph, "extractor": data.extractor}
    # How many keypoints are wanted is a question of its own where the matcher is used.
    options = {k: v for k, v in data.extractor_options.items() if k != "detection_threshold"}
    if options:
        metadata["extractor_options"] = options
    if calibration is not None:
        metadata["calibration"] = calibration.to_dict()
    matcher.save(path, half=config.half, metadata=metadata)
