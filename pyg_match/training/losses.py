"""Losses over a batch of pairs, each a mean over keypoints within a pair first and left per pair."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import scatter

from pyg_match.ops.segments import segment_logsumexp


def pair_of_nodes(num_keypoints: Tensor, num_nodes: Optional[int] = None) -> Tensor:
    """The number of the pair that each node belongs to, :math:`(N)`.

    Args:
        num_keypoints: Numbers of keypoints of the images of each pair.
        num_nodes: Number of nodes, which is read from the device if it is not told.

    Example:
        >>> pair_of_nodes(torch.tensor([[1, 2], [1, 0]]))
        tensor([0, 0, 0, 1])
    """
    counts = num_keypoints.sum(1)
    pairs = torch.arange(counts.numel(), device=counts.device)
    return torch.repeat_interleave(pairs, counts, output_size=num_nodes)


def partner_nodes(y: Tensor, num_keypoints: Tensor) -> Tensor:
    """Labels with the node number of the partner in the batch in place of its index within its image.

    Args:
        y: Labels as in :class:`~pyg_match.data.KeypointPair`.
        num_keypoints: Numbers of keypoints of the images of each pair.

    Shapes:
        - **y**, **output:** :math:`(N)`
        - **num_keypoints:** :math:`(B, 2)`

    Example:
        >>> partner_nodes(torch.tensor([1, -1, 0]), torch.tensor([[1, 2]]))
        tensor([ 2, -1,  0])
    """
    counts = num_keypoints.flatten()
    start = (counts.cumsum(0) - counts).view(-1, 2).flip(1).flatten()
    start = start.repeat_interleave(counts, output_size=y.numel())
    return torch.where(y >= 0, y + start, y)


def dense_log_likelihoods(log_assignment: list[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log-likelihoods of two claims about each node: that it has its true partner, and that it has none.

    Args:
        log_assignment: For each pair a log assignment with dustbins.
        y: Labels as in :class:`~pyg_match.data.KeypointPair`.

    Shapes:
        - **log_assignment:** :math:`B` times :math:`(N_0 + 1, N_1 + 1)`
        - **y:** :math:`(N)`
        - **output:** :math:`\log P_{i, y_i}` (0 where :math:`y_i < 0`) and the dustbin's entry, :math:`(N)` each
    """
    partnered, alone = [y.new_zeros(0, dtype=torch.float)], [y.new_zeros(0, dtype=torch.float)]
    start = 0
    for matrix in log_assignment:
        count0, count1 = matrix.size(0) - 1, matrix.size(1) - 1
        y0, y1 = y[start : start + count0 + count1].split([count0, count1])
        start += count0 + count1
        rows, columns = (torch.arange(count, device=y.device) for count in (count0, count1))
        partnered += [
            torch.where(y0 >= 0, matrix[rows, y0.clamp(min=0)], 0),
            torch.where(y1 >= 0, matrix[y1.clamp(min=0), columns], 0),
        ]
        alone += [matrix[:-1, -1], matrix[-1, :-1]]
    return torch.cat(partnered), torch.cat(alone)


def edge_log_likelihoods(
    edge_log_assignment: Tensor, cross_edge_index: Tensor, matchability: Tensor, partner: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The same as :func:`dense_log_likelihoods` from the log assignment of single edges.

    No probability exists for a true pair without an edge, so it cannot be rewarded. Its two keypoints have no
    partner *in this graph* and are labelled unmatched: claiming any other edge would be a wrong match.

    Args:
        edge_log_assignment: Log assignment of each edge between images.
        cross_edge_index: Those edges, in both directions.
        matchability: Logit of having a match at all, of each node.
        partner: Labels with node numbers, from :func:`partner_nodes`.

    Shapes:
        - **edge_log_assignment:** :math:`(E)`
        - **cross_edge_index:** :math:`(2, E)`
        - **matchability**, **partner:** :math:`(N)`
        - **output:** both log-likelihoods, and the labels that remain, :math:`(N)` each
    """
    source, target = cross_edge_index[0], cross_edge_index[1]
    true = partner[target] == source
    reached = torch.zeros_like(partner, dtype=torch.bool)
    reached[target[true]] = True
    partnered = matchability.new_zeros(partner.numel(), dtype=edge_log_assignment.dtype)
    partnered = partnered.index_put((target[true],), edge_log_assignment[true])
    left = torch.where((partner >= 0) & ~reached, -1, partner)
    return partnered, F.logsigmoid(-matchability), left


def assignment_nll(
    partnered: Tensor, alone: Tensor, y: Tensor, pair: Tensor, num_pairs: int, balance: float = 0.5
) -> Tensor:
    r"""The negative log-likelihood of the true assignment, balanced between matched and unmatched keypoints.

    .. math::
        \ell = - \frac{b}{|\mathcal{M}|} \sum_{i \in \mathcal{M}} \log P_{i, y_i}
        - \frac{1 - b}{|\mathcal{U}|} \sum_{i \in \mathcal{U}} \log \left( 1 - \sigma_i \right)

    for each pair, with its matched keypoints :math:`\mathcal{M}` and its unmatched ones :math:`\mathcal{U}` of
    both images. Ignored keypoints (``y = -2``) are in neither. An empty set adds nothing.

    Args:
        partnered: Log-likelihood of the true partner of each node.
        alone: Log-likelihood of having none.
        y: Labels; only their sign and -2 matter.
        pair: The pair of each node.
        num_pairs: Number of pairs :math:`B`.
        balance: The weight :math:`b` of matched keypoints.

    Shapes:
        - **partnered**, **alone**, **y**, **pair:** :math:`(N)`
        - **output:** :math:`(B)`

    Source: LightGlue (https://arxiv.org/abs/2306.13643), eq. 11.

    Example:
        >>> log_likelihood = torch.tensor([-1.0, -3.0, -2.0])
        >>> y = torch.tensor([0, 0, -1])
        >>> assignment_nll(log_likelihood, log_likelihood, y, torch.zeros(3).long(), 1)
        tensor([2.])
    """
    matched, unmatched = y >= 0, y == -1
    return -balance * _mean(partnered, matched, pair, num_pairs) - (1 - balance) * _mean(
        alone, unmatched, pair, num_pairs
    )


def matchability_loss(matchability: Tensor, y: Tensor, pair: Tensor, num_pairs: int) -> Tensor:
    r"""Binary cross-entropy between matchability and whether a keypoint has a partner.

    :func:`assignment_nll` contains it already: :math:`-\log P_{ij}` holds :math:`-\log \sigma_i - \log \sigma_j`,
    and the dustbin holds :math:`-\log (1 - \sigma_i)`. On its own it weighs every keypoint alike instead of matched
    ones against unmatched ones, and it leaves out who the partner is; use it to calibrate pruning.

    Shapes:
        - **matchability** (logits), **y**, **pair:** :math:`(N)`
        - **output:** :math:`(B)`

    Example:
        >>> matchability_loss(torch.zeros(2), torch.tensor([0, -1]), torch.tensor([0, 0]), 1)
        tensor([0.6931])
    """
    loss = F.binary_cross_entropy_with_logits(matchability, (y >= 0).to(matchability), reduction="none")
    return _mean(loss, y != -2, pair, num_pairs)


def confidence_loss(
    confidence: Tensor, decision: Tensor, final: Tensor, pair: Tensor, num_pairs: int
) -> Tensor:
    r"""Binary cross-entropy between confidence and whether a layer decides on a keypoint as the last layer does.

    Args:
        confidence: Logit that the decision is final, from descriptors without gradient.
        decision: The partner that the layer decides for, -1 for none.
        final: The partner that the last layer decides for.
        pair: The pair of each node.
        num_pairs: Number of pairs :math:`B`.

    Shapes:
        - **confidence**, **decision**, **final**, **pair:** :math:`(N)`
        - **output:** :math:`(B)`

    Source: LightGlue (https://arxiv.org/abs/2306.13643), section 3.4.

    Example:
        >>> same = torch.tensor([3, -1])
        >>> confidence_loss(torch.zeros(2), same, same, torch.tensor([0, 0]), 1)
        tensor([0.6931])
    """
    agrees = (decision == final).to(confidence)
    loss = F.binary_cross_entropy_with_logits(confidence, agrees, reduction="none")
    return _mean(loss, torch.ones_like(decision, dtype=torch.bool), pair, num_pairs)


def dense_decisions(log_assignment: list[Tensor]) -> Tensor:
    """The most probable partner of each node by index in the other image, -1 where the dustbin is, :math:`(N)`."""
    decisions = [torch.empty(0, dtype=torch.long)]
    for matrix in log_assignment:
        row, column = matrix[:-1].argmax(1), matrix[:, :-1].argmax(0)
        decisions = decisions if len(decisions) > 1 else [row[:0]]
        decisions += [
            row.masked_fill(row == matrix.size(1) - 1, -1),
            column.masked_fill(column == matrix.size(0) - 1, -1),
        ]
    return torch.cat(decisions)


def edge_decisions(edge_log_assignment: Tensor, cross_edge_index: Tensor, alone: Tensor) -> Tensor:
    """The most probable partner of each node by node number, -1 where having none is more probable, :math:`(N)`."""
    source, target = cross_edge_index[0], cross_edge_index[1]
    count = alone.numel()
    top = scatter(edge_log_assignment, target, dim_size=count, reduce="max")
    candidate = torch.where(edge_log_assignment == top[target], source, count)
    best = scatter(candidate, target, dim_size=count, reduce="min")
    seen = torch.zeros_like(alone, dtype=torch.bool).index_fill_(0, target, True)
    return torch.where(seen & (top > alone), best, -1)


def assignment_distillation(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    r"""The Kullback-Leibler divergence of a student's assignment from its teacher's.

    Each keypoint's row (or column), with its dustbin, is normalised to a distribution :math:`p_i`; the divergences
    :math:`\sum_j p_{ij}^{\mathrm{teacher}} \log (p_{ij}^{\mathrm{teacher}} / p_{ij}^{\mathrm{student}})` are averaged
    over the keypoints of both images.

    Shapes:
        - **student**, **teacher:** :math:`B` times :math:`(N_0 + 1, N_1 + 1)`
        - **output:** :math:`(B)`

    Example:
        >>> matrix = torch.randn(4, 6)
        >>> assignment_distillation([matrix], [matrix])
        tensor([0.])
    """
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        total = ours.new_zeros(())
        for dim, part in ((1, slice(-1)), (0, (slice(None), slice(-1)))):
            p, q = theirs[part].log_softmax(dim), ours[part].log_softmax(dim)
            total = total + F.kl_div(q, p, reduction="sum", log_target=True)
        losses.append(total / max(ours.size(0) + ours.size(1) - 2, 1))
    return torch.stack(losses)


def edge_assignment_distillation(
    edge_log_assignment: Tensor,
    alone: Tensor,
    teacher: list[Tensor],
    cross_edge_index: Tensor,
    num_keypoints: Tensor,
) -> Tensor:
    """As :func:`assignment_distillation` for an assignment on edges.

    Each keypoint chooses among its edges and the dustbin, into which goes what the teacher gives to absent edges.

    Shapes:
        - **edge_log_assignment:** :math:`(E)`
        - **alone:** log-likelihoods of having no partner, :math:`(N)`
        - **teacher:** :math:`B` times :math:`(N_0 + 1, N_1 + 1)`
        - **cross_edge_index:** :math:`(2, E)`
        - **num_keypoints:** :math:`(B, 2)`
        - **output:** :math:`(B)`
    """
    source, target = cross_edge_index[0], cross_edge_index[1]
    count = alone.numel()
    pair = pair_of_nodes(num_keypoints, count)
    # The distribution of one node after another, over the keypoints of the other image and the dustbin.
    each = [p for matrix in teacher for p in (matrix[:-1].softmax(1), matrix[:, :-1].softmax(0).t())]
    probability = torch.cat([p.flatten() for p in each]).to(edge_log_assignment.dtype)
    sizes = num_keypoints.flatten()
    starts = (sizes.cumsum(0) - sizes).view(-1, 2)
    others, other_start = (
        values.flip(1).flatten().repeat_interleave(sizes, output_size=count)
        for values in (num_keypoints, starts)
    )
    row_start = (others + 1).cumsum(0) - (others + 1)
    p = probability[row_start[target] + source - other_start[target]]
    nodes = torch.arange(count, device=target.device)
    logits, index = torch.cat([edge_log_assignment, alone]), torch.cat([target, nodes])
    rest = (1 - scatter(p, target, dim_size=count, reduce="sum")).clamp(min=0)
    order = index.argsort(stable=True)
    ptr = torch.searchsorted(index[order], torch.arange(count + 1, device=index.device))
    q = logits - segment_logsumexp(logits[order], ptr)[index]
    p = torch.cat([p, rest])
    divergence = scatter(torch.xlogy(p, p) - p * q, index, dim_size=count, reduce="sum")
    return _mean(divergence, torch.ones_like(nodes, dtype=torch.bool), pair, num_keypoints.size(0))


def descriptor_distillation(
    student: list[Tensor], teacher: list[Tensor], pair: Tensor, num_pairs: int
) -> Tensor:
    r"""How far a student's descriptors are from its teacher's after each layer, relative to their length.

    .. math::
        \frac{1}{L} \sum_{\ell} \frac{\mathrm{mean}_i \lVert \mathbf{x}_i^\ell - \mathbf{t}_i^\ell \rVert^2}
        {\mathrm{mean}_i \lVert \mathbf{t}_i^\ell \rVert^2}

    Shapes:
        - **student**, **teacher:** :math:`L` times :math:`(N, D)`
        - **pair:** :math:`(N)`
        - **output:** :math:`(B)`

    Example:
        >>> x = torch.ones(2, 3)
        >>> descriptor_distillation([x], [2 * x], torch.tensor([0, 0]), 1)
        tensor([0.2500])
    """
    everyone = torch.ones_like(pair, dtype=torch.bool)
    ratios = []
    for ours, theirs in zip(student, teacher, strict=True):
        difference = _mean((ours - theirs).square().sum(1), everyone, pair, num_pairs)
        length = _mean(theirs.square().sum(1), everyone, pair, num_pairs)
        ratios.append(difference / length.clamp(min=1e-12))
    return torch.stack(ratios).mean(0)


def _mean(value: Tensor, mask: Tensor, pair: Tensor, num_pairs: int) -> Tensor:
    """The mean over the masked nodes of each pair, 0 where there are none."""
    total = value.new_zeros(num_pairs).index_add(0, pair, torch.where(mask, value, 0))
    count = value.new_zeros(num_pairs).index_add(0, pair, mask.to(value.dtype))
    return total / count.clamp(min=1)
