"""The end of a run whose numbers are not finite."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pyg_match.training.checkpoint import save_checkpoint


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

    Args:
        path: The file to write.
        problem: What is not finite.
        step: Number of the step.
        batches: What the step was made on.
        losses: Losses of the step.
        norm: Norm of their gradient.
        states: State of the matcher and of the optimiser.

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
