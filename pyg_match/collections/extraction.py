"""Features of all images of a folder in one file."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from pyg_match._version import __version__
from pyg_match.collections.exif import exif_orientation
from pyg_match.collections.file_lock import locked
from pyg_match.collections.hloc_features import (
    SETTINGS,
    HlocFeatures,
    new_hdf5,
    open_hdf5,
    stored_settings,
    write_keypoint_set,
)
from pyg_match.collections.progress import ProgressReport
from pyg_match.collections.shard_files import check_settings
from pyg_match.data import KeypointSet
from pyg_match.datasets.sources import describe_module, find_images
from pyg_match.features import SIFT, Extractor
from pyg_match.files import process_name, real_path, shown_path, sweep, whole_path

_PART = 32  # images of a part, which is what an interrupted run loses at most
# Of images that are none, or are too large for the memory, of which torch tells by a RuntimeError.
_FAILURES = (OSError, ValueError, TypeError, MemoryError, RuntimeError, cv2.error)


@dataclass
class ExtractSummary:
    """Summary of what :func:`extract_features` did.

    Attributes:
        output: The file of features.
        num_images: Number of images that it has features of.
        extracted: Number of images whose features were found this time.
        failed: What is wrong with each image that was left out.
        seconds: Time spent.
    """

    output: Path
    num_images: int
    extracted: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def extract_features(
    images: str | Path,
    output: str | Path,
    extractor: Extractor,
    resize: int | None = 1024,
    half: bool = False,
    progress: bool = False,
) -> ExtractSummary:
    """Find the keypoints of all images of a folder, and write them in hloc's layout.

    Images whose features the file already has are left alone, so that the same call goes on where one was
    interrupted, and adds what is new in the folder. Until all is there, features are kept in the folder
    ``<output>.parts``.

    Args:
        images: The folder, with all its subfolders. The name of an image is its path in there.
        output: The file.
        extractor: The detector.
        resize: Longer side of the image in pixels at which keypoints are detected; ``None`` for the original size.
        half: Whether keypoints are written in half precision, as hloc does by default, which rounds positions: by up to
            0.5 pixels from 1,024 on, 1 from 2,048 on, and 2 from 4,096 on. Descriptors and scores are in half
            precision anyway.
        progress: Whether to report progress on standard error.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If no image can be used, the file was made with other settings, or another process extracts features
            to it.
        OSError: If features cannot be written. What is finished stays, and the same call goes on from there.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from skimage.data import coffee
        >>> from pyg_match.features import extractor
        >>> def photos(folder):
        ...     for name, shift in (("a.png", 0), ("b.png", 20)):
        ...         Image.fromarray(coffee()[shift : 240 + shift, shift : 320 + shift]).save(
        ...             f"{folder}/{name}"
        ...         )
        >>> with TemporaryDirectory() as folder:
        ...     photos(folder)
        ...     extract_features(folder, f"{folder}/f.h5", extractor("sift", 64), resize=320).num_images
        2
    """
    output = real_path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder '{output.parent}' to write {output.name} to")
    paths, names = find_images(images)
    # A detector with a digest of all that its keypoints depend on.
    digest = hashlib.sha256(json.dumps(describe_module(extractor), sort_keys=True).encode()).hexdigest()[:12]
    described = f"{extractor!r} {digest}"
    settings = {"extractor": described, "resize": resize, "half": half, "version": __version__}
    with _parts(output, settings) as parts:
        done = parts.names()
        summary = ExtractSummary(output, len(done))
        missing = []
        for path, name in zip(paths, names, strict=True):
            if shown_path(name) != name:
                summary.failed[shown_path(name)] = "the file cannot hold its name, which is not UTF-8"
            elif name not in done:
                missing.append((path, name))
        with ProgressReport("images", len(names), shown=progress) as report:
            report.skip(len(names) - len(missing))
            for start in range(0, len(missing), _PART):
                chosen = missing[start : start + _PART]
                found = _extract(extractor, chosen, resize, summary.failed)
                if found:
                    parts.write(found, isinstance(extractor, SIFT))
                summary.extracted += len(found)
                report.advance(len(chosen))
            summary.seconds = report.seconds
        summary.num_images += summary.extracted
        if summary.num_images == 0:
            name, reason = next(iter(summary.failed.items()))
            raise ValueError(f"none of the {len(names)} images can be used; {name!r}: {reason}")
        parts.merge()
    return summary


class _Found(NamedTuple):
    """The features of an image, upright, and how it lies in its file."""

    name: str
    keypoints: KeypointSet
    orientation: int


def _extract(
    extractor: Extractor, images: list[tuple[Path, str]], resize: int | None, failed: dict[str, str]
) -> list[_Found]:
    """Features of the images that can be used; what is wrong with the others is added to ``failed``."""
    paths, names = zip(*images, strict=True)
    try:
        sets = extractor.extract_batch(paths, resize=resize)
        return list(map(_Found, names, sets, map(exif_orientation, paths)))
    except _FAILURES:  # each alone tells which of them it is
        found = []
    for path, name in images:
        try:
            found.append(_Found(name, extractor.extract(path, resize=resize), exif_orientation(path)))
        except _FAILURES as error:
            failed[name] = str(error) or type(error).__name__
    return found


@contextmanager
def _parts(output: Path, settings: Mapping[str, Any]) -> Iterator["_Parts"]:
    """The parts of a file, which only one process writes at a time."""
    folder = output.with_name(f"{output.name}.parts")
    folder.mkdir(exist_ok=True)
    lock = folder / "lock"
    lock.touch()
    with locked(lock, wait=False) as alone:
        if not alone:
            raise ValueError(
                f"another process extracts features to {output}; wait for it or choose another output"
            )
        try:
            yield _Parts(output, folder, settings)
        finally:
            _remove(lock)
    if os.name == "nt":  # where open files cannot be deleted
        _remove(lock)


def _remove(lock: Path) -> None:
    """Delete a file and its folder, unless parts of an interrupted call are in there."""
    with suppress(OSError):
        lock.unlink(missing_ok=True)
        lock.parent.rmdir()


class _Parts:
    """A file of features that is put together from parts, each of which is a whole file."""

    def __init__(self, output: Path, folder: Path, settings: Mapping[str, Any]) -> None:
        self.output, self.folder = output, folder
        self._settings = json.dumps(dict(settings), sort_keys=True)
        sweep(self.folder)
        sweep(output.parent, name=output.name)
        for file in self._files():
            with open_hdf5(file) as opened:
                if SETTINGS not in opened.attrs:
                    raise ValueError(f"{file} was not written by this command; choose another output")
                check_settings(file, stored_settings(opened, file), settings)
        self._half = bool(settings["half"])
        self._resize = settings["resize"]

    def _files(self) -> list[Path]:
        written = [self.output] if self.output.exists() else []
        return [*written, *sorted(self.folder.glob("*.h5"))]

    def names(self) -> set[str]:
        """The images whose features are there."""
        names: set[str] = set()
        for file in self._files():
            with HlocFeatures(file) as features:
                names.update(features.names())
        return names

    def write(self, found: list[_Found], is_sift: bool) -> None:
        """Keep the features of some images."""
        self.folder.mkdir(exist_ok=True)
        count = sum(1 for _ in self.folder.glob("*.h5"))
        # Where the file system has no locks, another process may do the same.
        part = self.folder / f"{count:08d}-{process_name()}.h5"
        with whole_path(part) as temporary, new_hdf5(temporary) as file:
            file.attrs[SETTINGS] = self._settings
            for name, keypoints, orientation in found:
                longer = int(keypoints.image_size.max())
                uncertainty = 1.0 if self._resize is None else longer / self._resize
                write_keypoint_set(file, name, keypoints, self._half, uncertainty, is_sift, orientation)

    def merge(self) -> None:
        """Put all parts into the file, and delete them."""
        files = self._files()
        if files != [self.output]:
            with whole_path(self.output) as temporary, new_hdf5(temporary) as merged:
                merged.attrs[SETTINGS] = self._settings
                for path in files:
                    with HlocFeatures(path) as features:
                        for name in features.names():
                            # It is there already if a call ended before it could delete parts.
                            if f"{name}/keypoints" not in merged:
                                features.copy(name, merged)
        for path in files:
            if path != self.output:
                path.unlink(missing_ok=True)
