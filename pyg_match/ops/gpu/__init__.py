"""Triton kernels, which :mod:`pyg_match.ops.attention_cuda` launches."""
