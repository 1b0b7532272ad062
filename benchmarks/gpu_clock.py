"""A benchmark whose clock is the device's, and whose record is there after each section."""

import argparse
import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from common import Bench, Call, Row

CAPTURED = 10  # calls in a CUDA graph
LONG = 5e-3  # seconds of a call of which one is enough
FIRST, LEAST = 3, 3  # calls that tell how long one takes, and fewest samples
SAMPLE_SECONDS = 0.02  # a sample is the mean of calls that take about as long together


class GPUBench(Bench):
    """The rows of a run, of peers that may fail and of a device that may be lost."""

    def __init__(self, script: str, args: argparse.Namespace, arguments: Sequence[str] | None) -> None:
        super().__init__(script, args, arguments)
        self.device = torch.device(args.device)
        self.deadline = time.monotonic() + 60 * args.minutes
        self.errors: list[Row] = []
        self.failed: dict[str, str] = {}
        with contextlib.suppress(PackageNotFoundError):
            self.versions["triton"] = version("triton")
        if self.device.type == "cuda":
            self.machine["gpu"] = torch.cuda.get_device_name(self.device)
            self.machine["driver"] = _driver()
            print(self.machine["gpu"], self.machine["driver"])

    def others(self) -> float | None:
        """Not known: compilers and loaders that this run starts count as others."""
        return None

    def measure(
        self, labels: Row, peers: Mapping[str, Callable[[], Call]], captured: Collection[str] = ()
    ) -> None:
        """Time each peer in turn, and keep a row of it; one that fails leaves the reason.

        Args:
            labels: What the rows have in common.
            peers: For each name a function that prepares its inputs and returns what is to be timed.
            captured: Names of those whose launches are timed as a CUDA graph. What a call takes when it is launched by
                the host is kept beside it, as ``launched``.
        """
        print("\n" + ", ".join(f"{key}={value}" for key, value in labels.items()))
        for name, prepare in peers.items():
            row: Row = {**labels, "peer": name, "seconds": None}
            self.rows.append(row)
            try:
                self._measure(row, prepare, name in captured and self.device.type == "cuda")
            except Exception as error:  # a peer that this machine cannot run says why, and the others go on
                row["note"] = told(error)
            shown = "-" if row["seconds"] is None else f"{1e3 * row['seconds']:.4f} ms"
            if row.get("launched"):
                shown += f"  ({1e3 * row['launched']:.4f} ms launched)"
            if row.get("memory") is not None:
                shown += f"{row['memory'] / 2**20:10.1f} MiB"
            print(f"  {name:32}{shown:>14}  {row.get('note', '')}", flush=True)

    def _measure(self, row: Row, prepare: Callable[[], Call], captures: bool) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError(f"the {self.args.minutes:g} minutes are over")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        call = prepare()
        row |= self._memory(call)
        row |= self._timing(call)
        if captures:
            row["launched"], row["seconds"] = row["seconds"], None  # which stays so if it cannot be captured
            calls = CAPTURED if row["launched"] < LONG else 1
            row |= self._timing(capture(call, calls), calls)

    def _memory(self, call: Call) -> Row:
        """Bytes that the second call needed at most beyond what there was, and together with that."""
        call()
        if self.device.type != "cuda":
            return {"memory": None}
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return {"memory": peak - before, "peak": peak}

    def _timing(self, call: Call, calls: int = 1) -> Row:
        """Seconds of one of the calls that ``call`` makes."""
        samples = sorted(seconds / calls for seconds in self._samples(call))
        return {
            "seconds": statistics.median(samples),
            "low": samples[0],
            "high": samples[-1],
            "samples": len(samples),
        }

    def _samples(self, call: Call) -> Iterator[float]:
        """Seconds of one call, as means over several calls."""
        once = self._seconds(call, FIRST)
        repeats = max(1, min(1000, int(SAMPLE_SECONDS / once)))
        for _ in range(max(LEAST, min(15, int(self.args.budget / (once * repeats))))):
            yield self._seconds(call, repeats)

    def _seconds(self, call: Call, repeats: int) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) / repeats
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(repeats):
            call()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / repeats


def capture(call: Call, calls: int) -> Call:
    """A CUDA graph of several calls, as one call."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def told(error: Exception) -> str:
    """The kind of an error and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return "driver " + subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    return "driver unknown"
