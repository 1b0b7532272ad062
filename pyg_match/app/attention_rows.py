"""The attention of any keypoint of a pair that has been matched, without matching it again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pyg_match.nn import GraphMatcher, MaskedAttentionConv
from pyg_match.visualization.attention import Kind
from pyg_match.visualization.coefficients import edge_attention


class _Step(NamedTuple):
    """What one attention layer was given."""

    conv: MaskedAttentionConv
    x: Tensor
    edges: Any
    rotation: Optional[Tensor]
    edge_mask: Optional[Tensor]
    edge_bias: Optional[Tensor]


class AttentionRows:
    r"""The inputs of all attention steps of a matcher's last call; see :func:`keep_rows`.

    Attributes:
        num_layers: Number of layers.
        heads: Number of attention heads.
    """

    def __init__(self, num_layers: int, heads: int) -> None:
        self.num_layers = num_layers
        self.heads = heads
        self.steps: dict[tuple[int, Kind], _Step] = {}

    def of(self, node: int, layer: int, kind: Kind) -> tuple[Tensor, Tensor]:
        r"""The keypoints that one keypoint attends to, and how much.

        Args:
            node: The keypoint, a node of the pair.
            layer: The layer, from 0.
            kind: ``"self"`` or ``"cross"``.

        Shapes:
            - **output:** sources :math:`(E)`, nodes of the pair, and coefficients :math:`(E, H)`

        Raises:
            IndexError: If there is no such layer or keypoint.
        """
        if (layer, kind) not in self.steps:
            raise IndexError(f"there is no {kind} step {layer}, expected 0 to {self.num_layers - 1}")
        conv, x, edges, rotation, edge_mask, edge_bias = self.steps[layer, kind]
        if not 0 <= node < x.size(0):
            raise IndexError(f"keypoint {node} does not exist, expected 0 to {x.size(0) - 1}")
        target = torch.tensor([node], device=x.device)
        edge_index, alpha = edge_attention(conv, x, edges, rotation, edge_mask, target, edge_bias=edge_bias)
        return edge_index[0], alpha


@contextmanager
def keep_rows(matcher: GraphMatcher) -> Iterator[AttentionRows]:
    r"""Keep what the attention layers are given in the matcher's last call within the ``with`` block.

    For :math:`L` layers of width :math:`D` and :math:`N` keypoints these are :math:`2 L N D` numbers. The
    coefficients of any keypoint then cost the projections of one layer instead of a run of the matcher:
    milliseconds instead of seconds, with the result of :func:`~pyg_match.visualization.record_attention`.

    Args:
        matcher: The matcher, without early exit and pruning.

    Raises:
        ValueError: If the matcher may stop early or prune, so that a layer would lack keypoints.

    Example:
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(n, 2) * 64, x=torch.randn(n, 8), image_size=(64, 64))
        ...     for n in (5, 7)
        ... ]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> with keep_rows(matcher) as rows, torch.no_grad():
        ...     output = matcher(KeypointPair.from_sets(*sets))
        >>> sources, alpha = rows.of(3, layer=1, kind="cross")
        >>> sources.tolist(), alpha.shape
        ([5, 6, 7, 8, 9, 10, 11], torch.Size([7, 4]))
    """
    config = matcher.config
    if config.depth_confidence is not None or config.width_confidence is not None:
        raise ValueError("the matcher must neither stop early nor prune, got depth or width confidence")
    rows = AttentionRows(config.num_layers, config.heads)

    def keeper(layer: int, kind: Kind) -> Any:
        def keep(conv: MaskedAttentionConv, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, edges = args
            options = (kwargs.get(name) for name in ("rotation", "edge_mask", "edge_bias"))
            rows.steps[layer, kind] = _Step(conv, x, edges, *options)

        return keep

    with ExitStack() as stack:
        for number, layer in enumerate(matcher.layers):
            blocks: dict[Kind, Any] = {"self": layer.self_attn, "cross": layer.cross_attn}
            for kind, block in blocks.items():
                handle = block.conv.register_forward_pre_hook(keeper(number, kind), with_kwargs=True)
                stack.callback(handle.remove)
        yield rows
