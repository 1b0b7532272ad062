"""What a run must keep in order to go on, and what is checked before it starts."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets.shards import PairShards
from pyg_match.datasets.sources import make_extractor
from pyg_match.nn import GraphMatcher
from pyg_match.training.checkpoint import load_checkpoint
from pyg_match.training.config import TrainingConfig
from pyg_match.training.result import with_result
from pyg_match.training.schedule import batch_indices
from pyg_match.training.start import make_matcher, make_objective, make_teacher
from pyg_match.transforms import graph_from_recipe

_FEW = 16  # keypoints that tell whether settings fit

# Settings that change nothing in the course of training; a run may go on with others.
_FREE = ("log_every", "validate_every", "checkpoint_every", "checkpoint_minutes")
# Checkpoints of earlier versions, and datasets that users bring, may lack them; a missing one is not compared.
_DIGESTS = {
    "train_fingerprints": "photos of training",
    "valid_fingerprints": "photos of validation",
    "teacher_digest": "weights of the teacher",
}


def check_before(config: TrainingConfig, checkpoint: Path, processes: int) -> None:
    """Refuse what does not fit before anything takes long: settings of the matcher, its teacher, losses and batches,
    and a checkpoint.

    Raises:
        TypeError: If the detector finds other keypoints than the matcher needs.
        ValueError: If settings do not fit each other, or the checkpoint is of a run with others.
    """
    matcher, teacher = make_matcher(config), make_teacher(config)
    make_objective(config, matcher, teacher)
    _check_fit(config, matcher, with_result(config, matcher), *([] if teacher is None else [teacher]))
    batch_indices(0, config.batch_size, config.batch_size, config.seed, config.accumulate, 0, processes)
    if checkpoint.is_file():
        check_identity(checkpoint.parent, load_checkpoint(checkpoint)["identity"], settings_of(config))


@torch.no_grad()
def _check_fit(config: TrainingConfig, *matchers: GraphMatcher) -> None:
    """Let matchers match a few random keypoints as the detector finds them, on edges as the graph has them."""
    data, generator = config.data, torch.Generator().manual_seed(0)
    detector = make_extractor(data.extractor, data.max_num_keypoints, data.extractor_options)
    for matcher in matchers:
        if matcher.config.in_channels != detector.descriptor_dim:
            raise ValueError(
                f"'data.extractor' {data.extractor!r} gives descriptors of width {detector.descriptor_dim}, but the "
                f"matcher or its teacher expects {matcher.config.in_channels}; see 'matcher.in_channels'"
            )
    found = detector.empty(torch.zeros(3, 1, 1))
    sets = [
        KeypointSet(
            image_size=data.size,
            **{
                name: torch.rand(_FEW, *value.shape[1:], generator=generator) for name, value in found.items()
            },
        )
        for _ in range(2)
    ]
    pair = graph_from_recipe(config.graph)(KeypointPair.from_sets(*sets))
    for matcher in matchers:
        matcher.eval()(pair)


def check_identity(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run of other settings.

    Raises:
        ValueError: If one that matters differs.
    """
    # A setting that is newer than the checkpoint had the effect of its default.
    default = settings_of(TrainingConfig())
    for section in ("data", "loss"):
        before[section] = default[section] | before.get(section, {})
    before = default | {name: now[name] for name in _DIGESTS if name in now} | before
    changed = sorted(key for key, value in now.items() if key not in _FREE and before.get(key) != value)
    if changed:
        names = ", ".join(_DIGESTS.get(name, name) for name in changed)
        raise ValueError(
            f"{out} holds a run with other settings ({names}); "
            "give the old ones to go on with it, or another folder"
        )


def fingerprints(pairs: Any) -> list[str]:
    """What pairs that are kept on disk are made of, by dataset."""
    parts = getattr(pairs, "parts", None) or getattr(pairs, "datasets", None) or [pairs]
    shards = [getattr(part, "shards", None) for part in parts]
    return [found.fingerprint for found in shards if isinstance(found, PairShards)]


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """The settings that the result depends on, as a checkpoint holds them."""
    values = asdict(config)
    values["data"] = {k: v for k, v in values["data"].items() if k not in ("cache", "num_workers")}
    values["data"]["size"] = list(values["data"]["size"])
    values["matcher"] = {k: v for k, v in values["matcher"].items() if k != "checkpointed"}
    return values
