"""COLMAP databases of features and matches."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from pyg_match.checks import one_of
from pyg_match.collections.exif import exif_orientation, size_in_file, to_file
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.feature_formats import open_features
from pyg_match.collections.match_sources import Matches, open_matches
from pyg_match.collections.progress import ProgressReport
from pyg_match.files import user_path
from pyg_match.spinner import spinner

CAMERA_MODES = ("auto", "single", "per-folder", "per-image")
_TOGETHER = 1024  # pairs of a transaction
_KEPT = 1024  # images whose keypoints stay in memory


@dataclass
class ColmapSummary:
    """Summary of what :func:`write_colmap` did.

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
        ValueError: If one of them cannot be used, an image has another size than its features say, the database has
            other keypoints or matches, or an option is unknown.

    Example:
        >>> import h5py
        >>> from PIL import Image
        >>> from tempfile import TemporaryDirectory
        >>> pos = 64 * np.random.default_rng(0).random((40, 2))
        >>> arrays = {"keypoints": pos, "descriptors": np.ones((40, 8)), "image_size": np.array([64, 64])}
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.png", "b.png"):
        ...         Image.new("RGB", (64, 64)).save(f"{folder}/{name}")
        ...         np.savez(f"{folder}/{name}.npz", **arrays)
        ...     with h5py.File(f"{folder}/matches.h5", "w") as file:
        ...         file["a.png/b.png/matches0"] = np.arange(40)
        ...         file["a.png/b.png/matching_scores0"] = np.ones(40)
        ...     summary = write_colmap(folder, f"{folder}/matches.h5", f"{folder}/colmap.db", images=folder)
        >>> summary.num_images, summary.num_pairs
        (2, 1)
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
    with ExitStack() as stack:
        collection = stack.enter_context(open_features(features))
        source = stack.enter_context(open_matches(matches, collection, pairs))
        names = sorted(source.names)
        if not names:
            raise ValueError(f"{matches} has no pair of images that {features} has features of")
        missing_files = [name for name in names if not os.path.isfile(images / name)]
        if missing_files:
            raise FileNotFoundError(
                f"there is no image {missing_files[0]!r} in {images} ({len(missing_files)} of {len(names)} are missing)"
            )
        is_new = not database.exists()
        try:
            pycolmap.Database.open(database).close()
            with spinner(f"reading {len(names):,} images", shown=progress):
                pycolmap.import_images(database, images, mode, names, reader)
                opened = stack.enter_context(pycolmap.Database.open(database))
                writer = _Writer(opened, collection, images, options if verify else None)
                writer.write_keypoints(names)
        except BaseException:
            if is_new:  # with images, but without what there is to know of them
                stack.close()
                for ending in ("", "-journal", "-shm", "-wal"):
                    database.with_name(f"{database.name}{ending}").unlink(missing_ok=True)
            raise
        summary = ColmapSummary(database, len(names), missing=source.missing)
        with ProgressReport("pairs", source.count, shown=progress) as report:
            while some := list(islice(source.pairs, _TOGETHER)):
                present = summary.present
                writer.write_pairs(some, summary)
                report.skip(summary.present - present)
                report.advance(len(some) - (summary.present - present))
    return summary


class _Writer:
    """An open database with its images by name."""

    def __init__(self, database: Any, features: FeatureFile, images: Path, options: Any) -> None:
        self._database = database
        self._features = features
        self._folder = images
        self._options = options
        self._images = {image.name: image for image in database.read_all_images()}
        self._cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        self._keypoints = lru_cache(_KEPT)(self._read_keypoints)

    def write_keypoints(self, names: list[str]) -> None:
        """Write the keypoints of images that have none, in COLMAP's pixels.

        Raises:
            ValueError: If the database has no such image or other keypoints, or an image has another size than its
                features say.
        """
        absent = [name for name in names if name not in self._images]
        if absent:
            raise ValueError(
                f"COLMAP left out {len(absent)} of {len(names)} images, such as {absent[0]!r}: images that share a "
                "camera by camera_mode='single' or 'per-folder' must have one size; use 'auto' or 'per-image'"
            )
        with pycolmap.DatabaseTransaction(self._database):
            for name in names:
                number, keypoints = self._images[name].image_id, self._read_keypoints(name)
                if not self._database.exists_keypoints(number):
                    self._database.write_keypoints(number, keypoints)
                    continue
                stored = self._database.read_keypoints(number)
                if stored[:, :2].shape != keypoints.shape or not np.allclose(
                    stored[:, :2], keypoints, atol=1e-3
                ):
                    raise ValueError(
                        f"the database has other keypoints of {name!r} than {self._features.path}; write to another one"
                    )

    def _read_keypoints(self, name: str) -> np.ndarray:
        """Keypoints of an image as COLMAP reads it, counted from the corner of its first pixel."""
        keypoints = self._features.read(name)
        camera = self._cameras[self._images[name].camera_id]
        size = (int(keypoints.image_size[0, 0]), int(keypoints.image_size[0, 1]))
        points, in_file = keypoints.pos.numpy(), (camera.width, camera.height)
        # This package turns photos upright before it looks at them; COLMAP does not.
        orientation = self._features.orientation(name) or exif_orientation(self._folder / name)
        if size_in_file(*size, orientation) != in_file:
            raise ValueError(
                f"{name!r} has {in_file[0]} x {in_file[1]} pixels as COLMAP reads it, but its features are of an image "
                f"of {size[0]} x {size[1]}"
            )
        return to_file(points, orientation, *in_file).astype(np.float32) + np.float32(0.5)

    def write_pairs(self, pairs: list[Matches], summary: ColmapSummary) -> None:
        """Write what the database lacks of some pairs, in one transaction."""
        # Each pair once in either order, and whether it lacks matches and a geometry.
        incomplete: dict[frozenset[str], tuple[Matches, bool, bool]] = {}
        for pair in pairs:
            numbers = [self._images[name].image_id for name in pair[:2]]
            needs_matches = not self._database.exists_matches(*numbers)
            verified = self._options is None or self._database.exists_two_view_geometry(*numbers)
            if not needs_matches:
                self._check_same(numbers, pair)
            if needs_matches or not verified:
                incomplete.setdefault(frozenset(pair[:2]), (pair, needs_matches, not verified))
            else:
                summary.present += 1
        todo = list(incomplete.values())
        with ThreadPoolExecutor() as pool:
            geometries = list(pool.map(lambda item: self._geometry(item[0], item[2]), todo))
        # A transaction that ends with an error is written all the same: what says that a pair is finished comes last.
        with pycolmap.DatabaseTransaction(self._database):
            for (pair, needs_matches, needs_geometry), geometry in zip(todo, geometries, strict=True):
                numbers = [self._images[name].image_id for name in pair[:2]]
                if needs_geometry:
                    self._database.write_two_view_geometry(*numbers, geometry)
                    summary.verified += len(geometry.inlier_matches) > 0
                if needs_matches:
                    self._database.write_matches(*numbers, pair[2].astype(np.uint32))
        summary.num_pairs += len(todo)

    def _check_same(self, numbers: list[int], pair: Matches) -> None:
        """Refuse a pair of which the database has other matches.

        Raises:
            ValueError: If it has.
        """
        stored, found = (
            np.asarray(matches).astype(np.int64)
            for matches in (self._database.read_matches(*numbers), pair[2])
        )
        if not np.array_equal(stored[np.lexsort(stored.T)], found[np.lexsort(found.T)]):
            raise ValueError(
                f"the database has other matches of {pair[0]!r} and {pair[1]!r}; write to another one"
            )

    def _geometry(self, pair: Matches, needed: bool) -> Any:
        """The geometry of a pair, if needed; indices of keypoints are checked in any case."""
        name0, name1, matches = pair
        points = [self._keypoints(name).astype(np.float64) for name in (name0, name1)]
        for name, position, indices in zip((name0, name1), points, matches.T, strict=True):
            if len(indices) > 0 and not 0 <= indices.min() <= indices.max() < len(position):
                raise ValueError(
                    f"the matches of {name0!r} and {name1!r} name keypoint {indices.max()} of {name!r}, which has "
                    f"{len(position)} in {self._features.path}"
                )
        if not needed:
            return None
        cameras = [self._cameras[self._images[name].camera_id] for name in (name0, name1)]
        return pycolmap.estimate_two_view_geometry(
            cameras[0], points[0], cameras[1], points[1], matches.astype(np.uint32), self._options
        )
