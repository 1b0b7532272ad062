"""Layers, encodings, assignment heads and the matcher."""

from pyg_match.nn.assignment import DualSoftmaxAssignment, SinkhornAssignment
from pyg_match.nn.conv import MaskedAttentionConv, MultiScaleConv, PartitionGCNConv, distance_weights
from pyg_match.nn.encoding import KeypointEncoding, RotaryEncoding, normalize_positions, rotate
from pyg_match.nn.graph_matcher import GraphMatcher
from pyg_match.nn.lightglue import convert_lightglue
from pyg_match.nn.matcher_config import MatcherConfig, MatcherShape, RunOptions
from pyg_match.nn.matcher_layer import AttentionBlock, MatcherLayer
from pyg_match.nn.matcher_output import MatcherOutput
from pyg_match.nn.multi_scale_branch import MultiScaleBranch
from pyg_match.nn.orthogonal import OrthogonalFusion, orthogonality_penalty, orthogonalize
from pyg_match.nn.prepared_pair import PreparedPair

__all__ = [
    "AttentionBlock",
    "DualSoftmaxAssignment",
    "GraphMatcher",
    "KeypointEncoding",
    "MaskedAttentionConv",
    "MatcherConfig",
    "MatcherLayer",
    "MatcherOutput",
    "MatcherShape",
    "MultiScaleBranch",
    "MultiScaleConv",
    "OrthogonalFusion",
    "PartitionGCNConv",
    "PreparedPair",
    "RotaryEncoding",
    "RunOptions",
    "SinkhornAssignment",
    "convert_lightglue",
    "distance_weights",
    "normalize_positions",
    "orthogonality_penalty",
    "orthogonalize",
    "rotate",
]
