"""The matcher: message passing over one graph for each pair of images."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from pyg_match.checks import nearest_name
from pyg_match.data import KeypointPair
from pyg_match.nn.assignment import DualSoftmaxAssignment, SinkhornAssignment
from pyg_match.nn.conv.projection import weight_of
from pyg_match.nn.early_exit import adapt
from pyg_match.nn.encoding import KeypointEncoding, RotaryEncoding
from pyg_match.nn.frozen import Freezable
from pyg_match.nn.layer_assignment import LayerAssignment, assign
from pyg_match.nn.matcher_checks import (
    allows_self_step,
    check_assignments,
    check_descriptors,
    check_self_step,
)
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.matcher_layer import AttentionBlock, MatcherLayer
from pyg_match.nn.matcher_output import MatcherOutput, empty_output
from pyg_match.nn.multi_scale_branch import MultiScaleBranch
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.nn.prepared_pair import PreparedPair
from pyg_match.nn.saving import load_state, read_matcher, save_matcher
from pyg_match.nn.value_source import ValueSource
from pyg_match.ops.candidates import redrawn_edges


class GraphMatcher(Freezable):
    r"""Matcher of the keypoints of two images by message passing over their graph.

    Each of :math:`L` layers passes messages along the edges within images, ``edge_index``, and then along those
    between images, ``cross_edge_index``. Absent edge sets are complete. All pairs of a batch run as one graph,
    without padding.

    With complete graphs and converted weights this **is** LightGlue; see :meth:`from_pretrained`.

    With ``redraw_after`` :math:`l`, the edges between images are drawn once more after layer :math:`l`: between each
    keypoint and the ``redraw_k`` that have become most similar by the projection :math:`\mathbf{W}` of the assignment
    there. They replace the edges of the pair and their weights. Descriptors of a detector change with the viewpoint;
    descriptors after a few layers change less, so that fewer true matches are left without an edge.

    Args:
        config: The shape of the matcher.
        **kwargs: Fields of :class:`MatcherConfig`, which override those of ``config``.

    Shapes:
        - **input:** a :class:`~pyg_match.data.KeypointPair` or a batch of them, with ``image_size``
        - **output:** :class:`MatcherOutput`

    Raises:
        TypeError: If there is no such field.
        ValueError: If a field is out of range.

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
            MatcherLayer(
                width, config.heads, config.mask_mode, scale, _branch(config), config.ffn_channels, i
            )
            for i, scale in enumerate(scales)
        )
        for module in self.layers.modules():
            if isinstance(module, AttentionBlock):
                module.checkpointed = config.checkpointed
        if config.assignment == "dual_softmax":
            # One head for each layer: a pair may stop after any, and each can be supervised.
            self.assignments = nn.ModuleList(DualSoftmaxAssignment(width) for _ in range(depth))
        else:
            self.assignments = nn.ModuleList([SinkhornAssignment(width)])
        self.confidences = nn.ModuleList(nn.Linear(width, 1) for _ in range(depth - 1))
        # Later layers may be less sure: LightGlue, section 3.3.
        self.confidence_thresholds = [min(0.8 + 0.1 * math.exp(-4.0 * i / depth), 1.0) for i in range(depth)]

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
            TypeError: If there is no such field.
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

    def forward(
        self, pair: Union[KeypointPair, PreparedPair], return_descriptors: bool = False
    ) -> MatcherOutput:
        """Match a pair or a batch of pairs.

        With a prepared pair, nothing is read back from a GPU, unless the configuration needs it: for early exit and
        pruning, for scales, or for ``redraw_after`` with ``mask_mode="zero"``.

        Args:
            pair: Keypoints of both images, with edges or complete; or what :meth:`prepare` has made of them, of which
                no value is looked at again.
            return_descriptors: Whether to return the descriptors after each layer.

        Raises:
            TypeError: If ``pair`` is not a :class:`~pyg_match.data.KeypointPair` or lacks an attribute.
            ValueError: If the attributes do not fit each other or the matcher, if a value is not finite, or if
                ``cross_edge_mask`` masks edges that ``redraw_after`` replaces. In evaluation mode also if the weights
                make something of finite values that is not.
            RuntimeError: If weights have been changed, or layers replaced, since :meth:`freeze`.
        """
        self.check_frozen()
        checks_values = not (self.training or isinstance(pair, PreparedPair))
        prepared = pair if isinstance(pair, PreparedPair) else self.prepare(pair)
        prepared.check(self.config, self._weight().device)
        recorded = None if return_descriptors else self.recorded
        output: Any = None if recorded is None else recorded(self, self._match, prepared)
        if output is None:
            return self._match(prepared, checks_values, return_descriptors)
        if checks_values:
            check_assignments(self.config.num_layers - 1, [output.edge_log_assignment])
        return output

    def _match(
        self, prepared: PreparedPair, checks_values: bool = False, return_descriptors: bool = False
    ) -> MatcherOutput:
        """Run the layers, and read matches off what they give."""
        pair, graph = prepared.pair, prepared.graph
        x, rotation = self._embed(prepared)
        redrawn = self.config.redraw_after is not None
        output = empty_output(pair, x, self.config.assign_on_edges, redrawn)
        descriptors: list[Tensor] = []
        penalties: list[Tensor] = []
        values = ValueSource(self.config.value_source, self.config.value_steps)
        stepped = pair.get("self_step")
        if stepped is not None:
            x = check_self_step(stepped, x, self.config)
        last = self.config.num_layers - 1
        for i, layer in enumerate(self.layers):
            with self._precision(x.device):
                x, penalty = layer(x, graph, rotation, values, stepped=i == 0 and stepped is not None)
            penalties += [] if penalty is None else [penalty]
            output.depth.index_fill_(0, graph.nodes, i + 1)
            if return_descriptors:
                # Those of pruned or finished keypoints stay as they were.
                whole = x.size(0) == pair.x.size(0)
                descriptors.append(x if whole else descriptors[-1].index_copy(0, graph.nodes, x))
            stops, keep = (True,) * len(graph.pairs), None
            if i < last:
                with torch.autocast(x.device.type, enabled=False):
                    stops, keep = adapt(self, i, x, graph, output.num_keypoints)
            if any(stops):
                # In full precision whatever the layers run in: probabilities near 1 differ by less than half has.
                if checks_values:
                    check_descriptors(i, x, graph.nodes)
                done, of_done = graph, x
                if not all(stops):
                    chosen = graph.nodes_of(stops)
                    done, of_done = graph.subset(chosen, stops), x[chosen]
                with torch.autocast(x.device.type, enabled=False):
                    on_edges = output.edge_log_assignment is not None
                    assignment = self.assign(i, of_done, done, on_edges, checks_values)
                    output.write(i, assignment, done, self.config.filter_threshold, redrawn)
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

    def prepare(self, pair: KeypointPair) -> PreparedPair:
        """Look at a pair or a batch of pairs once for any number of forwards.

        Values and edges are checked, and edges laid out as the layers read them; :meth:`forward` then does neither.
        With gradients switched on, edges are laid out for their backward, too. What was prepared in inference mode
        serves inference only.

        Raises:
            TypeError: See :meth:`forward`.
            ValueError: See :meth:`forward`.

        Example:
            >>> from pyg_match.data import KeypointSet
            >>> sets = [
            ...     KeypointSet(pos=torch.rand(5, 2), x=torch.randn(5, 8), image_size=(1, 1))
            ...     for _ in range(2)
            ... ]
            >>> matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=2)
            >>> matcher(matcher.prepare(KeypointPair.from_sets(*sets))).matches.shape
            torch.Size([10])
        """
        return PreparedPair.of(pair, self.config, self._weight().device)

    @torch.no_grad()
    def self_step(self, pair: KeypointPair) -> Optional[Tensor]:
        """Descriptors after the self step of the first layer, which depend on one image alone.

        For images of which many pairs are matched: a pair that has them as ``self_step``, for all its nodes, is matched
        without this step, and gives the same up to rounding. Without gradients.

        Args:
            pair: Images with their edges within images; edges between images play no part.

        Shapes:
            - **output:** :math:`(N, D)`; ``None`` where later layers need what is before this step, with values that
              are not current and with a branch of several scales
        """
        if not allows_self_step(self.config):
            return None
        self.check_frozen()
        prepared = self.prepare(pair)
        x, rotation = self._embed(prepared)
        layer: Any = self.layers[0]
        with self._precision(x.device):
            out: Tensor = layer.self_step(x, prepared.graph, rotation, ValueSource())[0]
        return out.to(x.dtype)

    def _embed(self, prepared: PreparedPair) -> tuple[Tensor, Optional[Tensor]]:
        """Initial descriptors, and rotations if positions enter that way."""
        dtype = self._weight().dtype
        # What layers add to stays in full under autocast.
        x, position = self.lin_in(prepared.pair.x.to(dtype)).to(dtype), prepared.position.to(dtype)
        if isinstance(self.encoding, RotaryEncoding):
            return x, self.encoding(position)
        return x + self.encoding(position), None

    def _weight(self) -> Tensor:
        """A weight that tells type and device; quantised encodings have none."""
        return next(self.encoding.parameters(), next(self.parameters()))

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Half precision if configured, otherwise whatever autocast the caller has chosen."""
        return torch.autocast(device.type, torch.bfloat16) if self.config.bfloat16 else nullcontext()

    @torch.compiler.disable
    def redrawn(self, i: int, x: Tensor, graph: PairGraph) -> PairGraph:
        """The graph with cross edges between the descriptors that are most similar after layer ``i``."""
        head = self.assignment_head(i)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            projected = head.lin(x.to(getattr(weight_of(head.lin), "dtype", x.dtype)))
            may_mask = self.config.mask_mode == "remove"
            drawn = redrawn_edges(projected, graph.ptr, graph.offsets, self.config.redraw_k, may_mask)
        return graph.with_cross_edges(*drawn)

    def assign(
        self, i: int, x: Tensor, graph: PairGraph, on_edges: bool, checks_values: Optional[bool] = None
    ) -> LayerAssignment:
        """The assignment after layer ``i``.

        Args:
            i: The layer, counted from 0.
            x: The descriptors of the nodes of the graph after it.
            graph: The graph.
            on_edges: Whether only the edges between images are assigned, instead of all pairs of keypoints.
            checks_values: Whether numbers that are NaN or infinite are refused; ``None`` for in evaluation mode.

        Shapes:
            - **x:** :math:`(N, D)`
            - **output:** see :class:`~pyg_match.nn.layer_assignment.LayerAssignment`

        Raises:
            ValueError: If numbers are NaN or infinite and are checked.
        """
        checks_values = not self.training if checks_values is None else checks_values
        found = assign(self.assignment_head(i), x, graph, on_edges, self.config)
        if checks_values:
            check_assignments(i, found.numbers())
        return found

    def assignment_head(self, i: int) -> Any:
        """The head that assigns after layer ``i``: its own, or the only one."""
        return self.assignments[i if len(self.assignments) > 1 else 0]

    def __repr__(self) -> str:
        config = self.config
        widths = f"{config.in_channels}, {config.hidden_channels}"
        return f"{self.__class__.__name__}({widths}, num_layers={config.num_layers}, heads={config.heads})"


def _branch(config: MatcherConfig) -> Optional[MultiScaleBranch]:
    if config.branch is None:
        return None
    return MultiScaleBranch(
        config.hidden_channels, config.heads, config.num_scales, config.branch, project=config.orthogonal
    )
