"""All pairs of many photos, once in peace and once killed again and again: the same file, in bounded memory.

    python benchmarks/interrupted.py --images FOLDER

The strongest keypoints of the first photos of a folder are found, and `pyg-match match-pairs` matches every photo with
every other one. A second run of the same command is ended by SIGKILL at random moments and called again each time. The
files of both are compared byte by byte, and every pair is looked up. Memory is the largest resident memory of the
process beyond that of the same command for one pair.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from common import Bench, Target, parser

from pyg_match.collections import HlocMatches, read_pairs

COMMAND = [sys.executable, "-c", "from pyg_match.cli import main; main()"]
LIMIT = 2.0  # GiB


def call(*words: object, seconds: float | None = None) -> tuple[float, float, bool]:
    """Run a command, or kill it after some seconds: its time, its largest memory in GiB and whether it ended."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, high_water(process.pid))
        if seconds is not None and time.perf_counter() - start > seconds:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return time.perf_counter() - start, peak, False
        time.sleep(0.05)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {process.returncode}")
    return time.perf_counter() - start, peak, True


def high_water(process: int) -> float:
    """The largest resident memory of a process so far, in GiB."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0")
    return int(line.split()[1]) / 2**20


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lost(pairs: Path, matches: Path) -> int:
    """How many pairs of a list are not in a file of matches, or are there beside the list."""
    listed = {pair for _, pair in read_pairs(pairs)}
    with HlocMatches(matches) as file:
        return len(listed ^ set(file.pairs()))


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [450])
    made.add_argument("--images", type=Path, required=True, help="folder of photos")
    made.add_argument("--max-keypoints", type=int, default=24)
    made.add_argument("--resize", type=int, default=320)
    made.add_argument("--kills", type=int, default=10)
    made.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    bench.command = bench.command.replace(str(args.images), args.images.name)
    draw, targets = random.Random(args.seed), []
    with TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        for size in args.sizes:
            photos = sorted(
                path for path in args.images.iterdir() if path.suffix.lower() in (".jpg", ".png")
            )[:size]
            (folder / "images").mkdir(exist_ok=True)
            for photo in photos:
                (folder / "images" / photo.name).symlink_to(photo.resolve())
            features, pairs, one = folder / "features.h5", folder / "pairs.txt", folder / "one.txt"
            limits = ("--max-keypoints", args.max_keypoints, "--resize", args.resize)
            call("extract", folder / "images", "-o", features, *limits)
            call("pairs", features, "-o", pairs)
            one.write_text(pairs.read_text().partition("\n")[0])
            _, floor, _ = call("match-pairs", features, one, "-o", folder / "one.h5")
            whole, broken = folder / "whole.h5", folder / "broken.h5"
            seconds, peak, _ = call("match-pairs", features, pairs, "-o", whole)
            count = sum(1 for _ in read_pairs(pairs))
            print(
                f"{count} pairs of {len(photos)} photos: {seconds:.0f} s, {count / seconds:.0f}/s", flush=True
            )
            print(f"memory {peak:.2f} GiB, {floor:.2f} of them for one pair", flush=True)
            moments, killed, broken_peak = [], 0, 0.0
            while killed < args.kills:
                moment = draw.uniform(5, 1.5 * seconds / args.kills)
                spent, memory, ended = call("match-pairs", features, pairs, "-o", broken, seconds=moment)
                broken_peak = max(broken_peak, memory)
                if ended:
                    print(f"it was finished before kill {killed + 1}")
                    break
                killed += 1
                moments.append(round(spent, 1))
                done = len(list(folder.glob("broken.h5.shards/*.safetensors")))
                print(f"killed after {spent:.1f} s, {done} shards finished", flush=True)
            _, memory, _ = call("match-pairs", features, pairs, "-o", broken)
            same = digest(whole) == digest(broken)
            missing = lost(pairs, broken)
            left = sorted(path.name for path in folder.iterdir() if path.name.startswith("broken"))
            print(f"the same file: {same}; pairs lost or too many: {missing}; files: {', '.join(left)}")
            bench.rows.append(
                {
                    "peer": "ours",
                    "n": size,
                    "pairs": count,
                    "seconds": seconds,
                    "gib": peak,
                    "gib_of_one_pair": floor,
                    "killed_after": moments,
                    "same_file": same,
                    "bytes": whole.stat().st_size,
                }
            )
            beyond = max(peak, broken_peak, memory) - floor
            targets += [
                Target("killed", killed, args.kills, "", at_least=True),
                Target("different files", float(not same), 0, "", at_least=False),
                Target("pairs lost or too many", missing, 0, "", at_least=False),
                Target("memory beyond one pair", beyond, LIMIT, " GiB", at_least=False),
            ]
    bench.finish(targets)


if __name__ == "__main__":
    main()
