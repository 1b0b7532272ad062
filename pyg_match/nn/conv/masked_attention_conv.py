"""Multi-head attention over the edges of a graph."""

import math
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.typing import Adj, OptTensor, PairTensor, SparseTensor
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor, softmax, to_edge_index

from pyg_match.checks import MOST_CHANNELS, check_tensor, one_of, whole_number
from pyg_match.nn.conv.projection import Projection, check_features, project, weight_of
from pyg_match.nn.encoding import rotate
from pyg_match.ops import CSR, Anchored, Blocks, EdgeSet, sparse_attention
from pyg_match.ops.attention_checks import check_edge_values
from pyg_match.ops.attention_reference import MaskMode
from pyg_match.ops.csr import check_ends


class MaskedAttentionConv(MessagePassing):
    r"""Multi-head scaled dot-product attention in which a node sees only its neighbours in the graph.

    .. math::
        \mathbf{x}^{\prime}_i = \sum_{j \in \mathcal{N}(i)} \alpha_{ij} \mathbf{W}_v \mathbf{x}_j, \qquad
        \alpha_{ij} = \underset{j \in \mathcal{N}(i)}{\mathrm{softmax}} \left(
        \frac{\langle \mathbf{r}_i \mathbf{W}_q \mathbf{x}_i, \mathbf{r}_j \mathbf{W}_k \mathbf{x}_j \rangle}
        {\sqrt{C}} + b_{ij} \right)

    with rotary encodings :math:`\mathbf{r}` and an additive bias :math:`b`, both optional. There is neither a root
    weight nor an output projection; with the same weights, the layer equals
    :class:`torch_geometric.nn.TransformerConv` with ``root_weight=False``.

    What happens to an edge that ``edge_mask`` forbids is a research choice:

    * ``mask_mode="remove"``: it is as good as absent, and the softmax runs over what remains;
    * ``mask_mode="zero"``: its coefficient is set to 0 *after* the softmax, and the rest is not renormalised.

    Queries, keys and values are never copied per edge: :func:`pyg_match.ops.sparse_attention` fuses score, softmax
    and sum. Only with ``return_attention_weights=True`` or with hooks on ``message`` are the messages computed edge
    by edge, with the same result.

    Args:
        in_channels: Width of the input features, or of source and target features; -1 takes it from the first input.
        out_channels: Channels of one head.
        heads: Number of heads.
        concat: Whether to concatenate the heads or to average them.
        mask_mode: ``"remove"`` or ``"zero"``, see above.
        shared_query_key: Whether queries and keys share one projection, as in the cross-attention of LightGlue.
        bias: Whether the projections have a bias.
        **kwargs: Arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:** node features :math:`(N, F_{in})` or :math:`((N_s, F_s), (N_t, F_t))` if bipartite; edge indices
          :math:`(2, E)`, a transposed sparse adjacency matrix, or :class:`pyg_match.ops.CSR`, ``Blocks``,
          ``Anchored`` or ``EdgeSet``; edge bias :math:`(E)` or :math:`(E, H)`; edge mask :math:`(E)`
        - **output:** :math:`(N_t, H \cdot C)`, or :math:`(N_t, C)` if ``concat=False``;
          with ``return_attention_weights=True`` also ``(edge_index, alpha)`` with alpha :math:`(E, H)`

    Raises:
        ValueError: If an argument or a shape does not fit, or an edge names a node that does not exist.
        TypeError: If a mask is not boolean, or rotations are not complex.

    .. note::
        With ``conv.fuse = False`` messages are always computed edge by edge, in plain torch: for second derivatives,
        or to export the layer.

    Source: masked attention over sparse graphs, "Unified Message Passing" (https://arxiv.org/abs/2009.03509);
    rotary and shared projections: LightGlue (https://arxiv.org/abs/2306.13643).

    Example:
        >>> conv = MaskedAttentionConv(16, 8, heads=4)
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> conv(torch.randn(3, 16), edge_index).shape
        torch.Size([3, 32])
    """

    SUPPORTS_FUSED_EDGE_INDEX = True

    def __init__(
        self,
        in_channels: Union[int, tuple[int, int]],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        mask_mode: MaskMode = "remove",
        shared_query_key: bool = False,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
        self.out_channels = out_channels = whole_number("out_channels", out_channels, most=MOST_CHANNELS)
        self.heads = heads = whole_number("heads", heads, most=MOST_CHANNELS)
        self.fuse &= self.aggr in ("add", "sum")  # the operator sums
        one_of("mask_mode", mask_mode, ("remove", "zero"))
        self.in_channels = in_channels
        self.concat = concat
        self.mask_mode: MaskMode = mask_mode
        self.shared_query_key = shared_query_key
        self.scale = 1.0 / math.sqrt(out_channels)
        self._alpha: OptTensor = None
        # Whether queries and keys may be overwritten in inference; see GraphMatcher.freeze.
        self.in_place = False

        source, target = in_channels if isinstance(in_channels, (tuple, list)) else (in_channels, in_channels)
        source, target = (
            n if n == -1 else whole_number("in_channels", n, most=MOST_CHANNELS) for n in (source, target)
        )
        if shared_query_key and source != target:
            raise ValueError(
                f"shared queries and keys need source and target features of equal width, got {source} and {target}"
            )
        self.lin_query = Projection(target, heads * out_channels, bias=bias)
        self.lin_key = None if shared_query_key else Projection(source, heads * out_channels, bias=bias)
        self.lin_value = Projection(source, heads * out_channels, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the projections."""
        super().reset_parameters()
        self.lin_query.reset_parameters()
        if self.lin_key is not None:
            self.lin_key.reset_parameters()
        self.lin_value.reset_parameters()

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, CSR, Blocks, Anchored, EdgeSet],
        edge_bias: OptTensor = None,
        edge_mask: OptTensor = None,
        rotation: Union[Tensor, PairTensor, None] = None,
        x_value: OptTensor = None,
        return_attention_weights: Optional[bool] = None,
    ) -> Union[Tensor, tuple[Tensor, tuple[Tensor, Tensor]]]:
        """Run the layer.

        Args:
            x: Node features, or those of sources and targets.
            edge_index: The edges from source to target.
            edge_bias: Added to the scores of each edge, for all heads alike or for each.
            edge_mask: ``False`` at the edges to forbid, see ``mask_mode``.
            rotation: Rotary encodings as :class:`pyg_match.nn.RotaryEncoding` gives them, for all nodes or for
                sources and targets.
            x_value: Source features to take the values from instead of ``x``, for example those of an earlier layer.
            return_attention_weights: If ``True``, also return ``(edge_index, alpha)``.
        """
        value_weight, query_weight = weight_of(self.lin_value), weight_of(self.lin_query)
        x_source, x_target = check_features(x, value_weight, query_weight)
        x_value = x_source if x_value is None else check_features((x_value, x_value), value_weight)[0]
        names_targets = isinstance(edge_index, (CSR, Blocks, Anchored, EdgeSet)) or is_sparse(edge_index)
        if names_targets and self.flow != "source_to_target":
            raise ValueError(
                f"edges as {type(edge_index).__name__} name their targets, for which 'flow' must be "
                f"'source_to_target', got {self.flow!r}"
            )
        if isinstance(edge_index, (Blocks, Anchored)):
            edge_index = EdgeSet.of(edge_index, x_target.size(0), x_source.size(0), x_source.device)
        # Complete graphs are to agree with dense matchers to the last bits.
        exact = isinstance(edge_index, EdgeSet) and edge_index.is_dense and self.aggr in ("add", "sum")
        query, key, value = self._project(x_source, x_target, rotation, x_value, exact)
        if isinstance(edge_bias, Tensor):
            edge_bias = edge_bias.unsqueeze(-1) if edge_bias.dim() == 1 else edge_bias
            edge_bias = edge_bias.expand(-1, self.heads) if edge_bias.shape[1:] == (1,) else edge_bias

        attention: Any = None
        fused = self.fuses(edge_index, return_attention_weights)
        if exact and return_attention_weights:
            raise ValueError(
                "dense groups list no edges; use CompleteGraph to get the attention weights of a complete graph"
            )
        size = (key.size(0), query.size(0))
        if not fused:
            edge_index, edge_bias = self._listed(edge_index, edge_bias, edge_mask, size)
        if fused and not _propagates(edge_index):  # edges that PyG would not fuse are sorted by the operator
            out = self.message_and_aggregate(edge_index, query, key, value, edge_bias, edge_mask)
        else:
            # PyG reads the source of calls of propagate: an expression of several lines there would end tracing.
            size = size if self.flow == "source_to_target" else size[::-1]
            out = self.propagate(
                edge_index,
                query=query,
                key=key,
                value=value,
                edge_bias=edge_bias,
                edge_mask=edge_mask,
                size=size,
            )
        if not fused:
            attention, self._alpha = (edge_index, self._alpha), None

        out = out.flatten(1) if self.concat else out.mean(dim=1)
        return out if not return_attention_weights else (out, attention)

    def _project(
        self,
        x_source: Tensor,
        x_target: Tensor,
        rotation: Union[Tensor, PairTensor, None],
        x_value: Tensor,
        exact: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, ``[N, H, C]`` each."""
        shape = (self.heads, self.out_channels)
        query = project(self.lin_query, x_target, exact).unflatten(-1, shape)
        value = project(self.lin_value, x_value, exact).unflatten(-1, shape)
        if self.lin_key is not None:
            key = project(self.lin_key, x_source, exact).unflatten(-1, shape)
        elif x_source is x_target:
            key = query
        else:
            key = project(self.lin_query, x_source, exact).unflatten(-1, shape)
        if rotation is not None:
            source, target = (rotation, rotation) if isinstance(rotation, Tensor) else rotation
            in_place = self.in_place and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
            query, key = rotate(query, target, in_place), rotate(key, source, in_place)
        return query, key, value

    def _listed(
        self, edge_index: Any, edge_bias: OptTensor, edge_mask: OptTensor, size: tuple[int, int]
    ) -> tuple[Tensor, OptTensor]:
        """The edges as a plain tensor, which PyG always passes through ``message``, and their bias, both checked."""
        if isinstance(edge_index, EdgeSet) and edge_index.groups is not None:
            if edge_bias is not None or edge_mask is not None:
                raise ValueError("neither a bias nor a mask can be given for anchors that are not listed")
            edge_index, weight = edge_index.listed()
            edge_bias = None if weight is None else weight.unsqueeze(-1).expand(-1, self.heads)
        if isinstance(edge_index, (CSR, EdgeSet)):
            edge_index = (edge_index.csr() if isinstance(edge_index, EdgeSet) else edge_index).listed()
        elif isinstance(edge_index, SparseTensor):
            target, source, _ = edge_index.coo()
            edge_index = torch.stack([source, target])
        elif is_torch_sparse_tensor(edge_index):  # row by row, as the operator reads biases and masks
            edge_index = to_edge_index(edge_index.to_sparse_csr())[0].flip(0)
        elif isinstance(edge_index, EdgeIndex):
            edge_index = edge_index.as_tensor()
        check_tensor("edge_index", edge_index, (2, None), "whole")
        source, target = edge_index if self.flow == "source_to_target" else edge_index.flip(0)
        check_ends("source", source, size[0])
        check_ends("target", target, size[1])
        check_edge_values(edge_index.size(1), self.heads, edge_bias, edge_mask)
        # PyG's softmax needs 64 bits.
        return edge_index.long() if edge_index.dtype == torch.int32 else edge_index, edge_bias

    def fuses(
        self, edge_index: Union[Adj, CSR, EdgeSet], return_attention_weights: Optional[bool] = None
    ) -> bool:
        """Whether messages are fused: nobody hooks them, explains them or asks for their weights."""
        hooks = [
            self._message_forward_pre_hooks,
            self._message_forward_hooks,
            self._aggregate_forward_pre_hooks,
            self._aggregate_forward_hooks,
        ]
        if not _propagates(edge_index):
            hooks += [self._propagate_forward_pre_hooks, self._propagate_forward_hooks]
        asked = bool(return_attention_weights) or bool(self.explain) or any(hooks)
        return self.fuse and not asked and self.flow == "source_to_target" and self.aggr in ("add", "sum")

    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_bias: OptTensor,
        edge_mask: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        """The message of each edge, its attention coefficient times its value."""
        score = (query_i * key_j).sum(dim=-1) * self.scale
        least = torch.finfo(score.dtype).min
        if edge_bias is not None:
            score = (score + edge_bias.to(score.dtype)).clamp(min=least)
        if edge_mask is not None and self.mask_mode == "remove":
            score = score.masked_fill(~edge_mask.unsqueeze(-1), least)
        alpha = softmax(score, index, ptr, size_i)
        if edge_bias is not None:  # not even a target all of whose edges are forbidden attends to one
            alpha = alpha.masked_fill(edge_bias == -torch.inf, 0)
        if edge_mask is not None:
            alpha = alpha * edge_mask.unsqueeze(-1)
        self._alpha = alpha
        return value_j * alpha.unsqueeze(-1)

    def message_and_aggregate(
        self,
        edge_index: Union[Adj, CSR, EdgeSet],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        edge_bias: OptTensor,
        edge_mask: OptTensor,
    ) -> Tensor:
        """All messages at once, without materialising them."""
        return sparse_attention(
            query, key, value, edge_index, edge_bias, edge_mask, mask_mode=self.mask_mode, scale=self.scale
        )

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, heads={self.heads})"


def _propagates(edge_index: Union[Adj, CSR, EdgeSet]) -> bool:
    """Whether PyG fuses the messages of these edges itself."""
    by_target = isinstance(edge_index, EdgeIndex) and edge_index.is_sorted_by_col
    return by_target or is_sparse(edge_index)
