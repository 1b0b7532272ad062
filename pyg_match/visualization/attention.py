"""Watching a matcher attend, without changing it."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import torch
from torch import Tensor

from pyg_match.checks import whole_number
from pyg_match.nn import GraphMatcher, MaskedAttentionConv
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.visualization.coefficients import EdgeAttention, edge_attention

if TYPE_CHECKING:
    from pyg_match.matcher import Matcher

Kind = Literal["self", "cross"]
Head = Union[int, Literal["mean", "max"], None]


class AttentionRecord:
    r"""The attention coefficients of a matcher's last call.

    A step whose pair has stopped early, or a keypoint that was pruned, has no edges in later layers. The edges of a
    branch of :class:`~pyg_match.nn.MultiScaleBranch` are not recorded, only those of the main self step. Edges that
    a mask forbids have the coefficient 0.

    Attributes:
        self_attention: For each layer that ran, the edges within images and their coefficients.
        cross_attention: For each layer that ran, the edges between images and theirs.
        num_keypoints: Numbers of keypoints of the images of each pair, :math:`(B, 2)`.
        nodes: The targets that were asked for, ascending; ``None`` for all.
        top: See :func:`record_attention`.
    """

    def __init__(self, nodes: Optional[Tensor] = None, top: Optional[int] = None) -> None:
        self.nodes = nodes
        self.top = top
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self.self_attention: list[EdgeAttention] = []
        self.cross_attention: list[EdgeAttention] = []
        self.num_keypoints = torch.zeros(0, 2, dtype=torch.long)

    @property
    def num_layers(self) -> int:
        """The number of layers that ran."""
        return len(self.cross_attention)

    @property
    def heads(self) -> int:
        """The number of heads, 0 before anything ran."""
        return int(self.cross_attention[0].alpha.size(1)) if self.cross_attention else 0

    def steps(self, kind: Kind) -> list[EdgeAttention]:
        """What was recorded of the self or of the cross steps, one item for each layer.

        Raises:
            ValueError: If ``kind`` is neither ``"self"`` nor ``"cross"``.
        """
        if kind not in ("self", "cross"):
            raise ValueError(f"'kind' must be 'self' or 'cross', got {kind!r}")
        return self.self_attention if kind == "self" else self.cross_attention

    def _step(self, kind: Kind, layer: int) -> EdgeAttention:
        steps = self.steps(kind)
        if not -len(steps) <= layer < len(steps):
            raise ValueError(f"layer {layer} does not exist, {len(steps)} layers were recorded")
        return steps[layer]

    def of(self, node: int, layer: int, kind: Kind = "self", head: Head = "mean") -> tuple[Tensor, Tensor]:
        """What one keypoint attends to.

        Args:
            node: Number of the node in the pair or batch.
            layer: Number of the layer from 0, or from the end if negative.
            kind: ``"self"`` or ``"cross"``.
            head: Number of a head, or ``"mean"`` or ``"max"`` over the heads; ``None`` is the mean.

        Shapes:
            - **output:** the sources :math:`(M)` and their coefficients :math:`(M)`

        Raises:
            ValueError: If there is no such layer or head, or if the node was not asked for when recording.
        """
        edge_index, alpha = self._step(kind, layer)
        if self.nodes is not None and node not in self.nodes:
            raise ValueError(f"node {node} was not recorded, expected one of the {len(self.nodes)} 'nodes'")
        kept = edge_index[1] == node
        return edge_index[0, kept], over_heads(alpha[kept], head)

    def __repr__(self) -> str:
        nodes = "all" if self.nodes is None else len(self.nodes)
        return (
            f"{self.__class__.__name__}(num_layers={self.num_layers}, heads={self.heads}, "
            f"nodes={nodes}, top={self.top})"
        )


def over_heads(alpha: Tensor, head: Head) -> Tensor:
    """One coefficient for each edge: of a head, or the mean or maximum over heads.

    Args:
        alpha: The coefficients.
        head: Number of the head, ``"mean"``, ``"max"``, or ``None`` for the mean.

    Shapes:
        - **alpha:** :math:`(E, H)`
        - **output:** :math:`(E)`

    Raises:
        ValueError: If there is no such head.
    """
    if head is None or head == "mean":
        return alpha.mean(dim=1)
    if head == "max":
        return alpha.amax(dim=1)
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < alpha.size(1):
        raise ValueError(f"'head' must be 'mean', 'max' or a number below {alpha.size(1)}, got {head!r}")
    return alpha[:, head]


@contextmanager
def record_attention(
    matcher: Union[GraphMatcher, "Matcher"],
    nodes: Union[Iterable[int], Tensor, None] = None,
    top: Optional[int] = None,
) -> Iterator[AttentionRecord]:
    r"""Record the attention coefficients of every call within the ``with`` block; the last call stays.

    The matcher runs as always: hooks see the inputs of its attention layers, and the coefficients are computed a
    second time from these, a chunk of targets at a time. Outside of the block nothing is left behind.

    Args:
        matcher: A :class:`~pyg_match.nn.GraphMatcher`, or a :class:`~pyg_match.Matcher`, whose nodes are the
            keypoints of image 0 followed by those of image 1.
        nodes: Record only the edges into these nodes of the pair or batch, the query points.
        top: Record only edges that are, in some head, among this many largest of their target. All heads of such an
            edge are recorded as they are, so that the coefficients of a target then sum to less than one.

    Raises:
        TypeError: If ``matcher`` is not a matcher, or ``nodes`` are no whole numbers.
        ValueError: If ``top`` is no positive whole number; when the matcher runs, if a node does not exist, or if all
            of a large complete graph would be recorded.

    Example:
        >>> from pyg_match.data import KeypointPair, KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(n, 2) * 64, x=torch.randn(n, 8), image_size=(64, 64))
        ...     for n in (5, 7)
        ... ]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> with record_attention(matcher, nodes=[3]) as record:
        ...     output = matcher(KeypointPair.from_sets(*sets))
        >>> sources, alpha = record.of(3, layer=1, kind="cross")
        >>> sources.tolist(), round(float(alpha.sum()), 3)
        ([5, 6, 7, 8, 9, 10, 11], 1.0)
    """
    model = matcher if isinstance(matcher, GraphMatcher) else getattr(matcher, "matcher", None)
    if not isinstance(model, GraphMatcher):
        raise TypeError(f"expected a GraphMatcher or a Matcher, got {type(matcher).__name__}")
    if top is not None:
        top = whole_number("top", top, least=0)
        if top < 1:
            raise ValueError(f"'top' must be positive, got {top}")
    chosen = None if nodes is None else _numbers_of(nodes)
    record = AttentionRecord(chosen, top)
    watcher = _Watcher(record)
    with ExitStack() as stack:
        layer: Any
        for number, layer in enumerate(model.layers):
            self_conv, cross_conv = layer.self_attn.conv, layer.cross_attn.conv
            for handle in (
                layer.register_forward_pre_hook(watcher.enter(first=number == 0)),
                self_conv.register_forward_pre_hook(watcher.step("self"), with_kwargs=True),
                cross_conv.register_forward_pre_hook(watcher.step("cross"), with_kwargs=True),
            ):
                stack.callback(handle.remove)
        yield record


def _numbers_of(nodes: Union[Iterable[int], Tensor]) -> Tensor:
    """The numbers of nodes that a user gave, each once."""
    chosen = nodes if isinstance(nodes, Tensor) else torch.as_tensor(list(nodes))
    if chosen.numel() > 0 and (
        chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool
    ):
        raise TypeError(f"'nodes' must be whole numbers, got {chosen.dtype}; of a mask give mask.nonzero()")
    return chosen.detach().long().cpu().unique()


class _Watcher:
    """The hooks of one recording."""

    def __init__(self, record: AttentionRecord) -> None:
        self.record = record
        self.graph: Optional[PairGraph] = None
        self.targets: Optional[Tensor] = None

    def enter(self, first: bool) -> Any:
        """A hook that remembers the graph which a layer is about to work on."""

        def hook(_: Any, args: tuple[Any, ...]) -> None:
            graph: PairGraph = args[1]
            if first:
                self.record.clear()
                self.record.num_keypoints = torch.tensor(graph.counts, dtype=torch.long).view(-1, 2)
                self._check(graph.nodes.numel())
            if graph is not self.graph:
                self.graph = graph
                wanted = self.record.nodes
                self.targets = (
                    None
                    if wanted is None
                    else torch.isin(graph.nodes, wanted.to(graph.nodes.device)).nonzero().squeeze(1)
                )

        return hook

    def step(self, kind: Kind) -> Any:
        """A hook that computes the coefficients which an attention layer is about to use."""

        # Recorded tensors are ordinary ones, even if the matcher runs in inference mode.
        @torch.inference_mode(False)
        def hook(conv: MaskedAttentionConv, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, edges = args
            found = edge_attention(
                conv,
                x,
                edges,
                kwargs.get("rotation"),
                kwargs.get("edge_mask"),
                self.targets,
                self.record.top,
                kwargs.get("edge_bias"),
            )
            nodes = self.graph.nodes  # type: ignore[union-attr]
            edge_index = nodes[found.edge_index]
            steps = self.record.steps(kind)
            if steps and torch.equal(steps[-1].edge_index, edge_index):
                edge_index = steps[-1].edge_index  # kept once for all layers
            steps.append(EdgeAttention(edge_index, found.alpha))

        return hook

    def _check(self, num_nodes: int) -> None:
        nodes = self.record.nodes
        if nodes is not None and nodes.numel() > 0 and not (nodes[0] >= 0 and nodes[-1] < num_nodes):
            wrong = int(nodes[0]) if nodes[0] < 0 else int(nodes[-1])
            raise ValueError(f"node {wrong} does not exist, the matcher was given {num_nodes} nodes")
