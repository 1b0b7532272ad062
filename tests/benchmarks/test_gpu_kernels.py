"""The Triton kernels become machine code, with a GPU or without."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyg_match.ops.attention_operators import has_triton

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_kernels.py"


@pytest.mark.parametrize(
    "options",
    [
        "--capability 80 --dtypes float32",
        "--dtypes bfloat16 float64 --heads 3 --channels 24",
        "--capability 80 --dtypes float64 --heads 1 --channels 128",
    ],
)
def test_kernels_compile_without_spilling(options):
    if not has_triton():
        pytest.skip("Triton 3.2 or newer is not installed")
    command = [sys.executable, str(SCRIPT), *options.split()]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"(\w+ \w+) +│ (\w+) +│ (\d+) +│ (\d+) +│ (\d+)", told)
    assert {name for name, *_ in rows} == {
        "listed forward", "listed backward_targets", "listed backward_sources", "listed scores", "listed gather",
        "dense count_tiles", "dense forward", "dense backward_targets", "dense backward_sources",
    }  # fmt: skip
    for _, dtype, _, spilled, shared in rows:
        assert int(shared) <= 99 << 10  # what every GPU since 2020 has
        assert int(spilled) <= (512 if dtype == "float64" else 128)
