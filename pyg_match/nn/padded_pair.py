"""Prepared pairs with padding, so that those of about one size have tensors of the same shapes."""

from dataclasses import replace
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_match.data import KeypointPair
from pyg_match.nn.matcher_output import MatcherOutput
from pyg_match.nn.prepared_pair import PreparedPair
from pyg_match.ops import EdgeSet
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
    edges, cross_edges = (_pad_edges(part, num_nodes) for part in (graph.edges, graph.cross_edges))
    divisions = [(_pad_edges(part, num_nodes), bias) for part, bias in graph.divisions]
    num_edges, num_cross_edges = edges.col.numel(), cross_edges.col.numel()
    device, redrawn = graph.nodes.device, prepared.config.redraw_after is not None
    padded = replace(
        graph,
        counts=_bounds(len(graph.counts) + 1, num_nodes, most),
        pairs=tuple(range(len(graph.pairs) + 1)),
        offsets=torch.cat([graph.offsets, graph.offsets.new_full((2,), num_nodes)]),
        nodes=torch.arange(num_nodes, device=device),
        edges=edges,
        cross_edges=cross_edges,
        edge_mask=_pad(graph.edge_mask, num_edges, True),
        cross_edge_mask=_pad(graph.cross_edge_mask, num_cross_edges, True),
        edge_bias=_pad(graph.edge_bias, num_edges),
        cross_edge_bias=_pad(graph.cross_edge_bias, num_cross_edges),
        divisions=tuple((part, _pad(bias, part.col.numel())) for part, bias in divisions),
        scales=(),
        refused=(),
        cross_edge_ids=torch.arange(num_cross_edges, device=device),
    )
    listed = graph.offsets.new_empty(2, 0) if redrawn else cross_edges.csr().listed()
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
    num_edges = per_node * before if redrawn else prepared.graph.cross_edges.col.numel()
    return MatcherOutput(
        matches=output.matches[:before].clone(),
        scores=output.scores[:before].clone(),
        num_keypoints=prepared.pair.num_keypoints,
        num_layers=output.num_layers[:-1].clone(),
        depth=output.depth[:before].clone(),
        edge_log_assignment=output.edge_log_assignment[:num_edges].clone(),
        cross_edge_index=output.cross_edge_index[:, :num_edges].clone(),
    )


def _pad_edges(edges: EdgeSet, num_nodes: int) -> EdgeSet:
    degree = -(-edges.col.numel() // (_DEGREE * edges.num_targets)) * _DEGREE
    groups = 0 if edges.groups is None else whole_rows(edges.groups.size(0) + edges.rounds, _FEWEST)
    sources = 0 if edges.source is None else whole_rows(edges.source.numel(), _LEAST)
    return pad_edges(edges, num_nodes, degree * num_nodes, groups, sources)


def _pad(values: Optional[Tensor], size: int, value: float = 0) -> Optional[Tensor]:
    return None if values is None else F.pad(values, (0, size - values.size(0)), value=value)


def _bounds(num_pairs: int, num_nodes: int, most: int) -> tuple[tuple[int, int], ...]:
    """Numbers of keypoints of images, of which the first ones hold the most."""
    ends = [min(i * most, num_nodes) for i in range(2 * num_pairs + 1)]
    sizes = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    return tuple(zip(sizes[::2], sizes[1::2], strict=True))
