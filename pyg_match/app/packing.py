"""Recorded attention as bytes that a browser reads."""

import base64
import gzip
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyg_match.visualization import AttentionRecord
from pyg_match.visualization.attention import Kind
from pyg_match.visualization.coefficients import best_ranks, by_target

KINDS: tuple[Kind, Kind] = ("self", "cross")
# Coefficients of all settings of a page together, before base64; with the rest a page stays below 15 MB.
BUDGET = 8_400_000
_PER_ROW = 6  # bytes of a target in a step: its largest coefficient and how many sources it has


class Packed(NamedTuple):
    r"""The largest coefficients of all steps.

    The bytes are, one after the other and little-endian, for :math:`S = 2 L` steps (self and cross of each layer),
    :math:`N` nodes and :math:`E` kept edges: the largest coefficient of each target ``float32`` :math:`(S, N)`, its
    number of sources ``uint16`` :math:`(S, N)`, the sources ``uint32`` or, below 65,536 nodes, ``uint16``
    :math:`(E)`, and of each head :math:`255 \sqrt{\alpha_{ij} / \max_j \alpha_{ij}}`, rounded, ``uint8``
    :math:`(E, H)`. Of a target the largest mean over the heads comes first.

    Attributes:
        text: The bytes, gzipped, in base64.
        layers: Number of layers :math:`L`.
        heads: Number of heads :math:`H`.
        top: In every head so many of the largest coefficients of a target are kept.
    """

    text: str
    layers: int
    heads: int
    top: int


class _Step(NamedTuple):
    """The edges of a step, by target and descending mean over the heads."""

    source: Tensor
    target: Tensor
    alpha: Tensor
    rank: Tensor  # the best one in any head, from 0


def pack(records: list[AttentionRecord], num_nodes: int, budget: int = BUDGET) -> list[Packed]:
    """Keep as many of the largest coefficients as fit, equally many for all records.

    Args:
        records: What was recorded of one pair with different settings.
        num_nodes: Number of keypoints of both images.
        budget: Bytes that all of them may take.

    Example:
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> from pyg_match.nn import GraphMatcher
        >>> from pyg_match.visualization import record_attention
        >>> sets = [KeypointSet(pos=torch.rand(n, 2), x=torch.randn(n, 8), image_size=(9, 9)) for n in (5, 7)]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> with record_attention(matcher) as record:
        ...     output = matcher(KeypointPair.from_sets(*sets))
        >>> (packed,) = pack([record], num_nodes=12)
        >>> packed.layers, packed.heads
        (2, 4)
    """
    steps = [
        [_step(*record.steps(kind)[layer]) for layer in range(record.num_layers) for kind in KINDS]
        for record in records
    ]
    top = _largest_top(records, steps, num_nodes, budget)
    return [_packed(record, own, num_nodes, top) for record, own in zip(records, steps, strict=True)]


def _step(edge_index: Tensor, alpha: Tensor) -> _Step:
    source, target = edge_index.cpu()
    alpha = alpha.detach().cpu().float()
    order = by_target(alpha.mean(1), target)
    return _Step(source[order], target[order], alpha[order], best_ranks(alpha, target)[order])


def _largest_top(
    records: list[AttentionRecord], steps: list[list[_Step]], num_nodes: int, budget: int
) -> int:
    """The largest number for each head whose coefficients fit, at least one."""
    limit = max((int(step.rank.max()) + 1 for own in steps for step in own if step.rank.numel()), default=1)
    size = torch.zeros(limit, dtype=torch.long)
    for record, own in zip(records, steps, strict=True):
        per_edge = record.heads + _source_type(num_nodes)().itemsize
        size += _PER_ROW * num_nodes * len(own)
        for step in own:
            size += per_edge * torch.bincount(step.rank, minlength=limit).cumsum(0)
    recorded = min((record.top for record in records if record.top is not None), default=limit)
    # Equal coefficients may have been recorded in another order than that of their ranks.
    return max(1, min(recorded, int((size <= budget).sum())))


def _packed(record: AttentionRecord, steps: list[_Step], num_nodes: int, top: int) -> Packed:
    parts: tuple[list[NDArray[np.generic]], ...] = ([], [], [], [])
    for step in steps:
        kept = step.rank < top
        target, alpha = step.target[kept], step.alpha[kept]
        largest = alpha.new_zeros(num_nodes).scatter_reduce(0, target, alpha.amax(1), "amax")
        share = alpha / largest[target].clamp(min=torch.finfo(torch.float).tiny).unsqueeze(1)
        parts[0].append(largest.numpy().astype("<f4"))
        parts[1].append(torch.bincount(target, minlength=num_nodes).numpy().astype("<u2"))
        parts[2].append(step.source[kept].numpy().astype(_source_type(num_nodes)))
        parts[3].append((255 * share.clamp(0, 1).sqrt()).round().byte().numpy())
    content = b"".join(array.tobytes() for part in parts for array in part)
    text = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
    return Packed(text, record.num_layers, record.heads, top)


def _source_type(num_nodes: int) -> type[np.unsignedinteger]:
    return np.uint16 if num_nodes < 1 << 16 else np.uint32
