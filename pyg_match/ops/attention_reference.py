"""Attention along edges in plain torch, for any device: the definition that every faster path is held to."""

from typing import Literal, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_match.ops.csr import CSR
from pyg_match.ops.derivatives import is_transformed

MaskMode = Literal["remove", "zero"]


def softmax_of_edges(
    score: Tensor, csr: CSR, bias: Optional[Tensor], mask: Optional[Tensor], mask_mode: MaskMode
) -> Tensor:
    """The coefficients :math:`(E, H)` of edges, from scores to which the bias is still to be added."""
    target = csr.target()
    score = score if bias is None else score + bias
    if mask is not None and mask_mode == "remove":
        score = score.masked_fill(~mask.unsqueeze(-1), -torch.inf)
    index = target.unsqueeze(-1).expand_as(score)
    shape = (csr.rowptr.numel() - 1, score.size(1))
    top = score.new_full(shape, -torch.inf).scatter_reduce(0, index, score.detach(), "amax")
    top = top.masked_fill(top == -torch.inf, 0.0)  # targets without edges
    exp = (score - top[target]).exp()
    total = exp.new_zeros(shape).index_add(0, target, exp)
    alpha = exp / total.masked_fill(total == 0, 1.0)[target]
    return alpha if mask is None else alpha * mask.unsqueeze(-1)


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    csr: CSR,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    mask_mode: MaskMode,
    scale: float,
) -> Tensor:
    r"""The sum of the values of each target's sources, weighted by their coefficients.

    .. math::
        \mathbf{o}_i = \sum_{j \in \mathcal{N}(i)} \alpha_{ij} \mathbf{v}_j, \qquad
        \alpha_{ij} = \underset{j \in \mathcal{N}(i)}{\mathrm{softmax}}
        \left( s \langle \mathbf{q}_i, \mathbf{k}_j \rangle + b_{ij} \right)

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        value: Values of the sources.
        csr: The edges.
        bias: Added to the scores.
        mask: ``False`` at edges to forbid.
        mask_mode: Whether forbidden edges are as good as absent (``"remove"``) or lose their coefficient after the
            softmax (``"zero"``).
        scale: The factor :math:`s`.

    Shapes:
        - **query:** :math:`(T, H, C)`
        - **key:** :math:`(S, H, C)`
        - **value:** :math:`(S, H, D)`
        - **bias:** :math:`(E, H)`
        - **mask:** :math:`(E)`
        - **output:** :math:`(T, H, D)`
    """
    alpha = softmax_of_edges(reference_scores(query, key, csr, scale), csr, bias, mask, mask_mode)
    messages = alpha.unsqueeze(-1) * value[csr.col]
    return messages.new_zeros(query.size(0), *value.shape[1:]).index_add(0, csr.target(), messages)


def reference_scores(query: Tensor, key: Tensor, csr: CSR, scale: float) -> Tensor:
    r"""The scaled inner product of both ends of each edge, :math:`(E, H)`, in the order of ``csr``."""
    return (query[csr.target()] * key[csr.col]).sum(dim=-1) * scale


def dense_attention(query: Tensor, key: Tensor, value: Tensor, groups: Tensor, scale: float) -> Tensor:
    """Attention in complete graphs through torch's fused one, for devices without kernels of ours.

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        value: Values of the sources.
        groups: Dense groups that share no targets, as :class:`pyg_match.ops.EdgeSet` has them.
        scale: The factor :math:`s`.
    """
    fused = torch.compiler.is_compiling() or not is_transformed(query, key, value)
    query, key, value = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, value))
    parts = [query.new_zeros(1, query.size(1), 0, value.size(3))]
    for first, stop, source, source_stop in groups.tolist():  # they go through the targets in order
        q, k, v = query[:, :, first:stop], key[:, :, source:source_stop], value[:, :, source:source_stop]
        if source < source_stop and fused:
            parts.append(F.scaled_dot_product_attention(q, k, v, scale=scale))
        elif source < source_stop:  # torch's fused one has neither derivatives forward nor second ones
            q, k, v = (t.to(torch.promote_types(t.dtype, torch.float)) for t in (q, k, v))
            parts.append((scale * q @ k.transpose(2, 3)).softmax(dim=3) @ v)
        else:
            parts.append(query.new_zeros(1, query.size(1), stop - first, value.size(3)))
    return torch.cat(parts, dim=2).squeeze(0).transpose(0, 1)
