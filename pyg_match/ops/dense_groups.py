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

from pyg_match.ops.edges import EdgeSet

_aten: Any = torch.ops.aten
_SMALL = 512  # targets or sources of a group from which on it is work enough for all threads


class Run(NamedTuple):
    """Groups of one size that follow each other.

    Attributes:
        length: Number of groups.
        first: Place of the first target.
        targets: Number of targets of each group.
        source: Place of the first source.
        sources: Number of sources of each group.
        weight: Place of the first weight.
    """

    length: int
    first: int
    targets: int
    source: int
    sources: int
    weight: int

    def is_followed_by(self, first: int, targets: int, source: int, sources: int) -> bool:
        """Whether a group is one more of the run."""
        size, small = (self.targets, self.sources), max(targets, sources) < _SMALL
        place = (self.first + self.length * self.targets, self.source + self.length * self.sources)
        return self.length > 0 and small and (targets, sources) == size and (first, source) == place

    def of_targets(self, x: Tensor) -> Tensor:
        """The targets of :math:`(H, T, C)`, a group in each row, :math:`(G, H, T_G, C)`."""
        return self._split(x, self.first, self.targets)

    def of_sources(self, x: Tensor) -> Tensor:
        """The same of the sources."""
        return self._split(x, self.source, self.sources)

    def place(self) -> tuple[slice, slice, slice]:
        """Targets, sources and weights."""
        starts = ((self.first, self.targets), (self.source, self.sources), (self.weight, self.targets))
        targets, sources, weights = (slice(start, start + self.length * size) for start, size in starts)
        return targets, sources, weights

    def _split(self, x: Tensor, start: int, size: int) -> Tensor:
        return x[:, start : start + self.length * size].unflatten(1, (self.length, size)).transpose(0, 1)


def runs(edges: EdgeSet) -> Iterator[Run]:
    """The groups that have targets and sources; small ones of one size that follow each other as one run."""
    assert edges.groups is not None
    run, weights = Run(0, 0, 0, 0, 0, 0), 0
    for first, stop, source, source_stop in edges.groups.tolist():
        targets, sources = stop - first, source_stop - source
        if run.is_followed_by(first, targets, source, sources):
            run = run._replace(length=run.length + 1)
        else:
            if run.length > 0:
                yield run
            run = Run(int(min(targets, sources) > 0), first, targets, source, sources, weights)
        weights += targets
    if run.length > 0:
        yield run


def attend_groups(
    query: Tensor, key: Tensor, value: Tensor, edges: EdgeSet, scale: float, out: Tensor, lse: Tensor
) -> None:
    """Merge the attention of groups into a result and its log-sum-exp."""
    if query.size(1) == 0:
        return
    order = edges.target
    if order is not None:
        query = query[order]
        in_order = edges._replace(target=None)
        ordered, total = out[order], lse[order]
        attend_groups(query, key, value, in_order, scale, ordered, total)
        out.index_copy_(0, order, ordered)
        lse.index_copy_(0, order, total)
        return
    key, value = _of_groups(edges, key, query.dtype), _of_groups(edges, value, query.dtype)
    width = max(key.size(2), value.size(2))
    query, key, value = (_padded(t, width) for t in (_heads_first(query), key, value))
    for run in runs(edges):
        targets, _, weights = run.place()
        dense, total = _aten._scaled_dot_product_flash_attention_for_cpu(
            run.of_targets(query), run.of_sources(key), run.of_sources(value), scale=scale
        )
        dense, total = _nodes_first(dense)[..., : out.size(2)], _nodes_first(total)
        if edges.log_weight is not None:
            total = total + edges.log_weight[weights].unsqueeze(1)
        total, before = total.to(lse.dtype), lse[targets]
        share = (total - before).sigmoid().masked_fill_(total == -torch.inf, 0.0)
        out[targets].lerp_(dense, share.to(out.dtype).unsqueeze(-1))
        lse[targets] = torch.logaddexp(before, total)


def add_gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edges: EdgeSet,
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
    if query.size(1) == 0:
        return None if edges.log_weight is None else torch.zeros_like(edges.log_weight)
    order = edges.target
    if order is not None:
        in_order, of_query = edges._replace(target=None), torch.zeros_like(query)
        grad, query, out, lse = (t[order] for t in (grad, query, out, lse))
        grad_lse = None if grad_lse is None else grad_lse[order]
        in_turn = (of_query, *grads[1:])
        grad_weight = add_gradients(
            grad, query, key, value, in_order, scale, out, lse, grad_lse, in_turn, weighs
        )
        grads[0].index_add_(0, order, of_query)
        return grad_weight
    channels, value_channels = key.size(2), value.size(2)
    extra = weighs or grad_lse is not None
    width = max(channels, value_channels) + extra
    key, value = _of_groups(edges, key, query.dtype), _of_groups(edges, value, query.dtype)
    if extra and scale != 1:  # so that the sum comes out as it is
        query = query * scale
    tensors = (_heads_first(t) for t in (grad, query, out))
    grad, query, out, key, value = (_padded(t, width) for t in (*tensors, key, value))
    if extra:
        key[..., -1] = value[..., -1] = 1
        if grad_lse is not None:
            grad[..., -1] = grad_lse.t()
    log_weight = edges.log_weight
    grad_weight = torch.zeros_like(log_weight) if weighs and log_weight is not None else None
    slots = edges.source is not None
    of_slots = [grads[i].new_zeros(key.size(1), *grads[i].shape[1:]) if slots else grads[i] for i in (1, 2)]
    for run in runs(edges):
        targets, sources, weights = run.place()
        total = lse[targets]
        if log_weight is not None:
            weight = log_weight[weights].to(lse.dtype).unsqueeze(1)
            total = (total - weight).masked_fill(weight == -torch.inf, torch.inf)
        dense = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            run.of_targets(grad),
            run.of_targets(query),
            run.of_sources(key),
            run.of_sources(value),
            run.of_targets(out),
            total.t().unflatten(1, (run.length, run.targets)).transpose(0, 1).contiguous(),
            0.0,
            False,
            scale=1.0 if extra else scale,
        )
        of_query, of_key, of_value = (_nodes_first(t) for t in dense)
        grads[0][targets].add_(of_query[..., :channels], alpha=scale if extra else 1)
        of_slots[0][sources].add_(of_key[..., :channels])
        of_slots[1][sources].add_(of_value[..., :value_channels])
        if grad_weight is not None:
            grad_weight[weights] = of_query[..., -1].sum(1)
    if edges.source is not None:
        for into, slot in zip(grads[1:], of_slots, strict=True):
            into.index_add_(0, edges.source, slot)
    return grad_weight


def _of_groups(edges: EdgeSet, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The sources of groups, in the order in which these name them."""
    return _heads_first((x if edges.source is None else x[edges.source]).to(dtype))


def _heads_first(x: Tensor) -> Tensor:
    """Nodes for dense attention, which takes channels side by side, :math:`(H, N, C)`."""
    return (x if x.stride(-1) == 1 else x.contiguous()).transpose(0, 1)


def _nodes_first(x: Tensor) -> Tensor:
    """What dense attention gives of the groups of a run, :math:`(G, H, N, ...)`, node by node."""
    return x.transpose(0, 1).flatten(1, 2).transpose(0, 1)


def _padded(x: Tensor, width: int) -> Tensor:
    """With channels of zeros up to that width."""
    return x if x.size(-1) == width else F.pad(x, (0, width - x.size(-1)))
