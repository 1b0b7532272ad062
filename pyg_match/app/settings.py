"""What a visitor of the page may choose, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from torch_geometric.transforms import Compose

from pyg_match.checks import shown
from pyg_match.data import KeypointPair
from pyg_match.nn.value_source import refresh_period
from pyg_match.transforms import AnchorEdges, CandidateEdges, DiverseKNN, KNNGraph

# Names of the graphs on the page. "Self" edges join keypoints of one image, "cross" edges those of different images.
GRAPHS = {
    "complete": "complete (all pairs)",
    "candidates": "k candidates (cross)",
    "knn": "k nearest (self)",
    "diverse": "k near and diverse (self)",
    "anchors": "k nearest + k anchors (self)",
    "sparse": "both (self and cross sparse)",
    "trained": "as the matcher was trained",
}
GRAPH_HELP = (
    "Self edges join keypoints of one image: all, the k nearest, or these and k anchors that all see. "
    "Cross edges join keypoints of both: all, or the k most similar descriptors."
)
WITHOUT_K = ("complete", "trained")
VALUE_SOURCES = ("trained", "current", "initial", "every:2", "every:3")  # that the page offers


@dataclass(frozen=True)
class Limits:
    """How large an uploaded image may be.

    Example:
        >>> Limits(max_pixels=1_000_000).max_bytes
        33554432
    """

    max_bytes: int = 32 * 2**20  # size of the file
    max_pixels: int = 40_000_000  # width times height, read from the header before anything is decoded


@dataclass(frozen=True)
class Setting:
    """A graph and a value policy, one side of a comparison.

    Args:
        graph: One of :data:`GRAPHS`.
        k: Number of neighbours, anchors or candidates.
        value_source: ``"trained"`` for the policy of the weights, or ``"current"``, ``"initial"`` or ``"every:n"``; see
            :class:`~pyg_match.nn.MatcherConfig`.

    Raises:
        ValueError: If the graph or the policy is unknown, or ``k`` is not positive.

    Example:
        >>> str(Setting("knn", 16, "initial"))
        'knn k=16, values: initial'
    """

    graph: str = "complete"
    k: int = 32
    value_source: str = "trained"

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise ValueError(f"'graph' must be one of {', '.join(GRAPHS)}, got {shown(self.graph)}")
        if self.k < 1:
            raise ValueError(f"'k' must be positive, got {self.k}")
        if self.value_source != "trained":
            refresh_period(self.value_source)

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """A setting in short: ``GRAPH``, ``GRAPH:K`` or ``GRAPH:K:VALUES``.

        Raises:
            ValueError: If it is not of that form, or has a field that does not exist.

        Example:
            >>> Setting.parse("knn:16:every:2")
            Setting(graph='knn', k=16, value_source='every:2')
        """
        graph, _, rest = text.partition(":")
        k, _, value_source = rest.partition(":")
        if k and not (k.isascii() and k.isdigit()):
            raise ValueError(f"a setting must be GRAPH:K:VALUES with a number K, got {shown(text)}")
        return cls(graph, int(k) if k else cls.k, value_source or cls.value_source)

    def short(self) -> str:
        """What :meth:`parse` reads."""
        return f"{self.graph}:{self.k}:{self.value_source}"

    def transform(self) -> Optional[Callable[[KeypointPair], KeypointPair]]:
        """What draws the edges; ``None`` for the complete graph and the one that a matcher was trained on."""
        steps: list[Any] = []
        if self.graph in ("knn", "anchors", "sparse"):
            steps.append(KNNGraph(self.k, loop=True))
        if self.graph == "diverse":
            steps.append(DiverseKNN(self.k, loop=True))
        if self.graph in ("anchors", "sparse"):
            steps.append(AnchorEdges(self.k, loop=True))
        if self.graph in ("candidates", "sparse"):
            steps.append(CandidateEdges(self.k))
        return Compose(steps) if steps else None

    def __str__(self) -> str:
        size = "" if self.graph in WITHOUT_K else f" k={self.k}"
        values = "" if self.value_source == "trained" else f", values: {self.value_source}"
        return f"{self.graph}{size}{values}"
