"""The shards that a list of pairs is cut into."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pyg_match.checks import whole_number
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.hloc_matches import group_name
from pyg_match.collections.pair_lists import read_pairs

MOST_KEYPOINTS = 32_767  # of an image, as hloc's layout names keypoints in 16 bits
_WINDOW = 1 << 22  # pairs that are put in order at once
_MOST_IMAGES = 4  # images of a shard, in blocks


@dataclass(frozen=True)
class Shard:
    """Pairs that are matched together.

    Attributes:
        number: Its number in the plan, from 0 on.
        names: Names of the images.
        pairs: For each pair the indices of its images in ``names``, :math:`(P, 2)`.

    Example:
        >>> shard = Shard(0, ("a.jpg", "b.jpg"), np.array([[0, 1]]))
        >>> [shard.names[image] for image in shard.pairs[0]]
        ['a.jpg', 'b.jpg']
    """

    number: int
    names: tuple[str, ...]
    pairs: np.ndarray


class PairPlan:
    """A list of pairs as shards, each of which reads few images and matches many pairs of them.

    Images are numbered as the list names them first, and taken in blocks. The pairs between two blocks go together,
    with those of further blocks while they fit. Memory grows with the number of images but not of pairs: lists of more
    than four million pairs are put in order a part at a time.

    The same list gives the same shards. A pair that is listed again, in either order, is left out, and so is an image
    paired with itself. Pairs that are listed again more than four million pairs later are matched again, and written
    once.

    Args:
        path: The list of pairs.
        features: The features that the pairs are of.
        block: Images of a block; a shard has at most its square of pairs.

    Attributes:
        num_pairs: Number of pairs to match.
        num_shards: Number of shards.
        repeated: Number of pairs that are listed more than once.
        missing: Images without features, and the first line that names each; their pairs are left out.
        left_out: Number of pairs that are left out for that, or as they pair an image with itself.
        digest: A digest of the pairs.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If the list is no list of pairs, none of its images has features, an image has more than 32,767
            keypoints, or two names are the same once ``/`` is written as ``-``, by which matches are named.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyg_match.collections import open_features, write_pairs
        >>> arrays = {
        ...     "keypoints": np.zeros((3, 2)),
        ...     "descriptors": np.ones((3, 8)),
        ...     "image_size": np.array([64, 48]),
        ... }
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.jpg", "b.jpg"):
        ...         np.savez(f"{folder}/{name}.npz", **arrays)
        ...     _ = write_pairs(f"{folder}/pairs.txt", [("a.jpg", "b.jpg"), ("a.jpg", "c.jpg")])
        ...     with open_features(folder) as features:
        ...         plan = PairPlan(f"{folder}/pairs.txt", features)
        >>> plan.num_pairs, plan.missing
        (1, {'c.jpg': 2})
    """

    def __init__(self, path: str | Path, features: FeatureFile, block: int = 32) -> None:
        self.path = Path(path)
        self.block = whole_number("block", block)
        self.missing: dict[str, int] = {}
        self.left_out = 0
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._groups: dict[str, str] = {}
        self._features = features
        listed = 0
        self.num_pairs = self.num_shards = 0
        digest = hashlib.sha256()
        for pairs in self._windows():
            listed += len(pairs)
            pairs = _in_order(pairs, self.block)
            self.num_pairs += len(pairs)
            self.num_shards += sum(1 for _ in _cuts(pairs, self.block))
            digest.update(np.ascontiguousarray(pairs).tobytes())
        digest.update("\n".join(self._names).encode())
        self.repeated = listed - self.num_pairs
        self.digest = digest.hexdigest()[:32]
        if self.num_pairs == 0:
            example = f", such as {next(iter(self.missing))!r}" if self.missing else ""
            raise ValueError(
                f"no pair of {path} can be matched: {len(self.missing)} of its images have no features{example}"
            )

    def __iter__(self) -> Iterator[Shard]:
        number = 0
        for window in self._windows():
            pairs = _in_order(window, self.block)
            for start, end in _cuts(pairs, self.block):
                images, local = np.unique(pairs[start:end], return_inverse=True)
                names = tuple(self._names[image] for image in images.tolist())
                yield Shard(number, names, local.reshape(-1, 2).astype(np.int32))
                number += 1

    def _windows(self) -> Iterator[np.ndarray]:
        """The listed pairs of images by number, some millions at a time."""
        self.left_out = 0
        pairs = self._known_pairs()
        while len(window := np.fromiter(islice(pairs, _WINDOW), dtype=np.dtype((np.int32, 2)))):
            yield window

    def _known_pairs(self) -> Iterator[tuple[int, int]]:
        for line, (first, second) in read_pairs(self.path):
            one, other = self._number(first, line), self._number(second, line)
            if one >= 0 and other >= 0 and one != other:
                yield one, other
            else:
                self.left_out += 1

    def _number(self, name: str, line: int) -> int:
        """The number of an image, -1 if it has no features."""
        number = self._numbers.get(name)
        if number is not None:
            return number
        count = self._features.num_keypoints(name)
        if count is None:
            self.missing[name] = line
            return self._numbers.setdefault(name, -1)
        if count > MOST_KEYPOINTS:
            raise ValueError(
                f"{name!r} has {count} keypoints, but matches of at most {MOST_KEYPOINTS} can be written; extract fewer"
            )
        group = group_name(name)
        other = self._groups.setdefault(group, name)
        if other != name:
            raise ValueError(
                f"{other!r} and {name!r} would share the name {group!r} in the file of matches; rename one"
            )
        self._names.append(name)
        return self._numbers.setdefault(name, len(self._names) - 1)


def _in_order(pairs: np.ndarray, block: int) -> np.ndarray:
    """Each pair once, those between two blocks together."""
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    order = np.lexsort((high, low, high // block, low // block))
    low, high = low[order], high[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return pairs[order[first]]


def _cuts(pairs: np.ndarray, block: int) -> Iterator[tuple[int, int]]:
    """Where each shard starts and ends: between two blocks, where more pairs or images would not fit."""
    blocks = np.sort(pairs // block, axis=1)
    changes = np.flatnonzero((blocks[1:] != blocks[:-1]).any(axis=1)) + 1
    bounds = [0, *changes.tolist(), len(pairs)]
    start, images = 0, set[int]()
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        more = set(np.unique(pairs[begin:end]).tolist())
        if end - start > block**2 or len(images | more) > _MOST_IMAGES * block:
            if begin > start:
                yield start, begin
            start, images = begin, set()
        images |= more
    if len(pairs) > start:
        yield start, len(pairs)
