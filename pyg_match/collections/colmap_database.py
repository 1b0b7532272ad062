"""COLMAP databases of features and matches."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from pyg_match.checks import one_of
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.feature_formats import open_features
from pyg_match.collections.hloc_matches import HlocMatches, group_name
from pyg_match.collections.pair_lists import read_pairs
from pyg_match.collections.progress import ProgressReport
from pyg_match.collections.shard_files import ShardFolder
from pyg_match.files import user_path

CAMERA_MODES = ("auto", "single", "per-folder", "per-image")
_TOGETHER = 1024  # pairs of a transaction

Matches = tuple[str, str, np.ndarray]


@dataclass
class ColmapSummary:
    """What :func:`write_colmap` did.

    Attributes:
        database: The database.
        num_images: Number of images in it.
        num_pairs: Number of pairs written this time.
        verified: How many of them have a geometry.
        present: Number of pairs that it had before.
        missing: Pairs without matches, or of images that the database has not.
    """

    database: Path
    num_images: int
    num_pairs: int = 0
    verified: int = 0
    present: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)


def write_colmap(
    features: str | Path,
    matches: str | Path,
    database: str | Path,
    images: str | Path,
    pairs: str | Path | None = None,
    camera_model: str = "SIMPLE_RADIAL",
    camera_mode: str = "auto",
    camera_params: str = "",
    verify: bool = True,
    max_error: float = 4.0,
    seed: int = 0,
    progress: bool = False,
) -> ColmapSummary:
    """Write cameras, images, keypoints, matches and verified geometries of pairs to a COLMAP database.

    Pairs are written in one transaction for every 1,024, and pairs that the database has are left alone, so that the
    same call goes on where one was interrupted.

    Args:
        features: See :func:`~pyg_match.collections.open_features`.
        matches: A file of matches in hloc's layout, or a folder of shards.
        database: The database; made if it does not exist.
        images: The folder of the images, from which COLMAP reads sizes and focal lengths.
        pairs: A list of pairs to write; all that there are matches of by default.
        camera_model: COLMAP's name of the model of cameras that are new.
        camera_mode: Which images share a camera: ``"auto"`` (COLMAP's choice by size and focal length), ``"single"``
            (all), ``"per-folder"`` or ``"per-image"``.
        camera_params: Parameters of all new cameras, with commas between them; from the images by default.
        verify: Whether to estimate geometries, without which COLMAP reconstructs nothing.
        max_error: Largest error of an inlier in pixels.
        seed: Seed of the estimation.
        progress: Whether to report progress on standard error.

    Raises:
        FileNotFoundError: If there are no such features, matches, pairs or images.
        ValueError: If one of them cannot be used, an image has another size than its features say, or an option is
            unknown.
    """
    one_of("camera_mode", camera_mode, CAMERA_MODES)
    database, images = user_path(database), user_path(images)
    if not images.is_dir():
        raise FileNotFoundError(f"there is no folder of images at {images}")
    mode = pycolmap.CameraMode.__members__[camera_mode.upper().replace("-", "_")]
    reader = pycolmap.ImageReaderOptions(camera_model=camera_model, camera_params=camera_params)
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.max_error = max_error
    options.ransac.random_seed = seed
    with open_features(features) as collection:
        source = _open_matches(user_path(matches), pairs, collection)
        names = sorted(source.names())
        missing_files = [name for name in names if not (images / name).is_file()]
        if missing_files:
            raise FileNotFoundError(
                f"there is no image {missing_files[0]!r} in {images} ({len(missing_files)} of {len(names)} are missing)"
            )
        is_new = not database.exists()
        try:
            pycolmap.Database.open(database).close()
            pycolmap.import_images(database, images, mode, names, reader)
            opened = pycolmap.Database.open(database)
            writer = _Writer(opened, collection, options if verify else None)
            writer.write_keypoints(names)
        except (ValueError, RuntimeError):
            if is_new:  # with images, but without what there is to know of them
                for ending in ("", "-journal", "-shm", "-wal"):
                    database.with_name(f"{database.name}{ending}").unlink(missing_ok=True)
            raise
        with opened:
            summary = ColmapSummary(database, len(names), missing=source.missing)
            with ProgressReport("pairs", source.count(), shown=progress) as report:
                todo = source.matches()
                while some := list(islice(todo, _TOGETHER)):
                    writer.write_pairs(some, summary)
                    report.advance(len(some))
    return summary


def _open_matches(path: Path, pairs: str | Path | None, features: FeatureFile) -> "_Source":
    if not path.is_dir():
        return _OneFile(path, pairs, features)
    if pairs is not None:
        raise ValueError(f"a list of pairs chooses from a file of matches, got the folder {path}")
    return _Shards(path, features)


class _Source(ABC):
    """Matches of a collection from wherever they are; pairs of images without features are left out."""

    def __init__(self, features: FeatureFile) -> None:
        self.missing: list[tuple[str, str]] = []
        self._features = features

    @abstractmethod
    def names(self) -> set[str]:
        """Names of the images of all pairs."""

    @abstractmethod
    def count(self) -> int:
        """Number of pairs."""

    @abstractmethod
    def matches(self) -> Iterator[Matches]:
        """Names and matches of each pair."""


class _Shards(_Source):
    """Matches in shards, of which one at a time is in memory."""

    def __init__(self, folder: Path, features: FeatureFile) -> None:
        super().__init__(features)
        self._shards = ShardFolder(folder)
        self._shards.settings()  # refuses other folders

    def names(self) -> set[str]:
        return {name for number in self._shards.numbers() for name in self._shards.read(number)[0]}

    def count(self) -> int:
        return sum(len(self._shards.read(number)[1].pairs) for number in self._shards.numbers())

    def matches(self) -> Iterator[Matches]:
        for name0, name1, matches, _ in self._shards.pairs():
            yield name0, name1, matches


class _OneFile(_Source):
    """Matches in a file, of a list of pairs or of all that it has."""

    def __init__(self, path: Path, pairs: str | Path | None, features: FeatureFile) -> None:
        super().__init__(features)
        self._file = HlocMatches(path)
        listed = self._all() if pairs is None else (pair for _, pair in read_pairs(pairs))
        self._pairs: list[tuple[str, str]] = []
        for pair in listed:
            known = all(features.num_keypoints(name) is not None for name in pair)
            (self._pairs if known else self.missing).append(pair)

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
        return {name for pair in self._pairs for name in pair}

    def count(self) -> int:
        return len(self._pairs)

    def matches(self) -> Iterator[Matches]:
        for pair in self._pairs:
            found = self._file.find(*pair)
            if found is None:
                self.missing.append(pair)
            else:
                yield (*pair, found[0])


class _Writer:
    """An open database with its images by name."""

    def __init__(self, database: Any, features: FeatureFile, options: Any) -> None:
        self._database = database
        self._features = features
        self._options = options
        self._images = {image.name: image for image in database.read_all_images()}
        self._cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        self._keypoints: dict[str, np.ndarray] = {}

    def write_keypoints(self, names: list[str]) -> None:
        """Write the keypoints of images that have none, in COLMAP's pixels."""
        with pycolmap.DatabaseTransaction(self._database):
            for name in names:
                image = self._images[name]
                keypoints = self._features.read(name)
                camera = self._cameras[image.camera_id]
                size = tuple(keypoints.image_size.view(-1).tolist())
                if size != (camera.width, camera.height):
                    raise ValueError(
                        f"{name!r} has {camera.width} x {camera.height} pixels as COLMAP reads it, but its features "
                        f"are of an image of {size[0]:g} x {size[1]:g}; is it turned by its EXIF data?"
                    )
                # COLMAP counts from the corner of the first pixel, not from its centre.
                self._keypoints[name] = keypoints.pos.numpy() + np.float32(0.5)
                if not self._database.exists_keypoints(image.image_id):
                    self._database.write_keypoints(image.image_id, self._keypoints[name])

    def write_pairs(self, pairs: list[Matches], summary: ColmapSummary) -> None:
        """Write pairs that the database has not, in one transaction."""
        numbers = [(self._images[one].image_id, self._images[other].image_id) for one, other, _ in pairs]
        new = [not self._database.exists_matches(*number) for number in numbers]
        summary.present += len(pairs) - sum(new)
        chosen = [(number, pair) for number, pair, is_new in zip(numbers, pairs, new, strict=True) if is_new]
        geometries: list[Any] = [None] * len(chosen)
        if self._options is not None:
            with ThreadPoolExecutor() as pool:
                geometries = list(pool.map(self._geometry, (pair for _, pair in chosen)))
        with pycolmap.DatabaseTransaction(self._database):
            for (number, (_, _, matches)), geometry in zip(chosen, geometries, strict=True):
                self._database.write_matches(*number, matches.astype(np.uint32))
                if geometry is not None:
                    self._database.write_two_view_geometry(*number, geometry)
                    summary.verified += len(geometry.inlier_matches) > 0
        summary.num_pairs += len(chosen)

    def _geometry(self, pair: Matches) -> Any:
        name0, name1, matches = pair
        cameras = [self._cameras[self._images[name].camera_id] for name in (name0, name1)]
        points = [self._keypoints[name].astype(np.float64) for name in (name0, name1)]
        return pycolmap.estimate_two_view_geometry(
            cameras[0], points[0], cameras[1], points[1], matches.astype(np.uint32), self._options
        )
