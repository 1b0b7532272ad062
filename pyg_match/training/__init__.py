"""Training: settings, losses, and the loop in :mod:`pyg_match.training.loop`, which needs Lightning Fabric."""

from pyg_match.training.config import DataConfig, LossConfig, TrainingConfig, config_from_dict, load_config
from pyg_match.training.export import export_matcher
from pyg_match.training.narrow import narrow
from pyg_match.training.objective import Objective, supervised_layers
from pyg_match.training.validation import validate

__all__ = [
    "DataConfig",
    "LossConfig",
    "Objective",
    "TrainingConfig",
    "config_from_dict",
    "export_matcher",
    "load_config",
    "narrow",
    "supervised_layers",
    "validate",
]
