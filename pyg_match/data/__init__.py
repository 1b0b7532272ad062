"""Keypoints of one image, and of a pair of images, as PyG graphs."""

from pyg_match.data.edges import scales, sorted_edges
from pyg_match.data.keypoint_pair import KeypointPair
from pyg_match.data.keypoint_set import KeypointSet

__all__ = ["KeypointPair", "KeypointSet", "scales", "sorted_edges"]
