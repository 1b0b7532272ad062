"""The shape of a matcher, and options of a run."""

from dataclasses import dataclass
from typing import Literal, Optional, get_args, get_origin

from pyg_match.checks import MOST_CHANNELS, one_of
from pyg_match.fields import convert, field_types
from pyg_match.nn.multi_scale_branch import BranchKind
from pyg_match.nn.value_source import ValueSteps, refresh_period
from pyg_match.ops.attention_reference import MaskMode

# The most that makes sense of what memory and time grow with.
_MOST = {
    "in_channels": MOST_CHANNELS,
    "hidden_channels": MOST_CHANNELS,
    "ffn_channels": MOST_CHANNELS,
    "num_layers": 1024,
    "num_scales": 1024,
}


@dataclass(frozen=True)
class MatcherShape:
    """The shape that the weights of a matcher were trained with: its size, and choices of research.

    Example:
        >>> MatcherShape(in_channels=64, heads=2).hidden_channels
        256
    """

    #: Width of the detector's descriptors.
    in_channels: int = 128
    #: Width of descriptors inside.
    hidden_channels: int = 256
    #: Number of layers, of a self and a cross step each.
    num_layers: int = 9
    #: Attention heads of a step.
    heads: int = 4
    #: Width inside the feed-forward networks; None for twice hidden_channels, as in LightGlue.
    ffn_channels: Optional[int] = None
    #: LightGlue's relative positions, or SuperGlue's absolute ones.
    encoding: Literal["rotary", "mlp"] = "rotary"
    #: Whether positions include scale and orientation, as for SIFT.
    use_scale_orientation: bool = False
    #: LightGlue's head, or SuperGlue's.
    assignment: Literal["dual_softmax", "sinkhorn"] = "dual_softmax"
    #: Assignment over the listed cross edges only, without a dense matrix.
    assign_on_edges: bool = False
    #: What becomes of edges masked out, see MaskedAttentionConv.
    mask_mode: MaskMode = "remove"
    #: Scale that each layer attends along, instead of edge_index.
    layer_scales: Optional[tuple[int, ...]] = None
    #: What several scales add to self steps: "attention" or "gcn" on each; None for nothing.
    branch: Optional[BranchKind] = None
    #: Number of scales of the branch.
    num_scales: int = 2
    #: Whether the branch projects out what its scales have in common.
    orthogonal: bool = True
    #: Layer whose values attention uses: "current", "initial" or "every:n"; see ValueSource.
    value_source: str = "current"
    #: The steps that this concerns: "both", "self" or "cross".
    value_steps: ValueSteps = "both"
    #: Layers after which cross edges are drawn anew between what has become most similar; None for never.
    redraw_after: Optional[int] = None
    #: Candidates of a keypoint in the other image then.
    redraw_k: int = 64


@dataclass(frozen=True)
class RunOptions:
    """Options of one run of a matcher, with the same weights.

    Example:
        >>> RunOptions(depth_confidence=0.95).filter_threshold
        0.1
    """

    #: Linear layers in bfloat16, for CPUs that are faster in it; sums stay in single precision.
    bfloat16: bool = False
    #: Least probability of a match.
    filter_threshold: float = 0.1
    #: Share of confident keypoints at which a pair stops early (LightGlue: .95).
    depth_confidence: Optional[float] = None
    #: Confidence above which unmatchable keypoints are pruned (LightGlue: .99).
    width_confidence: Optional[float] = None
    #: Gradient checkpointing: cheap operations are computed again in the backward pass, which can run only once.
    #: Gradients stay the same.
    checkpointed: bool = False


@dataclass(frozen=True)
class MatcherConfig(RunOptions, MatcherShape):
    """The shape of a :class:`~pyg_match.nn.GraphMatcher`, and options of a run; defaults are LightGlue's for ALIKED.

    Fields are those of :class:`MatcherShape`, then those of :class:`RunOptions`.

    Example:
        >>> MatcherConfig(num_layers=3, layer_scales=(0, 1, 0)).layer_scales
        (0, 1, 0)
    """

    def __post_init__(self) -> None:
        one_of("branch", self.branch, (None, *get_args(BranchKind)))
        for name, kind in field_types(type(self)).items():
            if get_origin(kind) is Literal:
                one_of(name, getattr(self, name), get_args(kind))
            elif name != "branch":
                object.__setattr__(self, name, convert(getattr(self, name), kind, name, words=False))
        for name in ("in_channels", "hidden_channels", "num_layers", "heads", "num_scales", "redraw_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be positive, got {getattr(self, name)}")
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                raise ValueError(f"'{name}' must be at most {most}, got {getattr(self, name)}")
        if self.hidden_channels % self.heads != 0:
            raise ValueError(
                f"'heads' must divide the {self.hidden_channels} 'hidden_channels', got {self.heads}"
            )
        if self.encoding == "rotary" and self.hidden_channels // self.heads % 2 != 0:
            raise ValueError(
                f"encoding='rotary' needs heads of an even width, got {self.hidden_channels // self.heads} from "
                f"hidden_channels={self.hidden_channels} and heads={self.heads}"
            )
        if self.ffn_channels is not None and self.ffn_channels < 1:
            raise ValueError(f"'ffn_channels' must be positive, or None, got {self.ffn_channels}")
        refresh_period(self.value_source)
        depth, chosen = self.num_layers, self.layer_scales
        if chosen is not None and (len(chosen) != depth or min(chosen) < 0):
            raise ValueError(f"'layer_scales' must name a scale for each of {depth} layers, got {chosen}")
        if self.redraw_after is not None and not 0 < self.redraw_after < self.num_layers:
            raise ValueError(
                f"'redraw_after' must be a layer before the last of {self.num_layers}, got {self.redraw_after}"
            )
        if self.assign_on_edges and self.assignment != "dual_softmax":
            raise ValueError(f"'assign_on_edges' needs assignment='dual_softmax', got {self.assignment!r}")
        if not 0 <= self.filter_threshold <= 1:
            raise ValueError(f"'filter_threshold' must be in [0, 1], got {self.filter_threshold}")
        for name in ("depth_confidence", "width_confidence"):
            value = getattr(self, name)
            if value is None:
                continue
            if not 0 <= value <= 1:
                raise ValueError(f"'{name}' must be in [0, 1], or None to switch it off, got {value}")
            if self.assignment != "dual_softmax":
                raise ValueError(
                    f"early exit and pruning need assignment='dual_softmax', got {self.assignment!r}"
                )
