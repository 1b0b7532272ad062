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
import json
import os
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eval_methods import EXTRACTOR_OPTIONS, METHODS, TRAINED, WEIGHTS, Method, build_methods, fingerprint
from eval_tables import COARSE_PIXELS, COARSE_SETS, PIXELS, POSELIB, POSELIB_ITERATIONS, report

from pyg_match.data import KeypointSet
from pyg_match.datasets import FeatureCache, HPatches, HPatchesPair, rescale_homography
from pyg_match.features import extractor, load_image, resize_image
from pyg_match.features.by_name import EXTRACTORS
from pyg_match.files import write_whole
from pyg_match.geometry import corner_error, estimate_homography
from pyg_match.metrics import homography_ground_truth, matching_precision, matching_recall

Row = dict[str, Any]

SHORT_SIDE = 480
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
FALSE_PAIRS = 40  # of images of different scenes


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
    parser.add_argument("--features", default="aliked", help=f"{', '.join(EXTRACTORS)} (%(default)s)")
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
