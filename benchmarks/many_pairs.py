"""Matching many pairs: packed batches against one pair after the other, and writing the matches.

    python benchmarks/many_pairs.py

Features with random descriptors lie in a file in hloc's layout; all peers read them from there and write the matches,
and use the same matcher on the same graphs.

    packed        this package: images read once, edges within images drawn once, pairs in batches, a batch a core
    one by one    a loop over pairs, as in hloc: both images read, one pair matched on all cores, one group written

Rows of `what=write` write the matches of pairs of 256 keypoints that are known already: this package's writer, h5py
with one open file, and h5py with a file that is opened again for each pair, as in hloc.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch
from common import Bench, Call, Target, parser

from pyg_match.collections import MatchJob, Shard, open_features
from pyg_match.collections.hloc_features import new_hdf5, write_keypoint_set
from pyg_match.collections.hloc_matches import HlocMatchesWriter
from pyg_match.collections.match_job import ShardMatcher
from pyg_match.collections.matching import PairMatches, one_core_each
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import graph_from_recipe

PACKED, ONE = "packed", "one by one"
OURS, HANDLE, REOPENED = "ours", "h5py, one file", "h5py, opened for each pair"
FASTER, SHARE, WRITTEN = 1.5, 0.1, 20_000  # at 256 keypoints; of the time; pairs in a second


def write_features(path: Path, names: Sequence[str], num_keypoints: int) -> None:
    """Keypoints all over images of 640 x 480 pixels."""
    with new_hdf5(path) as file:
        for name in names:
            keypoints = KeypointSet(
                pos=torch.rand(num_keypoints, 2) * torch.tensor([639.0, 479.0]),
                x=torch.nn.functional.normalize(torch.randn(num_keypoints, 128), dim=1),
                score=torch.rand(num_keypoints),
                image_size=(640, 480),
            )
            write_keypoint_set(file, name, keypoints)


def write_group(file: h5py.File, name: str, matches0: np.ndarray, scores0: np.ndarray) -> None:
    group = file.create_group(name)
    group.create_dataset("matches0", data=matches0)
    group.create_dataset("matching_scores0", data=scores0)


def make_peers(
    folder: Path, num_keypoints: int, pairs: np.ndarray, weights: str
) -> dict[str, Callable[[], Call]]:
    """What is timed, by name."""
    features = folder / f"{num_keypoints}.h5"
    names = tuple(f"{i:03d}.jpg" for i in range(int(pairs.max()) + 1))
    write_features(features, names, num_keypoints)

    def packed() -> Call:
        matcher = ShardMatcher(MatchJob(features, folder / "shards", weights), torch.get_num_threads())
        matcher.shards.prepare({})
        shard = Shard(0, names, pairs)

        def call() -> None:
            with one_core_each():
                matcher.write(shard, matcher.match(shard, matcher.read(shard)))

        return call

    def one_by_one() -> Call:
        matcher = GraphMatcher.from_pretrained(weights).freeze()
        graph = graph_from_recipe(read_metadata(weights)["graph"])
        opened = open_features(features)

        @torch.inference_mode()
        def call() -> None:
            with h5py.File(folder / "one.h5", "w", libver="latest") as file:
                for i, j in pairs.tolist():
                    pair = KeypointPair.from_sets(opened.read(names[i]), opened.read(names[j]))
                    output = matcher(graph(pair))
                    matches0 = output.matches[:num_keypoints].numpy().astype(np.int16)
                    scores0 = output.scores[:num_keypoints].numpy().astype(np.float16)
                    write_group(file, f"{names[i]}/{names[j]}", matches0, scores0)

        return call

    return {PACKED: packed, ONE: one_by_one}


def make_writers(folder: Path, num_keypoints: int, count: int) -> dict[str, Callable[[], Call]]:
    """Writers of the matches of pairs, by name."""
    images = 1 + int((2 * count) ** 0.5)
    pairs = np.array(list(itertools.combinations(range(images), 2))[:count], dtype=np.int32)
    names = [f"images-{i:05d}.jpg" for i in range(images)]
    generator = np.random.default_rng(0)
    matches0 = np.where(generator.random((count, num_keypoints)) < 0.3, np.arange(num_keypoints), -1).astype(
        np.int16
    )
    scores0 = generator.random((count, num_keypoints)).astype(np.float16)
    matched = matches0 >= 0
    shard = PairMatches(
        pairs=pairs,
        num_keypoints0=np.full(len(pairs), num_keypoints, dtype=np.int32),
        counts=matched.sum(1).astype(np.int32),
        matches=np.stack([np.nonzero(matched)[1], matches0[matched]], axis=1).astype(np.int16),
        scores=scores0[matched],
    )
    path = folder / "written.h5"
    groups = [f"{names[i]}/{names[j]}" for i, j in pairs.tolist()]

    def ours() -> None:
        with new_hdf5(path) as file:
            HlocMatchesWriter(file, {}).write(names, shard)

    def one_file() -> None:
        with h5py.File(path, "w", libver="latest") as file:
            for name, own, scores in zip(groups, matches0, scores0, strict=True):
                write_group(file, name, own, scores)

    def opened_again() -> None:
        path.unlink(missing_ok=True)
        for name, own, scores in zip(groups, matches0, scores0, strict=True):
            with h5py.File(path, "a", libver="latest") as file:
                write_group(file, name, own, scores)

    return {OURS: lambda: ours, HANDLE: lambda: one_file, REOPENED: lambda: opened_again}


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [32, 256, 512, 2048])
    made.add_argument("--weights", default="aliked-sparse")
    made.add_argument("--pairs", type=int, default=64, help="of 256 keypoints; fewer of more (%(default)s)")
    made.add_argument("--written", type=int, default=2000, help="pairs to write (%(default)s)")
    made.set_defaults(budget=30.0, limit=120.0)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    rates, targets = [], []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in args.sizes:
            count = max(8, args.pairs * 256 // max(size, 64))
            images = next(n for n in itertools.count(2) if n * (n - 1) // 2 >= count)
            pairs = np.array(list(itertools.combinations(range(images), 2))[:count], dtype=np.int32)
            labels = {"what": "match", "n": size, "pairs": count}
            timings = bench.time(labels, make_peers(folder, size, pairs, args.weights), reference=PACKED)
            for peer, timing in timings.items():
                rates.append({"n": size, "peer": peer, "pairs_per_second": count / timing.seconds})
            if size == 256:
                faster = bench.ratio([ONE], PACKED, **labels)
                targets.append(Target("packed against one by one, N=256", faster, FASTER))
        writing = {"what": "write", "n": 256, "pairs": args.written}
        timings = bench.time(writing, make_writers(folder, 256, args.written), reference=OURS)
        for peer, timing in timings.items():
            rates.append(
                {"n": 256, "peer": f"write: {peer}", "pairs_per_second": args.written / timing.seconds}
            )
    rate = {(row["n"], row["peer"]): row["pairs_per_second"] for row in rates}
    written, matched = rate[256, f"write: {OURS}"], rate.get((256, PACKED))
    targets.append(Target("pairs written in a second", written, WRITTEN, ""))
    share = None if matched is None else matched / (matched + written)
    targets.append(Target("share of writing, N=256", share, SHARE, "", at_least=False))
    for row in rates:
        print(f"N={row['n']}, {row['peer']}: {row['pairs_per_second']:.1f} pairs/s")
    bench.finish(targets, rates=rates)


if __name__ == "__main__":
    main()
