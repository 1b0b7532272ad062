"""Features of a collection of images, wherever they are."""

from pathlib import Path

from pyg_match.collections.feature_file import FeatureFile
from pyg_match.files import user_path

_HDF5, _SQLITE = b"\x89HDF\r\n\x1a\n", b"SQLite format 3\0"


def open_features(path: str | Path) -> FeatureFile:
    """Open the features of a collection.

    Args:
        path: An HDF5 file in hloc's layout, a COLMAP database, or a folder with one ``.npz`` file for each image.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is none of these, or cannot be read.
        ModuleNotFoundError: If the package is missing that reads it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> arrays = {
        ...     "keypoints": np.zeros((3, 2)),
        ...     "descriptors": np.ones((3, 8)),
        ...     "image_size": np.array([64, 48]),
        ... }
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.jpg.npz", **arrays)
        ...     with open_features(folder) as features:
        ...         features.names(), features.read("a.jpg").num_keypoints
        (['a.jpg'], 3)
    """
    path = user_path(path)
    if path.is_dir():
        from pyg_match.collections.npz_features import NpzFeatures

        return NpzFeatures(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no features at {path}")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_HDF5):
        from pyg_match.collections.hloc_features import HlocFeatures

        return HlocFeatures(path)
    if head == _SQLITE:
        from pyg_match.collections.colmap_features import ColmapFeatures

        return ColmapFeatures(path)
    raise ValueError(
        f"{path} begins with {head!r}, expected an HDF5 file, a COLMAP database, or a folder of .npz files"
    )
