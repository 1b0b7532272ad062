"""What a matcher answers."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor


@dataclass
class MatcherOutput:
    r"""The answer of :class:`~pyg_match.nn.GraphMatcher` for a pair or a batch of pairs.

    Attributes:
        matches: For each node the index of its match among the keypoints of the *other* image, or -1.
        scores: Probability of each node's best mutual partner, 0 for none. It is also given for partners that the
            threshold then rejects.
        num_keypoints: Number of keypoints of the images of each pair.
        log_assignment: For each pair the log assignment with dustbins, over the keypoints that were not pruned;
            ``None`` if the assignment ran on edges or was not asked for.
        edge_log_assignment: Log assignment of each cross edge, if the assignment ran on edges.
        cross_edge_index: These edges, by nodes of all pairs: the ones that were given, or, pair after pair as they
            stopped, the ones that each pair's descriptors were compared along last where edges were drawn anew.
        descriptors: Descriptors of all nodes after each layer, if asked for.
        orthogonality: How much the scales of multi-scale self steps overlap, see
            :func:`~pyg_match.nn.orthogonality_penalty`, the mean over layers; for the loss. ``None`` without scales.
        num_layers: Number of layers that each pair ran.
        depth: Number of layers that each keypoint took part in.

    Shapes:
        - **matches**, **scores**, **depth:** :math:`(N)` for the nodes of all pairs
        - **num_keypoints:** :math:`(B, 2)`
        - **log_assignment:** :math:`B` times :math:`(N_0 + 1, N_1 + 1)`
        - **edge_log_assignment:** :math:`(E)`
        - **cross_edge_index:** :math:`(2, E)`
        - **num_layers:** :math:`(B)`
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
