"""One layer of the matcher: a self step along edges within images, a cross step along edges between them."""

from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch_geometric.typing import Adj

from pyg_match.checks import MOST_CHANNELS, whole_number
from pyg_match.nn.conv import MaskedAttentionConv
from pyg_match.nn.conv.masked_attention_conv import MaskMode
from pyg_match.nn.multi_scale_branch import MultiScaleBranch
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.nn.value_source import ValueSource
from pyg_match.ops import CSR, Anchored, Blocks
from pyg_match.ops.linear import (
    KeptWeight,
    empty_rows,
    joined_linear,
    residual_linear,
    rounded_for_linear,
    with_room,
)

# The output projection and what follows it.
_LAYERS = (nn.Linear, nn.Linear, nn.LayerNorm, nn.GELU, nn.Linear)
_NODES = 2048  # whose hidden features the caches nearly hold


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
        channels, heads = (
            whole_number("channels", channels, most=MOST_CHANNELS),
            whole_number("heads", heads, most=MOST_CHANNELS),
        )
        if channels % heads != 0:
            raise ValueError(f"'heads' must divide the {channels} channels, got {heads}")
        self.conv = MaskedAttentionConv(
            channels, channels // heads, heads, mask_mode=mask_mode, shared_query_key=shared_query_key
        )
        self.lin_out = nn.Linear(channels, channels)
        width = (
            2 * channels
            if ffn_channels is None
            else whole_number("ffn_channels", ffn_channels, most=MOST_CHANNELS)
        )
        self.ffn = nn.Sequential(
            nn.Linear(2 * channels, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, channels)
        )
        self._kept: Optional[tuple[Tensor, Tensor, Tensor]] = None  # see _folded
        self._first, self._last = KeptWeight(), KeptWeight()

    def forward(
        self,
        x: Tensor,
        edge_index: Union[Adj, CSR, Blocks, Anchored],
        rotation: Optional[Tensor] = None,
        edge_mask: Optional[Tensor] = None,
        x_value: Optional[Tensor] = None,
        extra: Optional[Tensor] = None,
        edge_bias: Optional[Tensor] = None,
    ) -> Tensor:
        """Update the descriptors of all nodes.

        ``extra`` is added to the messages; see :class:`~pyg_match.nn.MaskedAttentionConv` for the other arguments.
        """
        rounded = rounded_for_linear(x)
        x_value = rounded if x_value is x else x_value
        message = self.conv(
            rounded, edge_index, edge_bias=edge_bias, edge_mask=edge_mask, rotation=rotation, x_value=x_value
        )
        # Dense attention keeps LightGlue's order of operations, to which its results can be compared bit by bit.
        inference = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        many = x.size(0) > 2 * x.size(1)
        if inference and many and extra is None and not isinstance(edge_index, Blocks) and self._is_plain():
            return self._update(x, rounded, message)
        message = self.lin_out(message)
        message = message if extra is None else message + extra
        out: Tensor = x + self.ffn(torch.cat([x, message], dim=-1))
        return out

    def _is_plain(self) -> bool:
        """Whether the layers are what they were made as, without hooks, and not quantised or adapted."""
        layers: list[nn.Module] = [self.lin_out, *self.ffn]
        return len(layers) == len(_LAYERS) and all(
            type(layer) is kind
            and not (layer._forward_hooks or layer._forward_pre_hooks)
            and not (kind is nn.Linear and layer.bias is None)
            for layer, kind in zip(layers, _LAYERS, strict=True)
        )

    def _update(self, x: Tensor, rounded: Tensor, message: Tensor) -> Tensor:
        """What follows attention, without gradients: some nodes at a time, so that caches hold what is in between.

        The output projection is multiplied into the layer behind it, which is less work for many nodes.
        """
        norm: Any = self.ffn[1]
        gelu: Any = self.ffn[2]
        last: Any = self.ffn[3]
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self._folded(rounded.dtype)
        weight = self._first.of(weight, rounded[:1, :1].expand(x.size(0), weight.size(1)), bias)
        out = empty_rows(x.size(0), x)
        parts = zip(*(t.split(_NODES) for t in (x, rounded, message, out)), strict=True)
        for part, rounded_part, message_part, out_part in parts:
            hidden = norm(with_room(joined_linear([rounded_part, message_part], weight, bias)))
            hidden = torch.ops.aten.gelu_(hidden, approximate=gelu.approximate)
            residual_linear(part, hidden, self._last.of(last.weight, hidden, last.bias), last.bias, out_part)
        return out

    def _folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The first layer of the network with the output projection in it, rounded to ``dtype``.

        It is kept as long as the weights are the same. As they may be changed without a trace, through ``.data``, they
        are compared by what they make of a fixed vector, which costs a fraction of the product.
        """
        first: Any = self.ffn[0]
        probe, kept = self._probe(), self._kept
        if (
            probe is not None
            and kept is not None
            and kept[0].dtype == probe.dtype
            and kept[1].dtype == dtype
            and torch.equal(kept[0], probe)
        ):
            return kept[1:]
        own, of_message = first.weight.split(self.lin_out.out_features, dim=1)
        weight = torch.cat([own, of_message @ self.lin_out.weight], dim=1)
        bias = torch.addmv(first.bias, of_message, self.lin_out.bias)
        weight, bias = weight.to(dtype), bias.to(dtype)
        self._kept = None if probe is None else (probe, weight, bias)
        return weight, bias

    def _probe(self) -> Optional[Tensor]:
        """What tells the weights of :meth:`_folded` from others; ``None`` where it could not, or would not pay."""
        first: Any = self.ffn[0]
        weight = first.weight
        if weight.device.type != "cpu" or weight.dtype not in (torch.float, torch.double):
            return None
        # No two of its numbers are the same.
        direction = torch.linspace(1, 2, weight.size(1), dtype=weight.dtype, device=weight.device)
        of_first, of_out = weight.mv(direction), self.lin_out.weight.mv(direction[: self.lin_out.in_features])
        return torch.cat([of_first, of_out, first.bias, self.lin_out.bias])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


class MatcherLayer(nn.Module):
    """A self step with rotary encodings, then a cross step.

    Args:
        channels: Width of the descriptors.
        heads: Number of attention heads.
        mask_mode: See :class:`~pyg_match.nn.MaskedAttentionConv`.
        scale: The scale of the graph that the self step attends along; ``None`` for ``edge_index``.
        branch: What several scales add to the self step, if anything.
        ffn_channels: See :class:`AttentionBlock`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        mask_mode: MaskMode = "remove",
        scale: Optional[int] = None,
        branch: Optional[MultiScaleBranch] = None,
        ffn_channels: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.branch = branch
        self.self_attn = AttentionBlock(channels, heads, mask_mode, False, ffn_channels)
        self.cross_attn = AttentionBlock(channels, heads, mask_mode, True, ffn_channels)

    def forward(
        self, x: Tensor, graph: PairGraph, rotation: Optional[Tensor], values: ValueSource
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Update the descriptors of all nodes along all edge sets; also say how much the scales overlap."""
        extra, penalty = (None, None) if self.branch is None else self.branch(x, graph.scales, rotation)
        edges, mask, bias = (
            (graph.edges, graph.edge_mask, graph.edge_bias)
            if self.scale is None
            else (graph.scales[self.scale], None, None)
        )
        x = self.self_attn(x, edges, rotation, mask, values.take("self", x), extra, bias)
        mask, bias = graph.cross_edge_mask, graph.cross_edge_bias
        x = self.cross_attn(x, graph.cross_edges, None, mask, values.take("cross", x), None, bias)
        return x, penalty
