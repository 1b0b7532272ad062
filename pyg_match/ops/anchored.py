"""Graphs in which all nodes of a group see the same few sources, which nobody lists."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyg_match.ops import cpu
from pyg_match.ops.csr import CSR


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
    """Whether :func:`anchored_attention` can be used, which has no gradients."""
    flash = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    return flash and device.type == "cpu" and not torch.is_grad_enabled() and cpu.available()


@torch.compiler.disable
def anchored_attention(query: Tensor, key: Tensor, value: Tensor, edges: Anchored, scale: float) -> Tensor:
    r"""Attention along edges and to anchors, as if all edges were listed.

    Anchors are dense blocks, so that dense attention serves them. With its result :math:`\mathbf{a}`, that along the
    edges :math:`\mathbf{e}`, and the logarithms :math:`l_a, l_e` of the sums of the exponentials of their scores,

    .. math::
        \mathbf{o} = \mathbf{e} + \sigma(l_a + \log w - l_e) \, (\mathbf{a} - \mathbf{e}).

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
    out, total = torch.ops.pyg_match.attention.default(
        query, key, value, edges.edges.rowptr, edges.edges.col, None, None, False, scale
    )
    anchor_key, anchor_value = (
        _side_by_side(t[edges.anchor].to(query.dtype)).transpose(0, 1).unsqueeze(0) for t in (key, value)
    )
    query = _side_by_side(query)
    for group in range(len(edges.target_ptr) - 1):
        targets = slice(*edges.target_ptr[group : group + 2])
        anchors = slice(*edges.anchor_ptr[group : group + 2])
        if targets.start == targets.stop or anchors.start == anchors.stop:
            continue
        dense, of_anchors = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[targets].transpose(0, 1).unsqueeze(0),
            anchor_key[:, :, anchors],
            anchor_value[:, :, anchors],
            scale=scale,
        )
        of_anchors = of_anchors.squeeze(0).t() + edges.log_weight[targets].unsqueeze(1)
        share = (of_anchors - total[targets]).sigmoid().to(out.dtype).unsqueeze(-1)
        out[targets].lerp_(dense.squeeze(0).transpose(0, 1), share)
    return out


def _side_by_side(x: Tensor) -> Tensor:
    """The same with channels next to each other in memory, which dense attention takes for granted."""
    return x if x.stride(-1) == 1 else x.contiguous()
