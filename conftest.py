"""Modules whose examples cannot run here: those that import what this platform has no wheels of."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["pyg_match/ops/attention_cuda.py", "pyg_match/ops/gpu"]
