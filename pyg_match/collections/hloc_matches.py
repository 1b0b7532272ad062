"""Matches in hloc's HDF5 layout: a group for each pair."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t

from pyg_match.collections.hloc_features import SETTINGS, open_hdf5, stored_settings
from pyg_match.collections.matching import PairMatches
from pyg_match.files import user_path

_MOST_COMPACT = 60_000  # bytes of an array that is kept beside its description, which can take 64 KiB


class HlocMatches:
    r"""Matches that hloc or :func:`~pyg_match.collections.match_pairs` wrote; a context manager that closes the file.

    The group of a pair, ``name0/name1`` where each ``/`` in names is written as ``-``, holds ``matches0`` and
    ``matching_scores0``, each :math:`(N_0)`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no HDF5 file, or is cut off.

    Attributes:
        settings: What they were made with; empty if hloc wrote them.

    Example:
        >>> import h5py
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with h5py.File(f"{folder}/matches.h5", "w") as file:
        ...         file["a.jpg/b.jpg/matches0"] = [1, -1]
        ...         file["a.jpg/b.jpg/matching_scores0"] = [0.9, 0.0]
        ...     with HlocMatches(f"{folder}/matches.h5") as matches:
        ...         matches.find("b.jpg", "a.jpg")[0]
        array([[1, 0]])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there are no matches at {self.path}")
        self._file = open_hdf5(self.path)
        try:
            self.settings = stored_settings(self._file, self.path)
        except ValueError:
            self._file.close()
            raise

    def find(self, name0: str, name1: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Matches and scores of a pair, whichever image the file names first; ``None`` if it has neither.

        Shapes:
            - **output:** :math:`(M, 2)`, indices of keypoints of ``name0`` and ``name1``, and :math:`(M)`

        Raises:
            ValueError: If they are damaged.
        """
        first, second = group_name(name0), group_name(name1)
        for separator in ("/", "_"):  # the latter in files of old versions of hloc
            for reverse, pair in enumerate((f"{first}{separator}{second}", f"{second}{separator}{first}")):
                group = self._file.get(pair)
                if isinstance(group, h5py.Group) and "matches0" in group:
                    return self._matches(pair, bool(reverse))
        return None

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Names of the images of each pair as the file has them, with ``-`` for ``/``.

        Raises:
            ValueError: If a group is named as by old versions of hloc, which does not tell names apart.
        """
        for first in list(self._file):
            group = self._file.get(first)
            if not isinstance(group, h5py.Group):  # of no pair
                continue
            if "matches0" in group:
                raise ValueError(
                    f"{first!r} in {self.path} does not tell which names it is of; give a list of pairs"
                )
            for second in group:
                yield first, second

    def _matches(self, pair: str, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
        try:
            matches0 = np.asarray(self._file[pair]["matches0"])
            stored = self._file[pair].get("matching_scores0")
            scores = np.ones(len(matches0), np.float32) if stored is None else np.asarray(stored, np.float32)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the matches of {pair!r} in {self.path} are damaged: {error}") from error
        if matches0.dtype.kind not in "iu":
            raise ValueError(
                f"the matches of {pair!r} in {self.path} must be whole numbers, got {matches0.dtype}"
            )
        matches0 = matches0.astype(np.int64)
        if matches0.ndim != 1 or matches0.shape != scores.shape:
            raise ValueError(
                f"the matches of {pair!r} in {self.path} must be numbers and scores of each keypoint, got shapes "
                f"{list(matches0.shape)} and {list(scores.shape)}"
            )
        matched = np.flatnonzero(matches0 >= 0)
        columns = [matched, matches0[matched]]
        return np.stack(columns[::-1] if reverse else columns, axis=1), scores[matched]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "HlocMatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HlocMatchesWriter:
    """Writes matches to a new file.

    It writes thousands of small arrays, so it calls HDF5 without the objects that h5py makes for each, and puts arrays
    beside their descriptions. The same pairs in the same order give the same bytes.

    Args:
        file: The open :class:`h5py.File`.
        settings: What the matches were made with, as JSON values.
    """

    def __init__(self, file: Any, settings: Mapping[str, Any]) -> None:
        self._file = file
        self._file.attrs[SETTINGS] = json.dumps(dict(settings), sort_keys=True)
        self._links = h5p.create(h5p.LINK_CREATE)
        self._links.set_char_encoding(h5t.CSET_UTF8)
        self._groups = h5p.create(h5p.GROUP_CREATE)
        self._compact, self._contiguous = h5p.create(h5p.DATASET_CREATE), h5p.create(h5p.DATASET_CREATE)
        self._compact.set_layout(h5d.COMPACT)
        for properties in (self._groups, self._compact, self._contiguous):
            properties.set_obj_track_times(False)
        self._first: tuple[str, Any] = ("", None)

    def write(self, names: list[str], shard: PairMatches) -> int:
        """Write the pairs of a shard that are not there yet, and return their number."""
        ends = shard.num_keypoints0.astype(np.int64).cumsum()
        starts = ends - shard.num_keypoints0
        matches0 = np.full(ends[-1], -1, np.int16)
        scores0 = np.zeros(ends[-1], np.float16)
        keypoints = np.repeat(starts, shard.counts) + shard.matches[:, 0]
        matches0[keypoints], scores0[keypoints] = shard.matches[:, 1], shard.scores
        types = [(b"matches0", matches0, h5t.py_create(matches0.dtype))]
        types += [(b"matching_scores0", scores0, h5t.py_create(scores0.dtype))]
        spaces = {count: h5s.create_simple((count,)) for count in set(shard.num_keypoints0.tolist())}
        groups = [group_name(name) for name in names]
        written = 0
        for (one, other), start, end in zip(
            shard.pairs.tolist(), starts.tolist(), ends.tolist(), strict=True
        ):
            first, second = self._group(groups[one]), groups[other].encode()
            if second in first or self._has(second, groups[one]):
                continue
            group = h5g.create(first, second, self._links, self._groups)
            space = spaces[end - start]
            layout = self._compact if 0 < 2 * (end - start) <= _MOST_COMPACT else self._contiguous
            for name, values, dtype in types:
                dataset = h5d.create(group, name, dtype, space, layout)
                if end > start:
                    dataset.write(space, space, values[start:end], dtype)
            written += 1
        return written

    def _has(self, first: bytes, second: str) -> bool:
        """Whether there is a pair already."""
        root = self._file.id
        return first in root and second.encode() in h5g.open(root, first)

    def _group(self, name: str) -> Any:
        """The group of the first images of pairs."""
        if self._first[0] != name:
            root, encoded = self._file.id, name.encode()
            group = (
                h5g.open(root, encoded)
                if encoded in root
                else h5g.create(root, encoded, self._links, self._groups)
            )
            self._first = (name, group)
        return self._first[1]


def group_name(name: str) -> str:
    """What hloc names an image in the name of a pair.

    Example:
        >>> group_name("left/0001.jpg")
        'left-0001.jpg'
    """
    return name.replace("/", "-")
