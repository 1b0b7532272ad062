"""Numbers that sum up recorded attention: how far it reaches, how spread it is, and how much goes where."""

import torch
from torch import Tensor

from pyg_match.checks import check_tensor
from pyg_match.ops.csr import check_ends
from pyg_match.visualization.attention import AttentionRecord, Kind
from pyg_match.visualization.coefficients import EdgeAttention


def attention_span(record: AttentionRecord, pos: Tensor, kind: Kind = "self") -> Tensor:
    r"""The mean distance at which keypoints attend, in pixels.

    .. math::
        \frac{1}{T} \sum_i \frac{\sum_j \alpha_{ij} \lVert \mathbf{p}_i - \mathbf{p}_j \rVert}{\sum_j \alpha_{ij}}

    Args:
        record: What was recorded, with all coefficients of each target.
        pos: Positions of all nodes in pixels.
        kind: ``"self"``; for ``"cross"`` steps, positions have to be aligned first.

    Shapes:
        - **pos:** :math:`(N, 2)`
        - **output:** :math:`(L, H)`, NaN for a layer without edges

    Raises:
        ValueError: If only the largest coefficients were recorded, or none, or there is not a position for each node.
        TypeError: If positions are no real numbers.

    Example:
        >>> record = AttentionRecord()
        >>> edges = EdgeAttention(torch.tensor([[0, 1], [1, 1]]), torch.full((2, 1), 0.5))
        >>> record.self_attention.append(edges)
        >>> attention_span(record, torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
        tensor([[2.]])
    """
    _check_whole(record)
    check_tensor("pos", pos, (None, 2), "real")
    pos = pos.to(torch.promote_types(pos.dtype, torch.float))
    means = []
    for step in _steps(record, kind):
        source, target = step.edge_index
        check_ends("source", source, pos.size(0))
        check_ends("target", target, pos.size(0))
        distance = (pos[source] - pos[target]).norm(dim=1, keepdim=True).to(step.alpha)
        means.append(_mean(_per_target(step, step.alpha * distance), _per_target(step, step.alpha)))
    return torch.stack(means)


def attention_entropy(record: AttentionRecord, kind: Kind = "self") -> Tensor:
    r"""How spread attention is: the mean entropy of the coefficients of a target, in nats.

    .. math::
        -\frac{1}{T} \sum_i \sum_j \alpha_{ij} \log \alpha_{ij}

    Its exponential is the effective number of attended keypoints.

    Args:
        record: What was recorded, with all coefficients of each target.
        kind: ``"self"`` or ``"cross"``.

    Shapes:
        - **output:** :math:`(L, H)`, NaN for a layer without edges

    Raises:
        ValueError: If only the largest coefficients were recorded, or none.

    Example:
        >>> record = AttentionRecord()
        >>> edges = EdgeAttention(torch.tensor([[0, 1], [1, 1]]), torch.full((2, 1), 0.5))
        >>> record.self_attention.append(edges)
        >>> attention_entropy(record).exp()
        tensor([[2.]])
    """
    _check_whole(record)
    means = []
    for step in _steps(record, kind):
        entropy = _per_target(step, torch.special.entr(step.alpha))
        means.append(_mean(entropy, (_per_target(step, step.alpha) > 0).to(entropy)))
    return torch.stack(means)


def attention_mass(
    record: AttentionRecord, source_label: Tensor, target_label: Tensor, kind: Kind = "self"
) -> Tensor:
    r"""How much of its attention each keypoint spends on the sources that carry its label.

    .. math::
        \sum_j \alpha_{ij} \, [s_j = t_i]

    With the group numbers of :func:`repeated_groups` for both, that is attention to the own group; with
    ``torch.arange(N)`` for the sources and the node of its true match for each target, it is attention to the right
    match.

    Args:
        record: What was recorded.
        source_label: Label :math:`s` of each node as a source.
        target_label: Label :math:`t` of each node as a target, negative for those that are not of interest.
        kind: ``"self"`` or ``"cross"``.

    Shapes:
        - **source_label**, **target_label:** :math:`(N)`
        - **output:** :math:`(L, N, H)`, NaN for targets that are not of interest or have no recorded edges

    Raises:
        ValueError: If nothing was recorded, or there are not two labels for each node.
        TypeError: If labels are no real numbers.

    Example:
        >>> record = AttentionRecord()
        >>> edges = EdgeAttention(torch.tensor([[0, 1], [1, 1]]), torch.full((2, 1), 0.5))
        >>> record.self_attention.append(edges)
        >>> attention_mass(record, torch.tensor([7, 8]), torch.tensor([-1, 7])).flatten().tolist()
        [nan, 0.5]
    """
    check_tensor("source_label", source_label, (None,), "real")
    check_tensor("target_label", target_label, (len(source_label),), "real")
    parts = []
    for step in _steps(record, kind):
        source, target = step.edge_index
        check_ends("source", source, len(source_label))
        check_ends("target", target, len(source_label))
        hit = (source_label[source] == target_label[target]).unsqueeze(1)
        mass = step.alpha.new_zeros(len(target_label), step.alpha.size(1)).index_add(
            0, target, step.alpha * hit
        )
        seen = torch.zeros_like(target_label, dtype=torch.bool).index_fill(0, target, True)
        parts.append(mass.masked_fill(~(seen & (target_label >= 0)).unsqueeze(1), torch.nan))
    return torch.stack(parts)


def _steps(record: AttentionRecord, kind: Kind) -> list[EdgeAttention]:
    steps = record.steps(kind)
    if not steps:
        raise ValueError(f"no {kind} attention was recorded; run the matcher before the record is read")
    return steps


def _check_whole(record: AttentionRecord) -> None:
    if record.top is not None:
        raise ValueError(f"this needs all coefficients of each target, but top={record.top} was recorded")


def _per_target(step: EdgeAttention, values: Tensor) -> Tensor:
    """Sum over the edges of each target that has any, :math:`(T, H)`."""
    _, target = step.edge_index[1].unique_consecutive(return_inverse=True)
    count = int(target[-1]) + 1 if target.numel() > 0 else 0
    return values.new_zeros(count, values.size(1)).index_add(0, target, values)


def _mean(total: Tensor, weight: Tensor) -> Tensor:
    """The mean over targets of total by weight, without targets whose edges are all forbidden."""
    return (total / weight).nanmean(dim=0)
