"""Triton's interpreter where there is no GPU, and modules whose examples cannot run here, without a Triton."""

import os

import torch

if not torch.cuda.is_available():  # Triton looks at it when kernels are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

from pyg_match.ops.attention_operators import has_triton

collect_ignore = [] if has_triton() else ["pyg_match/ops/attention_cuda.py", "pyg_match/ops/gpu"]
