"""Prepared pairs: keypoints and edges, checked and laid out for the layers of a matcher."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyg_match.data import KeypointPair
from pyg_match.nn.encoding import normalize_positions
from pyg_match.nn.matcher_checks import check_pair, check_scales
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.pair_graph import PairGraph


@dataclass(frozen=True)
class PreparedPair:
    """What :meth:`pyg_match.nn.GraphMatcher.prepare` gives: keypoints and edges, checked and laid out for the layers.

    Attributes:
        pair: The keypoints, on the device of the matcher.
        graph: Their edges.
        position: What the encoding of positions takes.
        config: The configuration of the matcher.

    Shapes:
        - **position:** :math:`(N, 2)`, or :math:`(N, 4)` with scale and orientation, and one column more for the score
          where positions enter by an MLP

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> from pyg_match.nn import GraphMatcher
        >>> sets = [
        ...     KeypointSet(pos=64 * torch.rand(5, 2), x=torch.randn(5, 8), image_size=(64, 64)) for _ in "ab"
        ... ]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> matcher.prepare(KeypointPair.from_sets(*sets)).position.shape
        torch.Size([10, 2])
    """

    pair: KeypointPair
    graph: PairGraph
    position: Tensor
    config: MatcherConfig

    @classmethod
    def of(cls, pair: KeypointPair, config: MatcherConfig, device: torch.device) -> "PreparedPair":
        """Check a pair and lay it out for a matcher of that configuration on that device."""
        check_pair(pair, config, device)
        graph = PairGraph.from_data(pair)
        check_scales(graph, config)
        redrawn = config.redraw_after is not None
        if redrawn and graph.between.mask is not None:
            raise ValueError("'cross_edge_mask' masks edges that 'redraw_after' replaces; use one of them")
        # A pair may stop before its edges are drawn anew.
        if config.assign_on_edges and (not redrawn or config.depth_confidence is not None):
            graph.check_both_ways(config.mask_mode == "remove")
        size = torch.as_tensor(pair.image_size, device=pair.pos.device)[pair.image_batch]
        wide = torch.promote_types(pair.pos.dtype, torch.float)
        columns = [normalize_positions(pair.pos.to(wide), size)]
        if config.use_scale_orientation:
            columns += [pair.scale.unsqueeze(1), pair.orientation.unsqueeze(1)]
        if config.encoding == "mlp":
            columns += [pair.score.unsqueeze(1)]
        return cls(pair, graph, torch.cat(columns, dim=1), config)

    def check(self, config: MatcherConfig, device: torch.device) -> None:
        """Refuse what was prepared for another matcher.

        Raises:
            ValueError: If that has another configuration, or is on another device.
        """
        if self.config is not config and replace(self.config, checkpointed=config.checkpointed) != config:
            raise ValueError(
                "the pair was prepared by a matcher of another configuration; prepare it with this one"
            )
        if self.position.device != device:
            raise ValueError(
                f"the pair was prepared on {self.position.device}, but the matcher is on {device}; prepare it anew"
            )
