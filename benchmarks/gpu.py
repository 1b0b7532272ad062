"""Operators, matchers and training on a GPU, beside dense attention, LightGlue and PyG, in one command.

    python benchmarks/gpu.py [--sections accuracy operator windows matcher batches training live compiled]
    python benchmarks/gpu.py --merge A.json B.json      # one record of several runs with different sections

accuracy     errors of the operators against double precision; matches against those on the CPU, in batches and recorded
operator     `sparse_attention`, 4 heads x 64 channels, on the 32 nearest of random points numbered in random order;
             beside it SDPA on all pairs, and PyG's TransformerConv on the same edges
windows      parts of 128 nodes and 256 anchors a group, as dense groups; SDPA on the parts alone, and on parts and
             anchors that were laid side by side for it beforehand
matcher      one pair: `aliked-sparse`, drawing its edges included, and complete graphs; LightGlue of kornia and of its
             authors
batches      many pairs at once, of one size and of random sizes; both LightGlues one by one, and padded to one batch
training     a step of `aliked-sparse` on 32 pairs of 512 keypoints: losses, gradients, optimizer
live         the same from photos of scikit-image: processes read them, the device makes the pairs
compiled     peers that are compiled, for rows of `operator` and `matcher`: FlexAttention, TransformerConv, LightGlue

Every row is timed by the device's own clock, back to back and without clearing caches, and tells the memory that it
needed beyond its inputs. Attention is timed as a CUDA graph of ten calls; what it takes when the host launches it is
kept as `launched`. Keypoints of the matcher's rows and weights of LightGlue are random: what they cost does not depend
on what they hold. Kornia's LightGlue attends in half precision on a GPU whatever runs around it, as it comes.

The record is written after each section. No peer is started after `--minutes`. It needs kornia, and the authors'
LightGlue runs if it is installed. Without a GPU, `--device cpu` runs the same code on the CPU, where figures mean
nothing.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from common import exponents, parser, write_json
from gpu_accuracy import accuracy
from gpu_clock import GPUBench, told
from gpu_live import live
from gpu_matchers import batches, compiled_matchers, matcher, training
from gpu_operators import compiled_operators, dense_windows, operator
from gpu_targets import targets


def compiled(bench: GPUBench) -> None:
    """What is compiled takes minutes, and comes last."""
    compiled_matchers(bench)
    compiled_operators(bench)


SECTIONS: dict[str, Callable[[GPUBench], None]] = {
    "accuracy": accuracy,
    "operator": operator,
    "windows": dense_windows,
    "matcher": matcher,
    "batches": batches,
    "training": training,
    "live": live,
    "compiled": compiled,
}


def merge(files: Sequence[Path], out: Path) -> None:
    """Write one record of several, made by the same versions on the same machine."""
    records = [json.loads(file.read_text()) for file in files]
    first = records[0]
    for file, record in zip(files, records, strict=True):
        if (record["machine"], record["versions"]) != (first["machine"], first["versions"]):
            raise SystemExit(
                f"error: {file} was made on another machine or by other versions than {files[0]}"
            )
    rows, errors = ([row for record in records for row in record[name]] for name in ("rows", "errors"))
    failed = {name: reason for record in records for name, reason in record["failed"].items()}
    found = targets(rows, first["settings"]["pairs"], errors)
    command = " && ".join(dict.fromkeys(record["command"] for record in records))
    merged = {**first, "command": command, "rows": rows, "errors": errors, "failed": failed}
    merged |= {"exponents": exponents(rows), "targets": [target.record() for target in found]}
    write_json(out, merged)
    print(*found, f"written: {out}", sep="\n")


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, sizes=(2048, 8192, 16384, 32768))
    made.set_defaults(budget=0.5, threads=min(8, os.cpu_count() or 2))
    made.add_argument("--device", default="cuda")
    made.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    made.add_argument(
        "--minutes", type=float, default=8.0, help="after which no peer is started (%(default)s)"
    )
    made.add_argument("--keypoints", nargs="+", type=int, default=[512, 2048, 8192], help="of an image")
    made.add_argument("--windows", nargs="+", type=int, default=[65536], help="nodes in windows")
    made.add_argument("--pairs", type=int, default=32, help="pairs of the random batch and of training")
    made.add_argument("--photos", type=int, default=10, help="pairs matched on both devices")
    made.add_argument("--merge", nargs="+", type=Path, metavar="FILE", help="records to join; nothing is run")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections."""
    args = options().parse_args(arguments)
    if args.merge:
        merge(args.merge, args.out or Path("benchmarks/results/gpu.json"))
        return
    bench = GPUBench(__file__, args, arguments)
    for name, section in SECTIONS.items():
        if name not in args.sections:
            continue
        try:
            section(bench)
        except Exception as error:  # what the others measure is kept
            bench.failed[name] = told(error)
            print(f"  {name}: {bench.failed[name]}", flush=True)
        found = targets(bench.rows, args.pairs, bench.errors)
        bench.record(found, errors=bench.errors, failed=bench.failed)
    bench.finish(found, errors=bench.errors, failed=bench.failed)


if __name__ == "__main__":
    main()
