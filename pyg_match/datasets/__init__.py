"""Image pairs with known geometry."""

from pyg_match.datasets.feature_cache import FeatureCache
from pyg_match.datasets.homography_warps import HomographyWarps
from pyg_match.datasets.hpatches import HPatches, HPatchesPair, read_homography, rescale_homography
from pyg_match.datasets.photo_pairs import PhotoPairs
from pyg_match.datasets.photometric import Photometric
from pyg_match.datasets.related_photos import related_photos
from pyg_match.datasets.shards import CorruptShardError
from pyg_match.datasets.synthetic import WarpedPair, random_homography, warped_pair
from pyg_match.datasets.synthetic_homographies import SyntheticHomographies

__all__ = [
    "CorruptShardError",
    "FeatureCache",
    "HPatches",
    "HPatchesPair",
    "HomographyWarps",
    "PhotoPairs",
    "Photometric",
    "SyntheticHomographies",
    "WarpedPair",
    "random_homography",
    "read_homography",
    "related_photos",
    "rescale_homography",
    "warped_pair",
]
