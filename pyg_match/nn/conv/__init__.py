"""Message-passing layers."""

from pyg_match.nn.conv.masked_attention_conv import MaskedAttentionConv

__all__ = ["MaskedAttentionConv"]
