"""Work for the compiled kernels: what they run along, which memory they use, and how it is shared out."""

import ctypes
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_match.ops.team import run_together

if TYPE_CHECKING:
    from pyg_match.ops.kernels import Kernels


def _core_cache() -> int:
    """Bytes of the second level of a core's cache, 0 if the system does not tell."""
    try:  # Linux; Python's os.sysconf knows the names of no caches
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(size.removesuffix("K")) << 10 if size.endswith("K") else 0
    except (OSError, ValueError):
        return 0


_CORE_CACHE = _core_cache()
_INLINE_WORK = 1 << 15  # multiply-adds below which handing work to another thread costs more than it saves
_TASKS = 4  # for each thread, so that one that is held up does not hold up all
_TASK_EDGES = 1 << 15  # scores that a core's cache has room for beside the nodes
_TILE_BYTES = 3 << 19  # of a head's nodes that a core's cache keeps while a thread reads them in any order
_TILE_DEGREE = 6  # edges from one tile to one row from which on tiles pay
_TILE_USES = 16  # edges of a task for each node from which on it pays to bring a tile into the cache
_MOST_TILES = 8  # each costs a look at all edges
_PACKED_BYTES = 1 << 22  # of nodes copied at a time, or more where several heads have to be
_PACKED_DEGREE = 8  # edges of a node from which on a copy of it pays
_CACHED_BYTES = 1 << 17  # of a head's nodes that stay in a core's cache wherever they lie
_FAR = 2  # times the bytes that a core's cache has, from which on a head's nodes are fetched before they are read
_AHEAD = 2  # rows from the one at hand to the one whose sources are fetched
_KEPT_BYTES = 1 << 24  # of a copy whose memory is kept for the next one: new memory costs as much as the copy

_LINE_BYTES = (
    64  # of a cache, and of the largest register, by which kernels may touch more memory of their own
)

_memory = threading.local()
KEY, VALUE, QUERY, GRAD, SCRATCH, HIDDEN = range(6)  # places in it

_TABLES = ("query", "key", "value", "grad", "out")  # [N, H, C], their heads and nodes at any distance


class Edges(NamedTuple):
    """Edges by row, as the kernels read them: positions as uint64, nodes and edges by number as uint32."""

    rowptr: np.ndarray
    col: np.ndarray
    perm: Optional[np.ndarray] = None  # where the edges are in the order of their weights, if not in this one
    tiles: int = 1  # parts of the sources, by which the edges of a row are sorted
    tile_start: Optional[np.ndarray] = (
        None  # where the edges of each row from each tile start, and at last end
    )

    @classmethod
    def checked(
        cls,
        compiled: "Kernels",
        rowptr: Tensor,
        col: Tensor,
        num_targets: int,
        num_sources: int,
        *tables: Tensor,
    ) -> "Edges":
        """Take edges by target. A wrong index would read foreign memory, so it raises a ValueError.

        Args:
            compiled: All kernels.
            rowptr: Where the edges of each target start, and their number at the end.
            col: The source of each edge.
            num_targets: How many targets there are.
            num_sources: How many sources there are.
            *tables: What is read of the sources, ``[N, H, C]`` each, if the edges of a target may be sorted by tile.
        """
        if max(num_targets, num_sources, col.numel()) > 1 << 32:
            raise ValueError(
                f"the kernels know at most 2^32 nodes and edges, got {num_targets} targets, {num_sources} sources and "
                f"{col.numel()} edges"
            )
        pointer, source = (t.long().contiguous().numpy().view(np.uint64) for t in (rowptr, col))
        good = len(pointer) == num_targets + 1 and compiled.rises(pointer, len(source))
        tiles = _num_tiles(num_targets, len(source), tables) if good else 1
        if tiles > 1:
            edges = cls(pointer, source)._by_tile(compiled, num_sources, tiles, placed=False)
            good = edges.tile_start[-1] == len(source)  # type: ignore[index]
        else:
            edges = cls(pointer, np.empty(len(source), np.uint32))
            good = good and compiled.shorten(source, num_sources, edges.col)
        if not good:
            _complain(pointer, source, num_targets, num_sources)
        return edges

    def tiled(self, compiled: "Kernels", *tables: Tensor) -> "Edges":
        """The same edges sorted by tile, if that pays."""
        tiles = _num_tiles(len(self.rowptr) - 1, len(self.col), tables)
        return self if tiles == 1 else self._by_tile(compiled, tables[0].size(0), tiles, placed=True)

    def _by_tile(self, compiled: "Kernels", num_sources: int, tiles: int, placed: bool) -> "Edges":
        """Sort the edges of each row by tile. If one comes from nowhere, the last number of ``tile_start`` is 0."""
        from pyg_match.ops.kernels import pack_job

        rows, count, threads = len(self.rowptr) - 1, len(self.col), torch.get_num_threads()
        start, col = np.empty(rows * tiles + 1, np.uint64), np.empty(count, np.uint32)
        start[-1], perm = count, np.empty(count, np.uint32) if placed else None
        bounds = np.empty(min(rows, threads * _TASKS) + 1, np.uint64)
        compiled.share_out(self.rowptr, bounds)
        job = pack_job(
            {}, chunks=len(bounds) - 1, bounds=bounds.ctypes.data, rowptr=self.rowptr.ctypes.data,
            col=self.col.ctypes.data, perm=_address(self.perm), num_rows=rows, num_sources=num_sources, tiles=tiles,
            tile_start=start.ctypes.data, tile_col=col.ctypes.data, tile_perm=_address(perm),
        )  # fmt: skip
        sort = compiled.sort_by_tile(self.col.itemsize == 8)
        run_together(sort, ctypes.addressof(job), threads, job, bounds, self, start, col, perm)
        return Edges(self.rowptr, col, perm, tiles, start)


def _num_tiles(rows: int, count: int, tables: tuple[Tensor, ...]) -> int:
    """Parts of the sources that a core's cache holds one at a time; a single one unless more would pay.

    They do not where that cache is smaller than a tile: smaller tiles leave each row a few edges from each.
    """
    if not tables or _CORE_CACHE < _TILE_BYTES:
        return 1
    (num_sources, heads, _), threads = tables[0].shape, torch.get_num_threads()
    tiles = max(1, -(-num_sources * max(t.size(2) * t.element_size() for t in tables) // _TILE_BYTES))
    uses = count * min(heads, threads) / max(num_sources * threads, 1)  # of a node by a thread
    enough = count > 0 and count >= _TILE_DEGREE * rows * tiles and uses >= _TILE_USES
    return tiles if enough and tiles <= _MOST_TILES else 1


def _address(numbers: Optional[np.ndarray]) -> int:
    return 0 if numbers is None else numbers.ctypes.data


def rounds(edges: Edges, *tables: Tensor, tiles: int = 1) -> Iterator[Callable[..., Tensor]]:
    """Functions that pick the heads to work on at a time, so that copies of their nodes take little memory.

    They take a tensor and the dimension of its heads, 1 by default. ``tiles`` are those of other edges in a round.
    """
    heads = tables[0].size(1)
    copied = sum(
        table.size(0) * table.size(2) * table.element_size() for table in tables if _scattered(table, edges)
    )
    fewest = (
        torch.get_num_threads() if max(edges.tiles, tiles) > 1 else 1
    )  # threads have heads of their own then
    step = max(_PACKED_BYTES // max(copied, 1), fewest)
    if step >= heads:
        yield lambda tensor, dim=1: tensor
        return
    for first in range(0, heads, step):
        size = min(step, heads - first)
        yield lambda tensor, dim=1, first=first, size=size: tensor.narrow(dim, first, size)


def packed(nodes: Tensor, edges: Edges, place: int) -> Tensor:
    """The same, with the nodes of a head side by side in memory, until the thread packs into that place again.

    Rows of one head that lie far apart share few of the places that a cache has for them.
    """
    if not _scattered(nodes, edges):
        return nodes
    size, by_head = nodes.numel() * nodes.element_size(), nodes.transpose(0, 1)
    memory = workspace(place, size)[:size].view(nodes.dtype)
    return memory.view(by_head.shape).copy_(by_head).transpose(0, 1)


def _scattered(nodes: Tensor, edges: Edges) -> bool:
    """Whether it pays to copy them."""
    apart, size = nodes.stride(0) != nodes.size(2), nodes.numel() * nodes.element_size()
    return apart and size > _CACHED_BYTES * nodes.size(1) and len(edges.col) >= _PACKED_DEGREE * nodes.size(0)


def workspace(place: int, size: int) -> Tensor:
    """At least so many bytes, which a thread keeps for one purpose unless they are very many."""
    if size > _KEPT_BYTES:
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    kept: dict[Any, Tensor] = _memory.__dict__
    if place not in kept or kept[place].numel() < size:
        with torch.inference_mode(False):  # what is made in that mode cannot be written to outside of it
            kept[place] = torch.empty(size, dtype=torch.uint8, device="cpu")
    return kept[place]


def run(
    compiled: "Kernels",
    kernel: Callable[[bool], int],
    edges: Edges,
    scale: float,
    removes: bool = False,
    **tensors: Optional[Tensor],
) -> None:
    """Call a kernel for all rows of all heads, on as many threads as torch uses.

    Args:
        compiled: All kernels.
        kernel: One of them; gives the address of its code for single or double precision.
        edges: What it runs along.
        scale: Factor of the scores.
        removes: Whether masked edges are removed.
        **tensors: What it reads and writes, named as in :data:`~pyg_match.ops.kernels.JOB`.
    """
    from pyg_match.ops.kernels import pack_job

    given = {name: t for name, t in tensors.items() if t is not None}
    out = given["out"] if "out" in given else given["query"]
    heads, threads, itemsize = out.size(1), torch.get_num_threads(), out.element_size()
    rowptr, col, perm, tiles, tile_start = edges
    if len(rowptr) == 1 or heads == 0:
        return
    fields: dict[str, Any] = {"scale": scale, "removes": removes}
    width = table = 0
    for name, tensor in given.items():
        steps = tensor.stride()
        if name in _TABLES:
            shape = tensor.shape
            if steps[2] != 1 and shape[2] > 1:
                if name == "out":  # a copy of it would be lost
                    raise RuntimeError(f"results must have their channels side by side, got strides {steps}")
                tensor = given[name] = tensor.contiguous()
                steps = tensor.stride()
            fields[name + "_step"], fields[name + "_head"], _ = steps
            width = max(width, shape[2])
            if name in ("key", "value"):
                table = max(table, shape[0] * shape[2] * tensor.element_size())
        elif name == "lse":
            fields["lse_step"] = steps[0]
        elif name == "bias":  # all heads may share one
            if steps[1] != 1 and tensor.size(1) > 1:
                tensor = given[name] = tensor.contiguous()
            fields["bias_head"] = tensor.stride(0)
        elif not tensor.is_contiguous():
            tensor = given[name] = tensor.contiguous()
        fields[name] = tensor.data_ptr()
    fields["channels"] = given["query"].size(2) if "query" in given else 0
    fields["value_channels"] = given["value"].size(2) if "value" in given else 0
    if len(col) * width * heads < _INLINE_WORK:
        threads = 1
    num_sources = given["value" if "value" in given else "key"].size(0)
    bounds, longest = _shares(compiled, edges, num_sources, heads, threads)
    # Each thread has heads of its own if its own cache holds their nodes; else all read the same nodes, as they share
    # the cache that these lie in.
    own_heads = tiles > 1 or table <= _CORE_CACHE
    far = tiles == 1 and _CORE_CACHE > 0 and table >= _FAR * _CORE_CACHE
    most_rows = int(np.diff(bounds).max())
    parts = most_rows * fields["value_channels"] if tiles > 1 else 0
    totals_at = whole_lines(longest * itemsize)  # behind the scores
    part_at = totals_at + whole_lines(most_rows * itemsize)
    own = part_at + whole_lines(parts * itemsize)
    scratch = workspace(SCRATCH, threads * own)
    job = pack_job(
        fields, heads=heads, heads_at_once=min(heads, threads) if own_heads else 1,
        chunks=len(bounds) - 1, bounds=_address(bounds),
        scratch=scratch.data_ptr(), scratch_length=own, totals_at=totals_at, part_at=part_at, edges=len(col),
        ahead=_AHEAD if far else 0, tiles=tiles, rowptr=_address(rowptr if tile_start is None else tile_start),
        col=_address(col), perm=_address(perm),
    )  # fmt: skip
    run_together(kernel(itemsize == 8), ctypes.addressof(job), threads, job, bounds, scratch, given, edges)


def whole_lines(size: int) -> int:
    """The bytes of whole lines, one more than are needed."""
    return (size // _LINE_BYTES + 2) * _LINE_BYTES


def _shares(
    compiled: "Kernels", edges: Edges, num_sources: int, heads: int, threads: int
) -> tuple[np.ndarray, int]:
    """Where ranges of rows with about as many edges each begin and end, and the most edges of one."""
    rows, count = len(edges.rowptr) - 1, len(edges.col)
    shares = 1
    if edges.tiles > 1:  # few, as each reads all tiles, but as many for one thread as for another
        shares = max(1, int(count / (2 * _TILE_USES * num_sources)))
        shares = min(rows, shares * threads // math.gcd(shares * heads, threads))
    elif threads > 1 or count > _TASK_EDGES:
        shares = min(rows, max(-(-threads * _TASKS // heads), -(-count // _TASK_EDGES)))
    bounds = np.empty(shares + 1, dtype=np.uint64)
    return bounds, int(compiled.share_out(edges.rowptr, bounds))


def _complain(rowptr: np.ndarray, col: np.ndarray, num_targets: int, num_sources: int) -> None:
    """Say which index does not exist. Negative numbers appear as very large ones here."""
    edges = len(col)
    if len(rowptr) != num_targets + 1 or rowptr[0] != 0 or rowptr[-1] != edges:
        raise ValueError(
            f"'rowptr' must lead from 0 to {edges} in {num_targets} steps, got {len(rowptr) - 1} steps "
            f"from {rowptr.view(np.int64)[0]} to {rowptr.view(np.int64)[-1]}"
        )
    if (rowptr[1:] < rowptr[:-1]).any():
        raise ValueError("'rowptr' must not fall")
    seen = col[col >= num_sources].view(np.int64)[0]
    raise ValueError(f"an edge names source {seen}, but there are {num_sources}")
