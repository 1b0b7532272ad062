"""One transform for each way of drawing edges between keypoints."""

from pyg_match.data.edges import scales
from pyg_match.transforms.anchor_edges import AnchorEdges
from pyg_match.transforms.candidate_edges import CandidateEdges
from pyg_match.transforms.complete_graph import CompleteGraph
from pyg_match.transforms.diverse_knn import DiverseKNN
from pyg_match.transforms.equal_partition import EqualPartition
from pyg_match.transforms.hilbert_partition import HilbertPartition
from pyg_match.transforms.knn_graph import KNNGraph
from pyg_match.transforms.nested_partition import NestedPartition
from pyg_match.transforms.precomputed_edges import PrecomputedEdges, as_edge_index
from pyg_match.transforms.recipe import graph_from_recipe
from pyg_match.transforms.remove_pairs import RemovePairs
from pyg_match.transforms.ring_partition import RingPartition

__all__ = [
    "AnchorEdges",
    "CandidateEdges",
    "CompleteGraph",
    "DiverseKNN",
    "EqualPartition",
    "HilbertPartition",
    "KNNGraph",
    "NestedPartition",
    "PrecomputedEdges",
    "RemovePairs",
    "RingPartition",
    "as_edge_index",
    "graph_from_recipe",
    "scales",
]
