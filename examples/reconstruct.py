"""From a folder of photos to a sparse model: features, pairs, matches, and COLMAP's incremental mapper.

    python examples/reconstruct.py PHOTOS --out outputs/scene
    python examples/reconstruct.py PHOTOS --out outputs/scene --pairs retrieval --camera-mode auto
    python examples/reconstruct.py PHOTOS --out outputs/scene --cameras PHOTOS/cameras.txt --compare aliked-lightglue

The folder of the results holds the features, pairs, matches and database of `pyg-match extract`, `pairs`, `match-pairs`
and `to-colmap`, and the model for COLMAP in `sparse`. Features and matches that are there are not computed again.

Where cameras are known, in lines of `name K[9] world_to_camera[16]`, poses are compared with them: for each pair of
photos the angle between the estimated and the known relative rotation, and between the directions from one camera to
the other, which do not depend on how models are aligned. A photo that is not registered counts as wrong by 180 degrees.
`--compare` does all after the features a second time with other weights for the same detector. Verification and the
mapper draw at random: `--repeats` does all after the matches again with other seeds. The pose error is the median of
all models then, and what else is told is of the first one.
"""

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from pyg_match.collections import (
    exhaustive_pairs,
    extract_features,
    match_pairs,
    open_features,
    sequential_pairs,
    write_pairs,
)
from pyg_match.collections.colmap_database import CAMERA_MODES, write_colmap
from pyg_match.collections.retrieval import retrieval_pairs
from pyg_match.features import extractor
from pyg_match.metrics import pose_error
from pyg_match.pretrained import detector_of
from pyg_match.spinner import spinner

Poses = dict[str, np.ndarray]


def write_pair_list(features: Path, target: Path, method: str, top_k: int) -> int:
    """List the pairs to match."""
    with open_features(features) as opened:
        if method == "exhaustive":
            return write_pairs(target, exhaustive_pairs(opened.names()))
        if method == "sequential":
            return write_pairs(target, sequential_pairs(opened.names(), top_k))
        return write_pairs(target, retrieval_pairs(opened, top_k))


def reconstruct(database: Path, images: Path, target: Path, seed: int) -> Any:
    """The model with the most photos, written to a folder; ``None`` if there is none."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = seed
    options.num_threads = 1  # several sum in another order each time, which leads to other models
    placed = itertools.count(3)  # images, after the first two
    with spinner("mapping") as say:
        models = pycolmap.incremental_mapping(
            database,
            images,
            target,
            options,
            next_image_callback=lambda: say(f"mapping, {next(placed):,} images placed"),
        )
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def read_cameras(path: Path) -> Poses:
    """Poses from world to camera, [4, 4], by name of image."""
    poses = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, *numbers = line.split()
            if len(numbers) != 25:
                raise ValueError(f"a line of {path} must hold a name and 25 numbers, got {len(numbers)}")
            poses[name] = np.array(numbers[9:], dtype=np.float64).reshape(4, 4)
    return poses


def poses_of(model: Any) -> Poses:
    """Poses from world to camera, [4, 4], of the registered images; of none without a model."""
    poses = {}
    for image in () if model is None else model.images.values():
        if image.has_pose:
            poses[image.name] = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
    return poses


def pose_errors(estimated: Poses, known: Poses) -> np.ndarray:
    """Angles in degrees between relative rotations, and between directions of translation, of all pairs, [2, P]."""
    pairs = list(itertools.combinations(sorted(known), 2))
    errors = np.full((2, len(pairs)), 180.0)
    both = [i for i, pair in enumerate(pairs) if estimated.keys() >= set(pair)]
    if both:
        found, true = (
            np.stack([poses[pairs[i][1]] @ np.linalg.inv(poses[pairs[i][0]]) for i in both])
            for poses in (estimated, known)
        )
        errors[:, both] = pose_error(found[:, :3, :3], found[:, :3, 3], true)
    return errors


def from_matches(
    args: argparse.Namespace, matches: Path, name: str, seed: int
) -> tuple[Any, int, float, float]:
    """The model, the number of images that may be in it, and the seconds of verification and of mapping."""
    out: Path = args.out
    database = out / f"{name}.db"
    start = time.perf_counter()
    written = write_colmap(
        out / "features.h5",
        matches,
        database,
        args.images,
        camera_mode=args.camera_mode,
        seed=seed,
        progress=True,
    )
    verified = time.perf_counter()
    model = reconstruct(database, args.images, out / "sparse" / name, seed)
    return model, written.num_images, verified - start, time.perf_counter() - verified


def from_features(args: argparse.Namespace, weights: str) -> dict[str, Any]:
    """Match, verify and reconstruct with some weights, print what came out of it, and return it."""
    out: Path = args.out
    name = Path(weights).stem
    matches = out / f"matches-{name}.h5"
    seconds = {}
    start = time.perf_counter()
    summary = match_pairs(
        out / "features.h5", out / "pairs.txt", matches, weights, args.device, progress=True
    )
    seconds["match"] = time.perf_counter() - start
    model, images, seconds["verify"], seconds["map"] = from_matches(args, matches, name, 0)
    registered = 0 if model is None else model.num_reg_images()
    result: dict[str, Any] = {"weights": weights, "pairs": summary.num_pairs, "images": images}
    result |= {"registered": registered, "seconds": {k: round(v, 1) for k, v in seconds.items()}}
    print(f"\n{weights}")
    print(f"registered    {registered} of {images} images")
    if model is not None:
        result |= {"points": model.num_points3D(), "observations": model.compute_num_observations()}
        result["track_length"] = model.compute_mean_track_length()
        result["reprojection_error"] = model.compute_mean_reprojection_error()
        print(f"points        {result['points']}, seen in {result['track_length']:.1f} images each")
        print(f"reprojection  {result['reprojection_error']:.2f} px")
    if args.cameras is not None:
        known = read_cameras(args.cameras)
        rotation, direction = pose_errors(poses_of(model), known)
        worse = np.maximum(rotation, direction)
        result["pose_errors"] = [float(np.median(worse))]
        start = time.perf_counter()
        for seed in range(1, args.repeats):
            again = from_matches(args, matches, f"{name}-{seed}", seed)[0]
            result["pose_errors"] += [float(np.median(pose_errors(poses_of(again), known).max(0)))]
        result["pose_error"] = float(np.median(result["pose_errors"]))
        result["pairs_within_5_degrees"] = float((worse < 5).mean())
        result["rotation_error"], result["direction_error"] = (
            float(np.median(rotation)),
            float(np.median(direction)),
        )
        print(
            f"pose error    median {np.median(worse):.3f} degrees (rotation {np.median(rotation):.3f}, direction "
            f"{np.median(direction):.3f}), {(worse < 5).mean():.1%} of pairs within 5, worst {worse.max():.2f}"
        )
        if args.repeats > 1:
            result["seconds"]["repeat"] = round(time.perf_counter() - start, 1)
            print(
                f"              median of {args.repeats} models {result['pose_error']:.3f} degrees, "
                f"from {min(result['pose_errors']):.3f} to {max(result['pose_errors']):.3f}"
            )
    print("seconds       " + " ".join(f"{stage}={value}" for stage, value in result["seconds"].items()))
    return result


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--weights", default="aliked-sparse", help="pretrained matcher (%(default)s)")
    parser.add_argument("--compare", help="other weights for the same detector, such as aliked-lightglue")
    parser.add_argument("--pairs", default="exhaustive", choices=["exhaustive", "sequential", "retrieval"])
    parser.add_argument("--top-k", type=int, default=20, help="images that each is paired with (%(default)s)")
    parser.add_argument("--max-keypoints", type=int, default=2048)
    parser.add_argument("--resize", type=int, default=1024, help="longer side for detection (%(default)s)")
    parser.add_argument("--camera-mode", default="single", choices=CAMERA_MODES, help="(%(default)s)")
    parser.add_argument("--cameras", type=Path, help="known cameras")
    parser.add_argument(
        "--repeats", type=int, default=1, help="models to compare with the known cameras (%(default)s)"
    )
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    if args.repeats < 1 or (args.repeats > 1 and args.cameras is None):
        parser.error(f"--repeats must be 1, or more with --cameras to compare with, got {args.repeats}")
    if args.compare is not None and Path(args.compare).stem == Path(args.weights).stem:
        parser.error(
            f"files are named after the weights, which must differ, got {Path(args.weights).stem} twice"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    pycolmap.logging.minloglevel = pycolmap.logging.WARNING.value
    start = time.perf_counter()
    detector = extractor(detector_of(args.weights) or "aliked", max_num_keypoints=args.max_keypoints)
    found = extract_features(
        args.images, args.out / "features.h5", detector.to(args.device), args.resize, progress=True
    )
    for name, reason in found.failed.items():
        print(f"left out {name}: {reason}")
    write_pair_list(args.out / "features.h5", args.out / "pairs.txt", args.pairs, args.top_k)
    print(f"features of {found.num_images} images in {time.perf_counter() - start:.1f} s")
    results = [
        from_features(args, weights) for weights in [args.weights, *([args.compare] if args.compare else [])]
    ]
    (args.out / "reconstruction.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
