"""Features of a collection of images: what all formats have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch

from pyg_match.collections.exif import size_in_file, to_upright, turned_angles
from pyg_match.data import KeypointSet

_SAMPLES, _SAMPLE = 64, 1 << 16  # parts of a file that its digest looks at, and bytes of each

# hloc's names, of which a later one counts where there are several.
_OPTIONAL = {"scores": "score", "keypoint_scores": "score", "scales": "scale"}


class FeatureFile(ABC):
    """The features of a collection of images, read one image at a time; a context manager that closes it.

    Subclasses read a format; :func:`~pyg_match.collections.open_features` chooses the one of a path.

    Attributes:
        path: Where the features are.
    """

    path: Path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all images, sorted."""

    @abstractmethod
    def num_keypoints(self, name: str) -> int | None:
        """The number of keypoints of an image, ``None`` if the file has no such image.

        Raises:
            ValueError: If the file is damaged there.
        """

    @abstractmethod
    def _read(self, name: str) -> KeypointSet:
        """The features of an image that the file has."""

    def read(self, name: str) -> KeypointSet:
        """The features of an image.

        Raises:
            KeyError: If the file has no such image.
            ValueError: If its features are damaged or lack what a matcher needs.
        """
        if self.num_keypoints(name) is None:
            raise KeyError(f"{self.path} has no features of {name!r}")
        try:
            keypoints = self._read(name)
            keypoints.validate()
            if "image_size" not in keypoints:
                raise ValueError("it has no 'image_size', by which positions are normalized")
        except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
            reason = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise ValueError(f"the features of {name!r} in {self.path} cannot be used: {reason}") from error
        return keypoints

    def orientation(self, name: str) -> int | None:
        """How the photo that keypoints are of lies in its file, from 1 to 8 as in EXIF.

        It is 1 for keypoints in the pixels of the file, and ``None`` for those of a photo that was turned upright if
        only the photo tells.
        """
        return 1

    def detectors(self) -> tuple[str, ...]:
        """Names of the detectors of which one has found the keypoints; none if the file does not tell."""
        return ()

    def digest(self) -> str:
        """A digest of the size of the file and of samples of it, the same for a copy."""
        return sampled_digest(self.path)

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


def check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays of an image, by hloc's names, that lack what a matcher needs.

    Raises:
        ValueError: If they do.
    """
    missing = [key for key in ("keypoints", "descriptors", "image_size") if key not in arrays]
    if missing:
        raise ValueError(f"it lacks {missing[0]!r}, got {', '.join(arrays)}")


def keypoint_set(
    arrays: Mapping[str, np.ndarray], descriptors: np.ndarray, orientation: int = 1
) -> KeypointSet:
    """The features of an image, upright, of arrays by hloc's names.

    Args:
        arrays: See :func:`check_arrays`; angles are in degrees, scales are standard deviations.
        descriptors: The descriptors, one row for each keypoint.
        orientation: How the photo lies in its file, in whose pixels the arrays are; see :func:`.exif.exif_orientation`.

    Shapes:
        - **descriptors:** :math:`(N, D)`
    """
    optional = {name: _float(arrays[key]) for key, name in _OPTIONAL.items() if key in arrays}
    if "scale" in optional:
        optional["scale"] = 2 * optional["scale"]  # a diameter, of what files hold as a standard deviation
    if "oris" in arrays:
        angles = np.deg2rad(np.asarray(arrays["oris"], dtype=np.float32))
        optional["orientation"] = _float(turned_angles(angles, orientation, to_upright))
    position, size = _float(arrays["keypoints"]), tuple(arrays["image_size"].reshape(-1).tolist())
    if orientation > 1:
        width, height = size
        position = _float(to_upright(position.numpy(), orientation, width, height))
        size = size_in_file(width, height, orientation)
    return KeypointSet(pos=position, x=_float(descriptors), image_size=size, **optional)


def _float(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def sampled_digest(path: Path) -> str:
    """A digest of the size of a file and of samples spread over it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]
