"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code. The suite sees the same examples each
# time; with PYG_MATCH_FUZZ it sees others.
settings.register_profile(
    "any_machine",
    deadline=None,
    derandomize=os.environ.get("PYG_MATCH_FUZZ", "0") == "0",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any_machine")

SHARED = Path(os.environ.get("PYG_MATCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real evaluation images, or skip."""
    if not (SHARED / "homography").is_dir():
        pytest.skip(
            f"no evaluation images at {SHARED}; set PYG_MATCH_DATA to a folder that holds homography/"
        )
    return SHARED
