"""The largest numbers of each row of a matrix."""

import numpy as np
import torch
from torch import Tensor

from pyg_match.ops import cpu
from pyg_match.ops.job import SCRATCH, whole_lines, workspace
from pyg_match.ops.team import run_together

_BINS = 4  # for each number that is wanted
_MOST = 512  # wanted: the work of ranking them grows with the square
_TASKS = 4  # for each thread
_INLINE_WORK = 1 << 15  # numbers below which handing rows to another thread costs more than it saves


def largest_indices(values: Tensor, k: int) -> Tensor:
    """The places of the ``k`` largest numbers of each row, in falling order.

    On the CPU this is a compiled kernel; of equal numbers the first comes first. :func:`torch.topk`, which promises no
    order of them, does the work elsewhere, for ``k`` above 512, and for rows of which many numbers are equal or few are
    far beyond all others. Rows must not hold NaN, which compares with nothing.

    Args:
        values: Numbers.
        k: How many, at most as many as there are in a row.

    Shapes:
        - **values:** :math:`(N, M)`
        - **output:** :math:`(N, k)`

    Raises:
        RuntimeError: If ``k`` is negative or larger than a row, as :func:`torch.topk` says it.

    Example:
        >>> largest_indices(torch.tensor([[3.0, 1.0, 4.0, 1.0, 5.0]]), 2)
        tensor([[4, 2]])
    """
    rows, length = values.shape
    usual = values.device.type == "cpu" and values.dtype in (torch.float, torch.double)
    usual &= rows > 0 and 0 < k <= min(_MOST, length)
    usual &= not torch.compiler.is_compiling()
    kernels = cpu.kernels() if usual else None
    if kernels is None:
        return values.topk(k, dim=1).indices
    from pyg_match.ops.largest_kernel import BLOCK, JOB

    values, itemsize = values.detach().contiguous(), values.element_size()
    wide = -(-_BINS * k // BLOCK) * BLOCK
    bins, room = min(wide, length), wide + 4 * BLOCK
    threads = min(torch.get_num_threads(), rows) if values.numel() >= _INLINE_WORK else 1
    found_at = whole_lines(bins * itemsize)
    place_at = found_at + whole_lines(room * itemsize)
    own = place_at + whole_lines(room * 8)
    scratch = workspace(SCRATCH, threads * own)
    out = torch.empty(rows, k, dtype=torch.long, device=values.device)
    job = np.zeros(1, dtype=JOB)
    job[0] = (0, 0, values.data_ptr(), rows, length, k, bins, out.data_ptr(), -(-rows // (threads * _TASKS)),
              scratch.data_ptr(), own, room, found_at, place_at)  # fmt: skip
    run_together(kernels.select(itemsize == 8), job.ctypes.data, threads, job, scratch, values, out)
    open_rows = (out[:, 0] < 0).nonzero().flatten()
    if open_rows.numel() > 0:
        out[open_rows] = values[open_rows].topk(k, dim=1).indices
    return out
