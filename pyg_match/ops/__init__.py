"""Operators on graphs: fused attention along edges, and k-nearest-neighbour graphs."""

from pyg_match.ops.anchored import Anchored
from pyg_match.ops.blocks import Blocks
from pyg_match.ops.csr import CSR, to_csr
from pyg_match.ops.knn import knn_graph
from pyg_match.ops.native.library import warmup
from pyg_match.ops.sparse_attention import attention_weights, edge_scores, sparse_attention

__all__ = [
    "CSR",
    "Anchored",
    "Blocks",
    "attention_weights",
    "edge_scores",
    "knn_graph",
    "sparse_attention",
    "to_csr",
    "warmup",
]
