"""Complete graphs whose edges nobody lists."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to that many similarities, one matrix of them serves both directions of a pair of blocks; beyond, flash attention
# computes them twice but never stores them.
_SHARED_SIMILARITIES = 1 << 22


class Blocks(NamedTuple):
    """Blocks of targets, each of which sees all of a range of sources.

    Stands in for an ``edge_index`` whose blocks are complete, such as the keypoints of an image among each other.

    Attributes:
        target_ptr: Where the targets of each block start, and their number at the end, :math:`B + 1` numbers.
        source_start: The first source that each block sees, :math:`B` numbers.
        source_stop: The source after the last one that each block sees, :math:`B` numbers.
    """

    target_ptr: tuple[int, ...]
    source_start: tuple[int, ...]
    source_stop: tuple[int, ...]

    def partner(self, block: int) -> int:
        """The block that sees this one and is seen by it, if it is the next one, else -1."""
        other = block + 1
        if other >= len(self.source_start):
            return -1
        sees = (self.source_start[block], self.source_stop[block]) == self.target_ptr[other : other + 2]
        seen = (self.source_start[other], self.source_stop[other]) == self.target_ptr[block : block + 2]
        return other if sees and seen else -1


def block_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float) -> Tensor:
    """Dense attention within blocks; see :func:`pyg_match.ops.sparse_attention`."""
    if blocks.target_ptr[-1] != query.size(0):
        raise ValueError(
            f"the blocks have {blocks.target_ptr[-1]} targets, but there are {query.size(0)} queries"
        )
    if max((*blocks.source_stop, 0)) > key.size(0):
        raise ValueError(
            f"the blocks name source {max(blocks.source_stop) - 1}, but there are {key.size(0)} keys"
        )
    heads_first = [t.transpose(0, 1) for t in (query, key, value)]
    parts: list[Tensor] = [query.new_empty(query.size(1), 0, value.size(2))]
    block = 0
    while block < len(blocks.source_start):
        targets = slice(*blocks.target_ptr[block : block + 2])
        sources = slice(blocks.source_start[block], blocks.source_stop[block])
        q, k, v = heads_first[0][:, targets], heads_first[1][:, sources], heads_first[2][:, sources]
        num_similarities = q.size(0) * q.size(1) * k.size(1)
        if (
            query is key
            and scale >= 0
            and blocks.partner(block) >= 0
            and num_similarities <= _SHARED_SIMILARITIES
        ):
            parts += _both_ways(q, k, v, heads_first[2][:, targets], scale)
            block += 2
        else:
            parts.append(_dense(q, k, v, scale))
            block += 1
    return torch.cat(parts, dim=1).transpose(0, 1)


def _dense(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    if query.size(1) == 0 or key.size(1) == 0:
        return query.new_zeros(query.size(0), query.size(1), value.size(2))
    out = F.scaled_dot_product_attention(
        query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), scale=scale
    )
    return out.squeeze(0)


def _both_ways(query: Tensor, key: Tensor, value: Tensor, own_value: Tensor, scale: float) -> list[Tensor]:
    """Attention of ``query`` to ``key`` and of ``key`` to ``query``, whose similarities are the same."""
    if query.size(1) == 0 or key.size(1) == 0:
        return [_dense(query, key, value, scale), _dense(key, query, own_value, scale)]
    similarity = (query * scale**0.5) @ (key * scale**0.5).transpose(1, 2)
    forward = similarity.softmax(dim=2) @ value
    backward = similarity.transpose(1, 2).contiguous().softmax(dim=2) @ own_value
    return [forward, backward]
