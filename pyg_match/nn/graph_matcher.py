"""The matcher: message passing over one graph for each pair of images."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex

from pyg_match.checks import nearest_name
from pyg_match.data import KeypointPair
from pyg_match.data.checks import NODE_NUMBERS, check_counts, check_image_sizes, check_nodes
from pyg_match.nn.assignment import DualSoftmaxAssignment, SinkhornAssignment
from pyg_match.nn.encoding import KeypointEncoding, RotaryEncoding, normalize_positions
from pyg_match.nn.layer_assignment import LayerAssignment
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.matcher_layer import MatcherLayer
from pyg_match.nn.matcher_output import MatcherOutput
from pyg_match.nn.multi_scale_branch import MultiScaleBranch
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.nn.saving import load_state, read_matcher, save_matcher
from pyg_match.nn.value_source import ValueSource
from pyg_match.transforms.candidate_edges import candidate_edges


class GraphMatcher(nn.Module):
    r"""Match the keypoints of two images by message passing over their graph.

    Each of :math:`L` layers passes messages along the edges within images, ``edge_index``, and then along those
    between images, ``cross_edge_index``. Absent edge sets are complete. All pairs of a batch run as one graph,
    with as many keypoints each as they have.

    With complete graphs and converted weights this **is** LightGlue; see :meth:`from_pretrained`.

    With ``redraw_after`` :math:`l`, the edges between images are drawn once more after layer :math:`l`: between each
    keypoint and the ``redraw_k`` that have become most similar by the projection :math:`\mathbf{W}` of the assignment
    there. They take the place of those of the pair, whatever these weigh. What a detector describes changes with the
    viewpoint; what a few layers have made of it does less, so that fewer true matches are left without an edge.

    Args:
        config: The shape of the matcher.
        **kwargs: Fields of :class:`MatcherConfig`, which override those of ``config``.

    Shapes:
        - **input:** a :class:`~pyg_match.data.KeypointPair` or a batch of them, with ``image_size``
        - **output:** :class:`MatcherOutput`

    Source: LightGlue (https://arxiv.org/abs/2306.13643); heads and encodings of SuperGlue
    (https://arxiv.org/abs/1911.11763) can be chosen.

    Example:
        >>> from pyg_match.data import KeypointSet
        >>> sets = [
        ...     KeypointSet(pos=torch.rand(n, 2) * 64, x=torch.randn(n, 8), image_size=(64, 64))
        ...     for n in (5, 7)
        ... ]
        >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
        >>> matcher(KeypointPair.from_sets(*sets)).matches.shape
        torch.Size([12])
    """

    confidence_thresholds: Tensor

    def __init__(self, config: Optional[MatcherConfig] = None, **kwargs: Any) -> None:
        super().__init__()
        known = asdict(config or MatcherConfig())
        for name in kwargs:
            if name not in known:
                raise TypeError(f"unknown option '{name}' of a matcher; {nearest_name(name, known)}")
        self.config = config = MatcherConfig(**{**known, **kwargs})
        width = config.hidden_channels
        position_channels = 4 if config.use_scale_orientation else 2
        self.lin_in = nn.Linear(config.in_channels, width) if config.in_channels != width else nn.Identity()
        self.encoding: Union[RotaryEncoding, KeypointEncoding]
        if config.encoding == "rotary":
            self.encoding = RotaryEncoding(position_channels, width // config.heads)
        else:
            self.encoding = KeypointEncoding(position_channels + 1, width)
        depth = config.num_layers
        scales = config.layer_scales or (None,) * depth
        self.layers = nn.ModuleList(
            MatcherLayer(width, config.heads, config.mask_mode, scale, _branch(config), config.ffn_channels)
            for scale in scales
        )
        if config.assignment == "dual_softmax":
            # One head for each layer: a pair may stop after any, and each can be supervised.
            self.assignments = nn.ModuleList(DualSoftmaxAssignment(width) for _ in range(depth))
        else:
            self.assignments = nn.ModuleList([SinkhornAssignment(width)])
        self.confidences = nn.ModuleList(nn.Linear(width, 1) for _ in range(depth - 1))
        # Later layers may be less sure: LightGlue, section 3.3.
        thresholds = [min(0.8 + 0.1 * math.exp(-4.0 * i / depth), 1.0) for i in range(depth)]
        self.register_buffer("confidence_thresholds", torch.tensor(thresholds), persistent=False)

    @classmethod
    def from_pretrained(cls, name: Union[str, Path], **kwargs: Any) -> "GraphMatcher":
        """Load a matcher in evaluation mode.

        Args:
            name: One of :func:`pyg_match.pretrained.available` that is a matcher, such as ``"aliked-lightglue"``, or
                the path of a file of :meth:`save` or of official LightGlue weights.
            **kwargs: Fields of :class:`MatcherConfig` to override, such as ``filter_threshold``. With fewer
                ``num_layers`` than the file has, the first ones are loaded, and the assignment that was trained
                after them.

        Raises:
            FileNotFoundError: If there is no such file and it cannot be had.
            ValueError: If the file is damaged, does not hold the weights of a matcher, or has fewer layers.
        """
        config, state = read_matcher(name, kwargs)
        matcher = cls(config, **kwargs)
        load_state(matcher, state, name, early_exit=matcher.config.depth_confidence is not None)
        return matcher.eval()

    def save(
        self, path: Union[str, Path], half: bool = False, metadata: Optional[Mapping[str, Any]] = None
    ) -> None:
        """Write weights and configuration to a safetensors file, whole or not at all.

        Args:
            path: The file, whose name ends in ``.safetensors``.
            half: Whether to write weights in half precision; they are loaded in single precision again.
            metadata: What else to write, as JSON values by name. ``"graph"``, a recipe as
                :func:`pyg_match.transforms.graph_from_recipe` reads it, and ``"extractor"``, the name of a detector,
                tell :class:`pyg_match.Matcher` what the weights were trained on.

        Raises:
            ValueError: If the name ends otherwise, as such a file could not be loaded, or a weight is not finite.
        """
        save_matcher(path, self.state_dict(), self.config, half, metadata)

    def forward(self, pair: KeypointPair, return_descriptors: bool = False) -> MatcherOutput:
        """Match a pair or a batch of pairs.

        Args:
            pair: Keypoints of both images, with edges or complete.
            return_descriptors: Whether to return the descriptors after each layer.

        Raises:
            TypeError: If ``pair`` is not a :class:`~pyg_match.data.KeypointPair` or lacks an attribute.
            ValueError: If the attributes do not fit each other or the matcher, if a value is not finite, or if
                ``cross_edge_mask`` masks edges that ``redraw_after`` replaces. In evaluation mode also if the weights
                make something of finite values that is not.
        """
        x, rotation = self._embed(pair)
        graph = PairGraph.from_data(pair)
        self._check_scales(graph)
        if self.config.redraw_after is not None and graph.cross_edge_mask is not None:
            raise ValueError("'cross_edge_mask' masks edges that 'redraw_after' replaces; use one of them")
        if self.config.assign_on_edges and self.config.redraw_after is None:
            graph.check_both_ways(self.config.mask_mode == "remove")
        output = self._empty_output(pair, x)
        descriptors: list[Tensor] = []
        penalties: list[Tensor] = []
        values = ValueSource(self.config.value_source, self.config.value_steps)
        last = self.config.num_layers - 1
        for i, layer in enumerate(self.layers):
            with self._precision(x.device):
                x, penalty = layer(x, graph, rotation, values)
            penalties += [] if penalty is None else [penalty]
            output.depth[graph.nodes] = i + 1
            if return_descriptors:
                descriptors.append(
                    x if x.size(0) == pair.x.size(0) else _expand(x, graph.nodes, descriptors[-1])
                )
            stops, keep = (
                ((True,) * len(graph.pairs), None) if i == last else self._adapt(i, x, graph, output)
            )
            if any(stops):
                # In full precision whatever the layers run in: probabilities near 1 differ by less than half has.
                if not self.training:
                    _check_descriptors(i, x, graph.nodes)
                done, of_done = graph, x
                if not all(stops):
                    chosen = self._nodes_of(graph, stops)
                    done, of_done = graph.subset(chosen, stops), x[chosen]
                with torch.autocast(x.device.type, enabled=False):
                    self._finish(i, of_done, done, output)
            if all(stops):
                break
            if keep is not None:
                graph = graph.subset(keep, tuple(not stop for stop in stops))
                x = x[keep]
                rotation = rotation[keep] if rotation is not None else None
                values.keep(keep)
            if i + 1 == self.config.redraw_after:
                graph = self.redrawn(i, x, graph)
        output.descriptors = descriptors if return_descriptors else None
        output.orthogonality = torch.stack(penalties).mean() if penalties else None
        return output

    def _embed(self, pair: KeypointPair) -> tuple[Tensor, Optional[Tensor]]:
        """Initial descriptors, and rotations if positions enter that way."""
        weight = next(self.encoding.parameters())
        _check(pair, self.config, weight.device)
        dtype = weight.dtype
        x = self.lin_in(pair.x.to(dtype)).to(dtype)  # what layers add to stays in full under autocast
        size = torch.as_tensor(pair.image_size, device=pair.pos.device)[pair.image_batch]
        wide = torch.promote_types(pair.pos.dtype, torch.float)
        position = normalize_positions(pair.pos.to(wide), size)
        if self.config.use_scale_orientation:
            position = torch.cat([position, pair.scale.unsqueeze(1), pair.orientation.unsqueeze(1)], dim=1)
        if isinstance(self.encoding, RotaryEncoding):
            return x, self.encoding(position.to(dtype))
        position = torch.cat([position, pair.score.unsqueeze(1)], dim=1)
        return x + self.encoding(position.to(dtype)), None

    def _check_scales(self, graph: PairGraph) -> None:
        config, found = self.config, len(graph.scales)
        if graph.refused and (config.branch is not None or config.layer_scales is not None):
            raise ValueError(
                f"scales have neither masks nor weights, got '{graph.refused[0]}'; drop edges instead of masking them"
            )
        needed = config.num_scales if config.branch is not None else 0
        if config.branch is not None and found != needed:
            raise ValueError(
                f"the branches need {needed} scales, but the pair has {found}; draw them with a partition"
            )
        if config.layer_scales is not None and max(config.layer_scales) >= found:
            raise ValueError(
                f"'layer_scales' names scale {max(config.layer_scales)}, but the pair has {found} scales"
            )

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Half precision if configured, otherwise whatever autocast the caller has chosen."""
        return torch.autocast(device.type, torch.bfloat16) if self.config.bfloat16 else nullcontext()

    def _empty_output(self, pair: KeypointPair, x: Tensor) -> MatcherOutput:
        nodes, pairs = pair.x.size(0), pair.num_keypoints.size(0)
        cross_edges = pair.get("cross_edge_index")
        on_edges = self.config.assign_on_edges and cross_edges is not None
        # Edges that are drawn anew are collected as pairs stop.
        listed = cross_edges if on_edges else None
        if on_edges and self.config.redraw_after is not None:
            listed = torch.empty(2, 0, dtype=torch.long, device=x.device)
        return MatcherOutput(
            matches=torch.full((nodes,), -1, dtype=torch.long, device=x.device),
            scores=x.new_zeros(nodes, dtype=torch.promote_types(x.dtype, torch.float)),
            num_keypoints=pair.num_keypoints,
            num_layers=torch.zeros(pairs, dtype=torch.long, device=x.device),
            depth=torch.zeros(nodes, dtype=torch.long, device=x.device),
            log_assignment=None if on_edges else [x.new_empty(0)] * pairs,
            edge_log_assignment=None if listed is None else x.new_full((listed.size(1),), -math.inf),
            cross_edge_index=listed.as_tensor() if isinstance(listed, EdgeIndex) else listed,
        )

    @torch.compiler.disable
    @torch.no_grad()
    def redrawn(self, i: int, x: Tensor, graph: PairGraph) -> PairGraph:
        """The graph with cross edges between the descriptors that are most similar after layer ``i``."""
        head = self.assignment_head(i)
        with torch.autocast(x.device.type, enabled=False):
            edges = candidate_edges(head.lin(x.to(head.lin.weight.dtype)), graph.ptr, self.config.redraw_k)
        return graph.with_cross_edges(edges)

    def _adapt(
        self, i: int, x: Tensor, graph: PairGraph, output: MatcherOutput
    ) -> tuple[tuple[bool, ...], Optional[Tensor]]:
        """Which pairs stop after layer ``i``, and which nodes go on; ``None`` if all do."""
        config = self.config
        stops = (False,) * len(graph.pairs)
        if config.depth_confidence is None and config.width_confidence is None:
            return stops, None
        keep = torch.ones(x.size(0), dtype=torch.bool, device=x.device)
        if config.width_confidence is not None:
            head: Any = self.assignments[i]
            keep = head.matchability(x).sigmoid() > 1 - config.width_confidence
        if config.depth_confidence is not None:
            confidence = self.confidences[i](x.detach()).squeeze(-1).sigmoid()
            unsure = confidence < self.confidence_thresholds[i]
            keep |= confidence <= self.confidence_thresholds[i]
            sizes = [sum(counts) for counts in graph.counts]
            totals = output.num_keypoints.sum(1)[list(graph.pairs)].tolist()
            parts = zip(unsure.split(sizes), totals, strict=True)
            stops = tuple(
                1 - int(part.sum()) / max(total, 1) > config.depth_confidence for part, total in parts
            )
            keep &= ~self._nodes_of(graph, stops)
        return stops, None if bool(keep.all()) else keep

    @staticmethod
    def _nodes_of(graph: PairGraph, chosen: tuple[bool, ...]) -> Tensor:
        """Mask of the nodes of the chosen pairs."""
        sizes = torch.tensor([sum(counts) for counts in graph.counts], device=graph.nodes.device)
        return torch.tensor(chosen, device=graph.nodes.device).repeat_interleave(sizes)

    def assign(self, i: int, x: Tensor, graph: PairGraph, on_edges: bool) -> LayerAssignment:
        """The assignment after layer ``i``.

        Args:
            i: The layer, counted from 0.
            x: The descriptors of the nodes of the graph after it.
            graph: The graph.
            on_edges: Whether only the edges between images are assigned, instead of all pairs of keypoints.

        Shapes:
            - **x:** :math:`(N, D)`
            - **output:** see :class:`~pyg_match.nn.layer_assignment.LayerAssignment`

        Raises:
            ValueError: In evaluation mode, if it is NaN or infinite.
        """
        head = self.assignment_head(i)
        if on_edges:
            edges: Any = graph.cross_edges
            log_assignment = head.on_edges(x, edges, graph.cross_edge_mask, self.config.mask_mode)
            self._check_assignment(i, log_assignment)
            return LayerAssignment(graph.counts, edges=log_assignment, edge_index=edges.listed())
        images = x.split(_flat(graph.counts))
        dense = [head(x0, x1) for x0, x1 in zip(images[::2], images[1::2], strict=True)]
        for log_assignment in dense:
            self._check_assignment(i, log_assignment)
        return LayerAssignment(graph.counts, dense=dense)

    def assignment_head(self, i: int) -> Any:
        """The head that assigns after layer ``i``: its own, or the only one."""
        return self.assignments[i if len(self.assignments) > 1 else 0]

    def _finish(self, i: int, x: Tensor, graph: PairGraph, output: MatcherOutput) -> None:
        """Write the matches of the pairs of a graph, which stop after layer ``i``."""
        assignment = self.assign(i, x, graph, output.edge_log_assignment is not None)
        matched, scores = assignment.matches(self.config.filter_threshold)
        counts = output.num_keypoints.flatten()
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        in_image = torch.arange(starts.numel(), device=starts.device) - starts
        output.num_layers[list(graph.pairs)] = i + 1
        output.matches[graph.nodes] = _named(matched, in_image[graph.nodes])
        output.scores[graph.nodes] = scores.to(output.scores.dtype)
        of_edges: Any = (output.cross_edge_index, output.edge_log_assignment)
        if assignment.edges is None:
            for pair, log_assignment in zip(graph.pairs, assignment.dense or (), strict=True):
                output.log_assignment[pair] = log_assignment  # type: ignore[index]
        elif self.config.redraw_after is None:
            of_edges[1][graph.cross_edge_ids] = assignment.edges
        else:
            edge_index = graph.nodes[assignment.edge_index]
            output.cross_edge_index = torch.cat([of_edges[0], edge_index], dim=1)
            output.edge_log_assignment = torch.cat([of_edges[1], assignment.edges.to(of_edges[1].dtype)])

    @torch.compiler.disable
    def _check_assignment(self, i: int, log_assignment: Tensor) -> None:
        """Refuse to read matches off numbers that are none; minus infinity is the probability 0."""
        if self.training:
            return
        good = log_assignment < torch.inf
        if not bool(good.all()):
            raise ValueError(
                f"the assignment after layer {i} holds {int((~good).sum())} values that are NaN or infinite: "
                "its weights are not finite"
            )

    def __repr__(self) -> str:
        config = self.config
        return (
            f"{self.__class__.__name__}({config.in_channels}, {config.hidden_channels}, "
            f"num_layers={config.num_layers}, heads={config.heads})"
        )


def _branch(config: MatcherConfig) -> Optional[MultiScaleBranch]:
    if config.branch is None:
        return None
    return MultiScaleBranch(
        config.hidden_channels, config.heads, config.num_scales, config.branch, project=config.orthogonal
    )


def _flat(counts: tuple[tuple[int, int], ...]) -> list[int]:
    return [count for pair in counts for count in pair]


def _named(matches: Tensor, names: Tensor) -> Tensor:
    """Replace the indices in ``matches`` by their names, keeping -1."""
    if names.numel() == 0:
        return matches
    return torch.where(matches >= 0, names[matches.clamp(min=0)], -1)


def _expand(x: Tensor, nodes: Tensor, previous: Tensor) -> Tensor:
    """The descriptors of all nodes: those of pruned or finished ones stay as they were."""
    return previous.index_copy(0, nodes, x)


@torch.compiler.disable
def _check(pair: KeypointPair, config: MatcherConfig, device: torch.device) -> None:
    """Refuse what the layers could not make sense of."""
    if not isinstance(pair, KeypointPair):
        raise TypeError(f"expected a KeypointPair or a batch of them, got {type(pair).__name__}")
    needed = ["pos", "x", "num_keypoints", "image_size"]
    needed += ["scale", "orientation"] if config.use_scale_orientation else []
    needed += ["score"] if config.encoding == "mlp" else []
    missing = [name for name in needed if pair.get(name) is None]
    if missing:
        raise TypeError(f"the pair lacks {', '.join(missing)}, which this matcher needs")
    check_nodes(pair, [name for name in needed if name in NODE_NUMBERS])
    check_counts(pair.num_keypoints, pair.x.size(0))
    check_image_sizes(pair.image_size, pair.num_keypoints.numel())
    if pair.x.size(1) != config.in_channels:
        raise ValueError(f"descriptors must have shape [N, {config.in_channels}], got {list(pair.x.shape)}")
    if device != pair.pos.device:
        raise ValueError(f"the pair must be on the device of the matcher, {device}, got {pair.pos.device}")


@torch.compiler.disable
def _check_descriptors(i: int, x: Tensor, nodes: Tensor) -> None:
    """Refuse to read matches off descriptors that are not finite, of which softmax would make none."""
    finite = torch.isfinite(x).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(
            f"after layer {i} the descriptors of {int((~finite).sum())} of {x.size(0)} keypoints are NaN or infinite, "
            f"first of node {int(nodes[~finite][0])}: the weights are not finite, or the values too large for {x.dtype}"
        )
