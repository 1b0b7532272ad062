"""Matches of a collection from wherever they are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.hloc_matches import HlocMatches, group_name
from pyg_match.collections.pair_lists import read_pairs
from pyg_match.collections.shard_files import ShardFolder
from pyg_match.files import user_path

Matches = tuple[str, str, np.ndarray]


@dataclass
class MatchSource:
    """Matches of pairs, those left out that name an image without features.

    Attributes:
        names: Names of the images of all pairs.
        count: Number of pairs.
        pairs: Names and matches of each pair, :math:`(M, 2)`, which are read one after the other.
        missing: The pairs that were left out, or have no matches; more of them as ``pairs`` are read.
    """

    names: set[str]
    count: int
    pairs: Iterator[Matches]
    missing: list[tuple[str, str]]


@contextmanager
def open_matches(
    path: str | Path, features: FeatureFile, pairs: str | Path | None = None
) -> Iterator[MatchSource]:
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
        with HlocMatches(path) as file:
            _check_features(file.settings, path, features)
            listed = _all_pairs(file, features) if pairs is None else (pair for _, pair in read_pairs(pairs))
            yield _of_file(file, listed, features)
        return
    if pairs is not None:
        raise ValueError(f"a list of pairs chooses from a file of matches, got the folder {path}")
    yield _of_shards(ShardFolder(path), features)


def _of_shards(shards: ShardFolder, features: FeatureFile) -> MatchSource:
    """Matches in shards, of which one at a time is in memory."""
    settings, numbers = shards.settings(), shards.numbers()
    _check_features(settings, shards.folder, features)
    if len(numbers) != settings.get("shards", len(numbers)):
        raise ValueError(
            f"only {len(numbers)} of {settings['shards']} shards in {shards.folder} are finished; match the other "
            "pairs first"
        )
    headers = [shards.header(number) for number in numbers]
    names = {name for listed, _ in headers for name in listed if features.num_keypoints(name) is not None}
    missing: list[tuple[str, str]] = []

    def pairs() -> Iterator[Matches]:
        for name0, name1, matches, _ in shards.pairs():
            if name0 in names and name1 in names:
                yield name0, name1, matches
            else:
                missing.append((name0, name1))

    return MatchSource(names, sum(count for _, count in headers), pairs(), missing)


def _of_file(file: HlocMatches, listed: Iterable[tuple[str, str]], features: FeatureFile) -> MatchSource:
    """Matches in a file, of the pairs that are listed."""
    known: dict[frozenset[str], tuple[str, str]] = {}
    missing: list[tuple[str, str]] = []
    for pair in listed:
        if all(features.num_keypoints(name) is not None for name in pair):
            known.setdefault(frozenset(pair), pair)
        else:
            missing.append(pair)

    def pairs() -> Iterator[Matches]:
        for pair in known.values():
            found = file.find(*pair)
            if found is None:
                missing.append(pair)
            else:
                yield (*pair, found[0])

    return MatchSource({name for pair in known.values() for name in pair}, len(known), pairs(), missing)


def _all_pairs(file: HlocMatches, features: FeatureFile) -> Iterator[tuple[str, str]]:
    """The pairs of a file, by the names that their images have among the features."""
    names: dict[str, str] = {}
    for name in features.names():
        other = names.setdefault(group_name(name), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} share a name in {file.path}; give a list of pairs")
    for first, second in file.pairs():
        yield names.get(first, first), names.get(second, second)


def _check_features(settings: dict[str, Any], path: Path, features: FeatureFile) -> None:
    made_of = settings.get("features")
    if made_of is not None and made_of != features.digest():
        raise ValueError(f"the matches in {path} were made of other features than those in {features.path}")
