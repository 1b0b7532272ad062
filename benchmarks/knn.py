"""Drawing k-nearest-neighbour graphs: the backends of `pyg_match.knn_graph` against `torch.cdist` and `topk`.

    python benchmarks/knn.py

Points of the plane, uniform or in clusters (32 points around each of N / 32 centres, spread over 1 % of the width).
The backends give the same edges in the same order, ties included, which is checked in every run; the peer computes
all N x N distances in single precision and promises nothing about ties. `auto` is what a caller gets without
choosing; `scipy` uses one thread here, `scipy-threads` all of them.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import Bench, Call, parser, plot
from torch import Tensor

from pyg_match import knn_graph
from pyg_match.ops.knn import available_backends


def draw_points(num_points: int, kind: str, seed: int) -> Tensor:
    """Points of the unit square, in single precision as keypoints are."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        return torch.rand(num_points, 2, generator=generator)
    centres = torch.rand(max(1, num_points // 32), 2, generator=generator)
    which = torch.randint(len(centres), (num_points,), generator=generator)
    return centres[which] + 0.01 * torch.randn(num_points, 2, generator=generator)


def cdist_topk(x: Tensor, k: int) -> Tensor:
    """The usual three lines."""
    distance = torch.cdist(x, x).fill_diagonal_(torch.inf)
    source = distance.topk(k, dim=1, largest=False).indices
    return torch.stack([source.flatten(), torch.arange(x.size(0)).repeat_interleave(k)])


def make_peers(x: Tensor, k: int, threads: int) -> dict[str, Callable[[], Call | str]]:
    """What is timed, by name."""

    def ours(**options: Any) -> Callable[[], Call]:
        return lambda: functools.partial(knn_graph, x, k, **options)

    peers: dict[str, Callable[[], Call | str]] = {"auto": ours()}
    peers |= {backend: ours(backend=backend) for backend in available_backends()}
    peers["scipy"] = ours(backend="scipy", num_workers=1)
    peers["scipy-threads"] = ours(backend="scipy", num_workers=threads)
    peers["cdist+topk"] = lambda: functools.partial(cdist_topk, x, k)
    return peers


def check(x: Tensor, k: int) -> None:
    """All backends have to give the same edges."""
    expected = knn_graph(x, k)
    for backend in available_backends():
        if not torch.equal(knn_graph(x, k, backend=backend), expected):  # type: ignore[arg-type]
            raise RuntimeError(f"backend '{backend}' gives other edges than the one chosen by itself")


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [2**i for i in range(9, 15)])
    made.add_argument("--k", nargs="+", type=int, default=[8, 16, 32, 64], help="neighbours (%(default)s)")
    made.add_argument(
        "--points", nargs="+", default=["uniform", "clustered"], choices=["uniform", "clustered"]
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    for points in args.points:
        for k in args.k:
            bench.slow.clear()
            for size in sorted(args.sizes):
                x = draw_points(size, points, args.seed)
                if size == min(args.sizes):
                    check(x, k)
                bench.time({"points": points, "n": size, "k": k}, make_peers(x, k, args.threads))
    bench.finish([])
    if args.plot:
        title = f"kNN graph, k={args.k[0]}, {args.points[0]} points"
        plot(args.plot, bench.rows, title, points=args.points[0], k=args.k[0])


if __name__ == "__main__":
    main()
