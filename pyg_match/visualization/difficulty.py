"""How hard each keypoint was to match, and after which layer it was."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pyg_match.checks import kind_of, real_number
from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_counts, check_nodes
from pyg_match.nn import GraphMatcher
from pyg_match.nn.pair_graph import PairGraph

EASY, MEDIUM, HARD, UNKNOWN = 0, 1, 2, -1
NAMES = {EASY: "easy", MEDIUM: "medium", HARD: "hard", UNKNOWN: "unknown"}

# Distances between descriptors that are in memory at a time.
_CHUNK = 1 << 22


class LayerMatches(NamedTuple):
    r"""Matches after each layer of a matcher.

    Attributes:
        matches: For each layer and node the index of the match among the keypoints of the *other* image, or -1.
        scores: The probability of each node's best mutual partner, 0 for none.

    Shapes:
        - **matches**, **scores:** :math:`(L, N)`

    Example:
        >>> LayerMatches(torch.tensor([[-1, -1], [0, 0]]), torch.ones(2, 2)).matches[-1]
        tensor([0, 0])
    """

    matches: Tensor
    scores: Tensor


class Difficulty(NamedTuple):
    r"""Difficulty of each keypoint in matching.

    Attributes:
        labels: ``EASY`` (0), ``MEDIUM`` (1), ``HARD`` (2), or ``UNKNOWN`` (-1) for keypoints without a partner.
        layer: Number of layers after which the right match was found and stayed; 0 if it was missed or is unknown.
        partner: The right match, the index of a keypoint of the *other* image, or -1.

    Shapes:
        - **labels**, **layer**, **partner:** :math:`(N)`

    Example:
        >>> labels = torch.tensor([EASY, HARD, HARD])
        >>> Difficulty(labels, torch.ones(3), torch.zeros(3)).counts()
        {'easy': 1, 'medium': 0, 'hard': 2, 'unknown': 0}
    """

    labels: Tensor
    layer: Tensor
    partner: Tensor

    def counts(self, nodes: Optional[slice] = None) -> dict[str, int]:
        """How many keypoints, of all or of a range of nodes, there are of each difficulty."""
        labels = self.labels if nodes is None else self.labels[nodes]
        return {name: int((labels == label).sum()) for label, name in NAMES.items()}


@torch.no_grad()
def layer_matches(matcher: GraphMatcher, pair: KeypointPair) -> LayerMatches:
    """Read matches off the descriptors after each layer.

    Each layer has an assignment head of its own, except with ``assignment="sinkhorn"``, whose one head is trained
    for the last layer. The last layer's answer is the matcher's own; a pair that stops early keeps it for the layers
    it did not run, and so does a keypoint that was pruned.

    Args:
        matcher: The matcher.
        pair: A pair or a batch of pairs.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(n, 2) * 64, x=torch.randn(n, 8), image_size=(64, 64))
        ...     for n in (5, 7)
        ... ]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> layer_matches(matcher, KeypointPair.from_sets(*sets)).matches.shape
        torch.Size([2, 12])
    """
    output = matcher(pair, return_descriptors=True)
    descriptors = output.descriptors or []
    matches = output.matches.repeat(len(descriptors), 1)
    scores = output.scores.repeat(len(descriptors), 1)
    graph = PairGraph.from_data(pair)
    in_image = torch.arange(pair.x.size(0), device=pair.x.device) - pair.image_ptr[pair.image_batch]
    for i, x in enumerate(descriptors[:-1]):
        # Nodes that ran this layer, of pairs that went on after it.
        goes_on = output.num_layers > i + 1
        running = (output.depth > i) & goes_on[pair.image_batch // 2]
        graph = graph.subset(running[graph.nodes], tuple(goes_on[list(graph.pairs)].tolist()))
        if not graph.pairs:
            break
        if i == matcher.config.redraw_after:
            graph = matcher.redrawn(i - 1, descriptors[i - 1][graph.nodes], graph)
        found = matcher.assign(i, x[graph.nodes], graph, output.edge_log_assignment is not None)
        matched, score = found.matches(matcher.config.filter_threshold)
        nodes = graph.nodes
        matches[i, nodes] = torch.where(matched >= 0, in_image[nodes][matched.clamp(min=0)], -1)
        scores[i, nodes] = score.to(scores.dtype)
    return LayerMatches(matches, scores)


def difficulty(
    pair: KeypointPair,
    found: LayerMatches,
    ratio: float = 0.8,
    late: float = 2 / 3,
    confidence: float = 0.5,
) -> Difficulty:
    r"""Say of each keypoint whether it was easy, medium or hard to match.

    With ground truth ``pair.y``, the right match of a keypoint is its true partner :math:`j`. It is

    * **easy** if descriptors alone give it: :math:`i` and :math:`j` are mutual nearest neighbours, and :math:`j` is
      nearer than ``ratio`` times the second nearest (Lowe's test, in the raw descriptors ``pair.x``);
    * **medium** if it is not easy, and the matcher has it, for good, within the first ``late`` of its layers;
    * **hard** if the matcher has it only in the layers after these, or misses it;
    * **unknown** if it has no partner or none that is certain.

    Without ground truth, the matcher's final answer stands in for it: a keypoint without an answer is unknown, and
    one whose answer is less probable than ``confidence`` is hard unless it is easy. Easy then still means that the
    descriptors agree with the answer, but nothing can be called missed.

    Args:
        pair: A pair or a batch of pairs, with ``y`` if there is ground truth.
        found: What :func:`layer_matches` gives for it.
        ratio: Largest ratio of the distances to the nearest and second nearest descriptor.
        late: Share of the layers after which a match counts as late.
        confidence: Least probability of a sure answer, without ground truth.

    Raises:
        ValueError: If shapes or arguments do not fit.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> x = torch.eye(3)
        >>> sets = [KeypointSet(pos=torch.rand(3, 2), x=x, image_size=(9, 9)) for _ in range(2)]
        >>> pair = KeypointPair.from_sets(*sets, y=torch.tensor([0, 1, -1, 0, 1, -1]))
        >>> found = LayerMatches(torch.tensor([[0, -1, -1] * 2]), torch.ones(1, 6))
        >>> difficulty(pair, found).labels
        tensor([ 0,  0, -1,  0,  0, -1])
    """
    matches, scores = found
    if not isinstance(matches, Tensor):
        raise TypeError(f"'found.matches' must be a tensor of whole numbers, got {kind_of(matches)}")
    if matches.dim() != 2 or matches.size(0) == 0 or matches.size(1) != pair.x.size(0):
        raise ValueError(f"'found.matches' must have shape [L, {pair.x.size(0)}], got {list(matches.shape)}")
    if not (0 < ratio <= 1 and 0 <= late <= 1):
        raise ValueError(f"'ratio' and 'late' must be in (0, 1] and [0, 1], got {ratio} and {late}")
    known = pair.y is not None
    partner = (pair.y if known else matches[-1]).clamp(min=-1)
    right = matches == partner
    # After how many layers the match is right and stays so.
    stable = right.flip(0).cumprod(0).sum(0)
    layer = torch.where((stable > 0) & (partner >= 0), len(matches) + 1 - stable, 0)
    nearest, clear = nearest_neighbours(pair, ratio)
    easy = clear & (nearest == partner)
    hard = (layer == 0) | (layer > late * len(matches))
    if not known:
        hard |= scores[-1] < confidence
    labels = torch.full_like(partner, MEDIUM)
    labels[hard] = HARD
    labels[easy] = EASY
    labels[partner < 0] = UNKNOWN
    return Difficulty(labels, layer, partner)


def nearest_neighbours(pair: KeypointPair, ratio: float = 0.8) -> tuple[Tensor, Tensor]:
    r"""The nearest descriptor in the other image, and whether it is clear and mutual.

    Args:
        pair: A pair or a batch of pairs.
        ratio: Largest ratio of the distances to the nearest and second nearest descriptor of a clear match; where
            there is no second one, any is clear.

    Shapes:
        - **output:** the index of the nearest keypoint of the other image :math:`(N)`, -1 if it has none, and a mask
          :math:`(N)`

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> x = torch.eye(3)
        >>> sets = [KeypointSet(pos=torch.rand(3, 2), x=order, image_size=(2, 2)) for order in (x, x.flip(0))]
        >>> nearest, clear = nearest_neighbours(KeypointPair.from_sets(*sets))
        >>> nearest.tolist(), bool(clear.all())
        ([2, 1, 0, 2, 1, 0], True)
    """
    ratio = real_number("ratio", ratio, positive=True)
    check_nodes(pair, ())
    check_counts(pair.get("num_keypoints"), pair.x.size(0))
    x = pair.x.to(torch.promote_types(pair.x.dtype, torch.float))  # half precision has no distances
    nearest = torch.full((pair.x.size(0),), -1, dtype=torch.long, device=pair.x.device)
    clear = torch.zeros_like(nearest, dtype=torch.bool)
    ptr = pair.image_ptr.tolist()
    for a, b, c in zip(ptr[:-2:2], ptr[1::2], ptr[2::2], strict=True):
        if a == b or b == c:
            continue
        for own, other in ((slice(a, b), slice(b, c)), (slice(b, c), slice(a, b))):
            nearest[own], clear[own] = _nearest(x[own], x[other], ratio)
        back0, back1 = nearest[b:c][nearest[a:b]], nearest[a:b][nearest[b:c]]
        clear[a:b] &= back0 == torch.arange(b - a, device=clear.device)
        clear[b:c] &= back1 == torch.arange(c - b, device=clear.device)
    return nearest, clear


def _nearest(x: Tensor, others: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """The nearest of the others, and whether it is clear, a chunk of distances at a time."""
    indices, clear = [], []
    for chunk in x.split(max(1, _CHUNK // len(others))):
        two = torch.cdist(chunk, others).topk(min(2, len(others)), dim=1, largest=False)
        indices.append(two.indices[:, 0])
        clear.append(two.values[:, 0] < ratio * two.values[:, -1] if len(others) > 1 else indices[-1] >= 0)
    return torch.cat(indices), torch.cat(clear)
