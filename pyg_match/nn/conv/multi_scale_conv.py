"""Several convolutions side by side, each on its own graph."""

from collections.abc import Sequence
from typing import Any, Optional, Union

from torch import Tensor, nn
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj, PairTensor


class MultiScaleConv(nn.Module):
    r"""One convolution for each of several graphs of the same nodes, and a module that fuses their outputs.

    .. math::
        \mathbf{F}_s = \mathrm{Conv}_s(\mathbf{X}, \mathcal{E}_s), \qquad
        \mathbf{X}' = \mathrm{Fusion}([\mathbf{F}_1, \dots, \mathbf{F}_S])

    Any PyG layer can be a branch.

    Args:
        convs: One convolution for each graph.
        fusion: A module that takes the list of outputs, such as :class:`~pyg_match.nn.OrthogonalFusion`; ``None`` to
            return the list.

    Shapes:
        - **input:** node features as the branches take them; one edge set for each graph
        - **output:** as the fusion gives it; with ``return_scales=True`` also the outputs of all branches, as a
          penalty in the loss needs them

    Raises:
        ValueError: If there is no branch, or if there are not as many graphs as branches.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv, SAGEConv
        >>> from pyg_match.nn import OrthogonalFusion
        >>> conv = MultiScaleConv([GCNConv(16, 32), SAGEConv(16, 32)], OrthogonalFusion(32))
        >>> near, far = torch.tensor([[1, 0], [0, 1]]), torch.tensor([[2, 0], [0, 2]])
        >>> conv(torch.randn(3, 16), [near, far]).shape
        torch.Size([3, 32])
    """

    def __init__(self, convs: Sequence[nn.Module], fusion: Optional[nn.Module] = None) -> None:
        super().__init__()
        if len(convs) == 0:
            raise ValueError("'convs' must hold at least one convolution, got none")
        self.convs = nn.ModuleList(convs)
        self.fusion = fusion

    def reset_parameters(self) -> None:
        """Reset all branches and the fusion."""
        for conv in self.convs:
            reset(conv)
        reset(self.fusion)

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Sequence[Adj],
        return_scales: Optional[bool] = None,
        **kwargs: Any,
    ) -> Any:
        """Run all branches.

        Args:
            x: Node features.
            edge_index: The edges of each graph.
            return_scales: If ``True``, also return the list of the branches' outputs.
            **kwargs: Further arguments of the branches. A list gives one item to each branch, anything else goes to
                all of them.
        """
        if not isinstance(edge_index, (list, tuple)) or len(edge_index) != len(self.convs):
            found = len(edge_index) if isinstance(edge_index, (list, tuple)) else type(edge_index).__name__
            raise ValueError(f"expected a list of {len(self.convs)} graphs, got {found}")
        for key, value in kwargs.items():
            if isinstance(value, list) and len(value) != len(self.convs):
                raise ValueError(
                    f"'{key}' must hold an item for each of {len(self.convs)} graphs, got {len(value)}"
                )
        features = []
        for number, (conv, edges) in enumerate(zip(self.convs, edge_index, strict=True)):
            own = {key: value[number] if isinstance(value, list) else value for key, value in kwargs.items()}
            features.append(conv(x, edges, **own))
        out = features if self.fusion is None else self.fusion(features)
        return (out, features) if return_scales else out

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self.convs)}, fusion={self.fusion})"
