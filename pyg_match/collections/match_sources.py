"""Matches of a collection from wherever they are."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.hloc_matches import HlocMatches, group_name
from pyg_match.collections.pair_lists import read_pairs
from pyg_match.collections.shard_files import ShardFolder
from pyg_match.files import user_path

Matches = tuple[str, str, np.ndarray]


class MatchSource(ABC):
    """Matches of pairs, those left out that name an image without features.

    Attributes:
        missing: The pairs that were left out, or have no matches.
    """

    def __init__(self, features: FeatureFile, path: Path, settings: dict[str, Any]) -> None:
        self.missing: list[tuple[str, str]] = []
        self._features = features
        made_of = settings.get("features")
        if made_of is not None and made_of != features.digest():
            raise ValueError(
                f"the matches in {path} were made of other features than those in {features.path}"
            )

    @abstractmethod
    def names(self) -> set[str]:
        """Names of the images of all pairs."""

    @abstractmethod
    def count(self) -> int:
        """Number of pairs."""

    @abstractmethod
    def pairs(self) -> Iterator[Matches]:
        """Names and matches of each pair, :math:`(M, 2)`."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    def _known(self, *names: str) -> bool:
        return all(self._features.num_keypoints(name) is not None for name in names)


def open_matches(path: str | Path, features: FeatureFile, pairs: str | Path | None = None) -> MatchSource:
    """Open the matches of a collection.

    Args:
        path: A file of matches in hloc's layout, or a folder of shards.
        features: The features that they are of.
        pairs: A list of pairs to take from a file; all that it has by default.

    Raises:
        FileNotFoundError: If there are no such matches or pairs.
        ValueError: If they cannot be used, or are of other features.
    """
    path = user_path(path)
    if not path.is_dir():
        return _OneFile(path, features, pairs)
    if pairs is not None:
        raise ValueError(f"a list of pairs chooses from a file of matches, got the folder {path}")
    return _Shards(path, features)


class _Shards(MatchSource):
    """Matches in shards, of which one at a time is in memory."""

    def __init__(self, folder: Path, features: FeatureFile) -> None:
        self._shards = ShardFolder(folder)
        settings = self._shards.settings()
        super().__init__(features, folder, settings)
        numbers = self._shards.numbers()
        if len(numbers) != settings.get("shards", len(numbers)):
            raise ValueError(
                f"only {len(numbers)} of {settings['shards']} shards in {folder} are finished; match the other pairs "
                "first"
            )
        self._headers = [self._shards.header(number) for number in numbers]

    def names(self) -> set[str]:
        return {name for names, _ in self._headers for name in names if self._known(name)}

    def count(self) -> int:
        return sum(count for _, count in self._headers)

    def pairs(self) -> Iterator[Matches]:
        for name0, name1, matches, _ in self._shards.pairs():
            if self._known(name0, name1):
                yield name0, name1, matches
            else:
                self.missing.append((name0, name1))

    def close(self) -> None:
        pass  # shards are open only while they are read


class _OneFile(MatchSource):
    """Matches in a file, of a list of pairs or of all that it has."""

    def __init__(self, path: Path, features: FeatureFile, pairs: str | Path | None) -> None:
        self._file = HlocMatches(path)
        super().__init__(features, path, self._file.settings)
        listed = self._all() if pairs is None else (pair for _, pair in read_pairs(pairs))
        self._pairs: dict[frozenset[str], tuple[str, str]] = {}
        for pair in listed:
            if self._known(*pair):
                self._pairs.setdefault(frozenset(pair), pair)
            else:
                self.missing.append(pair)

    def _all(self) -> Iterator[tuple[str, str]]:
        names: dict[str, str] = {}
        for name in self._features.names():
            other = names.setdefault(group_name(name), name)
            if other != name:
                raise ValueError(
                    f"{other!r} and {name!r} share a name in {self._file.path}; give a list of pairs"
                )
        for first, second in self._file.pairs():
            yield names.get(first, first), names.get(second, second)

    def names(self) -> set[str]:
        return {name for pair in self._pairs.values() for name in pair}

    def count(self) -> int:
        return len(self._pairs)

    def pairs(self) -> Iterator[Matches]:
        for pair in self._pairs.values():
            found = self._file.find(*pair)
            if found is None:
                self.missing.append(pair)
            else:
                yield (*pair, found[0])

    def close(self) -> None:
        self._file.close()
