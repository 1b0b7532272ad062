"""One layer of the matcher: a self step along edges within images, a cross step along edges between them."""

from collections.abc import Callable
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch_geometric.typing import Adj

from pyg_match.checks import MOST_CHANNELS, whole_number
from pyg_match.nn.checkpointing import checkpointed, is_hooked
from pyg_match.nn.conv import MaskedAttentionConv
from pyg_match.nn.multi_scale_branch import MultiScaleBranch
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.nn.value_source import ValueSource
from pyg_match.ops import CSR, Anchored, Blocks, EdgeSet
from pyg_match.ops.attention_reference import MaskMode


class AttentionBlock(nn.Module):
    r"""Attention along edges, followed by a feed-forward network, with a residual connection.

    .. math::
        \mathbf{x}'_i = \mathbf{x}_i + \mathrm{FFN}([\mathbf{x}_i \, \| \, \mathbf{W}_o \mathbf{m}_i]), \qquad
        \mathrm{FFN} = \mathrm{Linear} \circ \mathrm{GELU} \circ \mathrm{LayerNorm} \circ \mathrm{Linear}

    with the message :math:`\mathbf{m}_i` of :class:`~pyg_match.nn.MaskedAttentionConv`.

    Args:
        channels: Width of the descriptors.
        heads: Number of attention heads, a divisor of ``channels``.
        mask_mode: See :class:`~pyg_match.nn.MaskedAttentionConv`.
        shared_query_key: Whether queries and keys share one projection.
        ffn_channels: Width inside the feed-forward network; twice ``channels`` if not given.

    Shapes:
        - **x:** :math:`(N, D)`
        - **output:** :math:`(N, D)`

    Source: LightGlue (https://arxiv.org/abs/2306.13643), eq. 1.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> AttentionBlock(8, heads=2)(torch.randn(3, 8), edge_index).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        mask_mode: MaskMode = "remove",
        shared_query_key: bool = False,
        ffn_channels: Optional[int] = None,
    ) -> None:
        super().__init__()
        channels = whole_number("channels", channels, most=MOST_CHANNELS)
        heads = whole_number("heads", heads, most=MOST_CHANNELS)
        if channels % heads != 0:
            raise ValueError(f"'heads' must divide the {channels} channels, got {heads}")
        self.conv = MaskedAttentionConv(
            channels, channels // heads, heads, mask_mode=mask_mode, shared_query_key=shared_query_key
        )
        self.lin_out = nn.Linear(channels, channels)
        width = 2 * channels
        if ffn_channels is not None:
            width = whole_number("ffn_channels", ffn_channels, most=MOST_CHANNELS)
        self.ffn = nn.Sequential(
            nn.Linear(2 * channels, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, channels)
        )
        # Whether training computes again what is quick to compute; see RunOptions.checkpointed.
        self.checkpointed = False
        # What replaces the formula in inference; see GraphMatcher.freeze.
        self.frozen: Optional[Callable[..., Tensor]] = None

    def forward(
        self,
        x: Tensor,
        edge_index: Union[Adj, CSR, Blocks, Anchored, EdgeSet],
        rotation: Optional[Tensor] = None,
        edge_mask: Optional[Tensor] = None,
        x_value: Optional[Tensor] = None,
        extra: Optional[Tensor] = None,
        edge_bias: Optional[Tensor] = None,
    ) -> Tensor:
        """Update the descriptors of all nodes.

        ``extra`` is added to the messages; see :class:`~pyg_match.nn.MaskedAttentionConv` for the other arguments.
        """
        attention = {"edge_bias": edge_bias, "edge_mask": edge_mask, "rotation": rotation, "x_value": x_value}
        if self.frozen is not None:
            return self.frozen(self, x, edge_index, extra, **attention)
        if self.checkpointed and torch.is_grad_enabled() and not any(map(is_hooked, self.children())):
            return checkpointed(self._formula, x, edge_index, extra, **attention)
        return self._formula(x, edge_index, extra, **attention)

    def _formula(self, x: Tensor, edge_index: Any, extra: Optional[Tensor], **attention: Any) -> Tensor:
        return self.update(x, self.conv(x, edge_index, **attention), extra)

    def update(self, x: Tensor, message: Tensor, extra: Optional[Tensor] = None) -> Tensor:
        """The descriptors after attention, from those before it and its messages."""
        message = self.lin_out(message)
        message = message if extra is None else message + extra
        out: Tensor = x + self.ffn(torch.cat([x, message], dim=-1))
        return out


class MatcherLayer(nn.Module):
    """A self step with rotary encodings, then a cross step.

    Args:
        channels: Width of the descriptors.
        heads: Number of attention heads.
        mask_mode: See :class:`~pyg_match.nn.MaskedAttentionConv`.
        scale: The scale of the graph that the self step attends along; ``None`` for ``edge_index`` or parts.
        branch: What several scales add to the self step, if anything.
        ffn_channels: See :class:`AttentionBlock`.
        number: Which layer it is, from 0.

    Example:
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [KeypointSet(pos=torch.rand(5, 2), x=torch.randn(5, 8), image_size=(9, 9)) for _ in "ab"]
        >>> pair = KeypointPair.from_sets(*sets)
        >>> layer = MatcherLayer(8, heads=2)
        >>> x, penalty = layer(pair.x, PairGraph.from_data(pair), None, ValueSource())
        >>> x.shape
        torch.Size([10, 8])
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        mask_mode: MaskMode = "remove",
        scale: Optional[int] = None,
        branch: Optional[MultiScaleBranch] = None,
        ffn_channels: Optional[int] = None,
        number: int = 0,
    ) -> None:
        super().__init__()
        self.number = number
        self.scale = scale
        self.branch = branch
        self.self_attn = AttentionBlock(channels, heads, mask_mode, False, ffn_channels)
        self.cross_attn = AttentionBlock(channels, heads, mask_mode, True, ffn_channels)

    def forward(
        self,
        x: Tensor,
        graph: PairGraph,
        rotation: Optional[Tensor],
        values: ValueSource,
        stepped: bool = False,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Update the descriptors of all nodes along all edge sets; also say how much the scales overlap.

        With ``stepped=True`` they have taken the self step already.
        """
        x, penalty = (x, None) if stepped else self.self_step(x, graph, rotation, values)
        edges, mask, bias = graph.between
        x = self.cross_attn(x, edges, None, mask, values.take("cross", x), None, bias)
        return x, penalty

    def self_step(
        self, x: Tensor, graph: PairGraph, rotation: Optional[Tensor], values: ValueSource
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Update the descriptors of all nodes along edges within images."""
        extra, penalty = (None, None) if self.branch is None else self.branch(x, graph.scales, rotation)
        edges, mask, bias = (
            graph.self_edges(self.number) if self.scale is None else (graph.scales[self.scale], None, None)
        )
        x = self.self_attn(x, edges, rotation, mask, values.take("self", x), extra, bias)
        return x, penalty
