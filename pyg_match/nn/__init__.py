"""Layers, encodings, assignment heads and the matcher."""

from pyg_match.nn.encoding import KeypointEncoding, RotaryEncoding, normalize_positions, rotate  # isort: skip
from pyg_match.nn.assignment import DualSoftmaxAssignment, SinkhornAssignment
from pyg_match.nn.conv import MaskedAttentionConv
from pyg_match.nn.graph_matcher import GraphMatcher, MatcherConfig
from pyg_match.nn.lightglue import convert_lightglue
from pyg_match.nn.matcher_layer import AttentionBlock, MatcherLayer
from pyg_match.nn.matcher_output import MatcherOutput

__all__ = [
    "AttentionBlock",
    "DualSoftmaxAssignment",
    "GraphMatcher",
    "KeypointEncoding",
    "MaskedAttentionConv",
    "MatcherConfig",
    "MatcherLayer",
    "MatcherOutput",
    "RotaryEncoding",
    "SinkhornAssignment",
    "convert_lightglue",
    "normalize_positions",
    "rotate",
]
