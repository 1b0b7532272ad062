"""What a run must keep in order to go on, and what is checked before it starts."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pyg_match.training.checkpoint import load_checkpoint
from pyg_match.training.config import TrainingConfig
from pyg_match.training.schedule import batch_indices
from pyg_match.training.start import make_matcher

# Settings that change nothing in the course of training; a run may go on with others.
_FREE = ("log_every", "validate_every", "checkpoint_every", "checkpoint_minutes")


def check_before(config: TrainingConfig, checkpoint: Path, processes: int) -> None:
    """Refuse what does not fit before anything takes long: settings of the matcher and of batches, and a checkpoint.

    Raises:
        ValueError: If settings do not fit each other, or the checkpoint is of a run with others.
    """
    replace(make_matcher(config).config, **config.result)
    batch_indices(0, config.batch_size, config.batch_size, config.seed, config.accumulate, 0, processes)
    if checkpoint.is_file():
        check_identity(checkpoint.parent, load_checkpoint(checkpoint)["identity"], settings_of(config))


def check_identity(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run of other settings.

    Raises:
        ValueError: If one that matters differs.
    """
    # Checkpoints of earlier versions lack settings that came later, which stood as they stand by default.
    default = settings_of(TrainingConfig())
    for section in ("data", "loss"):
        before[section] = default[section] | before.get(section, {})
    before = default | before
    changed = sorted(key for key, value in now.items() if key not in _FREE and before.get(key) != value)
    if changed:
        raise ValueError(
            f"{out} holds a run with other settings ({', '.join(changed)}); "
            "give the old ones to go on with it, or another folder"
        )


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """The settings that the result depends on, as a checkpoint holds them."""
    values = asdict(config)
    values["data"] = {k: v for k, v in values["data"].items() if k not in ("cache", "num_workers")}
    values["data"]["size"] = list(values["data"]["size"])
    values["matcher"] = {k: v for k, v in values["matcher"].items() if k != "checkpointed"}
    return values
