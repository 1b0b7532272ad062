"""The state of a training run on disk, and of all that is random in it."""

import io
import random
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch

from pyg_match.checks import shown, whole_number
from pyg_match.files import write_whole
from pyg_match.weight_files import load_tensors

_PARTS = (
    "identity",
    "matcher",
    "average",
    "optimizer",
    "precision",
    "step",
    "best",
    "seconds",
    "sums",
    "random",
)


def save_checkpoint(path: Union[str, Path], state: dict[str, Any]) -> None:
    """Write tensors, numbers and texts in nested dictionaries and lists, whole or not at all.

    Raises:
        OSError: If the file cannot be written; the one before is intact then.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Union[str, Path]) -> dict[str, Any]:
    """Read a file of :func:`save_checkpoint`, without running code from it.

    The file is a ZIP archive, whose checksums are compared with all that it holds: :func:`torch.load` does not look at
    them.

    Raises:
        ValueError: If the file is damaged, or a checkpoint of something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the numbers of '{damaged}' do not agree with their checksum")
        state: dict[str, Any] = load_tensors(Path(path))
    except Exception as error:  # zip and pickle fail in a dozen ways on a damaged file
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{path} is not a readable checkpoint: {reason}; without the file the run starts anew"
        ) from error
    missing = [name for name in _PARTS if not (isinstance(state, dict) and name in state)]
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of this trainer, it lacks {', '.join(missing)}; without the file the run starts "
            "anew"
        )
    identity = state["identity"]
    if not all(isinstance(part, dict) for part in (identity, *_sections(identity))):
        raise ValueError(
            f"{path} is no checkpoint of this trainer, its settings are {shown(identity)}; without the file the run "
            "starts anew"
        )
    return state


def _sections(identity: Any) -> list[Any]:
    """The settings in settings, as far as there are any."""
    return [identity.get(name, {}) for name in ("data", "loss")] if isinstance(identity, dict) else []


def random_state() -> dict[str, Any]:
    """The state of the generators of torch, numpy and Python."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Continue where :func:`random_state` was called.

    Raises:
        ValueError: If it is no such state.
    """
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    # NumPy believes it, and reads the memory there.
    whole_number("position of numpy's generator", position, least=0, most=len(keys))
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def stop_with_evidence(
    path: Path,
    problem: str,
    step: int,
    batches: Sequence[Any],
    losses: dict[str, float],
    norm: float,
    states: Mapping[str, Any],
) -> None:
    """Write what led to a loss, or to weights, that are not finite, and stop.

    Raises:
        FloatingPointError: Always.
    """
    tensors = [
        {
            key: value.as_tensor() if hasattr(value, "as_tensor") else value
            for key, value in batch.to_dict().items()
            if isinstance(value, torch.Tensor)
        }
        for batch in batches
    ]
    save_checkpoint(path, {"step": step, "losses": losses, "gradient": norm, "batches": tensors, **states})
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    raise FloatingPointError(
        f"{problem} in step {step} ({shown}; gradient {norm:.4g}). The batch and the weights are in {path}; "
        "try a lower learning_rate or precision 32-true"
    )
