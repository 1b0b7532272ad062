"""Pairs that take long to make, kept on disk."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pyg_match.checks import whole_number
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.data.keypoint_pair import NODE_ATTRIBUTES
from pyg_match.datasets.progress import progress_bar
from pyg_match.datasets.shards import CorruptShardError, PairShards
from pyg_match.features.image import load_image

_NAMED = 10  # damaged photos that an error names


class CachedPairs(Dataset[KeypointPair]):
    """What datasets share that make a pair from its number alone, which a subclass does in :meth:`make`.

    Attributes:
        paths: The photos.
        num_pairs: Number of pairs.
        shards: The cache; ``None`` makes each pair anew whenever it is asked for.
        repair: Make corrupt files of the cache anew instead of raising an error.
    """

    paths: Sequence[Path]
    num_pairs: int
    seed: int
    min_num_keypoints: int | None
    max_num_keypoints: int | None
    shards: PairShards | None
    repair: bool

    def make(self, index: int) -> KeypointPair:
        """Make a pair, past the cache, as it would come back from there."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> "CachedPairs":
        """Make pairs on a device from now on; they come back on the CPU."""
        for module in self._modules():
            module.to(device)
        return self

    def _modules(self) -> list[nn.Module]:
        """What computes, on a device."""
        found = (getattr(self, name, None) for name in ("extractor", "teacher"))
        return [module for module in found if isinstance(module, nn.Module)]

    def __len__(self) -> int:
        return self.num_pairs

    def __iter__(self) -> Iterator[KeypointPair]:
        return (self[index] for index in range(len(self)))

    def prepare(self, num_workers: int = 0, progress: bool = False) -> int:
        """Fill the cache: find the keypoints of all pairs that it lacks, in order.

        It may be killed at any moment and goes on with the shard that it was at. Processes that prepare the same
        cache at once do not harm each other, but do not share the work either.

        Args:
            num_workers: Processes that find keypoints, with one thread each. 0 does it in this process, with
                all threads that torch uses.
            progress: Whether to show a progress bar, or to print lines to stderr where that is no terminal.

        Returns:
            The number of pairs that were made.

        Raises:
            ValueError: If there is no cache, processes are to find keypoints on another device than the CPU, photos
                cannot be read (all of them are named, before any work is done), or a shard is corrupt and is not to be
                repaired.
            OSError: If a shard cannot be written, for instance to a full disk. The shards before it remain.
        """
        shards = self.shards
        if shards is None:
            raise ValueError("there is nothing to prepare without a cache; pass cache=FOLDER")
        devices = {parameter.device for module in self._modules() for parameter in module.parameters()}
        if num_workers > 0 and devices - {torch.device("cpu")}:
            raise ValueError(
                f"'num_workers' must be 0 where keypoints are found on {devices.pop()}, got {num_workers}"
            )
        shards.sweep()
        missing = [shard for shard in range(len(shards)) if not self._has(shards, shard)]
        order = [index for shard in missing for index in shards.indices(shard)]
        if order:
            check_photos(self.paths)
        # With a generator of its own, since a loader draws from torch's global one otherwise.
        options: Any = {"num_workers": num_workers, "generator": torch.Generator()}
        loader: Any = DataLoader(order, None, collate_fn=self.make, **options)  # type: ignore[arg-type]
        with progress_bar("finding keypoints", len(self), len(self) - len(order), progress) as advance:
            pairs = iter(loader)
            for shard in missing:
                made = []
                for _ in shards.indices(shard):
                    made.append(next(pairs))
                    advance()
                if not shards.file(shard).is_file():  # else another process was faster
                    shards.write(shard, made)
        return len(order)

    def _has(self, shards: PairShards, shard: int) -> bool:
        try:
            return shards.read(shards.indices(shard).start) is not None
        except CorruptShardError:
            if not self.repair:
                raise
            shards.remove(shard)
            return False

    def load(self, index: int) -> KeypointPair:
        """A pair from the cache; made, and not kept, if its shard is not there."""
        if self.shards is None:
            return self.make(index)
        try:
            found = self.shards.read(index)
        except CorruptShardError:
            if not self.repair:
                raise
            shard = index // self.shards.shard_size
            self.shards.write(shard, [self.make(other) for other in self.shards.indices(shard)])
            found = self.shards.read(index)
        return self.make(index) if found is None else found

    def _set_limits(self, least: int | None, most: int | None) -> None:
        """Check the numbers of keypoints that pairs are limited to, and keep them."""
        most = None if most is None else whole_number("max_num_keypoints", most)
        least = None if least is None else whole_number("min_num_keypoints", least, least=0)
        if least is not None and not 1 <= least <= (most or 0):
            raise ValueError(
                f"'min_num_keypoints' must be None or between 1 and 'max_num_keypoints' = {most}, got {least}"
            )
        self.min_num_keypoints, self.max_num_keypoints = least, most

    def _limit(self, index: int) -> int | None:
        """The number of keypoints that the views of a pair are limited to, log-uniformly drawn, if it is drawn."""
        smallest, largest = self.min_num_keypoints, self.max_num_keypoints
        if smallest is None or largest is None:
            return None
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "keypoints", index))
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        return round(smallest * (largest / smallest) ** share)

    def _index(self, index: int) -> int:
        index = whole_number("index", index, least=-sys.maxsize)
        if not -self.num_pairs <= index < self.num_pairs:
            raise IndexError(f"pair {index} does not exist, there are {self.num_pairs}")
        return int(index) % self.num_pairs


def check_photos(paths: Sequence[Path]) -> None:
    """Decode all photos once: a damaged one would be met late, and the cache is of no use without it.

    Raises:
        ValueError: If some cannot be read. They are named, if there are not too many.
    """
    damaged = []
    for path in paths:
        try:
            load_image(path)
        except (OSError, ValueError) as error:
            damaged.append(f"{path.name}: {error}")
    if damaged:
        shown = "; ".join(damaged[:_NAMED]) + ("; ..." if len(damaged) > _NAMED else "")
        raise ValueError(f"{len(damaged)} of {len(paths)} photos cannot be read ({shown}); remove them")


def best(keypoints: KeypointSet, count: int | None) -> Tensor:
    """Numbers of the keypoints with the highest scores; of all, in their order, if there is no limit or no more."""
    if count is None or keypoints.num_keypoints <= count:
        return torch.arange(keypoints.num_keypoints, device=keypoints.pos.device)
    return torch.argsort(keypoints.score, descending=True, stable=True)[:count]


def subset(keypoints: KeypointSet, keep: Tensor) -> KeypointSet:
    """Some keypoints of an image."""
    kept = {name: keypoints[name][keep] for name in NODE_ATTRIBUTES if name in keypoints}
    return KeypointSet(**kept, image_size=keypoints.image_size)


def derived_seed(seed: int, purpose: str, index: int) -> int:
    """Independent seeds for each pair and purpose, also for neighbouring numbers."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
