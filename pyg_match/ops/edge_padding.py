"""Padding of edge sets, so that graphs of about one size have tensors of the same shapes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_match.ops.edges import EdgeSet


def pad_edges(edges: EdgeSet, num_nodes: int, num_edges: int, num_groups: int, num_sources: int) -> EdgeSet:
    """The same edges, and others among new nodes behind the old ones, which share the free places for edges.

    Nothing changes for the nodes that were there. What is prepared for gradients is left out.

    Args:
        edges: Edges among one set of nodes.
        num_nodes: Number of nodes, with the new ones; more than before if places for edges are left.
        num_edges: Number of listed edges, not less than before.
        num_groups: Number of dense groups if there are any; at least one more a round than before.
        num_sources: Number of places of ``source`` if it is given, not less than before.

    Example:
        >>> edges = EdgeSet.of(torch.tensor([[1, 0], [0, 1]]), num_targets=2, num_sources=2)
        >>> pad_edges(edges, num_nodes=4, num_edges=5, num_groups=0, num_sources=0).csr().listed()
        tensor([[1, 0, 2, 3, 2],
                [0, 1, 2, 3, 3]])
    """
    device, before = edges.rowptr.device, edges.num_targets
    added, free = num_nodes - before, num_edges - edges.col.numel()
    ends = torch.arange(1, added + 1, device=device) * free // max(added, 1) + edges.col.numel()
    sources = torch.arange(free, dtype=torch.int32, device=device) % max(added, 1) + before
    perm = edges.perm
    padded = EdgeSet(
        torch.cat([edges.rowptr, ends]),
        torch.cat([edges.col, sources]),
        num_nodes,
        None if perm is None else torch.cat([perm, torch.arange(perm.numel(), num_edges, device=device)]),
    )
    if edges.groups is None:
        return padded
    source, log_weight, target = edges.source, edges.log_weight, edges.target
    if log_weight is not None:
        log_weight = F.pad(log_weight.view(edges.rounds, before), (0, added)).flatten()
    if target is not None:
        target = torch.cat([target, torch.arange(before, num_nodes, device=device)])
    return padded._replace(
        groups=_pad_groups(edges.groups, before, num_nodes, num_groups),
        source=None if source is None else F.pad(source, (0, num_sources - source.numel())),
        log_weight=log_weight,
        rounds=edges.rounds,
        target=target,
    )


def _pad_groups(groups: Tensor, before: int, num_nodes: int, num_groups: int) -> Tensor:
    """A group of the new nodes, which see nothing, at the end of each round, and empty groups behind."""
    ends_before = F.pad(groups[:-1, 1], (1, 0), value=before)
    begins = (groups[:, 0] == 0) & (ends_before == before)  # a round, as in group_tables.count_rounds
    place = torch.arange(groups.size(0), device=groups.device) + begins.cumsum(0) - 1
    last_of_round = F.pad(begins[1:], (0, 1), value=True)
    # One row more, for what is not the last of a round.
    table = F.pad(groups.new_full((num_groups + 1, 2), num_nodes), (0, 2)).index_copy_(0, place, groups)
    table[:, 0].index_fill_(0, torch.where(last_of_round, place + 1, num_groups), before)
    return table[:-1]
