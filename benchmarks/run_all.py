"""Run the benchmarks of operators, layers, graphs and matchers on a CPU, one after the other.

    python benchmarks/run_all.py            # the full version: writes benchmarks/results and docs/images
    python benchmarks/run_all.py --quick    # a short version within 15 minutes: writes outputs/benchmarks

Each benchmark runs in its own process and prints the command that repeats it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACCURACY = "benchmarks/results/hpatches.json"
NO_FLEX = "ours sdpa sdpa-mask naive-mask gather-einsum messages messages-csr torch-scatter"
ALL_GRAPHS = "--k 8 32 128 --edges random local --degrees equal powerlaw --memory-size 0 --peers " + NO_FLEX
QUICK = "--budget 1 --limit 0.6"
QUICK_MINUTES = 15.0


@dataclass(frozen=True)
class Job:
    """A script, and its arguments in the full and in the quick version."""

    name: str
    script: str
    full: str = ""
    quick: str = ""
    plot: bool = False


JOBS = (
    Job(
        "attention_forward",
        "attention_ops.py",
        quick=f"--sizes 128 512 1024 2048 8192 16384 {QUICK}",
        plot=True,
    ),
    Job(
        "attention_backward",
        "attention_ops.py",
        "--backward",
        f"--backward --sizes 512 1024 2048 8192 --peers ours sdpa gather-einsum messages {QUICK}",
        plot=True,
    ),
    Job(
        "attention_graphs",
        "attention_ops.py",
        f"--sizes 128 512 2048 8192 {ALL_GRAPHS}",
        "--sizes 512 2048 --k 8 128 --edges local --degrees powerlaw --memory-size 0 "
        f"--peers ours sdpa messages {QUICK}",
    ),
    Job(
        "attention_graphs_backward", "attention_ops.py", f"--backward --sizes 128 512 2048 8192 {ALL_GRAPHS}"
    ),
    Job("layers", "layers.py", quick=f"--sizes 512 2048 {QUICK}", plot=True),
    Job("knn", "knn.py", quick=f"--sizes 512 2048 8192 --k 8 32 {QUICK}"),
    Job(
        "end_to_end",
        "end_to_end.py",
        quick="--sizes 640 --thread-counts 2 --features aliked --no-memory --budget 1",
    ),
    Job("matcher", "matcher.py", "--bf16", "--sizes 512 1024 2048 --budget 4", plot=True),
    Job("graphs", "graphs.py", quick="--quick"),
)


def command(job: Job, quick: bool, folder: str) -> list[str]:
    """The arguments after the name of the script, relative to the root of the repository."""
    words = (job.quick if quick else job.full).split()
    if job.name == "matcher" and (ROOT / ACCURACY).exists():
        words += ["--accuracy", ACCURACY]
    if job.plot and not quick:
        words += ["--plot", f"docs/images/{job.name}.svg"]
    return [*words, "--out", f"{folder}/{job.name}.json"]


def run(job: Job, words: Sequence[str], seconds: float | None) -> str:
    """Run one benchmark; returns what went wrong, or an empty string."""
    process = [sys.executable, str(ROOT / "benchmarks" / job.script), *words]
    try:
        done = subprocess.run(process, cwd=ROOT, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "out of time"
    return f"exit code {done.returncode}" if done.returncode != 0 else ""


def verdict(file: Path) -> tuple[list[str], int]:
    """The targets that a run did not meet, and how many it met."""
    targets = json.loads(file.read_text()).get("targets", [])
    missed = [f"{t['name']}: {t['found']:.3g}, wanted {t['wanted']:g}" for t in targets if t["met"] is False]
    return missed, sum(t["met"] is True for t in targets)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"end within {QUICK_MINUTES:g} minutes")
    parser.add_argument(
        "--only", nargs="+", choices=[job.name for job in JOBS], help="some of the benchmarks"
    )
    parser.add_argument("--folder", help="of the JSON files, relative to the repository")
    args = parser.parse_args(arguments)
    folder = args.folder or ("outputs/benchmarks" if args.quick else "benchmarks/results")
    jobs = [
        job
        for job in JOBS
        if (job.name in args.only if args.only else True)
        and (ROOT / "benchmarks" / job.script).exists()
        and (job.quick or not args.quick)
    ]
    start = time.monotonic()
    failures, missed, met = [], [], 0
    for job in jobs:
        words = command(job, args.quick, folder)
        left = 60 * QUICK_MINUTES - (time.monotonic() - start) if args.quick else None
        print(f"\n== {job.name}: python benchmarks/{job.script} {' '.join(words)}", flush=True)
        problem = run(job, words, left) if left is None or left > 1 else "out of time"
        if problem:
            failures.append(f"{job.name}: {problem}")
            continue
        job_missed, job_met = verdict(ROOT / folder / f"{job.name}.json")
        missed += [f"{job.name}: {line}" for line in job_missed]
        met += job_met
    print(f"\n{len(jobs)} benchmarks in {(time.monotonic() - start) / 60:.1f} minutes, results in {folder}")
    print(f"{met} targets met, {len(missed)} not met")
    for line in [*missed, *(f"FAILED {failure}" for failure in failures)]:
        print(f"  {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
