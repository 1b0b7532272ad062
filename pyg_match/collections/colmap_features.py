"""Features in a COLMAP database."""

import hashlib
from pathlib import Path

import numpy as np
import pycolmap
import torch

from pyg_match.collections.feature_file import FeatureFile
from pyg_match.data import KeypointSet

_SAMPLES = 64  # images whose numbers a digest looks at
# Databases of old versions do not tell.
_SIFT = (pycolmap.FeatureExtractorType.SIFT, pycolmap.FeatureExtractorType.UNDEFINED)


class ColmapFeatures(FeatureFile):
    """Features that COLMAP extracted: SIFT, with scales and orientations, or its learned ones.

    COLMAP opens a database for writing, even if nothing is written. It counts pixels from the corner of the image; here
    the centre of the first pixel is (0, 0).

    Args:
        path: The database.

    Raises:
        ValueError: If it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._database = pycolmap.Database.open(path)
            self._images = {image.name: image for image in self._database.read_all_images()}
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a readable COLMAP database: {error}") from error

    def names(self) -> list[str]:
        return sorted(name for name in self._images if self.num_keypoints(name) is not None)

    def num_keypoints(self, name: str) -> int | None:
        image = self._images.get(name)
        if image is None or not self._database.exists_keypoints(image.image_id):
            return None
        return int(self._database.num_keypoints_for_image(image.image_id))

    def _read(self, name: str) -> KeypointSet:
        image = self._images[name]
        camera = self._database.read_camera(image.camera_id)
        keypoints = self._database.read_keypoints(image.image_id)
        if not self._database.exists_descriptors(image.image_id):
            raise ValueError("the database has its keypoints, but no descriptors")
        stored = self._database.read_descriptors(image.image_id)
        is_sift = stored.type in _SIFT
        descriptors = np.asarray(stored.data if is_sift else stored.to_float().data, dtype=np.float32)
        if is_sift:  # roots of shares in bytes, rounded
            descriptors /= np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)
        keypoints = np.ascontiguousarray(keypoints, dtype=np.float32)
        shape = _scale_orientation(keypoints)
        return KeypointSet(
            pos=torch.from_numpy(keypoints[:, :2] - np.float32(0.5)),
            x=torch.from_numpy(descriptors),
            image_size=(camera.width, camera.height),
            **{key: torch.from_numpy(value) for key, value in shape.items()},
        )

    def detectors(self) -> tuple[str, ...]:
        """See :meth:`FeatureFile.detectors`; that of the first image that has descriptors."""
        described = (
            i.image_id for i in self._images.values() if self._database.exists_descriptors(i.image_id)
        )
        first = next(described, None)
        if first is None:
            return ()
        kind = self._database.read_descriptors(first).type
        if kind in _SIFT:
            return ("sift", "rootsift")
        name = kind.name.lower()
        return ("aliked",) if name.startswith("aliked") else (name,)

    def digest(self) -> str:
        # The bytes of a database change whenever COLMAP opens it.
        digest = hashlib.sha256()
        names = self.names()
        for i, name in enumerate(names):
            digest.update(f"{name} {self.num_keypoints(name)} ".encode())
            if i % -(-len(names) // _SAMPLES) == 0:
                image = self._images[name].image_id
                digest.update(np.ascontiguousarray(self._database.read_keypoints(image)).tobytes())
                digest.update(np.ascontiguousarray(self._database.read_descriptors(image).data).tobytes())
        return digest.hexdigest()[:32]

    def close(self) -> None:
        self._database.close()


def _scale_orientation(keypoints: np.ndarray) -> dict[str, np.ndarray]:
    """Scales and orientations of keypoints with four columns, or with an affine shape in the last four of six."""
    if keypoints.shape[1] == 4:
        scale, orientation = keypoints[:, 2], keypoints[:, 3]
    elif keypoints.shape[1] == 6:
        a11, a12, a21, a22 = keypoints[:, 2:].T
        scale = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2
        orientation = np.arctan2(a21, a11)
    else:
        return {}
    return {
        "scale": np.ascontiguousarray(2 * scale, dtype=np.float32),  # a diameter
        "orientation": np.ascontiguousarray(orientation, dtype=np.float32),
    }
