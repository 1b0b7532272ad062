r"""Attention of dense groups on the CPU, through torch's flash attention, merged with that of other edges.

With the result :math:`\mathbf{e}` of other edges, that of a group :math:`\mathbf{a}`, and the logarithms
:math:`l_e, l_a` of the sums of the exponentials of their scores,

.. math::
    \mathbf{o} = \mathbf{e} + \sigma(l_a + \log w - l_e) \, (\mathbf{a} - \mathbf{e}).

The gradient of a score, :math:`p \, (\langle \mathbf{g}, \mathbf{v} \rangle - \langle \mathbf{g}, \mathbf{o} \rangle)`
with :math:`p = \exp(s - l)`, needs of other edges only :math:`\mathbf{o}` and :math:`l`. So the gradients of a group
are those of dense attention that gets the merged result.

Source: the merge of partial softmaxes is that of FlashAttention (https://arxiv.org/abs/2205.14135).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

_aten: Any = torch.ops.aten


class Groups(NamedTuple):
    """The dense groups of an edge set, as :class:`pyg_match.ops.EdgeSet` has them."""

    groups: Tensor
    source: Optional[Tensor]
    log_weight: Optional[Tensor]

    def ranges(self) -> Iterator[tuple[slice, slice, slice]]:
        """Targets, sources and weights of each group that has targets and sources."""
        weights = 0
        for first, stop, source, source_stop in self.groups.tolist():
            if first < stop and source < source_stop:
                yield slice(first, stop), slice(source, source_stop), slice(weights, weights + stop - first)
            weights += stop - first


def attend_groups(
    query: Tensor, key: Tensor, value: Tensor, groups: Groups, scale: float, out: Tensor, lse: Tensor
) -> None:
    """Merge the attention of groups into a result and its log-sum-exp."""
    if query.size(1) == 0:
        return
    key, value = _of_groups(groups, key, query.dtype), _of_groups(groups, value, query.dtype)
    width = max(key.size(3), value.size(3))
    query, key, value = (_padded(t, width) for t in (_heads_first(query), key, value))
    for targets, sources, weights in groups.ranges():
        dense, total = _aten._scaled_dot_product_flash_attention_for_cpu(
            query[:, :, targets], key[:, :, sources], value[:, :, sources], scale=scale
        )
        dense, total = dense.squeeze(0).transpose(0, 1)[..., : out.size(2)], total.squeeze(0).t()
        if groups.log_weight is not None:
            total = total + groups.log_weight[weights].unsqueeze(1)
        total, before = total.to(lse.dtype), lse[targets]
        share = (total - before).sigmoid().masked_fill_(total == -torch.inf, 0.0)
        out[targets].lerp_(dense, share.to(out.dtype).unsqueeze(-1))
        lse[targets] = torch.logaddexp(before, total)


def add_gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Groups,
    scale: float,
    out: Tensor,
    lse: Tensor,
    grad_lse: Optional[Tensor],
    grads: tuple[Tensor, Tensor, Tensor],
    weighs: bool,
) -> Optional[Tensor]:
    """Add the gradients of queries, keys and values; return those of the weights of groups if it ``weighs``.

    One more channel, 0 in queries and results and 1 in keys and values, brings the gradient of the log-sum-exp in
    and the sum of the gradients of a target's scores out.
    """
    channels, value_channels = key.size(2), value.size(2)
    if query.size(1) == 0:
        return None if groups.log_weight is None else torch.zeros_like(groups.log_weight)
    extra = weighs or grad_lse is not None
    width = max(channels, value_channels) + extra
    key, value = _of_groups(groups, key, query.dtype), _of_groups(groups, value, query.dtype)
    if extra and scale != 1:  # so that the sum comes out as it is
        query = query * scale
    tensors = (_heads_first(t) for t in (grad, query, out))
    grad, query, out, key, value = (_padded(t, width) for t in (*tensors, key, value))
    if extra:
        key[..., -1] = value[..., -1] = 1
        if grad_lse is not None:
            grad[..., -1] = grad_lse.t()
    log_weight = groups.log_weight
    grad_weight = torch.zeros_like(log_weight) if weighs and log_weight is not None else None
    slots = groups.source is not None
    of_slots = [grads[i].new_zeros(key.size(2), *grads[i].shape[1:]) if slots else grads[i] for i in (1, 2)]
    for targets, sources, weights in groups.ranges():
        total = lse[targets]
        if log_weight is not None:
            weight = log_weight[weights].to(lse.dtype).unsqueeze(1)
            total = (total - weight).masked_fill(weight == -torch.inf, torch.inf)
        dense = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad[:, :, targets],
            query[:, :, targets],
            key[:, :, sources],
            value[:, :, sources],
            out[:, :, targets],
            total.t().unsqueeze(0).contiguous(),
            0.0,
            False,
            scale=1.0 if extra else scale,
        )
        of_query, of_key, of_value = (t.squeeze(0).transpose(0, 1) for t in dense)
        grads[0][targets].add_(of_query[..., :channels], alpha=scale if extra else 1)
        of_slots[0][sources].add_(of_key[..., :channels])
        of_slots[1][sources].add_(of_value[..., :value_channels])
        if grad_weight is not None:
            grad_weight[weights] = of_query[..., -1].sum(1)
    if groups.source is not None:
        for into, slot in zip(grads[1:], of_slots, strict=True):
            into.index_add_(0, groups.source, slot)
    return grad_weight


def _of_groups(groups: Groups, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The sources of groups, in the order in which these name them."""
    return _heads_first((x if groups.source is None else x[groups.source]).to(dtype))


def _heads_first(x: Tensor) -> Tensor:
    """Nodes as a batch of one for dense attention, which takes channels side by side, :math:`(1, H, N, C)`."""
    return (x if x.stride(-1) == 1 else x.contiguous()).transpose(0, 1).unsqueeze(0)


def _padded(x: Tensor, width: int) -> Tensor:
    """With channels of zeros up to that width."""
    return x if x.size(-1) == width else F.pad(x, (0, width - x.size(-1)))
