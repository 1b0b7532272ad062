"""Features in hloc's HDF5 layout: a group for each image."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from pyg_match.collections.feature_file import FeatureFile, check_arrays, keypoint_set
from pyg_match.data import KeypointSet

SETTINGS = "pyg_match"  # attribute of files that this package wrote


class HlocFeatures(FeatureFile):
    r"""Features that hloc or :func:`~pyg_match.collections.extract_features` wrote.

    The group of an image, which is nested where its name has slashes, holds the datasets ``keypoints``
    :math:`(N, 2)` in pixels of the original image, ``descriptors`` :math:`(D, N)`, ``keypoint_scores`` or ``scores``
    :math:`(N)`, ``image_size`` :math:`(2)`, and for SIFT ``scales`` and ``oris`` :math:`(N)`.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no HDF5 file, or is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path)
        self.upright = SETTINGS in self._file.attrs

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
            keypoints = self._file.get(f"{name}/keypoints") if name.strip("/.") else None
        return len(keypoints) if isinstance(keypoints, h5py.Dataset) else None

    def _read(self, name: str) -> KeypointSet:
        group = self._file[name]
        datasets = {key: np.asarray(item) for key, item in group.items() if isinstance(item, h5py.Dataset)}
        check_arrays(datasets)
        return keypoint_set(datasets, datasets["descriptors"].T)

    def copy(self, name: str, target: Any) -> None:
        """Copy the features of an image as they are to an open :class:`h5py.File` that has none of it."""
        with _damage(self.path):
            group = target.require_group(name)
            for key, item in self._file[name].items():
                if isinstance(item, h5py.Dataset):
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
) -> None:
    """Write the features of an image in hloc's layout.

    Args:
        file: The open :class:`h5py.File`.
        name: Name of the image.
        keypoints: Its features.
        half: Whether keypoints are written in half precision as by hloc, with which pixels beyond 1,024 are off by up
            to half a pixel. All else is in half precision anyway.
        uncertainty: Length in pixels of the original image of a pixel of the one that was looked at.
        is_sift: Whether scores are named ``scores`` and there are ``scales`` and ``oris``, as hloc has it for SIFT.
    """
    arrays: dict[str, np.ndarray] = {
        "keypoints": _numpy(keypoints.pos, np.float16 if half else np.float32),
        "descriptors": _numpy(keypoints.x, np.float16).T,
        "image_size": keypoints.image_size.view(2).cpu().numpy().astype(np.int64),
    }
    if "score" in keypoints:
        arrays["scores" if is_sift else "keypoint_scores"] = _numpy(keypoints.score, np.float16)
    if is_sift:
        arrays["scales"] = _numpy(keypoints.scale, np.float16)
        arrays["oris"] = _numpy(keypoints.orientation, np.float16)
    group = file.create_group(name)
    for key, array in arrays.items():
        group.create_dataset(key, data=array)
    group["keypoints"].attrs["uncertainty"] = uncertainty


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading.

    Raises:
        ValueError: If it is none, or is cut off.
    """
    try:
        return h5py.File(path, "r", libver="latest")
    except OSError as error:
        raise ValueError(f"{path} is not a whole HDF5 file: {error}") from error


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


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _numpy(tensor: torch.Tensor, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is read
        return tensor.detach().cpu().numpy().astype(dtype)
