"""Scenes with known cameras, reconstructed with the matches of two matchers on the same features.

    python benchmarks/reconstruction.py SCENES

Each folder of SCENES that holds `cameras.txt` is a scene for examples/reconstruct.py, whose results these are.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from common import Bench, Target, parser

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import reconstruct

LIMIT = 600.0  # seconds for a scene


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [2048])
    made.add_argument("scenes", type=Path, help="folder of scenes")
    made.add_argument("--weights", default="aliked-sparse")
    made.add_argument("--compare", default="aliked-lightglue")
    made.add_argument("--repeats", type=int, default=1, help="models of each scene and matcher (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    bench.command = bench.command.replace(str(args.scenes), args.scenes.name)
    targets = []
    scenes = sorted(path.parent for path in args.scenes.glob("*/cameras.txt"))
    for scene in scenes:
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            words = [
                str(scene),
                "--out",
                folder,
                "--cameras",
                str(scene / "cameras.txt"),
                "--weights",
                args.weights,
            ]
            words += ["--compare", args.compare, "--max-keypoints", str(args.sizes[0])]
            words += ["--repeats", str(args.repeats)]
            print(f"\n== {scene.name}", flush=True)
            ours, other = reconstruct.main(words)
            total = time.perf_counter() - start - sum(other["seconds"].values())
            total -= ours["seconds"].get("repeat", 0)
        for result in (ours, other):
            bench.rows.append(
                {
                    "peer": result["weights"],
                    "n": args.sizes[0],
                    "scene": scene.name,
                    **result,
                    "seconds": None,
                    "stages": result["seconds"],
                }
            )
        bench.rows[-2]["total_seconds"] = total
        name = scene.name
        targets += [
            Target(f"{name}: registered", ours["registered"], ours["images"], ""),
            Target(
                f"{name}: pose error",
                ours["pose_error"],
                other["pose_error"],
                " deg",
                at_least=False,
            ),
            Target(f"{name}: time", total, LIMIT, " s", at_least=False),
        ]
    bench.finish(targets)


if __name__ == "__main__":
    main()
