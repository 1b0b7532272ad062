"""Features in a folder, one .npz file for each image."""

import hashlib
import os
from pathlib import Path

import numpy as np

from pyg_match.collections.feature_file import FeatureFile, check_arrays, keypoint_set, sampled_digest
from pyg_match.data import KeypointSet
from pyg_match.files import walk


class NpzFeatures(FeatureFile):
    r"""Features of other tools as arrays: the image ``a/b.jpg`` has the file ``a/b.jpg.npz``.

    Each file holds ``keypoints`` :math:`(N, 2)`, ``descriptors`` :math:`(N, D)` or :math:`(D, N)`, ``image_size``, and
    perhaps ``scores``, ``scales`` and ``oris``, the latter in degrees.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        files = (Path(folder, name) for folder, _, names in walk(self.path) for name in names)
        names = (file.relative_to(self.path).as_posix() for file in files if file.suffix == ".npz")
        return sorted(name for name in (name.removesuffix(".npz") for name in names) if _is_inside(name))

    def num_keypoints(self, name: str) -> int | None:
        return len(self._arrays(name, "keypoints")["keypoints"]) if self._has(name) else None

    def _read(self, name: str) -> KeypointSet:
        arrays = self._arrays(name)
        check_arrays(arrays)
        descriptors = arrays["descriptors"]
        if descriptors.ndim == 2 and not _is_by_keypoint(descriptors, len(arrays["keypoints"])):
            descriptors = descriptors.T
        return keypoint_set(arrays, descriptors)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for name in self.names():
            digest.update(f"{name} {sampled_digest(self._file(name))} ".encode())
        return digest.hexdigest()[:32]

    def close(self) -> None:
        pass  # files are open only while they are read

    def _has(self, name: str) -> bool:
        return _is_inside(name) and os.path.isfile(self._file(name))

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npz"

    def _arrays(self, name: str, *keys: str) -> dict[str, np.ndarray]:
        try:
            with np.load(self._file(name)) as file:
                arrays = {key: file[key] for key in file.files if not keys or key in keys}
        except Exception as error:  # zip files and headers fail in many ways
            raise ValueError(f"{self._file(name)} is not a readable .npz file: {error}") from error
        if "keypoints" not in arrays:
            raise ValueError(f"{self._file(name)} lacks 'keypoints', got {', '.join(arrays)}")
        if arrays["keypoints"].ndim == 0:
            raise ValueError(f"'keypoints' in {self._file(name)} must have shape [N, 2], got []")
        return arrays


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder, written in one way; ``./a.jpg`` would be ``a.jpg`` once more."""
    return not {"", ".", ".."} & set(name.split("/"))


def _is_by_keypoint(descriptors: np.ndarray, count: int) -> bool:
    """Whether descriptors are in rows, of which there are as many as keypoints; of a square array by their length."""
    if descriptors.shape != (count, count):
        return descriptors.shape[0] == count
    rows, columns = (np.allclose(np.linalg.norm(descriptors, axis=axis), 1, atol=1e-2) for axis in (1, 0))
    if rows == columns:
        raise ValueError(
            f"'descriptors' of shape [{count}, {count}] do not tell whether they are in rows or columns"
        )
    return bool(rows)
