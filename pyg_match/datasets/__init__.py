"""Image pairs with known geometry."""

from pyg_match.datasets.feature_cache import FeatureCache
from pyg_match.datasets.hpatches import HPatches, HPatchesPair, read_homography, rescale_homography
from pyg_match.datasets.synthetic import WarpedPair, random_homography, warped_pair

__all__ = [
    "FeatureCache",
    "HPatches",
    "HPatchesPair",
    "WarpedPair",
    "random_homography",
    "read_homography",
    "rescale_homography",
    "warped_pair",
]
