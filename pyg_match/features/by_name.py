"""Extractors by name."""

from typing import Any

from pyg_match.checks import shown
from pyg_match.features.aliked import ALIKED
from pyg_match.features.disk import DISK
from pyg_match.features.extractor import Extractor
from pyg_match.features.sift import SIFT, RootSIFT
from pyg_match.features.xfeat import XFeat

_CLASSES: dict[str, type[Extractor]] = {
    "aliked": ALIKED,
    "disk": DISK,
    "xfeat": XFeat,
    "sift": SIFT,
    "rootsift": RootSIFT,
}
EXTRACTORS = tuple(_CLASSES)


def extractor(name: str, max_num_keypoints: int | None = 2048, **kwargs: Any) -> Extractor:
    """Make an extractor by name.

    Args:
        name: ``"aliked"``, ``"disk"``, ``"xfeat"``, ``"sift"`` or ``"rootsift"``.
        max_num_keypoints: Keep at most this many keypoints, those with the highest scores. ``None`` keeps
            all.
        **kwargs: Further arguments of the class, such as ``detection_threshold``.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> extractor("rootsift", max_num_keypoints=512)
        RootSIFT(max_num_keypoints=512)
    """
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(f"unknown extractor {shown(name)}; expected one of {', '.join(EXTRACTORS)}")
    return _CLASSES[name](max_num_keypoints=max_num_keypoints, **kwargs)
