"""Graphs in which all nodes of a group see the same few sources, which nobody lists."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pyg_match.ops import attention_cpu
from pyg_match.ops.csr import CSR
from pyg_match.ops.native.library import available


class Anchored(NamedTuple):
    """Edges, and anchors that all targets of their group see besides.

    Stands in for an ``edge_index`` that lists an edge from each anchor of a group to each of its targets.

    Attributes:
        edges: All other edges.
        target_ptr: Where the targets of each group start, and their number at the end, :math:`G + 1` numbers.
        anchor: The anchors, group after group.
        anchor_ptr: Where those of each group start, and their number at the end, :math:`G + 1` numbers.
        log_weight: What targets add to the scores of anchors: the logarithm of how many sources each stands for.

    Shapes:
        - **anchor:** :math:`(A)`
        - **log_weight:** :math:`(T)`
    """

    edges: CSR
    target_ptr: tuple[int, ...]
    anchor: Tensor
    anchor_ptr: tuple[int, ...]
    log_weight: Tensor

    def listed(self) -> tuple[CSR, Tensor]:
        """All edges, those of anchors last for each target, and what they add to their scores."""
        device = self.anchor.device
        sizes, counts = (
            torch.tensor(ptr, device=device).diff() for ptr in (self.target_ptr, self.anchor_ptr)
        )
        before, seen = self.edges.rowptr, counts.repeat_interleave(sizes)
        rowptr = torch.cat([before[:1], (before.diff() + seen).cumsum(0)])
        target = self.edges.target()
        place = rowptr[target] + torch.arange(target.numel(), device=device) - before[target]
        of_anchor = torch.ones(int(rowptr[-1]), dtype=torch.bool, device=device)
        of_anchor[place] = False
        col = self.anchor.new_empty(of_anchor.numel())
        col[place] = self.edges.col
        groups = zip(self.anchor.split(counts.tolist()), sizes.tolist(), strict=True)
        col[of_anchor] = torch.cat([self.anchor[:0], *(anchor.repeat(size) for anchor, size in groups)])
        bias = self.log_weight.new_zeros(of_anchor.numel())
        bias[of_anchor] = self.log_weight.repeat_interleave(seen)
        return CSR(rowptr, col), bias


@torch.compiler.disable  # looking at values would break the graph
def check_anchors(edges: Anchored, num_targets: int, num_sources: int) -> None:
    """Refuse anchors that do not exist, and groups that do not hold all targets."""
    anchor, groups = edges.anchor, len(edges.target_ptr)
    if edges.target_ptr[-1] != num_targets or edges.log_weight.shape != (num_targets,):
        raise ValueError(
            f"expected groups and weights of {num_targets} targets, got groups of {edges.target_ptr[-1]} and weights "
            f"{list(edges.log_weight.shape)}"
        )
    if len(edges.anchor_ptr) != groups or edges.anchor_ptr[-1] != anchor.numel():
        raise ValueError(
            f"'anchor_ptr' must lead to {anchor.numel()} anchors in {groups - 1} steps, got {edges.anchor_ptr}"
        )
    wrong = anchor[(anchor < 0) | (anchor >= num_sources)]
    if wrong.numel() > 0:
        raise ValueError(f"an anchor is source {int(wrong[0])}, but there are {num_sources}")


def fuses_anchors(device: torch.device) -> bool:
    """Whether :func:`anchored_attention` can be used."""
    flash = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
    return flash and device.type == "cpu" and available()


def anchored_attention(query: Tensor, key: Tensor, value: Tensor, edges: Anchored, scale: float) -> Tensor:
    r"""Attention along edges and to anchors, as if all edges were listed, with gradients.

    Anchors are dense blocks, so that dense attention serves them. With its result :math:`\mathbf{a}`, that along the
    edges :math:`\mathbf{e}`, and the logarithms :math:`l_a, l_e` of the sums of the exponentials of their scores,

    .. math::
        \mathbf{o} = \mathbf{e} + \sigma(l_a + \log w - l_e) \, (\mathbf{a} - \mathbf{e}).

    The gradient of a score, :math:`p \, (\langle \mathbf{g}, \mathbf{v} \rangle - \langle \mathbf{g}, \mathbf{o}
    \rangle)` with :math:`p = \exp(s - l)`, needs of the other part only :math:`\mathbf{o}` and :math:`l`. So the
    gradients of both are those of attention along edges and of dense attention, told the merged result.

    Args:
        query: Queries, in single or double precision like keys and values.
        key: Keys.
        value: Values, as wide as keys.
        edges: Edges and anchors.
        scale: The factor of the scores.

    Shapes:
        - **query:** :math:`(T, H, C)`
        - **key**, **value:** :math:`(S, H, C)`
        - **output:** :math:`(T, H, C)`

    Source: the merge of partial softmaxes is that of FlashAttention (https://arxiv.org/abs/2205.14135).
    """
    groups = list(edges.target_ptr), list(edges.anchor_ptr)
    out, _ = torch.ops.pyg_match.anchored_attention.default(
        query, key, value, *edges.edges[:2], edges.anchor, edges.log_weight, *groups, scale
    )
    return out


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    anchor: Tensor,
    log_weight: Tensor,
    target_ptr: list[int],
    anchor_ptr: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp."""
    out, total = attention_cpu.attention_forward(query, key, value, rowptr, col, None, None, False, scale)
    anchor_key, anchor_value = (_heads_first(t[anchor].to(query.dtype)) for t in (key, value))
    query = _side_by_side(query)
    for targets, anchors in _groups(target_ptr, anchor_ptr):
        dense, of_anchors = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[targets].transpose(0, 1).unsqueeze(0),
            anchor_key[:, :, anchors],
            anchor_value[:, :, anchors],
            scale=scale,
        )
        of_anchors = (of_anchors.squeeze(0).t() + log_weight[targets].unsqueeze(1)).to(total.dtype)
        share = (of_anchors - total[targets]).sigmoid().masked_fill_(of_anchors == -torch.inf, 0.0)
        out[targets].lerp_(dense.squeeze(0).transpose(0, 1), share.to(out.dtype).unsqueeze(-1))
        total[targets] = torch.logaddexp(total[targets], of_anchors)
    return out, total


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    anchor: Tensor,
    log_weight: Tensor,
    target_ptr: list[int],
    anchor_ptr: list[int],
    scale: float,
    out: Tensor,
    total: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    grads = attention_cpu.attention_backward(
        grad, query, key, value, rowptr, col, None, None, False, scale, out, total
    )[:3]
    tensors = (grad, query, *(t[anchor].to(query.dtype) for t in (key, value)), out)
    grad, query, anchor_key, anchor_value, out = (_heads_first(t) for t in tensors)
    log_weight = log_weight.to(total.dtype).unsqueeze(1)
    log_sum = (total - log_weight).masked_fill(log_weight == -torch.inf, torch.inf).t().unsqueeze(0)
    for targets, anchors in _groups(target_ptr, anchor_ptr):
        dense = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad[:, :, targets],
            query[:, :, targets],
            anchor_key[:, :, anchors],
            anchor_value[:, :, anchors],
            out[:, :, targets],
            log_sum[:, :, targets].contiguous(),
            0.0,
            False,
            scale=scale,
        )
        grads[0][targets].add_(dense[0].squeeze(0).transpose(0, 1))
        for mine, theirs in zip(grads[1:], dense[1:], strict=True):
            mine.index_add_(0, anchor[anchors], theirs.squeeze(0).transpose(0, 1).to(mine.dtype))
    return grads


def _groups(target_ptr: list[int], anchor_ptr: list[int]) -> Iterator[tuple[slice, slice]]:
    """The targets and anchors of each group that has both."""
    for bounds in zip(target_ptr, target_ptr[1:], anchor_ptr, anchor_ptr[1:], strict=False):
        if bounds[0] < bounds[1] and bounds[2] < bounds[3]:
            yield slice(*bounds[:2]), slice(*bounds[2:])


def _heads_first(x: Tensor) -> Tensor:
    """Nodes as a batch of one for dense attention, :math:`(1, H, N, C)`."""
    return _side_by_side(x).transpose(0, 1).unsqueeze(0)


def _side_by_side(x: Tensor) -> Tensor:
    """The same with channels next to each other in memory, which dense attention takes for granted."""
    return x if x.stride(-1) == 1 else x.contiguous()


_library = torch.library.Library("pyg_match", "FRAGMENT")
_inputs = (
    "Tensor query, Tensor key, Tensor value, Tensor rowptr, Tensor col, Tensor anchor, Tensor log_weight, "
    "SymInt[] target_ptr, SymInt[] anchor_ptr, float scale"
)
_library.define(f"anchored_attention({_inputs}) -> (Tensor, Tensor)")
_library.define(
    f"anchored_attention_backward(Tensor grad, {_inputs}, Tensor out, Tensor lse) -> (Tensor, Tensor, Tensor)"
)
_library.impl("anchored_attention", _forward, "CPU")
_library.impl("anchored_attention_backward", _backward, "CPU")


@torch.library.register_fake("pyg_match::anchored_attention")
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return attention_cpu.empty_result(query, value), query.new_empty(query.shape[:2])


@torch.library.register_fake("pyg_match::anchored_attention_backward")
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    empty = attention_cpu.empty_result
    return empty(query, query), empty(key, key), empty(value, value)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.target_ptr, ctx.anchor_ptr, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Optional[Tensor], _: Any) -> tuple[Optional[Tensor], ...]:
    if grad is None:
        return (None,) * 10
    *tensors, out, total = ctx.saved_tensors
    grads = torch.ops.pyg_match.anchored_attention_backward.default(
        grad, *tensors, ctx.target_ptr, ctx.anchor_ptr, ctx.scale, out, total
    )
    return (*grads, *(None,) * 7)


def no_second_derivatives(ctx: Any, *grads: Any) -> Any:
    """What the gradients of the operators answer when they are asked for theirs."""
    raise RuntimeError("the kernels have no second derivatives; use backend='reference' for them")


torch.library.register_autograd("pyg_match::anchored_attention_backward", no_second_derivatives)
torch.library.register_autograd("pyg_match::anchored_attention", _gradient, setup_context=_setup)
