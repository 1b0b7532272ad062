"""Output of a matcher."""

import math
from dataclasses import dataclass, fields
from typing import Optional

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex

from pyg_match.data import KeypointPair
from pyg_match.nn.layer_assignment import LayerAssignment
from pyg_match.nn.pair_graph import PairGraph


@dataclass
class MatcherOutput:
    r"""The output of :class:`~pyg_match.nn.GraphMatcher` for a pair or a batch of pairs.

    Attributes:
        matches: For each node the index of its match among the keypoints of the *other* image, or -1.
        scores: Probability of each node's best mutual partner, 0 for none. It is also given for partners that the
            threshold then rejects.
        num_keypoints: Number of keypoints of the images of each pair.
        log_assignment: For each pair the log assignment with dustbins, over the keypoints that were not pruned;
            ``None`` if the assignment ran on edges.
        edge_log_assignment: Log assignment of each cross edge, if the assignment ran on edges.
        cross_edge_index: These edges, by nodes of all pairs: the ones that were given, or, pair after pair as they
            stopped, the ones that each pair's descriptors were compared along last where edges were drawn anew. On a
            GPU, some of the latter are masked, in which case their log assignment is ``-inf``.
        descriptors: Descriptors of all nodes after each layer, if asked for.
        orthogonality: How much the scales of multi-scale self steps overlap, see
            :func:`~pyg_match.nn.orthogonality_penalty`, the mean over layers; for the loss. ``None`` without scales.
        num_layers: Number of layers that each pair ran.
        depth: Number of layers that each keypoint took part in.
        assignment: The assignment of the whole batch, if all pairs stopped after the same layer.

    Shapes:
        - **matches**, **scores**, **depth:** :math:`(N)` for the nodes of all pairs
        - **num_keypoints:** :math:`(B, 2)`
        - **log_assignment:** :math:`B` times :math:`(N_0 + 1, N_1 + 1)`
        - **edge_log_assignment:** :math:`(E)`
        - **cross_edge_index:** :math:`(2, E)`
        - **num_layers:** :math:`(B)`

    Example:
        >>> from pyg_match.nn import GraphMatcher
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=64 * torch.rand(5, 2), x=torch.randn(5, 8), image_size=(64, 64)) for _ in "ab"
        ... ]
        >>> pair = KeypointPair.from_sets(*sets)
        >>> output = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2).eval()(pair)
        >>> output.matches.shape, output.num_layers
        (torch.Size([10]), tensor([2]))
    """

    matches: Tensor
    scores: Tensor
    num_keypoints: Tensor
    num_layers: Tensor
    depth: Tensor
    log_assignment: Optional[list[Tensor]] = None
    edge_log_assignment: Optional[Tensor] = None
    cross_edge_index: Optional[Tensor] = None
    descriptors: Optional[list[Tensor]] = None
    orthogonality: Optional[Tensor] = None
    assignment: Optional[LayerAssignment] = None

    def pair_matches(self, index: int = 0) -> tuple[Tensor, Tensor]:
        """Matches and scores of one pair.

        Args:
            index: Number of the pair in the batch.

        Shapes:
            - **output:** matches :math:`(M, 2)`, indices of keypoints of image 0 and 1, and scores :math:`(M)`

        Raises:
            IndexError: If there is no pair of that number.
        """
        counts = self.num_keypoints.tolist()
        if not 0 <= index < len(counts):
            raise IndexError(f"pair {index} does not exist, expected a number from 0 to {len(counts) - 1}")
        start = sum(map(sum, counts[:index]))
        matches = self.matches[start : start + counts[index][0]]
        matched = (matches >= 0).nonzero().squeeze(1)
        return torch.stack([matched, matches[matched]], dim=1), self.scores[start + matched]

    def write(
        self, i: int, assignment: LayerAssignment, graph: PairGraph, threshold: float, redrawn: bool = False
    ) -> None:
        """Write the matches of the pairs of a graph, which stop after layer ``i``.

        Args:
            i: The layer, counted from 0.
            assignment: Their assignment.
            graph: Their graph.
            threshold: Least probability of a match.
            redrawn: Whether edges between images were drawn anew, and are collected as pairs stop.
        """
        matched, scores = assignment.matches(threshold)
        counts = self.num_keypoints.flatten()
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts, output_size=self.matches.numel())
        in_image = torch.arange(starts.numel(), device=starts.device) - starts
        stops_whole = len(graph.pairs) == self.num_layers.numel()
        if stops_whole:
            self.num_layers.fill_(i + 1)
        else:
            self.num_layers[list(graph.pairs)] = i + 1
        names = in_image[graph.nodes]
        self.matches[graph.nodes] = torch.where(matched >= 0, names[matched.clamp(min=0)], -1)
        self.scores[graph.nodes] = scores.to(self.scores.dtype)
        if assignment.edges is None:
            self.assignment = assignment if stops_whole else None
            for pair, log_assignment in zip(graph.pairs, assignment.dense or (), strict=True):
                self.log_assignment[pair] = log_assignment  # type: ignore[index]
            return
        assert self.cross_edge_index is not None and self.edge_log_assignment is not None
        if redrawn:
            edge_index = graph.nodes[assignment.edge_index]
            self.cross_edge_index = torch.cat([self.cross_edge_index, edge_index], dim=1)
            log_assignment = assignment.edges.to(self.edge_log_assignment.dtype)
            self.edge_log_assignment = torch.cat([self.edge_log_assignment, log_assignment])
        else:
            self.edge_log_assignment[graph.cross_edge_ids] = assignment.edges


# What wraps a model looks for tensors in what it answers: DistributedDataParallel for gradients to be summed.
pytree.register_pytree_node(
    MatcherOutput,
    lambda output: ([getattr(output, field.name) for field in fields(output)], None),
    lambda values, _: MatcherOutput(*values),
)


def empty_output(pair: KeypointPair, x: Tensor, assign_on_edges: bool, redrawn: bool) -> MatcherOutput:
    """The output before any pair has stopped.

    Args:
        pair: The pairs.
        x: Their descriptors.
        assign_on_edges: Whether only edges between images are assigned, if there are such.
        redrawn: Whether these edges are drawn anew.
    """
    nodes, pairs = pair.x.size(0), pair.num_keypoints.size(0)
    cross_edges = pair.get("cross_edge_index")
    listed = cross_edges if assign_on_edges else None
    if listed is not None and redrawn:
        listed = torch.empty(2, 0, dtype=torch.long, device=x.device)
    return MatcherOutput(
        matches=torch.full((nodes,), -1, dtype=torch.long, device=x.device),
        scores=x.new_zeros(nodes, dtype=torch.promote_types(x.dtype, torch.float)),
        num_keypoints=pair.num_keypoints,
        num_layers=torch.zeros(pairs, dtype=torch.long, device=x.device),
        depth=torch.zeros(nodes, dtype=torch.long, device=x.device),
        log_assignment=[x.new_empty(0)] * pairs if listed is None else None,
        edge_log_assignment=None if listed is None else x.new_full((listed.size(1),), -math.inf),
        cross_edge_index=listed.as_tensor() if isinstance(listed, EdgeIndex) else listed,
    )
