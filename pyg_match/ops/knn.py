"""k-nearest-neighbour graphs whose edges do not depend on the backend that found them."""

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Literal, Optional, get_args

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import cumsum

from pyg_match.checks import check_batch, check_points, one_of, whole_number
from pyg_match.ops.knn_batched import batched_knn, squared_distances
from pyg_match.ops.largest import has_kernel, nearest_indices
from pyg_match.ops.precision import widest

KNNBackend = Literal["auto", "pyg", "torch_cluster", "scipy", "torch"]

_PARALLEL_WORK = 1 << 17  # neighbours to find, from which on the k-d tree is searched by several threads
# Comparing points is faster than a k-d tree if there are at most so many times as are looked for: by the kernel in the
# plane, where it compares few of them, by the kernel in more dimensions, and in torch.
_FEW_IN_PLANE = 1000
_FEW_IN_SPACE = 60
_FEW_IN_TORCH = 16
_MOST_EXPONENT = 400  # of coordinates that are taken as they are
_MOST_FOUND = 1 << 23  # neighbours of some points that are ranked at once
_SCIPY_MAX_DIM = 16  # a k-d tree visits nearly all points in higher dimensions


def available_backends() -> list[str]:
    """The k-nearest-neighbour backends that can be used here, best first."""
    backends = []
    if _has_pyg_knn():
        backends.append("pyg")
    if find_spec("torch_cluster") is not None:
        backends.append("torch_cluster")
    return [*backends, "scipy", "torch"]


def knn_graph(
    x: Tensor,
    k: int,
    batch: Optional[Tensor] = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    num_workers: Optional[int] = None,
    batch_size: Optional[int] = None,
    backend: KNNBackend = "auto",
) -> Tensor:
    r"""Compute edges from the :math:`k` nearest points to each point.

    The signature is that of :func:`torch_geometric.nn.knn_graph`, and so is the order of the edges: sorted by
    target, the nearest source first. Sources at equal distance are taken in the order of their index, by every
    backend. A point with fewer than :math:`k` others in its example is joined to all of them.

    Args:
        x: Points.
        k: Number of neighbours of each point.
        batch: Non-decreasing example number of each point; edges stay within an example.
        loop: Whether a point counts as its own first neighbour.
        flow: ``"source_to_target"`` (row 0 holds the neighbours) or ``"target_to_source"``.
        cosine: Whether to rank by the angle between points instead of their Euclidean distance.
        num_workers: Threads of the k-d tree, by default as many as torch uses if there is much to find; the other
            backends choose for themselves.
        batch_size: Number of examples, if known.
        backend: ``"pyg"`` (pyg-lib), ``"torch_cluster"``, ``"scipy"`` (k-d tree), ``"torch"`` (points are compared), or
            ``"auto"``: on the CPU the k-d tree if there are very many points (more than 1,000 times :math:`k` in the
            plane, 60 times :math:`k` in 3 to 16 dimensions), ``"torch"`` otherwise.

    Shapes:
        - **x:** :math:`(N, F)`
        - **batch:** :math:`(N)`
        - **output:** :math:`(2, E)`

    Raises:
        ValueError: If ``k`` or another number is out of range, a point is not finite, ``batch`` is not sorted or a name
            is unknown.
        TypeError: If ``x`` is no tensor.
        ImportError: If the chosen backend is not installed.

    Example:
        >>> knn_graph(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
        tensor([[1, 0, 1],
                [0, 1, 2]])
    """
    k = whole_number("k", k)
    num_workers = None if num_workers is None else whole_number("num_workers", num_workers, least=-1)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, least=0)
    one_of("flow", flow, ("source_to_target", "target_to_source"))
    points = _as_points(x, cosine)
    search = _searcher(backend, points, num_workers)
    ptr = _pointer(points, batch, batch_size)
    if backend == "auto" and not _has_tree(points.device):
        edge_index = batched_knn(points, ptr, k, loop)
    else:
        parts = [torch.empty(2, 0, dtype=torch.long, device=x.device)]
        for start, stop in pairwise(ptr.tolist()):
            neighbours = _nearest(points[start:stop], k, loop, search) + start
            targets = torch.arange(start, stop, device=x.device).repeat_interleave(neighbours.size(1))
            parts.append(torch.stack([neighbours.reshape(-1), targets]))
        edge_index = torch.cat(parts, dim=1)
    return edge_index if flow == "source_to_target" else edge_index.flip(0)


Search = Callable[[Tensor, Tensor, int], Tensor]


def _nearest(points: Tensor, k: int, loop: bool, search: Search) -> Tensor:
    """The sorted neighbours ``[N, min(k, N or N - 1)]`` of all points of one example.

    The search is asked for a few more points than needed, which are ranked anew in the widest precision by (distance,
    index). A row whose last kept neighbour ties with the last point found may hide an equal one further out, so
    such rows are searched again, deeper.
    """
    num_points = points.size(0)
    k = min(k, num_points if loop else num_points - 1)
    if k <= 0:
        return torch.empty(num_points, 0, dtype=torch.long, device=points.device)
    result = torch.empty(num_points, k, dtype=torch.long, device=points.device)
    waiting = [(torch.arange(num_points, device=points.device), min(k + 4, num_points))]
    while waiting:
        rows, depth = waiting.pop()
        most = max(1, _MOST_FOUND // depth)
        if rows.numel() > most:
            waiting += [(some, depth) for some in rows.split(most)]
            continue
        found = search(points, rows, depth)
        distance = squared_distances(widest(points), rows, found)
        # What rounding may make of equal distances in a search that sums in another order.
        slack = 4 * (points.size(1) + 4) * torch.finfo(distance.dtype).eps
        # Nearly always the points found are in order already and no two are equally far.
        plain = (found[:, 0] == rows) & (distance[:, 1:] > (1 + slack) * distance[:, :-1]).all(dim=1)
        result[rows[plain]] = found[plain, int(not loop) : int(not loop) + k]
        rows, found, distance = rows[~plain], found[~plain], distance[~plain]
        order = found.argsort(dim=1)
        found, distance = found.gather(1, order), distance.gather(1, order)
        own = found == rows.unsqueeze(1)
        rank_by = distance.masked_fill(own, -1.0 if loop else math.inf)
        order = rank_by.argsort(dim=1, stable=True)[:, :k]
        result[rows] = found.gather(1, order)
        # Anything not found is at least as far as the farthest point found.
        open_rows = rows[rank_by.gather(1, order)[:, -1] >= (1 - slack) * distance.amax(dim=1)]
        if depth < num_points and open_rows.numel() > 0:
            waiting.append((open_rows, min(2 * depth, num_points)))
    return result


def _searcher(backend: str, points: Tensor, num_workers: Optional[int]) -> Search:
    one_of("backend", backend, get_args(KNNBackend))
    tree = partial(_search_scipy, num_workers=num_workers)

    def best(points: Tensor, rows: Tensor, depth: int) -> Tensor:
        few = _FEW_IN_PLANE if points.size(1) <= 2 else _FEW_IN_SPACE
        few = few if has_kernel(points, depth) else _FEW_IN_TORCH
        return (_search_torch if points.size(0) <= few * depth else tree)(points, rows, depth)

    if backend == "auto":
        return best if points.size(1) <= _SCIPY_MAX_DIM and _has_tree(points.device) else _search_torch
    if backend in ("scipy", "torch"):
        return tree if backend == "scipy" else _search_torch
    if backend == "torch_cluster":
        if find_spec("torch_cluster") is None:
            raise ImportError(
                "backend 'torch_cluster' needs the package torch-cluster: pip install pyg-match[cluster]"
            )
        from torch_cluster import knn
    else:
        if not _has_pyg_knn():
            raise ImportError("backend 'pyg' needs pyg-lib>=0.6.0 beside torch-geometric")
        from torch_geometric.nn import knn
    return lambda points, rows, depth: knn(points, points[rows], depth)[1].view(rows.numel(), depth)


def _has_tree(device: torch.device) -> bool:
    """Whether the k-d tree is searched on the device that points are on."""
    return device.type == "cpu"


def _search_torch(points: Tensor, rows: Tensor, depth: int) -> Tensor:
    return nearest_indices(widest(points), rows, depth)


def _search_scipy(points: Tensor, rows: Tensor, depth: int, num_workers: Optional[int]) -> Tensor:
    from scipy.spatial import cKDTree

    array = points.detach().cpu().double().numpy()
    tree = cKDTree(array, balanced_tree=False, compact_nodes=False)
    workers = num_workers or (torch.get_num_threads() if rows.numel() * depth >= _PARALLEL_WORK else 1)
    _, found = tree.query(array[rows.cpu().numpy()], k=np.arange(1, depth + 1), workers=workers)
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.int64)).to(points.device)


def _has_pyg_knn() -> bool:
    import torch_geometric.typing

    return bool(getattr(torch_geometric.typing, "WITH_KNN", False))


def _as_points(x: Tensor, cosine: bool) -> Tensor:
    points = check_points("x", x, any_shape=True).detach()
    points = points.view(-1, 1) if points.dim() == 1 else points.flatten(1)
    if not points.is_floating_point():
        points = widest(points)
    if points.dtype in (torch.half, torch.bfloat16):
        points = points.float()
    if points.dtype == torch.double and points.numel() > 0:  # of which squares may leave the range of numbers
        exponent = torch.frexp(points.abs().amax()).exponent
        usual = exponent.abs() < _MOST_EXPONENT
        points = points * points.new_tensor(2.0).pow(-exponent.clamp(-1000, 1000)).masked_fill_(usual, 1.0)
    return torch.nn.functional.normalize(widest(points), dim=1) if cosine else points


def _pointer(points: Tensor, batch: Optional[Tensor], batch_size: Optional[int]) -> Tensor:
    """Where the nodes of each example start, and their number at the end."""
    if batch is None:
        return torch.tensor([0, points.size(0)], device=points.device)
    counts = torch.bincount(check_batch(batch, points.size(0)), minlength=batch_size or 0)
    return cumsum(counts)
