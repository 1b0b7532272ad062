"""Rows of a graph, shared out among threads.

The kernels release Python's lock, so ordinary threads run them side by side. They need no threading layer of numba's,
which either breaks when several threads call at once or does not survive a fork.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

import numpy as np
import torch

_INLINE_WORK = (
    1 << 16
)  # multiply-adds below which handing work to another thread costs more than it saves: ~10 us
_CHUNKS = 4  # of each thread, so that a thread that is held up does not hold up all

_pool: Optional[tuple[int, ThreadPoolExecutor]] = None


def for_rows(
    kernel: Callable[[int, int, int], Any], rowptr: np.ndarray, heads: range, work_per_edge: int
) -> None:
    """Call ``kernel(head, start, stop)`` for all rows of all heads, on as many threads as torch uses.

    The ranges of rows hold about as many edges each. Whoever is free takes the next one; the caller takes part. No
    range waits for another one, so calls from any number of threads cannot block each other.

    Args:
        kernel: Must release Python's lock to run in parallel.
        rowptr: Where the edges of each row start, and the number of edges at the end.
        heads: Numbers of the heads.
        work_per_edge: Multiply-adds for an edge of one head.
    """
    rows, edges = len(rowptr) - 1, int(rowptr[-1])
    threads = torch.get_num_threads()
    if threads == 1 or edges * work_per_edge * len(heads) < _INLINE_WORK:
        _work_off(kernel, iter([(head, 0, rows) for head in heads]))
        return
    chunks = min(rows, -(-threads * _CHUNKS // len(heads)))
    work = rowptr + np.arange(rows + 1, dtype=rowptr.dtype)  # a row costs something even without edges
    bounds = [0, *np.searchsorted(work, np.linspace(0, work[-1], chunks + 1)[1:-1]).tolist(), rows]
    tasks = iter([(head, bounds[i], bounds[i + 1]) for head in heads for i in range(chunks)])
    helpers = [_executor().submit(_work_off, kernel, tasks) for _ in range(threads - 1)]
    _work_off(kernel, tasks)
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def _work_off(kernel: Callable[[int, int, int], Any], tasks: Iterator[tuple[int, int, int]]) -> None:
    for head, start, stop in tasks:
        kernel(head, start, stop)


def _executor() -> ThreadPoolExecutor:
    """The threads of this process; a forked one has none of its parent's and starts its own."""
    global _pool
    if _pool is None or _pool[0] != os.getpid():
        _pool = os.getpid(), ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="pyg_match")
    return _pool[1]
