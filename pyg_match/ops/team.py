"""Threads that run a compiled function together.

They are those of torch's own OpenMP library where it can be found: they are awake already after a matrix product, and
calling them costs some microseconds. Elsewhere, and in forked processes, which inherit none of them, ordinary threads
do the same; the compiled code does not hold Python's lock.
"""

import ctypes
import functools
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Optional

_forked = False
_executor: Optional[ThreadPoolExecutor] = None


def run_together(function: int, argument: int, threads: int, *memory: Any) -> None:
    """Let several threads call ``function(argument)``; the caller is one of them.

    Calls from many threads at once do not wait for each other, and an interrupt is seen when all have returned.

    Args:
        function: Address of a compiled function that takes a pointer.
        argument: Address to give to it. The function has to share out the work; it may be called by fewer threads.
        threads: Number of threads.
        *memory: What owns the memory that the argument leads to; a thread holds it for as long as it runs.
    """
    if threads == 1:
        _FUNCTION(function)(argument)
        return
    parallel = None if _forked else _openmp()
    if parallel is not None:
        parallel(function, argument, threads, 0)
        return
    call = _FUNCTION(function)
    helpers: list[Future[None]] = []
    try:
        for _ in range(threads - 1):
            helpers.append(_threads().submit(lambda *_: call(argument), *memory))
        call(argument)
    finally:
        _await(helpers)


def _await(helpers: list["Future[None]"]) -> None:
    """Wait for all, even if interrupted: the caller will use their memory again."""
    interrupt: Optional[BaseException] = None
    for helper in helpers:
        while not (helper.cancel() or helper.done()):
            try:
                wait([helper])
            except BaseException as error:  # of a signal's handler
                interrupt = error
    if interrupt is not None:
        raise interrupt


_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Optional[Any]:
    """``GOMP_parallel`` of the OpenMP library that torch has loaded; GNU's, LLVM's and Intel's have it on Linux."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = set(re.findall(r"(/\S*lib(?:gomp|omp|iomp5)[-.\w]*\.so[.\d]*)$", maps, re.MULTILINE))
    # torch's own comes first: other packages bring theirs.
    for path in sorted(found, key=lambda path: ("/torch/" not in path, path)):
        try:
            parallel = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LOCAL).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        return parallel
    return None


def _threads() -> ThreadPoolExecutor:
    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="pyg_match")
    return _executor


def _after_fork() -> None:
    global _forked, _executor
    _forked, _executor = True, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
