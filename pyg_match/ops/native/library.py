"""The library of the C code, and the code in it that suits this machine."""

import ctypes
import functools
import os
import time
import warnings
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_match.ops.native.build import FOLDER, INSTRUCTION_SETS, NAME, digest_of_sources

_KINDS = {torch.float: "f32", torch.double: "f64", torch.bfloat16: "bf16"}


@functools.cache
def library() -> Optional[ctypes.CDLL]:
    """The library, or the one that ``PYG_MATCH_LIBRARY`` names; ``None``, after one warning, if there is none."""
    path = os.environ.get("PYG_MATCH_LIBRARY") or FOLDER / NAME
    try:
        found = ctypes.CDLL(str(path))
        found.sources.restype = ctypes.c_int64
        if found.sources() == digest_of_sources():
            return found
        problem = f"{path} was built from other code"
    except (OSError, AttributeError) as error:
        problem = str(error)
    warnings.warn(
        f"the compiled kernels of pyg_match are missing, so plain torch does their work, which takes longer; "
        f"'python -m pyg_match.ops.native' builds them: {problem}",
        stacklevel=2,
    )
    return None


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there is the library."""
    return library() is not None


def warmup(*dtypes: torch.dtype) -> float:
    """Load the library before it is needed.

    Args:
        *dtypes: Not used; the library holds the kernels of all types.

    Returns:
        The seconds that it took.

    Example:
        >>> warmup() < 10
        True
    """
    start = time.perf_counter()
    if available():
        instruction_set()
    return time.perf_counter() - start


@functools.cache
def kernel(name: str, dtype: torch.dtype) -> int:
    """The address of a function that takes the address of a job, for the instruction set of this machine.

    Args:
        name: Its name, such as ``"forward"``.
        dtype: The type of numbers, single or double precision; bfloat16 is that of tables beside single precision.
    """
    found = getattr(_library(), f"{name}_{_KINDS[dtype]}_{instruction_set()}")
    start = ctypes.cast(found, ctypes.c_void_p).value
    assert start is not None
    return start


@functools.cache
def function(name: str, result: Any = None) -> Any:
    """A function of the library, which takes addresses and whole numbers; ``result`` is its type of result."""
    found = getattr(_library(), name)
    found.restype = result
    return found


@functools.cache
def instruction_set() -> str:
    """The name of the best instruction set that machine and library have in common."""
    best = int(function("instruction_set", ctypes.c_int64)())
    names = reversed(list(INSTRUCTION_SETS)[: best + 1])
    return next(name for name in names if hasattr(_library(), f"forward_f32_{name}"))


def address(tensor: Tensor) -> ctypes.c_void_p:
    """The address of the numbers of a tensor, for a function of the library."""
    return ctypes.c_void_p(tensor.data_ptr())


def _library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise RuntimeError("the compiled kernels of pyg_match are missing; use backend='reference'")
    return found
