"""Graph convolution over one or several graphs of the same nodes."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import zeros
from torch_geometric.typing import Adj, OptTensor, PairTensor, SparseTensor
from torch_geometric.utils import is_sparse, to_edge_index
from torch_geometric.utils.sparse import index2ptr

from pyg_match.checks import MOST_CHANNELS, check_tensor, shown, whole_number
from pyg_match.data.edges import SortedEdgeIndex
from pyg_match.nn.conv.projection import check_features
from pyg_match.ops.csr import check_ends
from pyg_match.ops.derivatives import is_transformed


class PartitionGCNConv(MessagePassing):
    r"""Graph convolution over :math:`S` graphs of the same nodes, each normalised on its own and with its own weights.

    .. math::
        \mathbf{X}' = \sum_{s=1}^{S} \mathbf{\hat{D}}_s^{-1/2} \mathbf{\hat{A}}_s \mathbf{\hat{D}}_s^{-1/2}
        \mathbf{X} \mathbf{\Theta}_s + \mathbf{b}, \qquad \mathbf{\hat{A}}_s = \mathbf{A}_s + \mathbf{I}

    with the diagonal matrix :math:`\mathbf{\hat{D}}_s` of the degrees. With one graph this is
    :class:`torch_geometric.nn.GCNConv`, whose weights can be loaded. Self-loops are accounted for without listing
    them, so that an :class:`~torch_geometric.EdgeIndex` sorted by target runs as one sparse matrix product.

    If positions are given, edges are weighted by :func:`distance_weights`.

    To keep the graphs' outputs apart, use one layer for each graph in :class:`~pyg_match.nn.MultiScaleConv`.

    Args:
        in_channels: Width of the input features (of the sources, if bipartite); ``-1`` to take it from the first
            input.
        out_channels: Width of the output features.
        num_scales: Number of graphs :math:`S`.
        add_self_loops: Whether nodes without a self-loop get one of weight 1. Impossible for bipartite graphs.
        bias: Whether to add a bias.
        **kwargs: Arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** node features :math:`(N, F_{in})`, or :math:`((N_s, F_s), (N_t, F_t))` if bipartite, in which
          case degrees are counted on both sides; for each graph edge indices :math:`(2, E)` or a transposed sparse
          adjacency matrix, whose values are edge weights; edge weights :math:`(E)` *(optional)*; positions
          :math:`(N, P)`, or those of sources and targets *(optional)*
        - **output:** :math:`(N_t, F_{out})`

    Raises:
        ValueError: If the number of graphs is not the expected one, a bipartite graph should get self-loops, an edge
            names no node, or a matrix is not that of a transposed adjacency.

    Source: "Semi-supervised Classification with Graph Convolutional Networks" (https://arxiv.org/abs/1609.02907).

    Example:
        >>> from torch_geometric.data import Data
        >>> from pyg_match.transforms import RingPartition, scales
        >>> data = RingPartition([4, 12])(Data(x=torch.randn(50, 16), pos=torch.rand(50, 2)))
        >>> conv = PartitionGCNConv(16, 32, num_scales=2)
        >>> conv(data.x, scales(data), pos=data.pos).shape
        torch.Size([50, 32])
    """

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_scales: int = 1,
        add_self_loops: bool = True,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(**kwargs)
        self.fuse &= self.aggr in ("add", "sum")  # sparse products sum
        self.num_scales = num_scales = whole_number("num_scales", num_scales, most=MOST_CHANNELS)
        self.out_channels = out_channels = whole_number("out_channels", out_channels, most=MOST_CHANNELS)
        if in_channels != -1:
            in_channels = whole_number("in_channels", in_channels, most=MOST_CHANNELS)
        self.in_channels = in_channels
        self.add_self_loops = add_self_loops
        self.lin = Linear(in_channels, num_scales * out_channels, bias=False, weight_initializer="glorot")
        if bias:
            self.bias = Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the weights."""
        super().reset_parameters()
        self.lin.reset_parameters()
        zeros(self.bias)

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Sequence[Adj]],
        edge_weight: Union[OptTensor, Sequence[OptTensor]] = None,
        pos: Union[Tensor, PairTensor, None] = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            x: Node features, or those of sources and targets.
            edge_index: The edges of each graph from source to target; those of one graph may stand alone.
            edge_weight: The weights of its edges.
            pos: Node positions, or those of sources and targets, which weight the edges further.
        """
        graphs = edge_index if isinstance(edge_index, (list, tuple)) else [edge_index]
        weights = edge_weight if isinstance(edge_weight, (list, tuple)) else [edge_weight] * len(graphs)
        if len(graphs) != self.num_scales or len(weights) != self.num_scales:
            raise ValueError(
                f"expected {self.num_scales} graphs, got {len(graphs)} with {len(weights)} sets of weights"
            )
        x_source, x_target = check_features(x, self.lin.weight)
        size = (x_source.size(0), x_target.size(0))
        bipartite = x_source is not x_target
        if self.add_self_loops and bipartite:
            raise ValueError("a bipartite graph has no self-loops, use add_self_loops=False")
        projected = self.lin(x_source).chunk(self.num_scales, dim=-1)
        parts = [
            self._convolve(*item, pos, size, bipartite)
            for item in zip(projected, graphs, weights, strict=True)
        ]
        out = torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
        return out if self.bias is None else out + self.bias

    @torch.compiler.disable  # sparse products cannot be traced, and are fast as they are
    def _convolve(
        self,
        x: Tensor,
        edge_index: Adj,
        weight: OptTensor,
        pos: Union[Tensor, PairTensor, None],
        size: tuple[int, int],
        bipartite: bool,
    ) -> Tensor:
        """One graph's part of the output."""
        edge_index, weight = self._listed(edge_index, weight, size)
        plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
        check_tensor("edge_index", plain, (2, None), "whole")
        source, target = plain if self.flow == "source_to_target" else plain.flip(0)
        check_ends("source", source, size[0])
        check_ends("target", target, size[1])
        if weight is not None:
            check_tensor("edge_weight", weight, (plain.size(1),), "real")
            if weight.device != x.device:
                raise ValueError(
                    f"'edge_weight' must be on the device of 'x', {x.device}, got {weight.device}"
                )
        if not (isinstance(edge_index, EdgeIndex) and _has_product(x, weight, size)):
            edge_index = plain.long()  # for 32 bits, torch's scatter has wrong gradients
        if pos is not None:
            near = _distance_weights(_positions(pos, size), source, target)
            weight = near if weight is None else near * weight
        # Half precision counts to a few hundred only.
        wide = torch.promote_types(x.dtype, torch.float)
        weight = x.new_ones(target.numel(), dtype=wide) if weight is None else weight.to(wide)
        degree = weight.new_zeros(size[1]).index_add(0, target, weight)
        loop = degree.new_zeros(size[1])
        if self.add_self_loops:
            loop = loop + 1.0
            loop[target[source == target]] = 0.0
            degree = degree + loop
        scale = scale_source = _inverse_root(degree)
        if bipartite:
            scale_source = _inverse_root(weight.new_zeros(size[0]).index_add(0, source, weight))
        weight = (scale_source[source] * weight * scale[target]).to(x.dtype)
        if self.flow == "target_to_source":
            size = (size[1], size[0])
        own = (loop * scale.square()).to(x.dtype)
        sums = self.aggr in ("add", "sum")
        if self.add_self_loops and not sums:
            missing = loop.nonzero().flatten()
            edge_index = torch.cat([plain, missing.expand(2, -1)], dim=1)
            weight = torch.cat([weight, own[missing]])
        out: Tensor = self.propagate(edge_index, x=x, weight=weight, size=size)
        return out + own.unsqueeze(-1) * x if self.add_self_loops and sums else out

    def _listed(self, edge_index: Adj, weight: OptTensor, size: tuple[int, int]) -> tuple[Tensor, OptTensor]:
        """Edges with their weights; an EdgeIndex only if they can be multiplied without messages."""
        forward = self.flow == "source_to_target"
        if isinstance(edge_index, EdgeIndex):
            fits = forward and edge_index.is_sorted_by_col and edge_index.sparse_size() == size
            # PyG's own sort_by keeps the pointer of the order before.
            if fits and not isinstance(edge_index, SortedEdgeIndex):
                ptr = index2ptr(edge_index.as_tensor()[1], size[1])
                fits = torch.equal(edge_index.get_indptr().long(), ptr.long())
            return (edge_index if fits else edge_index.as_tensor()), weight
        if not is_sparse(edge_index):
            return edge_index, weight
        if weight is not None:
            raise ValueError(
                "a sparse adjacency matrix holds the edge weights itself, got 'edge_weight' as well"
            )
        if not forward:
            raise ValueError(
                "an adjacency matrix is transposed for flow 'source_to_target', got 'target_to_source'"
            )
        shape = tuple(edge_index.sizes() if isinstance(edge_index, SparseTensor) else edge_index.shape)
        if shape != size[::-1]:
            raise ValueError(f"a transposed adjacency matrix must have shape {size[::-1]}, got {shape}")
        transposed, weight = to_edge_index(edge_index)
        listed = transposed.flip(0)
        if isinstance(edge_index, SparseTensor) or edge_index.layout == torch.sparse_csr:
            listed = EdgeIndex(listed, sparse_size=size, sort_order="col")
        return listed, weight

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """The features of each edge's source, weighted."""
        return weight.unsqueeze(-1) * x_j

    def message_and_aggregate(self, edge_index: EdgeIndex, x: Tensor, weight: Tensor) -> Tensor:
        """The sum of all messages, as a matrix product."""
        out: Tensor = edge_index.matmul(x, input_value=weight, transpose=True)
        return out

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, num_scales={self.num_scales})"


def _has_product(x: Tensor, weight: OptTensor, size: tuple[int, int]) -> bool:
    """Whether PyG's sparse product has the derivatives that may be asked for."""
    return size[0] == size[1] and x.dtype in (torch.float, torch.double) and not is_transformed(x, weight)


def distance_weights(pos: Union[Tensor, PairTensor], edge_index: Tensor) -> Tensor:
    r"""Weight edges by the distance of their ends, compared with the other edges of the same target.

    .. math::
        w_{ij} = \exp \left( - \frac{d_{ij}^2}{2 \sigma_i^2} \right), \qquad
        \sigma_i^2 = \frac{1}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)} d_{ij}^2

    Weights do not depend on the unit of the positions; they are 1 where a node coincides with all its neighbours.

    Args:
        pos: Node positions, or those of sources and targets.
        edge_index: Edges from source to target.

    Shapes:
        - **pos:** :math:`(N, P)`
        - **edge_index:** :math:`(2, E)`
        - **output:** :math:`(E)`

    Raises:
        TypeError: If positions are no real numbers, or edges no whole ones.
        ValueError: If a shape does not fit, or an edge names a node that does not exist.

    Example:
        >>> distance_weights(torch.tensor([[0.0], [1.0]]), torch.tensor([[1], [0]]))
        tensor([0.6065])
    """
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    source, target = check_tensor("edge_index", plain, (2, None), "whole")
    pos_source, pos_target = _positions(pos)
    check_ends("source", source, pos_source.size(0))
    check_ends("target", target, pos_target.size(0))
    return _distance_weights((pos_source, pos_target), source, target)


def _distance_weights(pos: PairTensor, source: Tensor, target: Tensor) -> Tensor:
    # Squares of pixels are too large for half precision.
    pos_source, pos_target = (p.to(torch.promote_types(p.dtype, torch.float)) for p in pos)
    square = (pos_source[source] - pos_target[target]).square().sum(dim=-1)
    zero = square.new_zeros(pos_target.size(0))
    total = zero.index_add(0, target, square)
    count = zero.index_add(0, target, torch.ones_like(square))
    variance = (total / count.clamp(min=1.0))[target]
    coincides = variance == 0
    return torch.exp(-0.5 * square / variance.masked_fill(coincides, 1.0))


def _positions(pos: Any, size: tuple[Optional[int], Optional[int]] = (None, None)) -> PairTensor:
    """The positions of sources and targets, of as many as there are."""
    if not isinstance(pos, Tensor) and not (isinstance(pos, (list, tuple)) and len(pos) == 2):
        raise TypeError(
            f"'pos' must be a tensor of positions, or one of sources and one of targets, got {shown(pos)}"
        )
    source, target = (pos, pos) if isinstance(pos, Tensor) else pos
    check_tensor("pos", source, (size[0], None), "real")
    check_tensor("pos", target, (size[1], source.size(1)), "real")
    return source, target


def _inverse_root(degree: Tensor) -> Tensor:
    """Its inverse square root, 0 for a node without edges."""
    isolated = degree == 0
    return degree.masked_fill(isolated, 1.0).rsqrt().masked_fill(isolated, 0.0)
