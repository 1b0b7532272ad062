"""Finished shards: a file of matches for each."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pyg_match.collections.file_lock import locked
from pyg_match.collections.matching import PairMatches
from pyg_match.digest import array_digest
from pyg_match.files import readable_folder, sweep, write_whole

_SETTINGS = "settings.json"


class ShardFolder:
    """A folder of finished shards. A file that is there is whole, whatever happens to the process that wrote it.

    A shard is a safetensors file with the arrays of :class:`~pyg_match.collections.matching.PairMatches`; its metadata
    holds the names of its images, and a digest of the settings that it was made with.

    Args:
        folder: The folder; :meth:`prepare` makes it.

    Raises:
        ValueError: If its name is not UTF-8.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> one = np.array([1])
        >>> matches = PairMatches(np.array([[0, 1]]), one, one, np.array([[0, 0]]), np.array([0.9]))
        >>> with TemporaryDirectory() as folder:
        ...     shards = ShardFolder(folder)
        ...     made_with = shards.prepare({"weights": "aliked-sparse"})
        ...     shards.write(0, ("a.jpg", "b.jpg"), matches, made_with)
        ...     [(name0, name1, found.tolist()) for name0, name1, found, scores in shards.pairs()]
        [('a.jpg', 'b.jpg', [[0, 0]])]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = readable_folder(folder)

    def prepare(self, settings: Mapping[str, Any]) -> str:
        """Make the folder, or see that what it holds was made with the same settings; their digest, for shards.

        Raises:
            ValueError: If it was not.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        file = self.folder / _SETTINGS
        there, started = file.exists(), bool(self.numbers())  # in this order, as the file is deleted last
        if started and not (there or file.exists()):
            raise ValueError(
                f"{self.folder} has shards, but no {_SETTINGS}; delete it or choose another output"
            )
        if not started:
            write_whole(file, json.dumps(dict(settings), sort_keys=True).encode())
        check_settings(self.folder, self.settings(), settings)
        return self.made_with()

    def locked(self) -> AbstractContextManager[bool]:
        """Keep other processes out that ask the same; ``False`` if the folder is gone by then."""
        return locked(self.folder / _SETTINGS)

    def made_with(self) -> str:
        """The digest of the settings, which shards have."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:32]

    def settings(self) -> dict[str, Any]:
        """What the shards were made with.

        Raises:
            FileNotFoundError: If there is no such folder of shards.
            ValueError: If it is damaged.
        """
        file = self.folder / _SETTINGS
        if not file.is_file():
            raise FileNotFoundError(f"{self.folder} holds no shards of matches")
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error

    def file(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:08d}.safetensors"

    def numbers(self) -> list[int]:
        """The shards that are finished."""
        files = (file.stem for file in self.folder.glob("*.safetensors"))
        return sorted(int(stem) for stem in files if stem.isdecimal())

    def write(self, number: int, names: tuple[str, ...], matches: PairMatches, made_with: str = "") -> None:
        """Keep a shard.

        Args:
            number: Its number.
            names: The names of its images.
            matches: Its matches.
            made_with: What :meth:`prepare` gave; by default the shard does not tell its settings.

        Raises:
            ValueError: If others have begun to write shards of other settings here.
            OSError: If it cannot be written; nothing of it is left behind then.
        """
        if made_with and made_with != self.made_with():
            raise ValueError(
                f"another process writes shards with other settings to {self.folder}; choose another output"
            )
        arrays = vars(matches)
        metadata = {"names": json.dumps(names), "digest": array_digest(arrays)}
        metadata |= {"made_with": made_with} if made_with else {}
        write_whole(self.file(number), save(arrays, metadata))

    def read(self, number: int) -> tuple[list[str], PairMatches]:
        """Names of images and matches of a shard.

        Raises:
            ValueError: If it is damaged.
        """
        with self._damage(number):
            with safe_open(str(self.file(number)), framework="numpy") as shard:
                arrays = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
                metadata = shard.metadata() or {}
            if metadata.get("digest") != array_digest(arrays):
                raise ValueError("its numbers do not agree with their digest")
            self._check(metadata)
            return json.loads(metadata["names"]), PairMatches(**arrays)

    @contextmanager
    def _damage(self, number: int) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"the shard {self.file(number)} cannot be used: {error}; delete it, and run the command again, which "
                "makes it anew"
            ) from error

    def header(self, number: int) -> tuple[list[str], int]:
        """Names of images and number of pairs of a shard.

        Raises:
            ValueError: If it is damaged.
        """
        with self._damage(number), safe_open(str(self.file(number)), framework="numpy") as shard:
            metadata = shard.metadata()
            self._check(metadata)
            return json.loads(metadata["names"]), shard.get_slice("counts").get_shape()[0]

    def _check(self, metadata: Mapping[str, str]) -> None:
        expected = self.made_with()
        if metadata.get("made_with", expected) != expected:  # those of version 0.2.0 do not tell
            raise ValueError(f"it was not made with the settings in {_SETTINGS}")

    def pairs(self) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """Names, matches :math:`(M, 2)` and scores :math:`(M)` of each pair of all shards."""
        for number in self.numbers():
            names, shard = self.read(number)
            ends = shard.counts.cumsum().tolist()
            for (one, other), start, end in zip(shard.pairs.tolist(), [0, *ends], ends, strict=False):
                yield names[one], names[other], shard.matches[start:end], shard.scores[start:end]

    def delete(self) -> None:
        """Delete all shards, and the folder if nothing else is in it."""
        for file in [*map(self.file, self.numbers()), *self.folder.glob("*.tmp")]:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # Windows keeps what is locked; or something else is in the folder
            (self.folder / _SETTINGS).unlink(missing_ok=True)
            self.folder.rmdir()


def check_settings(path: Path, written: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to go on with what was made with other settings.

    Raises:
        ValueError: If it was.
    """
    settings = json.loads(json.dumps(dict(settings)))  # as it is written: tuples are lists
    names = sorted({*written, *settings})
    different = [name for name in names if written.get(name) != settings.get(name)]
    if different:
        name = different[0]
        raise ValueError(
            f"{path} was made with {name}={written.get(name)!r}, now it is {settings.get(name)!r}; delete it or choose "
            "another output"
        )
