"""Evaluate matchers by the relative pose of two photos from known cameras.

    python examples/pose_eval.py strecha/castle-P19 strecha/fountain-P11 --out outputs/pose
    python examples/pose_eval.py SCENE... --weights runs/mine/matcher.safetensors --max-keypoints 1024

A folder holds photos and `pairs_with_gt.txt`, whose lines are `name0 name1 0 0 K0[9] K1[9] T_0to1[16]`, as SuperGlue's
are. The error of a pose is the larger of two angles: that between the rotations, and that between the directions of
the translations. It is infinite without an estimate. AUC is the exact area under the recall curve at 5, 10 and 20
degrees. PoseLib estimates the pose at the best of six thresholds. Precision is the share of matches with a squared
symmetric epipolar distance below 1e-4 in units of the focal length. Keypoints are found in photos as they are.

`kornia` is kornia's LightGlue with the official weights; each file of `--weights` is a method of its own, named by
its stem. Differences to `kornia` have percentile intervals of 95 % of a bootstrap over pairs; pairs share photos, so
these are somewhat too narrow. A run that starts again finds its keypoints where it left them.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from eval_methods import EXTRACTOR_OPTIONS, TRAINED, Method, fingerprint, kornia_lightglue, trained_matcher
from eval_tables import POSELIB, write_record

from pyg_match.datasets import FeatureCache
from pyg_match.features import extractor, load_image
from pyg_match.files import write_whole
from pyg_match.metrics import error_auc, pose_error

Array = np.ndarray
Row = dict[str, Any]
DEGREES = (5, 10, 20)
NEAR = 1e-4  # squared symmetric epipolar distance of a correct match
DRAWS = 2_000


class PosedPair(NamedTuple):
    """Two photos, their intrinsics, and the motion from the first camera to the second."""

    scene: str
    paths: tuple[Path, Path]
    intrinsics: tuple[Array, Array]
    motion: Array


def read_pairs(folder: Path) -> list[PosedPair]:
    """The pairs of a scene."""
    pairs = []
    for number, line in enumerate((folder / "pairs_with_gt.txt").read_text().splitlines(), 1):
        words = line.split()
        if len(words) != 38:
            raise ValueError(
                f"line {number} of '{folder / 'pairs_with_gt.txt'}' must have 38 words, got {len(words)}"
            )
        numbers = np.array(words[4:], dtype=np.float64)
        first, second, motion = numbers[:9].reshape(3, 3), numbers[9:18].reshape(3, 3), numbers[18:]
        paths = folder / words[0], folder / words[1]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"line {number} of '{folder / 'pairs_with_gt.txt'}': no photo {missing[0]}"
            )
        pairs.append(PosedPair(folder.resolve().name, paths, (first, second), motion.reshape(4, 4)))
    if not pairs:
        raise ValueError(f"'{folder / 'pairs_with_gt.txt'}' lists no pairs")
    return pairs


def camera(intrinsics: Array) -> dict[str, Any]:
    """A camera without distortion, for PoseLib, which does not look at the size."""
    parameters = [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]
    return {"model": "PINHOLE", "width": -1, "height": -1, "params": parameters}


def epipolar_distance(points0: Array, points1: Array, motion: Array) -> Array:
    """Squared symmetric epipolar distances of calibrated points, [M]."""
    x, y, z = motion[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ motion[:3, :3]
    points0, points1 = (np.c_[points, np.ones(len(points))] for points in (points0, points1))
    line1, line0 = points0 @ essential.T, points1 @ essential
    product = (points1 * line1).sum(1) ** 2
    return product * (1 / (line1[:, :2] ** 2).sum(1) + 1 / (line0[:, :2] ** 2).sum(1))


@torch.inference_mode()
def evaluate(pair: PosedPair, name: str, method: Method, features: FeatureCache) -> Row:
    """One method on one pair."""
    import poselib

    sets = [features(path) for path in pair.paths]
    matches, _ = method(*sets)
    points = [s.pos[matches[:, i]].double().numpy() for i, s in enumerate(sets)]
    calibrated = [(p - k[:2, 2]) / k[[0, 1], [0, 1]] for p, k in zip(points, pair.intrinsics, strict=True)]
    near = epipolar_distance(*calibrated, pair.motion) < NEAR
    row = {"scene": pair.scene, "method": name, "matches": len(matches)}
    row["precision"] = float(near.mean()) if len(matches) else 0.0
    cameras = [camera(k) for k in pair.intrinsics]
    for threshold in POSELIB:
        row[f"error_{threshold}"] = np.inf
        if len(matches) >= 5:
            pose, _ = poselib.estimate_relative_pose(*points, *cameras, {"max_epipolar_error": threshold})
            row[f"error_{threshold}"] = float(max(pose_error(pose.R, pose.t, pair.motion)))
    return row


def areas(rows: Sequence[Row], threshold: float) -> list[float]:
    return error_auc([row[f"error_{threshold}"] for row in rows], DEGREES)


def best_threshold(rows: Sequence[Row]) -> float:
    """PoseLib's threshold with the largest mean area over all pairs."""
    return max(POSELIB, key=lambda threshold: sum(areas(rows, threshold)))


def summarise(rows: Sequence[Row], threshold: float) -> Row:
    """Means over pairs, and AUCs, in per cent."""
    return {
        "method": rows[0]["method"],
        "pairs": len(rows),
        "matches": float(np.mean([row["matches"] for row in rows])),
        "precision": 100 * float(np.mean([row["precision"] for row in rows])),
        "PoseLib": [100 * area for area in areas(rows, threshold)],
        "threshold": threshold,
    }


def differences(rows: dict[str, list[Row]], reference: str) -> list[Row]:
    """What each method gains over the reference, in per cent, with intervals.

    PoseLib's threshold is chosen in each draw anew.
    """
    count = len(rows[reference])
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    draws = np.concatenate([np.arange(count)[None], draws])
    values = {}
    for name, own in rows.items():
        precision = np.array([row["precision"] for row in own])[draws].mean(1)
        errors = np.array([[row[f"error_{threshold}"] for row in own] for threshold in POSELIB])
        curves = [max((error_auc(e[draw], DEGREES) for e in errors), key=sum) for draw in draws]
        values[name] = np.c_[precision, curves]
    lines = []
    for name in (name for name in rows if name != reference):
        gain = 100 * (values[name] - values[reference])
        spread = np.percentile(gain[1:], [2.5, 97.5], axis=0)
        columns = ("precision", *(f"AUC@{degrees}" for degrees in DEGREES))
        found = {column: [gain[0, i], *spread[:, i]] for i, column in enumerate(columns)}
        lines.append({"method": name, "reference": reference, **found})
    return lines


def markdown(sets: dict[str, list[Row]]) -> str:
    """A table with a line for each scene and method."""
    degrees = "/".join(map(str, DEGREES))
    lines = [
        f"| | pairs | method | matches | P | AUC@{degrees} | th |",
        "| --- | --: | --- | --: | --: | --: | --: |",
    ]
    for scene, table in sets.items():
        for row in table:
            shown = " / ".join(f"{area:.1f}" for area in row["PoseLib"])
            lines.append(
                f"| {scene} | {row['pairs']} | {row['method']} | {row['matches']:.0f} | {row['precision']:.1f} "
                f"| {shown} | {row['threshold']} |"
            )
    return "\n".join(lines)


def report(rows: dict[str, list[Row]], settings: Row, out: Path) -> str:
    """Write results.json and table.md; return the table."""
    best = {name: best_threshold(own) for name, own in rows.items()}
    scenes = list(dict.fromkeys(row["scene"] for own in rows.values() for row in own))
    sets = {
        scene: [
            summarise([row for row in own if row["scene"] == scene], best[name]) for name, own in rows.items()
        ]
        for scene in scenes
    }
    sets["all"] = [summarise(own, best[name]) for name, own in rows.items()]
    found = differences(rows, "kornia")
    lines = [
        f"{line['method']} − {line['reference']}: "
        + ", ".join(
            f"{key} {low:+.1f} to {high:+.1f}"
            for key, (_, low, high) in ((k, v) for k, v in line.items() if isinstance(v, list))
        )
        for line in found
    ]
    text = "\n\n".join([markdown(sets), *lines])
    write_whole(out / "table.md", f"{text}\n".encode())
    write_record(out / "results.json", settings, results={"sets": sets, "differences": found})
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    from rich.progress import track

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="+", type=Path, metavar="SCENE", help="folder of a scene")
    parser.add_argument("--features", default="aliked", choices=list(TRAINED), help="(%(default)s)")
    parser.add_argument("--max-keypoints", type=int, default=2048, help="in a photo (%(default)s)")
    parser.add_argument("--weights", nargs="+", help="names or files (those of the package)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/pose"), help="folder of results (%(default)s)"
    )
    args = parser.parse_args(arguments)
    weights = {Path(name).stem: name for name in args.weights or [TRAINED[args.features]]}
    options = EXTRACTOR_OPTIONS.get(args.features, {})
    model = extractor(args.features, max_num_keypoints=args.max_keypoints, **options)
    try:
        pairs = [pair for scene in args.scenes for pair in read_pairs(scene)]
        methods: dict[str, Method] = {"kornia": kornia_lightglue(args.features)}
        methods |= {name: trained_matcher(file, args.features) for name, file in weights.items()}
        if len(methods) <= len(args.weights or [""]):
            raise ValueError(f"'--weights' must have different names other than kornia, got {args.weights}")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    extract = torch.inference_mode()(lambda path: model(load_image(path)))
    known = {"extractor": repr(model), "options": options, "pyg-match": version("pyg-match")}
    features = FeatureCache(args.out / "features", extract, known)
    steps = [(name, pair) for name in methods for pair in pairs]
    rows: dict[str, list[Row]] = {name: [] for name in methods}
    for name, pair in track(steps, description="matching"):
        rows[name].append(evaluate(pair, name, methods[name], features))
    settings = {"scenes": [scene.resolve().name for scene in args.scenes], "features": args.features}
    settings |= {
        "max_keypoints": args.max_keypoints,
        "weights": {n: fingerprint(f) for n, f in weights.items()},
    }
    print(report(rows, settings, args.out))


if __name__ == "__main__":
    main()
