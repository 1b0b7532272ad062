"""Branch of a self step along several scales of the graph."""

from typing import Literal, Optional

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex

from pyg_match.nn.conv import MaskedAttentionConv, MultiScaleConv, PartitionGCNConv
from pyg_match.nn.orthogonal import OrthogonalFusion, orthogonality_penalty

BranchKind = Literal["attention", "gcn"]


class MultiScaleBranch(nn.Module):
    r"""Convolutions on several graphs, whose results are made orthogonal and fused.

    .. math::
        \mathbf{W} \, \mathrm{Fusion}(\mathbf{F}_1, \dots, \mathbf{F}_S), \qquad
        \mathbf{F}_s = \mathrm{Conv}_s(\mathbf{X}, \mathcal{E}_s)

    The projection :math:`\mathbf{W}` starts at zero, so that a pretrained matcher with new branches starts out as
    it was.

    Args:
        channels: Width of the descriptors.
        heads: Number of attention heads.
        num_scales: Number of graphs.
        kind: ``"attention"`` or ``"gcn"`` on each graph.
        project: Whether to make the scales orthogonal before they are fused.

    Shapes:
        - **x:** :math:`(N, D)`
        - **output:** :math:`(N, D)`, and the :func:`~pyg_match.nn.orthogonality_penalty` of the scales, ``None`` for
          a single one

    Example:
        >>> scales = (EdgeIndex([[0, 1], [1, 0]]), EdgeIndex([[0, 1, 2], [1, 2, 0]]))
        >>> branch = MultiScaleBranch(8, heads=2, num_scales=2, kind="attention")
        >>> message, penalty = branch(torch.randn(3, 8), scales)
        >>> message.shape
        torch.Size([3, 8])
    """

    def __init__(
        self, channels: int, heads: int, num_scales: int, kind: BranchKind, project: bool = True
    ) -> None:
        super().__init__()
        self.kind = kind
        convs = [
            MaskedAttentionConv(channels, channels // heads, heads)
            if kind == "attention"
            else PartitionGCNConv(channels, channels)
            for _ in range(num_scales)
        ]
        self.conv = MultiScaleConv(convs, OrthogonalFusion(channels, num_scales, project))
        self.lin = nn.Linear(channels, channels)
        nn.init.zeros_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    @torch.compiler.disable  # PyG's edges are not for tracing
    def forward(
        self, x: Tensor, scales: tuple[EdgeIndex, ...], rotation: Optional[Tensor] = None
    ) -> tuple[Tensor, Optional[Tensor]]:
        """What to add to the message of each node, and how much the scales overlap."""
        options = {"rotation": rotation} if self.kind == "attention" else {}
        fused, features = self.conv(x, scales, return_scales=True, **options)
        penalty = orthogonality_penalty(*features) if len(features) > 1 else None
        return self.lin(fused), penalty
