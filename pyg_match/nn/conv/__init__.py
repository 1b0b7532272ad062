"""Message-passing layers."""

from pyg_match.nn.conv.masked_attention_conv import MaskedAttentionConv
from pyg_match.nn.conv.multi_scale_conv import MultiScaleConv
from pyg_match.nn.conv.partition_gcn_conv import PartitionGCNConv, distance_weights

__all__ = ["MaskedAttentionConv", "MultiScaleConv", "PartitionGCNConv", "distance_weights"]
