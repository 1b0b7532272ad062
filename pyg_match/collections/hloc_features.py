"""Features in hloc's HDF5 layout: a group for each image."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from pyg_match.checks import shown
from pyg_match.collections.exif import size_in_file, to_file, turned_angles
from pyg_match.collections.feature_file import FeatureFile, check_arrays, keypoint_set
from pyg_match.data import KeypointSet
from pyg_match.features.by_name import EXTRACTORS

SETTINGS = "pyg_match"  # attribute of files that this package wrote
ORIENTATION = "orientation"  # attribute of their keypoints


class HlocFeatures(FeatureFile):
    r"""Features that hloc or :func:`~pyg_match.collections.extract_features` wrote.

    The group of an image, which is nested where its name has slashes, holds the datasets ``keypoints``
    :math:`(N, 2)` in pixels of the original image, ``descriptors`` :math:`(D, N)`, ``keypoint_scores`` or ``scores``
    :math:`(N)`, ``image_size`` :math:`(2)`, and for SIFT ``scales`` and ``oris`` :math:`(N)`: standard deviations,
    half of what is ``scale`` here, and angles in degrees.

    Positions and angles are those of the image as it lies in its file. Those that this package found in a photo that
    EXIF turns are read as of the upright photo; the attribute ``orientation`` of ``keypoints`` tells how it lies.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no HDF5 file, or is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path)
        self._is_own = SETTINGS in self._file.attrs

    def names(self) -> list[str]:
        names: list[str] = []

        def visit(name: str) -> None:
            image, _, dataset = name.rpartition("/")
            if dataset == "keypoints" and image and isinstance(self._file[name], h5py.Dataset):
                names.append(image)

        with _damage(self.path):
            self._file.visit(visit)
        return sorted(names)

    def num_keypoints(self, name: str) -> int | None:
        with _damage(self.path):
            # HDF5 leaves these parts out, so that an image would have several names.
            known = "\0" not in name and not {"", "."} & set(name.split("/"))
            keypoints = self._file.get(f"{name}/keypoints") if known else None
        if not isinstance(keypoints, h5py.Dataset):
            return None
        if not keypoints.shape:
            raise ValueError(
                f"the features of {name!r} in {self.path} cannot be used: 'keypoints' must have shape [N, 2], got []"
            )
        return len(keypoints)

    def _read(self, name: str) -> KeypointSet:
        datasets = {key: np.asarray(item) for key, item in _datasets(self._file[name])}
        check_arrays(datasets)
        orientation = self.orientation(name)
        if orientation is None and "oris" in datasets:
            datasets["oris"] = np.rad2deg(datasets["oris"].astype(np.float32))
            if "scales" in datasets:
                datasets["scales"] = datasets["scales"].astype(np.float32) / 2
        return keypoint_set(datasets, datasets["descriptors"].T, orientation or 1)

    def orientation(self, name: str) -> int | None:
        """See :meth:`FeatureFile.orientation`."""
        stored = self._file[name]["keypoints"].attrs.get(ORIENTATION)
        if stored is not None:
            if stored not in range(1, 9):
                raise ValueError(f"the attribute {ORIENTATION!r} must be from 1 to 8, got {stored!r}")
            return int(stored)
        # Version 0.2.0 of this package wrote upright positions, angles in radians, and diameters.
        return None if self._is_own else 1

    def detectors(self) -> tuple[str, ...]:
        """See :meth:`FeatureFile.detectors`."""
        described = str(self.settings().get("extractor", ""))
        name = described.partition("(")[0].lower()
        return (name,) if name in EXTRACTORS else ()

    def settings(self) -> dict[str, Any]:
        """What the features were made with; empty if this package did not make them.

        Raises:
            ValueError: If that is damaged.
        """
        return stored_settings(self._file, self.path)

    def copy(self, name: str, target: Any) -> None:
        """Copy the features of an image as they are to an open :class:`h5py.File` that has none of it."""
        with _damage(self.path):
            group = target.require_group(name)
            for key, item in _datasets(self._file[name]):
                self._file.copy(item, group, key)

    def close(self) -> None:
        self._file.close()


def write_keypoint_set(
    file: Any,
    name: str,
    keypoints: KeypointSet,
    half: bool = False,
    uncertainty: float = 1.0,
    is_sift: bool = False,
    orientation: int = 1,
) -> None:
    """Write the features of an image in hloc's layout.

    Args:
        file: The open :class:`h5py.File`.
        name: Name of the image.
        keypoints: Its features, in the pixels of the upright photo.
        half: Whether keypoints are written in half precision as by hloc. All else is in half precision anyway.
        uncertainty: Length in pixels of the original image of a pixel of the one that was looked at.
        is_sift: Whether scores are named ``scores`` and there are ``scales`` and ``oris``, as hloc has it for SIFT.
        orientation: How the photo lies in its file, in whose pixels the features are written, as hloc does.
    """
    width, height = keypoints.image_size.view(2).long().tolist()
    size = size_in_file(width, height, orientation)
    position = _numpy(keypoints.pos)
    if orientation > 1:
        position = to_file(position, orientation, *size)
    arrays: dict[str, np.ndarray] = {
        "keypoints": _half(position) if half else position,
        "descriptors": _half(_numpy(keypoints.x)).T,
        "image_size": np.array(size, dtype=np.int64),
    }
    if "score" in keypoints:
        arrays["scores" if is_sift else "keypoint_scores"] = _half(_numpy(keypoints.score))
    if is_sift:
        arrays["scales"] = _half(_numpy(keypoints.scale) / 2)
        arrays["oris"] = _half(np.rad2deg(turned_angles(_numpy(keypoints.orientation), orientation, to_file)))
    group = file.create_group(name)
    for key, array in arrays.items():
        group.create_dataset(key, data=array)
    group["keypoints"].attrs["uncertainty"] = uncertainty
    group["keypoints"].attrs[ORIENTATION] = orientation


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading.

    Raises:
        ValueError: If it is none, or is cut off.
    """
    try:
        return h5py.File(path, "r", libver="latest")
    except OSError as error:
        raise ValueError(f"{path} is not a whole HDF5 file: {error}") from error


def stored_settings(file: Any, path: Path) -> dict[str, Any]:
    """What an open :class:`h5py.File` says that it was made with; empty if this package did not write it.

    Raises:
        ValueError: If that is damaged.
    """
    try:
        settings = json.loads(file.attrs.get(SETTINGS, "{}"))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: its attribute {SETTINGS!r} holds {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path} is damaged: its attribute {SETTINGS!r} must hold settings by name, got {shown(settings)}"
        )
    return settings


@contextmanager
def new_hdf5(path: Path) -> Iterator[Any]:
    """A new HDF5 file.

    Raises:
        OSError: If it cannot be written, for example onto a full disk.
    """
    with open(path, "w+b", buffering=0) as plain:
        trying = _TryingFile(plain)
        try:
            with h5py.File(trying, "w", libver="latest") as file:
                yield file
        except (OSError, RuntimeError, KeyError):  # may come of what could not be written
            if trying.error is None:
                raise
        if trying.error is not None:
            raise trying.error


class _TryingFile:
    """A file that remembers that it could not be written instead of telling HDF5, which can end the process then.

    Args:
        file: An open file without a buffer.

    Attributes:
        error: The first error.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None
        self.read, self.readinto = file.read, file.readinto
        self.seek, self.tell, self.flush = file.seek, file.tell, file.flush

    def write(self, content: Any) -> int:
        """Write, unless it has failed before."""
        left = memoryview(content)
        while len(left) > 0 and self.error is None:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self.error = error
        return len(content)

    def truncate(self, size: int) -> int:
        """Change the size, unless writing has failed before."""
        if self.error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size


def _datasets(group: Any) -> list[tuple[str, Any]]:
    """The datasets of a group by name."""
    # Group.items() holds h5py's lock for as long as the traceback of an error in its loop is kept. No other thread, nor
    # this one after the error has come from another, could even close the file.
    items = [(key, group.get(key)) for key in list(group)]
    return [(key, item) for key, item in items if isinstance(item, h5py.Dataset)]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _half(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is read
        return array.astype(np.float16)
