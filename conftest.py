"""Modules whose examples cannot run here: those that need a Triton which this platform, or an old torch, lacks."""

from pyg_match.ops.attention_operators import has_triton

collect_ignore = [] if has_triton() else ["pyg_match/ops/attention_cuda.py", "pyg_match/ops/gpu"]
