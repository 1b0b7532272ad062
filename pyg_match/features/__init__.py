"""Keypoint detectors: one small adapter for each."""

from pyg_match.features.aliked import ALIKED
from pyg_match.features.by_name import extractor
from pyg_match.features.disk import DISK
from pyg_match.features.extractor import Extractor
from pyg_match.features.image import load_image, resize_image
from pyg_match.features.sift import SIFT, RootSIFT
from pyg_match.features.xfeat import XFeat

__all__ = [
    "ALIKED",
    "DISK",
    "SIFT",
    "Extractor",
    "RootSIFT",
    "XFeat",
    "extractor",
    "load_image",
    "resize_image",
]
