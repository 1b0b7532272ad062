"""Evaluate matchers on image sequences with known homographies (HPatches layout).

    python examples/hpatches_eval.py hpatches-sequences-release --out outputs/hpatches

The protocol is glue-factory's. The eight large sequences are left out. Images are resized to 480 px on the
short side, and homographies with them. The error of an estimated homography is the mean distance of the four
transferred corners, infinite without an estimate; AUC is the exact area under the recall curve. Precision is
the share of matches whose symmetric reprojection error is below 3 px, recall the share found of the mutual
nearest keypoints that are closer than 3 px in both directions; both are means over pairs. Three estimators
stand side by side: DLT weighted by the match scores, OpenCV's RANSAC (0.5 px, 3000 iterations, confidence
0.995), PoseLib at the best of six thresholds, with at least 20,000 iterations: with its own 1,000, AUC over few
pairs depends on the seed. Below the tables stands how many matches a method finds between the first images of different
sequences.

Methods: `mnn` mutual nearest neighbours; `ratio-R` those that pass the ratio test; `kornia` kornia's LightGlue;
`complete` our matcher on complete graphs; `layers-N` the first N layers of it; `candidates-K` with cross edges
to the K most similar keypoints only; `knn-K` with self edges to the K nearest keypoints only; `anchors-K` with
self edges to the 16 nearest and to K weighted anchors, `unweighted-K` to K anchors that count like any
keypoint. These matchers run the same pretrained weights, but for `layers-N` through every layer. `trained` runs
weights that were trained on a sparse graph, on that graph, `trained-bfloat16` with linear layers in half
precision.

An interrupted run continues where it stopped when it is started again with the same settings; only the matches of
different sequences are counted anew.
"""

import argparse
import csv
import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import FeatureCache, HPatches, HPatchesPair, rescale_homography
from pyg_match.features import extractor, load_image, resize_image
from pyg_match.files import write_whole
from pyg_match.geometry import corner_error, estimate_homography
from pyg_match.metrics import (
    error_auc,
    homography_ground_truth,
    matching_precision,
    matching_recall,
    recall_curve,
)
from pyg_match.nn import GraphMatcher, MatcherOutput
from pyg_match.pretrained import load_weights, read_metadata
from pyg_match.transforms import AnchorEdges, CandidateEdges, KNNGraph, graph_from_recipe

Matching = tuple[Tensor, Tensor]  # index pairs [M, 2] and scores [M]
Method = Callable[[KeypointSet, KeypointSet], Matching]
Row = dict[str, Any]

SHORT_SIDE = 480
POSELIB = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
POSELIB_ITERATIONS = 20_000  # at least
ESTIMATORS: dict[str, dict[str, Any]] = {
    "dlt": {"method": "dlt"},
    "opencv": {"method": "opencv", "threshold": 0.5},
    **{
        f"poselib_{threshold}": {
            "method": "poselib",
            "threshold": threshold,
            "min_iterations": POSELIB_ITERATIONS,
        }
        for threshold in POSELIB
    },
}
TEXT, KEY = ("set", "kind", "sequence", "method"), ("set", "sequence", "k", "method")
COLUMNS = [
    *TEXT,
    "k",
    "n0",
    "n1",
    "matches",
    "precision",
    "recall",
    *(f"error_{e}" for e in ESTIMATORS),
    "seconds",
]
# The ground truth of EVD comes from labelled inliers: too coarse for small thresholds, and never tuned on.
COARSE_SETS = ("evd",)
AUC, COARSE_AUC = (1, 3, 5), (5, 10)
PIXELS, COARSE_PIXELS = 3, 5  # largest error of a correct match
FALSE_PAIRS = 40  # of images of different scenes

METHODS = [
    *("mnn", "ratio-0.8", "ratio-0.9", "kornia", "complete"),
    *("candidates-16", "candidates-32", "knn-32", "knn-64", "anchors-48", "unweighted-48"),
    *("trained", "trained-bfloat16"),
]
TRAINED = {"aliked": "aliked-sparse", "disk": "disk-sparse"}  # weights of the method "trained"
WEIGHTS = {"aliked": "aliked-lightglue", "disk": "disk-lightglue", "xfeat": "xfeat-lighterglue"}
KORNIA = {  # shapes of kornia's LightGlue that fit the weights
    "aliked": {"input_dim": 128},
    "disk": {"input_dim": 128},
    "xfeat": {"input_dim": 64, "descriptor_dim": 96, "n_layers": 6, "num_heads": 1},
}
# As many keypoints as allowed in every image, however weak, as in glue-factory.
EXTRACTOR_OPTIONS = {"aliked": {"detection_threshold": 0.0}, "disk": {"detection_threshold": 0.0}}


def nearest_neighbours(set0: KeypointSet, set1: KeypointSet, ratio: float = 1.0) -> Matching:
    """Mutual nearest neighbours, scored by cosine; with `ratio`, both pass Lowe's test on distances."""
    if min(set0.num_keypoints, set1.num_keypoints) == 0:
        return torch.empty(0, 2, dtype=torch.long), torch.empty(0)
    similarity = torch.nn.functional.normalize(set0.x, dim=1) @ torch.nn.functional.normalize(set1.x, dim=1).T
    best0, best1 = (s.topk(min(2, s.size(1)), dim=1) for s in (similarity, similarity.T))
    distance0, distance1 = ((2 - 2 * best.values).clamp(min=0).sqrt() for best in (best0, best1))
    passed0, passed1 = (distance[:, 0] <= ratio * distance[:, -1] for distance in (distance0, distance1))
    index0, index1 = torch.arange(set0.num_keypoints), best0.indices[:, 0]
    keep = (best1.indices[index1, 0] == index0) & passed0 & passed1[index1]
    return torch.stack([index0, index1], 1)[keep], best0.values[keep, 0].clamp(min=0)


def kornia_lightglue(features: str) -> Method:
    """The LightGlue of kornia with the official weights, adaptive depth and width off."""
    from kornia.feature import LightGlue

    model = LightGlue(features=None, depth_confidence=-1, width_confidence=-1, **KORNIA[features]).eval()
    state = {name.removeprefix("matcher."): value for name, value in load_weights(WEIGHTS[features]).items()}
    for step in ("self_attn", "cross_attn"):
        for i in range(model.conf.n_layers):
            old, new = f"{step}.{i}.", f"transformers.{i}.{step}."
            state = {name.replace(old, new): value for name, value in state.items()}
    lacking = (
        set(model.load_state_dict(state, strict=False).missing_keys) & dict(model.named_parameters()).keys()
    )
    if lacking:
        raise ValueError(
            f"the weights '{WEIGHTS[features]}' do not fit kornia's LightGlue, they lack {lacking}"
        )

    def match(*sets: KeypointSet) -> Matching:
        images = [
            {"keypoints": s.pos[None], "descriptors": s.x[None], "image_size": s.image_size} for s in sets
        ]
        out = model({f"image{i}": image for i, image in enumerate(images)})
        return out["matches"][0], out["scores"][0]

    return match


def graph_matcher(
    model: GraphMatcher, transform: Callable[[KeypointPair], KeypointPair] | None = None
) -> Method:
    """Our matcher on the graph that `transform` draws; without one, on complete graphs."""

    def match(set0: KeypointSet, set1: KeypointSet) -> Matching:
        pair = KeypointPair.from_sets(set0, set1)
        output: MatcherOutput = model(pair if transform is None else transform(pair))
        return output.pair_matches(0)

    return match


def anchors(number: int, weighted: bool) -> Callable[[KeypointPair], KeypointPair]:
    """Edges within images from the 16 nearest keypoints and from anchors."""
    graph: Callable[[KeypointPair], KeypointPair] = Compose(
        [KNNGraph(16, loop=True), AnchorEdges(number, weighted=weighted)]
    )
    return graph


def trained_matcher(weights: str | None, features: str, precision: str = "") -> Method:
    """Weights that bring the graph on which they were trained."""
    if precision not in ("", "bfloat16"):
        raise ValueError(f"unknown method 'trained-{precision}', expected 'trained' or 'trained-bfloat16'")
    if weights is None:
        raise ValueError(
            f"there are no weights trained on a sparse graph for '{features}'; name some with --weights"
        )
    found = read_metadata(weights)
    if found.get("extractor") != features:
        raise ValueError(
            f"'{weights}' was trained on '{found.get('extractor')}' keypoints, not on '{features}'"
        )
    model = GraphMatcher.from_pretrained(weights, bfloat16=precision == "bfloat16").freeze()
    return graph_matcher(model, graph_from_recipe(found.get("graph", [])))


def build_methods(names: Iterable[str], features: str, trained: str | None = None) -> dict[str, Method]:
    """The methods of these names; ValueError for an unknown one or one without weights for the features."""
    model = functools.cache(lambda: GraphMatcher.from_pretrained(WEIGHTS[features]).freeze())
    builders: dict[str, Callable[[str], Method]] = {
        "mnn": lambda _: nearest_neighbours,
        "ratio": lambda number: functools.partial(nearest_neighbours, ratio=float(number)),
        "kornia": lambda _: kornia_lightglue(features),
        "complete": lambda _: graph_matcher(model()),
        "layers": lambda number: graph_matcher(
            GraphMatcher.from_pretrained(WEIGHTS[features], num_layers=int(number)).freeze()
        ),
        "candidates": lambda number: graph_matcher(model(), CandidateEdges(int(number))),
        "knn": lambda number: graph_matcher(model(), KNNGraph(int(number), loop=True)),
        "anchors": lambda number: graph_matcher(model(), anchors(int(number), weighted=True)),
        "unweighted": lambda number: graph_matcher(model(), anchors(int(number), weighted=False)),
        "trained": lambda precision: trained_matcher(trained, features, precision),
    }
    methods = {}
    for name in names:
        kind, _, number = name.partition("-")
        plain = kind in ("mnn", "kornia", "complete")
        if kind not in builders or (bool(number) == plain and kind != "trained"):
            raise ValueError(
                f"unknown method '{name}', expected 'all', some like {', '.join(METHODS)}, or layers-N"
            )
        if kind not in ("mnn", "ratio", "trained") and features not in WEIGHTS:
            raise ValueError(
                f"there are no official matcher weights for '{features}', only mnn and ratio-R work, and trained "
                "with --weights"
            )
        methods[name] = builders[kind](number)
    return methods


def cached_features(folder: Path, features: str, max_keypoints: int) -> FeatureCache:
    """Keypoints of images resized as the protocol wants, in their pixels; `resize` is new / old size."""
    model = extractor(features, max_num_keypoints=max_keypoints, **EXTRACTOR_OPTIONS.get(features, {}))

    @torch.inference_mode()
    def extract(path: Path) -> KeypointSet:
        image, scale = resize_image(load_image(path), SHORT_SIDE, side="short")
        keypoints: KeypointSet = model(image)
        keypoints.resize = scale
        return keypoints

    settings = {
        "extractor": repr(model),
        "options": EXTRACTOR_OPTIONS.get(features),
        "short_side": SHORT_SIDE,
    }
    return FeatureCache(
        folder, extract, {**settings, **{name: version(name) for name in ("pyg-match", "kornia")}}
    )


@torch.inference_mode()
def evaluate(pair: HPatchesPair, name: str, method: Method, features: FeatureCache) -> Row:
    """One method on one pair; everything in pixels of the resized images."""
    set0, set1 = features(pair.path0), features(pair.pathk)
    truth = rescale_homography(pair.homography, set0.resize, set1.resize)
    start = time.perf_counter()
    matches, scores = method(set0, set1)
    seconds = time.perf_counter() - start
    points0, points1 = set0.pos[matches[:, 0]], set1.pos[matches[:, 1]]
    pixels = COARSE_PIXELS if pair.set_name in COARSE_SETS else PIXELS
    partners0, _ = homography_ground_truth(set0.pos, set1.pos, truth, threshold=pixels)
    row = {"set": pair.set_name, "kind": pair.kind, "sequence": pair.sequence, "method": name, "k": pair.k}
    row |= {"n0": set0.num_keypoints, "n1": set1.num_keypoints, "matches": len(matches), "seconds": seconds}
    row["precision"] = matching_precision(points0, points1, truth, threshold=pixels)
    row["recall"] = matching_recall(matches, partners0)
    for estimator, options in ESTIMATORS.items():
        estimate, _ = estimate_homography(points0, points1, scores=scores, **options)
        row[f"error_{estimator}"] = corner_error(estimate, truth, set0.image_size)
    return row


@torch.inference_mode()
def false_matches(pairs: list[HPatchesPair], method: Method, features: FeatureCache) -> float | None:
    """The mean number of matches between the first images of sequences with different names; none is right."""
    # In the order of their names, since different sets may show the same scene under the same name.
    first = list({pair.sequence: pair.path0 for pair in sorted(pairs, key=lambda p: p.sequence)}.values())
    if len(first) < 2:
        return None
    found = list(zip(first, [*first[1:], first[0]], strict=True))[:FALSE_PAIRS]
    return float(np.mean([len(method(features(a), features(b))[0]) for a, b in found]))


def fingerprint(weights: str) -> str:
    """SHA-256 of trained weights and of what their file says about them."""
    digest = hashlib.sha256(json.dumps(read_metadata(weights), sort_keys=True).encode())
    for name, value in sorted(load_weights(weights).items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_settings(out: Path, settings: Row) -> None:
    """Note the settings of a new run; ValueError if the folder holds results of other settings."""
    file = out / "settings.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(settings, indent=2).encode())
    old = json.loads(file.read_text())
    changed = [
        f"{key} {old.get(key)} there, {settings.get(key)} now"
        for key in {**settings, **old}
        if old.get(key) != settings.get(key)
    ]
    if changed:
        raise ValueError(
            f"'{out}' holds results of other settings ({'; '.join(changed)}), choose another --out"
        )


def read_rows(file: Path) -> list[Row]:
    """The rows written so far. A last line that an interruption cut off is removed from the file."""
    if not file.exists():
        return []
    whole, _, rest = file.read_text().rpartition("\n")
    if rest:
        temporary = file.with_suffix(".tmp")
        temporary.write_text(whole + "\n" if whole else "")
        os.replace(temporary, file)
    rows = csv.DictReader(whole.splitlines())
    return [{name: value if name in TEXT else float(value) for name, value in row.items()} for row in rows]


def run(
    pairs: list[HPatchesPair], methods: dict[str, Method], features: FeatureCache, file: Path
) -> list[Row]:
    """The rows of all pairs and methods: those in the file, and the rest, appended to it as they come."""
    from rich.progress import track

    done = {tuple(row[column] for column in KEY): row for row in read_rows(file)}
    rows = []
    with file.open("a", newline="", buffering=1) as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        for pair, name in track([(pair, name) for pair in pairs for name in methods], description="matching"):
            row = done.get((pair.set_name, pair.sequence, pair.k, name))
            if row is None:
                row = evaluate(pair, name, methods[name], features)
                writer.writerow(row)
            rows.append(row)
    return rows


def best_threshold(rows: list[Row]) -> float:
    """PoseLib's threshold with the largest mean of AUC@1/3/5 over all pairs, never chosen on coarse sets."""
    rows = [row for row in rows if row["set"] not in COARSE_SETS]
    areas = {t: sum(error_auc([row[f"error_poselib_{t}"] for row in rows], AUC)) for t in POSELIB}
    return max(areas, key=lambda t: areas[t]) if rows else POSELIB[-1]


def error_columns(threshold: float) -> dict[str, str]:
    """The column of errors behind each estimator of the tables."""
    return {"DLT": "error_dlt", "OpenCV": "error_opencv", "PoseLib": f"error_poselib_{threshold}"}


def summarise(rows: list[Row], poselib: dict[str, float], thresholds: tuple[int, ...]) -> list[Row]:
    """For each method means over pairs, and AUCs, in per cent."""
    table = []
    for method, threshold in poselib.items():
        own = [row for row in rows if row["method"] == method]
        recalls = [row["recall"] for row in own if row["recall"] == row["recall"]]  # NaN: nothing to be found
        line = {
            "method": method,
            "pairs": len(own),
            "matches": np.mean([row["matches"] for row in own]).item(),
        }
        line["precision"] = 100 * np.mean([row["precision"] for row in own]).item()
        line["recall"] = 100 * np.mean(recalls).item() if recalls else None
        for estimator, column in error_columns(threshold).items():
            line[estimator] = [100 * area for area in error_auc([row[column] for row in own], thresholds)]
        table.append(
            line | {"threshold": threshold, "ms": 1000 * np.median([row["seconds"] for row in own]).item()}
        )
    return table


def differences(rows: list[Row], names: Iterable[str], reference: str, draws: int = 2_000) -> list[Row]:
    """What each method gains over the reference, in per cent, with percentile intervals of 95 % over choices of scenes.

    Pairs of one sequence share a photo, so sequences are drawn, with all their pairs, and for both methods alike.
    PoseLib's threshold is chosen in each draw anew. Intervals of a dozen scenes come out too narrow.
    """
    scenes = list(dict.fromkeys((row["set"], row["sequence"]) for row in rows))
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(scenes), size=(draws, len(scenes)))
    # The first row is all pairs as they are.
    counts = np.stack([(chosen == scene).sum(1) for scene in range(len(scenes))], axis=1)
    counts = np.concatenate([np.ones_like(counts[:1]), counts])
    figures = {
        name: _resampled([row for row in rows if row["method"] == name], scenes, counts) for name in names
    }
    table = []
    for name, measures in figures.items():
        line: Row = {"method": name, "reference": reference, "scenes": len(scenes)}
        for measure, values in measures.items():
            gain = values - figures[reference][measure]
            low, high = np.nanpercentile(gain[1:], [2.5, 97.5])
            line[measure] = [100 * gain[0].item(), 100 * low.item(), 100 * high.item()]
        table.append(line)
    return table


def _resampled(rows: list[Row], scenes: list[tuple[str, str]], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and AUC over each choice of scenes with these numbers of each."""
    weights = counts[:, [scenes.index((row["set"], row["sequence"])) for row in rows]]
    found = {}
    for measure in ("precision", "recall"):
        values = np.array([row[measure] for row in rows])
        known = values == values
        total = weights[:, known].sum(1)
        found[measure] = np.where(total > 0, weights[:, known] @ values[known] / np.maximum(total, 1), np.nan)

    def areas(column: str, thresholds: Sequence[int]) -> np.ndarray:
        errors = np.array([row[column] for row in rows])
        return np.array([error_auc(np.repeat(errors, weight), thresholds) for weight in weights])

    found |= {name: areas(f"error_{name.lower()}", AUC[-1:])[:, 0] for name in ("DLT", "OpenCV")}
    poselib = np.stack([areas(f"error_poselib_{threshold}", AUC) for threshold in POSELIB])
    best = poselib.sum(2).argmax(0)
    found["PoseLib"] = poselib[best, np.arange(len(weights)), -1]
    return found


def markdown(sections: dict[str, list[Row]], thresholds: tuple[int, ...], pixels: int) -> str:
    """A table with a line for each section and method."""
    aucs = [f"{estimator} @{'/'.join(map(str, thresholds))}" for estimator in error_columns(0)]
    header = ["", "pairs", "method", "matches", f"P@{pixels}", f"R@{pixels}", *aucs, "th", "ms"]
    lines = [header, ["---"] * 3 + ["--:"] * (len(header) - 3)]
    for section, table in sections.items():
        for row in table:
            recall = "–" if row["recall"] is None else f"{row['recall']:.1f}"
            cells = [
                section,
                str(row["pairs"]),
                row["method"],
                f"{row['matches']:.0f}",
                f"{row['precision']:.1f}",
                recall,
            ]
            cells += [" / ".join(f"{area:.1f}" for area in row[estimator]) for estimator in error_columns(0)]
            lines.append([*cells, str(row["threshold"]), f"{row['ms']:.0f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot(rows: list[Row], poselib: dict[str, float], title: str, out: Path, limit: float = 10.0) -> None:
    """The share of pairs below each corner error, for each method and estimator."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, estimator in zip(axes, error_columns(0), strict=True):
        for i, (method, threshold) in enumerate(poselib.items()):
            column = error_columns(threshold)[estimator]
            error, recall = recall_curve([row[column] for row in rows if row["method"] == method])
            x, y = np.append(error, max(limit, error[-1])), np.append(recall, recall[-1])
            # Every other method dashed and on top, so that methods that agree are all visible.
            axis.plot(x, y, "--" if i % 2 else "-", zorder=2 + i % 2, label=method)
        axis.set(title=estimator, xlabel="corner error (px)", xlim=(0, limit), ylim=(0, 1))
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    axes[0].set_ylabel("share of pairs")
    axes[-1].legend(loc="lower right", fontsize="small")
    for suffix in ("png", "pdf"):
        figure.savefig(out / f"auc.{suffix}", dpi=150)


def report(rows: list[Row], wrong: dict[str, float | None], settings: Row, out: Path) -> str:
    """Write the tables, results.json and the plot; return the tables.

    ``wrong`` holds for each method what :func:`false_matches` says of it.
    """
    poselib = {name: best_threshold([row for row in rows if row["method"] == name]) for name in wrong}
    fine = [row for row in rows if row["set"] not in COARSE_SETS]
    coarse = [row for row in rows if row["set"] in COARSE_SETS]

    def by(column: str, rows: list[Row], thresholds: tuple[int, ...]) -> dict[str, list[Row]]:
        parts = {
            name: [row for row in rows if row[column] == name]
            for name in dict.fromkeys(r[column] for r in rows)
        }
        return {name: summarise(part, poselib, thresholds) for name, part in parts.items()}

    caption = (
        f"{settings['features']}, at most {settings['max_keypoints']} keypoints, short side {SHORT_SIDE} px. "
        "P, R: mean precision and recall at so many px; AUC of the corner error; per cent. th: PoseLib's "
        f"threshold in px, the best of {', '.join(map(str, POSELIB))} over all pairs of the method; it makes "
        f"at least {POSELIB_ITERATIONS:,} iterations. "
        "ms: median time of matching alone."
    )
    results: dict[str, Any] = {}
    tables = []
    if fine:
        results["sets"] = {**by("set", fine, AUC), "all": summarise(fine, poselib, AUC)}
        results["kinds"] = by("kind", [row for row in fine if row["kind"] != row["set"]], AUC)
        if "kornia" in poselib:
            results["differences"] = differences(fine, poselib, "kornia")
        tables += [markdown(results[name], AUC, PIXELS) for name in ("sets", "kinds") if results[name]]
    if coarse:
        results["coarse_sets"] = by("set", coarse, COARSE_AUC)
        tables.append(markdown(results["coarse_sets"], COARSE_AUC, COARSE_PIXELS))
        caption += (
            f" The truth of {', '.join(results['coarse_sets'])} is good to 5 px at best: "
            "scored at 5 and 10 px, not part of 'all', without a say in th."
        )
    known = {name: count for name, count in wrong.items() if count is not None}
    if known:
        counts = ", ".join(f"{name} {count:.1f}" for name, count in known.items())
        tables.append(f"Matches of images of different scenes, where none is right, mean: {counts}.")
    text = "\n\n".join([*tables, caption])
    (out / "table.md").write_text(text + "\n")
    packages = ("pyg-match", "torch", "torch-geometric", "kornia", "numpy", "scipy", "poselib")
    summary = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "settings": settings,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "caption": caption,
        "results": results,
        "false_matches": known,
    }
    write_whole(out / "results.json", json.dumps(summary, indent=2).encode())
    shown = fine or coarse
    sets, pairs = ", ".join(dict.fromkeys(row["set"] for row in shown)), len(shown) // len(poselib)
    title = f"{settings['features']}, {settings['max_keypoints']} keypoints: {sets} ({pairs} pairs)"
    plot(shown, poselib, title, out)
    return text


def read_pairs(roots: Iterable[Path], limit: int | None) -> list[HPatchesPair]:
    """The pairs of all roots, each once; ValueError if different sequences have the same set and name."""
    pairs: dict[tuple[str, str, int], HPatchesPair] = {}
    for pair in (pair for root in roots for pair in HPatches(root)):
        other = pairs.setdefault((pair.set_name, pair.sequence, pair.k), pair)
        if other.pathk != pair.pathk:
            raise ValueError(f"'{other.pathk}' and '{pair.pathk}' have the same set and sequence name")
    return list(pairs.values())[:limit]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "roots", nargs="+", type=Path, metavar="ROOT", help="folder of sequences, or of sets of them"
    )
    parser.add_argument(
        "--features", default="aliked", help="aliked, disk, xfeat, sift or rootsift (%(default)s)"
    )
    parser.add_argument("--max-keypoints", type=int, default=1024, help="in an image (%(default)s)")
    parser.add_argument(
        "--methods", nargs="+", default=["all"], help=f"all of {', '.join(METHODS)}; or some, or layers-N"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/hpatches"), help="folder of results (%(default)s)"
    )
    parser.add_argument("--weights", help="of the method trained: a name or a file (those of the package)")
    parser.add_argument("--limit", type=int, help="only the first so many pairs")
    args = parser.parse_args(arguments)
    roots = sorted(os.path.abspath(root) for root in args.roots)
    settings = {"roots": roots, "features": args.features, "max_keypoints": args.max_keypoints}
    settings |= {"short_side": SHORT_SIDE, "poselib_iterations": POSELIB_ITERATIONS}
    settings |= {"pyg_match": version("pyg-match")}
    names, trained = args.methods, args.weights or TRAINED.get(args.features)
    if "all" in names:
        names = [
            name
            for name in METHODS
            if args.features in WEIGHTS or name.startswith(("mnn", "ratio", "trained"))
        ]
        names = [name for name in names if trained or not name.startswith("trained")]
    try:
        if trained:
            settings["trained"] = {"weights": trained, "sha256": fingerprint(trained)}
        pairs = read_pairs(args.roots, args.limit)
        methods = build_methods(names, args.features, trained)
        features = cached_features(args.out / "features", args.features, args.max_keypoints)
        check_settings(args.out, settings)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    rows = run(pairs, methods, features, args.out / "per_pair.csv")
    wrong = {name: false_matches(pairs, method, features) for name, method in methods.items()}
    print(report(rows, wrong, settings, args.out))


if __name__ == "__main__":
    main()
