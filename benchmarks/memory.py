"""What a matcher keeps of the sizes that it has seen: memory after many pairs of different numbers of keypoints.

    python benchmarks/memory.py

oneDNN, which multiplies matrices on CPUs with AVX-512, keeps some memory for each shape that it has ever seen. The
matcher shows it few, so that a collection of photos, no two of which have as many keypoints, takes no more memory than
one pair. Each row is the resident memory of the process beyond what it was after a few pairs of the largest size.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from common import Bench, Target, parser

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import graph_from_recipe

LIMIT = 150.0  # MB after 1,000 sizes


def resident() -> float:
    """Megabytes of memory that the process has now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system does not tell how much memory a process has")


def random_pair(count0: int, count1: int) -> KeypointPair:
    """Keypoints all over two images."""
    sets = [
        KeypointSet(
            pos=torch.rand(count, 2) * 640,
            x=torch.nn.functional.normalize(torch.randn(count, 128), dim=1),
            image_size=(640, 640),
        )
        for count in (count0, count1)
    ]
    return KeypointPair.from_sets(*sets)


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [250, 1000])
    made.add_argument(
        "--keypoints", type=int, nargs=2, default=[300, 1000], help="fewest and most of an image"
    )
    made.add_argument("--weights", default="aliked-sparse")
    return made


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    graph = graph_from_recipe(read_metadata(args.weights)["graph"])
    draw, (fewest, most) = random.Random(args.seed), args.keypoints
    targets = []
    for half in (False, True):
        matcher = GraphMatcher.from_pretrained(args.weights, bfloat16=half).freeze()
        for _ in range(3):
            matcher(graph(random_pair(most, most)))
        before, done = resident(), 0
        for size in sorted(args.sizes):
            for _ in range(size - done):
                matcher(graph(random_pair(draw.randint(fewest, most), draw.randint(fewest, most))))
            done = size
            labels = {"pairs": size, "bfloat16": half}
            grown = resident() - before
            bench.rows.append({"peer": "ours", "labels": labels, "megabytes": round(grown, 1)})
            print(f"{size} pairs of {fewest} to {most} keypoints, bfloat16 {half}: {grown:.0f} MB more")
        targets.append(Target(f"MB after {done} sizes, bfloat16 {half}", grown, LIMIT, at_least=False))
    bench.finish(targets)


if __name__ == "__main__":
    main()
