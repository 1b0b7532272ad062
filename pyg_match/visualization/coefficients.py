"""Attention coefficients of chosen targets, computed a chunk at a time."""

from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch_geometric.utils import cumsum

from pyg_match.nn.conv import MaskedAttentionConv
from pyg_match.nn.conv.projection import weight_of
from pyg_match.ops import CSR, Anchored, Blocks, EdgeSet, attention_weights
from pyg_match.transforms.multi_scale import neighbour_rank

# Coefficients that are in memory at a time.
CHUNK = 1 << 22
# A complete graph with more coefficients than that is recorded in part only.
LIMIT = 1 << 25


class EdgeAttention(NamedTuple):
    r"""The attention coefficients of one step.

    Attributes:
        edge_index: Edges from source to target, in the node numbers of the pair or batch, sorted by target.
        alpha: The coefficient of each edge and head.

    Shapes:
        - **edge_index:** :math:`(2, E)`
        - **alpha:** :math:`(E, H)`

    Example:
        >>> step = EdgeAttention(torch.tensor([[0, 1], [2, 2]]), torch.tensor([[0.9], [0.1]]))
        >>> step.edge_index[0, step.alpha[:, 0].argmax()]
        tensor(0)
    """

    edge_index: Tensor
    alpha: Tensor


@torch.no_grad()
def edge_attention(
    conv: MaskedAttentionConv,
    x: Tensor,
    edges: Union[EdgeSet, CSR, Blocks, Anchored, Tensor],
    rotation: Optional[Tensor] = None,
    edge_mask: Optional[Tensor] = None,
    targets: Optional[Tensor] = None,
    top: Optional[int] = None,
    edge_bias: Optional[Tensor] = None,
) -> EdgeAttention:
    """The coefficients that a layer uses for these inputs, without running it.

    Args:
        conv: The layer.
        x: Its input.
        edges: Its edges.
        rotation: Its rotary encodings.
        edge_mask: Its mask.
        targets: Ascending numbers of the nodes whose incoming edges are wanted; ``None`` for all.
        top: Leave out edges that are in no head among the ``top`` largest of their target.
        edge_bias: What it adds to the scores.

    Raises:
        ValueError: If all coefficients of a large complete graph are asked for.
    """
    if not torch.is_autocast_enabled(x.device.type):  # under which the matcher may have rounded it
        x = x.to(getattr(weight_of(conv.lin_query), "dtype", x.dtype))
    query, key, _ = conv._project(x, x, rotation, x[:0])
    edges = EdgeSet.of(edges, x.size(0), x.size(0), x.device)
    if edges.groups is not None and not edges.is_dense:
        edges, edge_bias = edges.listed()
    wide = torch.promote_types(query.dtype, torch.float)
    query, key = query.to(wide), key.to(wide)
    targets = torch.arange(x.size(0), device=x.device) if targets is None else targets
    with torch.autocast(x.device.type, enabled=False):
        if edges.groups is not None:
            parts = _of_groups(query, key, edges.groups, targets, top, conv.scale)
        else:
            csr = edges.csr()
            mask = None if edge_mask is None else csr.sorted(edge_mask)
            if edge_bias is not None:
                edge_bias = csr.sorted(edge_bias.unsqueeze(1) if edge_bias.dim() == 1 else edge_bias)
            parts = _of_edges(conv, query, key, csr, edge_bias, mask, targets, top)
    if not parts:
        return EdgeAttention(targets.new_empty(2, 0), query.new_empty(0, query.size(1)))
    return EdgeAttention(torch.cat([p.edge_index for p in parts], 1), torch.cat([p.alpha for p in parts]))


def _of_groups(
    query: Tensor, key: Tensor, groups: Tensor, targets: Tensor, top: Optional[int], scale: float
) -> list[EdgeAttention]:
    """Dense rows of the chosen targets, and from them the largest coefficients."""
    bounds = torch.searchsorted(targets, groups[:, :2].contiguous()).tolist()
    ranges = groups[:, 2:].tolist()
    total = sum((b - a) * (v - u) for (a, b), (u, v) in zip(bounds, ranges, strict=True))
    if top is None and total * query.size(1) > LIMIT:
        raise ValueError(
            f"a step of this complete graph has {total * query.size(1):,} coefficients, expected at most {LIMIT:,}; "
            "choose 'nodes', or only the 'top' ones of each"
        )
    parts = []
    for (first, last), (start, stop) in zip(bounds, ranges, strict=True):
        chosen = targets[first:last]
        if chosen.numel() == 0 or start == stop:
            continue
        keys = key[start:stop].permute(1, 2, 0)
        for rows in chosen.split(max(1, CHUNK // (query.size(1) * (stop - start)))):
            alpha = (query[rows].transpose(0, 1) @ keys * scale).softmax(dim=-1).permute(1, 2, 0)
            if top is None or top >= stop - start:
                row = torch.arange(len(rows), device=rows.device).repeat_interleave(stop - start)
                column = torch.arange(stop - start, device=rows.device).repeat(len(rows))
                values = alpha.flatten(0, 1)
            else:
                kept = alpha.new_zeros(alpha.shape[:2], dtype=torch.bool)
                for head in range(alpha.size(2)):
                    kept.scatter_(1, alpha[..., head].topk(top, dim=1).indices, True)
                row, column = kept.nonzero(as_tuple=True)
                values = alpha[row, column]
            parts.append(EdgeAttention(torch.stack([column + start, rows[row]]), values))
    return parts


def _of_edges(
    conv: MaskedAttentionConv,
    query: Tensor,
    key: Tensor,
    csr: CSR,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    targets: Tensor,
    top: Optional[int],
) -> list[EdgeAttention]:
    """Coefficients of the listed edges of the chosen targets."""
    parts = []
    degree = csr.rowptr.diff()[targets]
    # Chunks of targets with a bounded number of coefficients.
    chunk = degree.cumsum(0) * query.size(1) // CHUNK
    sizes = torch.unique_consecutive(chunk, return_counts=True)[1].tolist()
    for rows, counts in zip(targets.split(sizes), degree.split(sizes), strict=True):
        rowptr = cumsum(counts)
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        edge = torch.arange(len(row), device=rows.device) - rowptr[row] + csr.rowptr[rows][row]
        own = CSR(rowptr, csr.col[edge])
        own_bias = None if bias is None else bias[edge].expand(-1, query.size(1))
        own_mask = None if mask is None else mask[edge]
        alpha = attention_weights(query[rows], key, own, own_bias, own_mask, conv.mask_mode, conv.scale)
        part = EdgeAttention(torch.stack([own.col, rows[row]]), alpha)
        if top is not None:
            kept = best_ranks(alpha, row) < top
            part = EdgeAttention(part.edge_index[:, kept], alpha[kept])
        parts.append(part)
    return parts


def best_ranks(alpha: Tensor, target: Tensor) -> Tensor:
    """The place of each edge among those of its target, from 0, in the head where it is nearest to the largest.

    Shapes:
        - **alpha:** :math:`(E, H)`
        - **target**, **output:** :math:`(E)`
    """
    best = torch.full_like(target, torch.iinfo(target.dtype).max)
    for values in alpha.unbind(1):
        order = by_target(values, target)
        rank = torch.empty_like(target).index_copy_(0, order, neighbour_rank(target[order]))
        best = torch.minimum(best, rank)
    return best


def by_target(values: Tensor, target: Tensor) -> Tensor:
    """The order of edges by target, the largest value of each target first, :math:`(E)`."""
    order = values.argsort(descending=True, stable=True)
    return order[target[order].argsort(stable=True)]
