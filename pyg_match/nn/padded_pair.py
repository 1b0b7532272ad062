"""Prepared pairs with padding, so that those of about one size have tensors of the same shapes."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from pyg_match.data import KeypointPair
from pyg_match.nn.matcher_output import MatcherOutput
from pyg_match.nn.pair_graph import StepEdges
from pyg_match.nn.prepared_pair import PreparedPair
from pyg_match.ops.edge_padding import pad_edges
from pyg_match.ops.linear import whole_rows

_SPARE = 128  # nodes of the padding at least, which share its edges
_DEGREE = 8  # what mean degrees are multiples of
_LEAST = 256  # nodes, and what numbers of nodes are multiples of up to eight times as many
_FEWEST = 16  # groups, and the same of their numbers


def pad(prepared: PreparedPair) -> PreparedPair:
    """The same pairs, and one more, whose nodes have edges among themselves only, and whose answers mean nothing.

    Numbers of keypoints of single images are in tensors only: the field ``counts`` of the graph holds others, of the
    same sum, the largest of which no image exceeds. That is all that a forward on edges reads of it. Nothing here waits
    for the device.
    """
    pair, graph = prepared.pair, prepared.graph
    before = graph.nodes.numel()
    num_nodes = whole_rows(before + _SPARE, _LEAST)
    added = num_nodes - before
    most = whole_rows(max(added, *(count for counts in graph.counts for count in counts)), _LEAST)
    between = _pad_step(graph.between, num_nodes)
    device, redrawn = graph.nodes.device, prepared.config.redraw_after is not None
    padded = replace(
        graph,
        counts=_bounds(len(graph.counts) + 1, num_nodes, most),
        pairs=tuple(range(len(graph.pairs) + 1)),
        offsets=torch.cat([graph.offsets, graph.offsets.new_full((2,), num_nodes)]),
        nodes=torch.arange(num_nodes, device=device),
        within=tuple(_pad_step(step, num_nodes) for step in graph.within),
        between=between,
        scales=(),
        refused=(),
        cross_edge_ids=torch.arange(between.edges.col.numel(), device=device),
    )
    listed = graph.offsets.new_empty(2, 0) if redrawn else between.edges.csr().listed()
    nodes = KeypointPair(x=F.pad(pair.x, (0, 0, 0, added)), cross_edge_index=listed)
    last = F.pad(pair.num_keypoints.new_full((1, 1), added), (0, 1))
    nodes.num_keypoints = torch.cat([pair.num_keypoints, last])
    return replace(prepared, pair=nodes, graph=padded, position=F.pad(prepared.position, (0, 0, 0, added)))


def without_padding(output: MatcherOutput, prepared: PreparedPair) -> MatcherOutput:
    """The answer for the pairs that were there before padding, in memory of its own."""
    before = prepared.graph.nodes.numel()
    assert output.edge_log_assignment is not None and output.cross_edge_index is not None
    # Edges lie in the order of the nodes that they end in. Those that are drawn anew are a number for each node, from
    # it or to it, and the other end of each is a node of the same pair.
    redrawn = prepared.config.redraw_after is not None
    per_node = output.edge_log_assignment.numel() // output.matches.numel()
    num_edges = per_node * before if redrawn else prepared.graph.between.edges.col.numel()
    return MatcherOutput(
        matches=output.matches[:before].clone(),
        scores=output.scores[:before].clone(),
        num_keypoints=prepared.pair.num_keypoints,
        num_layers=output.num_layers[:-1].clone(),
        depth=output.depth[:before].clone(),
        edge_log_assignment=output.edge_log_assignment[:num_edges].clone(),
        cross_edge_index=output.cross_edge_index[:, :num_edges].clone(),
    )


def _pad_step(step: StepEdges, num_nodes: int) -> StepEdges:
    edges = step.edges
    degree = -(-edges.col.numel() // (_DEGREE * edges.num_targets)) * _DEGREE
    groups = 0 if edges.groups is None else whole_rows(edges.groups.size(0) + edges.rounds, _FEWEST)
    sources = 0 if edges.source is None else whole_rows(edges.source.numel(), _LEAST)
    mask, bias, added = step.mask, step.bias, degree * num_nodes - edges.col.numel()
    return StepEdges(
        pad_edges(edges, num_nodes, degree * num_nodes, groups, sources),
        None if mask is None else F.pad(mask, (0, added), value=True),
        None if bias is None else F.pad(bias, (0, added)),
    )


def _bounds(num_pairs: int, num_nodes: int, most: int) -> tuple[tuple[int, int], ...]:
    """Numbers of keypoints of images, of which the first ones hold the most."""
    ends = [min(i * most, num_nodes) for i in range(2 * num_pairs + 1)]
    sizes = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    return tuple(zip(sizes[::2], sizes[1::2], strict=True))
