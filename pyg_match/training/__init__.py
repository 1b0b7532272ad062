"""Training: settings, losses, and the loop, which needs Lightning Fabric."""

from typing import TYPE_CHECKING, Any

from pyg_match.training.calibration import Calibration, calibrate
from pyg_match.training.config import DataConfig, LossConfig, TrainingConfig, config_from_dict, load_config
from pyg_match.training.export import export_matcher
from pyg_match.training.narrow import narrow
from pyg_match.training.objective import Objective, supervised_layers
from pyg_match.training.validation import validate

if TYPE_CHECKING:
    from pyg_match.training.loop import train

__all__ = [
    "Calibration",
    "DataConfig",
    "LossConfig",
    "Objective",
    "TrainingConfig",
    "calibrate",
    "config_from_dict",
    "export_matcher",
    "load_config",
    "narrow",
    "supervised_layers",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    # Settings and files of matchers need no Fabric.
    if name == "train":
        from pyg_match.training.loop import train

        return train
    raise AttributeError(f"module 'pyg_match.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
