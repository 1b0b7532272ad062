"""Jobs: structs that tell a kernel what to read, what to write, and how threads share out the work."""

import ctypes
from typing import Any

import torch

from pyg_match.ops.native.library import kernel
from pyg_match.ops.team import run_together


def fields(names: str) -> list[tuple[str, Any]]:
    """Fields of a struct in this order: whole numbers of 64 bits and, after a star as in C, addresses."""
    kinds = {True: ctypes.c_void_p, False: ctypes.c_int64}
    return [(name.lstrip("*"), kinds["*" in name]) for name in names.split()]


def run_job(name: str, dtype: torch.dtype, job: ctypes.Structure, threads: int, *memory: Any) -> None:
    """Let several threads call a kernel of the C code with a job; ``memory`` is what owns that which it leads to."""
    run_together(kernel(name, dtype), ctypes.addressof(job), threads, job, *memory)
