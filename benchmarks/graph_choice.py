"""Accuracy of the same matcher trained on several graphs, beside the time that each graph takes.

    python benchmarks/graph_choice.py --images PHOTOS --runs FOLDER [--steps 100] [--device cpu]

Each graph gets a run of the preset `sparse`, from official weights, with the same pairs in the same order; only the
graph and the number of steps differ. Precision, recall and AUC are those of validation: photos that are held out from
training. Runs that are done, and the keypoints of all, are kept in FOLDER; one that was stopped goes on. Times are of
one pair of random keypoints, graphs in turn, on an idle machine. `--training-only` leaves them out, `--times-only`
leaves out the runs.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import Bench, Call, Row, parser
from rich.console import Console
from rich.table import Table

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.training import load_config, train
from pyg_match.training.monitor import read_json_lines
from pyg_match.transforms import graph_from_recipe

CANDIDATES = {"CandidateEdges": {"k": 32}}


def _anchors(count: int) -> dict[str, Any]:
    return {"AnchorEdges": {"num_anchors": count, "loop": True, "weighted": True, "listed": False}}


def _windows(size: int, shift: bool) -> dict[str, Any]:
    return {"HilbertPartition": {"size": size, "shift": shift}}


GRAPHS: dict[str, list[dict[str, Any]]] = {
    "24 neighbours, 288 anchors": [{"KNNGraph": {"k": 24, "loop": True}}, _anchors(288), CANDIDATES],
    "16 neighbours, 160 anchors": [{"KNNGraph": {"k": 16, "loop": True}}, _anchors(160), CANDIDATES],
    "parts of 128, 256 anchors": [_windows(128, False), _anchors(256), CANDIDATES],
    "shifted parts of 128, 256 anchors": [_windows(128, True), _anchors(256), CANDIDATES],
    "shifted parts of 64, 256 anchors": [_windows(64, True), _anchors(256), CANDIDATES],
}


def trained(bench: Bench, names: Sequence[str]) -> None:
    """A row for each graph before and after training."""
    args = bench.args
    settings = {
        "steps": args.steps, "validate_every": args.steps, "calibrate": False, "seed": args.seed,
        "data.cache": str(args.runs / "features"),
    }  # fmt: skip
    for name in names:
        print(f"\n{name}", flush=True)
        changes = [f"{key}={json.dumps(value)}" for key, value in {**settings, "graph": GRAPHS[name]}.items()]
        out = args.runs / name.replace(", ", "_").replace(" ", "-")
        train(load_config("sparse", [*changes, *args.set]), args.images, out, accelerator=args.device)
        for row in read_json_lines(out / "log.jsonl"):
            if "validation" in row:
                labels = {"section": "accuracy", "peer": name, "steps": row["step"], "seconds": None}
                bench.rows.append({**labels, **row["validation"]})


def timed(bench: Bench, names: Sequence[str]) -> None:
    """Rows of drawing each graph and of matching on it."""
    device = torch.device(bench.args.device)
    model = (
        GraphMatcher(**load_config("sparse", bench.args.set).matcher | {"assign_on_edges": True})
        .to(device)
        .freeze()
    )
    graphs = {name: graph_from_recipe(GRAPHS[name]) for name in names}
    for count in bench.args.sizes:
        pair = random_pair(count).to(device)
        for part, matcher in (("graph", None), ("graph and matcher", model)):
            peers = {name: functools.partial(_call, graph, matcher, pair) for name, graph in graphs.items()}
            with torch.inference_mode():
                bench.time({"section": "times", "n": count, "part": part}, peers)


def _call(graph: Any, model: GraphMatcher | None, pair: KeypointPair) -> Call:
    def call() -> None:
        drawn = graph(pair.clone())
        if model is not None:
            model(drawn)
        if pair.pos.is_cuda:
            torch.cuda.synchronize()

    return call


def random_pair(count: int) -> KeypointPair:
    """Random keypoints of two images."""
    generator = torch.Generator().manual_seed(0)
    sets = []
    for _ in range(2):
        x = F.normalize(torch.randn(count, 128, generator=generator), dim=1)
        pos = torch.rand(count, 2, generator=generator) * torch.tensor([1024.0, 768.0])
        sets.append(KeypointSet(pos=pos, x=x, image_size=(1024, 768)))
    return KeypointPair.from_sets(*sets)


def table(rows: Sequence[Row]) -> Table:
    """What was measured of each graph."""
    accuracy = [row for row in rows if row["section"] == "accuracy"]
    times = [row for row in rows if row["section"] == "times" and row["part"] != "graph"]
    sizes = sorted({row["n"] for row in times})
    names = list(dict.fromkeys(row["peer"] for row in rows))
    shown = {"precision": "P", "recall": "R", "auc@5_poselib": "AUC@5", "false_matches": "false matches"}
    made = Table("graph", "steps", *shown.values(), *(f"ms, {n} keypoints" for n in sizes))
    for name in names:
        found = {row["n"]: f"{1e3 * row['seconds']:.1f}" for row in times if row["peer"] == name}
        of_graph = [row for row in accuracy if row["peer"] == name] or [{"steps": "-"}]
        for row in of_graph:
            values = [_shown(key, row.get(key)) for key in shown]
            made.add_row(name, str(row["steps"]), *values, *(found.get(n, "-") for n in sizes))
    return made


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if key == "false_matches" else f"{100 * value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, time, print and write."""
    options = parser(__doc__, sizes=(1024, 2048))
    options.add_argument("--images", type=Path, help="folder of photos")
    options.add_argument(
        "--runs", type=Path, default=Path("runs/graphs"), help="folder of the runs (%(default)s)"
    )
    options.add_argument("--steps", type=int, default=100, help="of training (%(default)s)")
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS), metavar="GRAPH")
    options.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset to change"
    )
    only = options.add_mutually_exclusive_group()
    only.add_argument("--training-only", action="store_true")
    only.add_argument("--times-only", action="store_true")
    args = options.parse_args(arguments)
    if not args.times_only and (args.images is None or not os.path.isdir(args.images)):
        options.error(f"--images must be a folder of photos, got {args.images}")
    bench = Bench(__file__, args, arguments)
    if not args.times_only:
        trained(bench, args.graphs)
    if not args.training_only:
        timed(bench, args.graphs)
    Console(width=130).print(table(bench.rows))
    bench.finish([])


if __name__ == "__main__":
    main()
