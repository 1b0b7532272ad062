"""Data and runs of ablation.py: one matcher fine-tuned and judged for each set of settings."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Optional

import torch
from ablation_options import Settings, plain
from ablation_tables import Record
from eval_tables import COARSE_SETS
from hpatches_eval import cached_features
from surroundings import surroundings
from torch.utils.data import Dataset

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import HPatches, rescale_homography
from pyg_match.metrics import homography_ground_truth
from pyg_match.nn import GraphMatcher
from pyg_match.training import TrainingConfig, config_from_dict
from pyg_match.training.validation import mean_metrics, pair_metrics
from pyg_match.transforms import graph_from_recipe

PACKAGES = (
    "torch",
    "torch-geometric",
    "kornia",
    "lightning-fabric",
    "numpy",
    "pyg-match",
)  # their versions are recorded


def labelled(sets: Sequence[KeypointSet], homography: torch.Tensor, count: int) -> KeypointPair:
    """A pair of the ``count`` best-scored keypoints of both images, labelled among these."""
    kept = []
    for full in sets:
        keep = full.score.argsort(descending=True, stable=True)[:count].sort().values
        nodes = {
            name: full[name][keep] for name in ("pos", "x", "score", "scale", "orientation") if name in full
        }
        kept.append(KeypointSet(**nodes, image_size=full.image_size))
    set0, set1 = kept
    truth = homography_ground_truth(set0.pos, set1.pos, homography, set0.image_size, set1.image_size)
    return KeypointPair.from_sets(set0, set1, y=torch.cat(truth), homography=homography)


class Pairs(Dataset[KeypointPair]):
    """Pairs in memory, each made when it is first asked for, with the edges of a graph drawn anew each time."""

    def __init__(self, count: int, make: Callable[[int], KeypointPair]) -> None:
        self.count, self.make = count, make
        self.made: dict[int, KeypointPair] = {}
        self.graph = graph_from_recipe([])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> KeypointPair:
        if index not in self.made:
            self.made[index] = self.make(index)
        pair: KeypointPair = self.graph(self.made[index])
        return pair


class Laboratory:
    """The data of all runs of a process, and what it takes to do one."""

    def __init__(
        self,
        base: Settings,
        images: Path,
        sequences: Optional[Path],
        cache: Path,
        count: int,
        device: str = "cpu",
    ) -> None:
        from pyg_match.training.data import make_datasets

        torch.set_num_threads(1)  # so that runs are alike, however many go on at once
        config = config_from_dict(base)
        self.count, self.device, extractor = count, device, config.data.extractor
        self.datasets = make_datasets(replace(config, graph=[]), images, cache)
        self.train, self.held_out = (
            Pairs(len(dataset), partial(self._synthetic, dataset)) for dataset in self.datasets
        )
        found = [] if sequences is None else list(HPatches(sequences))
        self.sequences = [pair for pair in found if pair.set_name not in COARSE_SETS]
        self.features = cached_features(cache / "sequences", extractor, config.data.max_num_keypoints)
        self.real = Pairs(len(self.sequences), self._real)

    def _synthetic(self, dataset: Any, index: int) -> KeypointPair:
        pair = dataset[index]
        return labelled([pair.image(0), pair.image(1)], pair.homography[0], self.count)

    def _real(self, index: int) -> KeypointPair:
        pair = self.sequences[index]
        sets = self.features(pair.path0), self.features(pair.pathk)
        return labelled(sets, rescale_homography(pair.homography, sets[0].resize, sets[1].resize), self.count)

    def prepare(self, workers: int) -> None:
        """Find all features that the cache lacks."""
        for dataset in self.datasets:
            dataset.prepare(num_workers=workers if workers > 1 else 0, progress=True)
        for index in range(len(self.real)):
            print(f"\rsequences: pair {index + 1} of {len(self.real)}", end="", file=sys.stderr)
            self.real[index]
        print(file=sys.stderr)

    @cached_property
    def data(self) -> Settings:
        """What the data is, in words and as a fingerprint."""
        prints = [dataset.shards.fingerprint for dataset in self.datasets]
        names = [f"{pair.set_name}/{pair.sequence}/{pair.k}" for pair in self.sequences]
        return {
            "keypoints": self.count,
            "photos": [len(dataset.paths) for dataset in self.datasets],
            "real": dict(Counter(pair.set_name for pair in self.sequences)),
            "fingerprint": hashlib.sha256(json.dumps([prints, names]).encode()).hexdigest()[:24],
        }

    def run(self, config: TrainingConfig) -> Record:
        """Train and measure."""
        from pyg_match.training.loop import train

        began = time.perf_counter()
        self.train.graph = self.held_out.graph = self.real.graph = graph_from_recipe(config.graph)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            file = train(config, None, folder, (self.train, []), accelerator=self.device, devices=1)
            if file.suffix != ".safetensors":
                raise KeyboardInterrupt
            matcher = GraphMatcher.from_pretrained(file).to(self.device)
        seconds = time.perf_counter() - began
        places = {"synthetic": self.held_out, "real": self.real}
        found = {place: pair_metrics(matcher, pairs) for place, pairs in places.items() if len(pairs) > 0}
        metrics = {place: mean_metrics(numbers) for place, numbers in found.items()}
        single = {
            place: {
                name: [None if value != value else round(value, 4) for value in numbers[name]]
                for name in ("recall", "precision")
            }
            for place, numbers in found.items()
        }
        took = {"training": round(seconds, 1), "all": round(time.perf_counter() - began, 1)}
        settings = {"training": plain(config), "data": self.data}
        return {
            **surroundings(PACKAGES),
            "settings": settings,
            "metrics": metrics,
            "pairs": single,
            "seconds": took,
        }


_laboratory: Laboratory  # of a worker process


def start_worker(*arguments: Any) -> None:
    global _laboratory
    _laboratory = Laboratory(*arguments)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker shall not outlive a parent that was killed
        threading.Thread(target=leave_with, args=(parent,), daemon=True).start()


def leave_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def work(config: TrainingConfig, deadline: float) -> Optional[Record]:
    return _laboratory.run(config) if time.time() < deadline else None


def do_runs(
    arguments: tuple[Any, ...], missing: Mapping[str, TrainingConfig], workers: int, deadline: float
) -> Iterator[tuple[str, Optional[Record]]]:
    """The names of the runs and their records as they come; ``None`` for those that the budget did not allow."""
    if workers == 1:
        start_worker(*arguments)
        for name, config in missing.items():
            yield name, work(config, deadline)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker, arguments) as pool:
        futures = {pool.submit(work, config, deadline): name for name, config in missing.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
