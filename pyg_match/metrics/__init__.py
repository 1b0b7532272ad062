"""Metrics of matches, and of estimated homographies and poses."""

from pyg_match.metrics.ground_truth import homography_ground_truth
from pyg_match.metrics.homography import error_auc, recall_curve
from pyg_match.metrics.matching import matching_precision, matching_recall, reprojection_error
from pyg_match.metrics.pose import pose_error

__all__ = [
    "error_auc",
    "homography_ground_truth",
    "matching_precision",
    "matching_recall",
    "pose_error",
    "recall_curve",
    "reprojection_error",
]
