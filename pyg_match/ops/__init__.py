"""Operators on graphs: fused attention along edges, and k-nearest-neighbour graphs."""

from pyg_match.ops.attention import attention_weights, edge_scores, sparse_attention
from pyg_match.ops.csr import CSR, to_csr
from pyg_match.ops.edges import Anchored, Blocks, EdgeSet
from pyg_match.ops.knn import knn_graph
from pyg_match.ops.native.library import warmup

__all__ = [
    "CSR",
    "Anchored",
    "Blocks",
    "EdgeSet",
    "attention_weights",
    "edge_scores",
    "knn_graph",
    "sparse_attention",
    "to_csr",
    "warmup",
]
