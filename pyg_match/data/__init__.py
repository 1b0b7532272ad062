"""Keypoints of one image, and of a pair of images, as PyG graphs."""

import torch

from pyg_match.data.edges import scales, sorted_edges
from pyg_match.data.keypoint_pair import KeypointPair
from pyg_match.data.keypoint_set import KeypointSet

__all__ = ["KeypointPair", "KeypointSet", "scales", "sorted_edges"]

# As PyG does for its own, so that datasets of them load with weights_only=True.
torch.serialization.add_safe_globals([KeypointPair, KeypointSet])
