"""The largest numbers of each row, and of each column, of a matrix."""

import ctypes
import math
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_match.ops.native.job import fields, run_job
from pyg_match.ops.native.library import library
from pyg_match.ops.workspace import SCRATCH, whole_lines, workspace

_BLOCK = 32  # numbers that the kernel compares before it looks at the result
_BINS = 4  # for each number that is wanted
_MOST = 512  # wanted: the work of ranking them grows with the square
_TASKS = 4  # for each thread
_KEPT = 2  # times what is wanted of a column, and
_SPARE = 32  # some more, is what there is room for
_STRIP = 128  # columns that a thread takes at a time, so that its cache holds what it keeps of them
_ABREAST = 16  # columns whose counts and bounds are in cache lines of their own
_MOST_NUMBERS = 1 << 23  # distances held at once: 64 MiB in double precision
_CACHED_NUMBERS = 1 << 19  # the same on the CPU, whose cache holds them until they are ranked
_INLINE_WORK = 1 << 15  # numbers below which handing rows to another thread costs more than it saves


class _RowJob(ctypes.Structure):
    """``struct row_job`` in ``native/topk.c``."""

    _fields_ = [
        *fields("next_task next_worker *values step rows length k bins *out rows_at_once *scratch"),
        *fields("scratch_bytes room found_at place_at distance_at *nodes dimensions axis half_window"),
    ]


class _ColumnJob(ctypes.Structure):
    """``struct column_job`` in ``native/topk.c``."""

    _fields_ = [
        *fields("next_task next_worker *values step rows first_row columns columns_at_once k room *found"),
        *fields("*place *count *bound *out *rank rank_bytes"),
    ]


def largest_indices(values: Tensor, k: int) -> Tensor:
    """The places of the ``k`` largest numbers of each row, in falling order.

    On the CPU this is a kernel in C; of equal numbers the first comes first. :func:`torch.topk`, which promises no
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
    if k > length or not has_kernel(values, k):
        return values.topk(k, dim=1).indices
    values = _with_rows_together(values.detach())
    out = _run_rows("select", values, rows, length, k)
    open_rows = (out[:, 0] < 0).nonzero().flatten()
    if open_rows.numel() > 0:
        out[open_rows] = values[open_rows].topk(k, dim=1).indices
    return out


def nearest_indices(points: Tensor, nodes: Tensor, k: int) -> Tensor:
    """The places of the ``k`` points that are nearest to each of some of them, itself included, in order of distance.

    On the CPU this is a kernel in C. It sorts the points by the coordinate that is spread most, compares each with
    those near it in that order, and never holds the distances of more than one point. Plain torch does the work in the
    cases of :func:`largest_indices`.

    Args:
        points: Positions, which are finite.
        nodes: The points whose neighbours are wanted.
        k: How many, at most as many as there are points.

    Shapes:
        - **points:** :math:`(N, D)`
        - **nodes:** :math:`(M)`
        - **output:** :math:`(M, k)`

    Example:
        >>> nearest_indices(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([2]), k=2)
        tensor([[2, 1]])
    """
    if has_kernel(points, k) and nodes.numel() > 0:
        points, count = points.detach(), points.size(0)
        axis = int((points.amax(0) - points.amin(0)).argmax())
        order = points[:, axis].argsort()
        place = torch.empty_like(order)
        place[order] = torch.arange(count, device=order.device)
        columns = points[order].t().contiguous()
        # As many as lie in a strip that is as wide as the neighbourhood, if points are spread evenly.
        half = math.ceil(count * (k / count) ** (1 / points.size(1)))
        out = _run_rows("nearest", columns, nodes.numel(), count, k, place[nodes], axis, half)
        open_rows = (out[:, 0] < 0).nonzero().flatten()
        out[open_rows] = 0
        out = order[out]
        if open_rows.numel() > 0:
            out[open_rows] = _nearest_in_torch(points, nodes[open_rows], k)
        return out
    return _nearest_in_torch(points, nodes, k)


def _nearest_in_torch(points: Tensor, nodes: Tensor, k: int) -> Tensor:
    most = _CACHED_NUMBERS if points.device.type == "cpu" else _MOST_NUMBERS
    chunks = [nodes.new_empty(0, k)]
    for chunk in nodes.split(max(1, most // max(1, points.size(0)))):
        distance = torch.cdist(points[chunk], points, compute_mode="donot_use_mm_for_euclid_dist")
        chunks.append(largest_indices(distance.neg_(), k))
    return torch.cat(chunks)


def _run_rows(
    name: str,
    values: Tensor,
    rows: int,
    length: int,
    k: int,
    nodes: Optional[Tensor] = None,
    axis: int = 0,
    half_window: int = 0,
) -> Tensor:
    """The result of a kernel; rows that it leaves to others begin with -1."""
    itemsize = values.element_size()
    wide = -(-_BINS * k // _BLOCK) * _BLOCK
    bins, room = min(wide, length), wide + 4 * _BLOCK
    threads = min(torch.get_num_threads(), rows) if rows * length >= _INLINE_WORK else 1
    found_at = whole_lines(bins * itemsize)
    place_at = found_at + whole_lines(room * itemsize)
    distance_at = place_at + whole_lines(room * 8)
    own = distance_at + (0 if nodes is None else whole_lines(2 * length * itemsize))
    scratch = workspace(SCRATCH, threads * own)
    out = torch.empty(rows, k, dtype=torch.long, device=values.device)
    job = _RowJob(
        values=values.data_ptr(), step=values.stride(0), rows=rows, length=length, k=k, bins=bins, out=out.data_ptr(),
        rows_at_once=-(-rows // (threads * _TASKS)), scratch=scratch.data_ptr(), scratch_bytes=own, room=room,
        found_at=found_at, place_at=place_at, distance_at=distance_at,
        nodes=0 if nodes is None else nodes.data_ptr(), dimensions=0 if nodes is None else values.size(0),
        axis=axis, half_window=half_window,
    )  # fmt: skip
    run_job(name, values.dtype, job, threads, scratch, values, nodes, out)
    return out


class LargestOfColumns:
    """The places of the ``k`` largest numbers of each column of a matrix whose rows come some at a time.

    Together with :func:`largest_indices` it takes the most similar of two sets, for either set, from products that are
    computed once. On the CPU it is a kernel in C; of equal numbers the first comes first. Elsewhere, and for ``k``
    above 512, :func:`torch.topk` does the work. Of columns that hold NaN, which compares with nothing, it gives any.

    Args:
        columns: How many columns there are.
        k: How many numbers are wanted of each, at most as many as rows will come.

    Example:
        >>> largest = LargestOfColumns(2, k=2)
        >>> largest.add(torch.tensor([[3.0, 1.0], [4.0, 1.0]]))
        >>> largest.add(torch.tensor([[5.0, 9.0]]))
        >>> largest.indices()
        tensor([[2, 1],
                [2, 0]])
    """

    def __init__(self, columns: int, k: int) -> None:
        self._columns, self._k, self._rows = columns, k, 0
        self._best: Optional[tuple[Tensor, Tensor]] = None  # what torch has found: numbers and places
        self._kept: dict[str, Tensor] = {}  # what the kernels keep of each column
        self._kind: Optional[tuple[torch.dtype, torch.device]] = None

    def add(self, values: Tensor) -> None:
        """See more rows, :math:`(N, M)`.

        Raises:
            ValueError: If they have not as many columns as told, or another type or device than those before.
        """
        if values.dim() != 2 or values.size(1) != self._columns:
            raise ValueError(f"rows must have {self._columns} columns, got shape {list(values.shape)}")
        kind = (values.dtype, values.device)
        if self._kind not in (None, kind):
            raise ValueError(f"rows must have the type and device of those before, {self._kind}, got {kind}")
        self._kind = kind
        values, first = values.detach(), self._rows
        self._rows += values.size(0)
        if first == 0 and has_kernel(values, self._k):
            shape = (self._columns, _KEPT * self._k + _SPARE)
            self._kept = {
                "found": values.new_empty(shape),
                "place": values.new_empty(shape, dtype=torch.int),
                "count": values.new_zeros(self._columns, dtype=torch.long),
                "bound": values.new_full((self._columns,), -torch.inf),
            }
        if self._kept:
            values = _with_rows_together(values)
            of_rows = {"step": values.stride(0), "rows": values.size(0), "first_row": first}
            self._run("collect", values.numel(), values=values, **of_rows)
            return
        places = torch.arange(first, self._rows, device=values.device).expand(self._columns, -1)
        numbers = values.t()
        if self._best is not None:
            numbers, places = (
                torch.cat(both, dim=1) for both in zip(self._best, (numbers, places), strict=True)
            )
        best = numbers.topk(min(self._k, numbers.size(1)), dim=1)
        self._best = best.values, places.gather(1, best.indices)

    def indices(self) -> Tensor:
        """The places among all rows, in falling order of the numbers, :math:`(M, k)`.

        Raises:
            RuntimeError: If fewer than ``k`` rows have come.
        """
        if self._rows < self._k:
            raise RuntimeError(
                f"{self._k} numbers of each column are wanted, but only {self._rows} rows have come"
            )
        if self._kept:
            out = torch.arange(self._k, device="cpu").repeat(self._columns, 1)  # for columns of NaN
            self._run("order", out.numel(), out=out)
            return out
        if self._best is None:
            return torch.empty(self._columns, 0, dtype=torch.long)
        return self._best[1]

    def _run(self, name: str, work: int, **values: Any) -> None:
        threads = torch.get_num_threads() if work >= _INLINE_WORK else 1
        at_once = min(-(-self._columns // (threads * _TASKS)), _STRIP)
        at_once = -(-at_once // _ABREAST) * _ABREAST  # whole cache lines, which no two threads write to
        threads = min(threads, -(-self._columns // at_once))
        found = self._kept["found"]
        own = whole_lines(found.size(1) * found.element_size())
        values |= {**self._kept, "rank": workspace(SCRATCH, threads * own), "rank_bytes": own}
        values |= {"columns": self._columns, "columns_at_once": at_once, "k": self._k, "room": found.size(1)}
        job = _ColumnJob(**{key: v.data_ptr() if isinstance(v, Tensor) else v for key, v in values.items()})
        run_job(name, found.dtype, job, threads, *values.values())


def _with_rows_together(values: Tensor) -> Tensor:
    """The same numbers, those of a row side by side in memory; rows may lie apart."""
    together = values.stride(1) == 1 and values.stride(0) >= values.size(1)
    return values if together else values.contiguous()


def has_kernel(values: Tensor, k: int) -> bool:
    """Whether the kernels can find the ``k`` largest of these numbers."""
    usual = values.device.type == "cpu" and values.dtype in (torch.float, torch.double)
    usual &= values.numel() > 0 and 0 < k <= _MOST and not torch.compiler.is_compiling()
    return usual and library() is not None
