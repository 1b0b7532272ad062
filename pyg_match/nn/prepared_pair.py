"""A pair, or a batch of pairs, that a matcher has looked at."""

from dataclasses import dataclass

from torch import Tensor

from pyg_match.data import KeypointPair
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
        - **position:** :math:`(N, 2)`, or :math:`(N, 4)` with scale and orientation
    """

    pair: KeypointPair
    graph: PairGraph
    position: Tensor
    config: MatcherConfig
