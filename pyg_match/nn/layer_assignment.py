"""The assignment after one layer of a matcher."""

from functools import partial
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pyg_match.nn.assignment import mutual_edges, mutual_matches
from pyg_match.nn.checkpointing import checkpointed, is_hooked
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.padded_images import PaddedImages
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.ops.candidates import waits_for_counts


class LayerAssignment(NamedTuple):
    r"""What :meth:`pyg_match.nn.GraphMatcher.assign` gives: one matrix for each pair, or one number for each edge.

    Attributes:
        counts: Number of keypoints of image 0 and 1 of each pair.
        dense: The log assignment of each pair, with a last row and column for keypoints that match nothing.
        edges: The log assignment of each edge between images.
        edge_index: These edges.
        padded: All matrices as one, of which ``dense`` are parts, and how its rows and columns are laid out, where a
            device made them at once.

    Shapes:
        - **dense:** :math:`(N_0 + 1, N_1 + 1)` each
        - **edges:** :math:`(E)`
        - **edge_index:** :math:`(2, E)`
        - **padded:** the first one :math:`(B, M + 1, M + 1)`
    """

    counts: tuple[tuple[int, int], ...]
    dense: Optional[list[Tensor]] = None
    edges: Optional[Tensor] = None
    edge_index: Optional[Tensor] = None
    padded: Optional[tuple[Tensor, PaddedImages]] = None

    def numbers(self) -> list[Tensor]:
        """All numbers of the assignment, in as few tensors as there are."""
        if self.edges is not None:
            return [self.edges]
        return self.dense or [] if self.padded is None else [self.padded[0]]

    def matches(self, threshold: float) -> tuple[Tensor, Tensor]:
        r"""The matched *node* of each node, -1 for none, and the scores.

        Args:
            threshold: Least probability of a match.

        Shapes:
            - **output:** :math:`(N), (N)`
        """
        if self.edges is not None and self.edge_index is not None:
            return mutual_edges(self.edges, self.edge_index, sum(map(sum, self.counts)), threshold)
        if self.padded is not None:
            log_assignments, images = self.padded
            return images.matches(log_assignments, threshold)
        partners, scores, start = [], [], 0
        for log_assignment, (count0, count1) in zip(self.dense or (), self.counts, strict=True):
            matches0, matches1, *both = mutual_matches(log_assignment, threshold)
            partners += [torch.where(matches0 >= 0, matches0 + start + count0, -1)]
            partners += [torch.where(matches1 >= 0, matches1 + start, -1)]
            scores += both
            start += count0 + count1
        return torch.cat(partners), torch.cat(scores)


def assign(head: Any, x: Tensor, graph: PairGraph, on_edges: bool, config: MatcherConfig) -> LayerAssignment:
    """The assignment of descriptors, along the edges between images or of all to all.

    Args:
        head: An assignment head of :mod:`pyg_match.nn.assignment`.
        x: The descriptors of the nodes of the graph.
        graph: The graph.
        on_edges: Whether only the edges between images are assigned.
        config: Says what becomes of edges that the mask of the graph forbids, and whether matrices of all to all are
            computed again for gradients.

    Shapes:
        - **x:** :math:`(N, D)`
    """
    if on_edges:
        edges, mask, _ = graph.between
        log_assignment = head.on_edges(x, edges, mask, config.mask_mode)
        return LayerAssignment(graph.counts, edges=log_assignment, edge_index=edges.csr().listed())
    again = config.checkpointed and torch.is_grad_enabled() and not is_hooked(head)
    most = max((max(pair) for pair in graph.counts), default=0)
    if waits_for_counts(x.device) and len(graph.counts) > 1 and most > 0 and not is_hooked(head):
        layout = PaddedImages.of(graph.offsets, x.size(0), most)
        call = partial(checkpointed, head.padded) if again else head.padded
        padded = call(x, layout)
        parts = zip(padded, graph.counts, strict=True)
        dense = [matrix[: count0 + 1, : count1 + 1] for matrix, (count0, count1) in parts]
        return LayerAssignment(graph.counts, dense=dense, padded=(padded, layout))
    images = x.split([count for counts in graph.counts for count in counts])
    call = partial(checkpointed, head) if again else head
    dense = [call(x0, x1) for x0, x1 in zip(images[::2], images[1::2], strict=True)]
    return LayerAssignment(graph.counts, dense=dense)
