"""Return of the C library's unused memory to the system."""

import ctypes
import mmap
import sys
from pathlib import Path
from typing import Any

_GROWTH = 1 << 28
_RESIDENT = Path("/proc/self/statm")
_LIBRARY: Any = ctypes.CDLL(None) if sys.platform == "linux" and _RESIDENT.exists() else None
_kept = 0


def release_memory(growth: int = _GROWTH) -> None:
    """Give memory between tensors back to the system, if the process has grown much since the last time.

    Tensors that are kept beside others that are not leave gaps of all sizes, which together may be as large as what is
    kept. Giving them back takes time, as their pages are cleared when they are used again. Only glibc can do it; with
    other libraries nothing happens.

    Args:
        growth: Bytes by which the process may grow.
    """
    global _kept
    if not hasattr(_LIBRARY, "malloc_trim"):
        return
    resident = _resident()
    if resident > _kept + growth:
        _LIBRARY.malloc_trim(0)
        resident = _kept = _resident()
    _kept = min(_kept, resident)


def _resident() -> int:
    """Bytes of memory that the process has."""
    return int(_RESIDENT.read_text().split()[1]) * mmap.PAGESIZE
