"""Where and with what a record was made."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch


def surroundings(packages: Sequence[str]) -> dict[str, Any]:
    """The date, the machine, and the versions of Python and some packages."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
        },
        "versions": versions(packages),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and some packages; that of torch names its build for CPUs or a CUDA."""
    found = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return {**found, "torch": torch.__version__}
