"""Triton kernels, which :mod:`pyg_match.ops.attention_cuda` launches."""

import triton

# Numbers that differ from batch to batch, and tables that begin anywhere, for which kernels are not compiled anew.
kernel = triton.jit(
    do_not_specialize=["num_targets", "num_groups", "num_weights", "edges", "bias_head"],
    do_not_specialize_on_alignment=["tiles"],
)
