"""Modules whose examples cannot run here: those that need a Triton which this platform, or an old torch, lacks."""

from importlib.metadata import PackageNotFoundError, version

try:
    has_triton = tuple(map(int, version("triton").split(".")[:2])) >= (3, 2)
except PackageNotFoundError:
    has_triton = False

collect_ignore = [] if has_triton else ["pyg_match/ops/attention_cuda.py", "pyg_match/ops/gpu"]
