"""What it takes to match shards, wherever that happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyg_match._version import __version__
from pyg_match.checks import usable_device, whole_number
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.feature_formats import open_features
from pyg_match.collections.matching import PairMatches, match_images
from pyg_match.collections.plan import Shard
from pyg_match.collections.shard_files import ShardFolder
from pyg_match.data import KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import detector_of, read_metadata, weights_digest
from pyg_match.transforms import graph_from_recipe
from pyg_match.weight_registry import DETECTORS

_BATCH_KEYPOINTS = {"cpu": 4096, "other": 131_072}


@dataclass(frozen=True)
class MatchJob:
    """Matching of the features of a collection, written down so that other processes and machines can do a share.

    Args:
        features: See :func:`~pyg_match.collections.open_features`.
        folder: Where finished shards go.
        weights: Pretrained matcher; see :meth:`pyg_match.Matcher.from_pretrained`. Its graph is the one that its file
            names, or the complete one.
        device: Where to match.
        batch_keypoints: Largest number of keypoints in a batch; a pair with more is matched alone. By default 4,096 on
            a CPU, where more are no faster, and 131,072 elsewhere.
        options: Fields of :class:`~pyg_match.nn.MatcherConfig` to override, such as ``filter_threshold``.
        made_with: What :meth:`ShardFolder.prepare` gave; shards are marked with it.

    Raises:
        ValueError: If ``batch_keypoints`` is no positive whole number.

    Example:
        >>> MatchJob(Path("features.h5"), Path("shards")).most_keypoints
        4096
    """

    features: Path
    folder: Path
    weights: str = "aliked-sparse"
    device: str = "cpu"
    batch_keypoints: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    made_with: str = ""

    def __post_init__(self) -> None:
        if self.batch_keypoints is not None:
            whole_number("batch_keypoints", self.batch_keypoints)

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU, where each core takes a batch."""
        return torch.device(self.device).type == "cpu"

    def settings(self) -> dict[str, Any]:
        """What matches depend on besides features and pairs."""
        return {
            "weights": weights_digest(self.weights),
            "options": dict(self.options),
            "batch_keypoints": self.most_keypoints,
            "device": torch.device(self.device).type,
            "version": __version__,
        }

    @property
    def most_keypoints(self) -> int:
        """Most keypoints of a batch."""
        return self.batch_keypoints or _BATCH_KEYPOINTS["cpu" if self.on_cpu else "other"]


def check_detector(features: FeatureFile, weights: str) -> None:
    """Refuse keypoints of another detector than the one that a matcher was trained with.

    Raises:
        ValueError: If they are, as far as both files tell.
    """
    expected, found = detector_of(weights), features.detectors()
    if expected is not None and found and expected not in found:
        raise ValueError(
            f"{features.path} holds keypoints of {' or '.join(found)}, but {weights} was trained with {expected}"
        )


class ShardMatcher:
    """The process's own matcher for the shards of a job.

    Args:
        job: The job.
        threads: Batches that are matched at the same time; see
            :func:`~pyg_match.collections.matching.match_images`.

    Raises:
        FileNotFoundError: If there are no such features or weights.
        ValueError: If they cannot be read, or there is no such device.
    """

    def __init__(self, job: MatchJob, threads: int = 1) -> None:
        device = usable_device(job.device)
        self.job = job
        self.threads = threads
        self.features = open_features(job.features)
        self.shards = ShardFolder(job.folder)
        recipe = None if job.weights in DETECTORS else read_metadata(job.weights).get("graph")
        self._transform = None if recipe is None else graph_from_recipe(recipe)
        matcher = GraphMatcher.from_pretrained(job.weights, **job.options)
        self._matcher = matcher.to(device).freeze()

    def read(self, shard: Shard) -> list[KeypointSet]:
        """The keypoints of the images of a shard.

        Raises:
            ValueError: If those of an image are damaged or do not fit the matcher.
        """
        width = self._matcher.config.in_channels
        sets = []
        for name in shard.names:
            keypoints = self.features.read(name)
            if keypoints.x.size(1) != width:
                raise ValueError(
                    f"{name!r} in {self.features.path} has descriptors of width {keypoints.x.size(1)}, but "
                    f"{self.job.weights} expects {width}"
                )
            sets.append(keypoints)
        return sets

    def match(self, shard: Shard, sets: list[KeypointSet]) -> PairMatches:
        """Match the pairs of a shard."""
        return match_images(
            self._matcher, sets, shard.pairs, self._transform, self.job.most_keypoints, self.threads
        )

    def write(self, shard: Shard, matches: PairMatches) -> None:
        """Keep the matches of a shard."""
        self.shards.write(shard.number, shard.names, matches, self.job.made_with)

    def close(self) -> None:
        """Close the features."""
        self.features.close()
