"""Forwards of a few padded sizes, recorded as CUDA graphs."""

import gc
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pyg_match.data import KeypointPair
from pyg_match.nn.checkpointing import is_hooked
from pyg_match.nn.conv import MaskedAttentionConv
from pyg_match.nn.matcher_config import MatcherConfig
from pyg_match.nn.matcher_output import MatcherOutput
from pyg_match.nn.padded_pair import pad, without_padding
from pyg_match.nn.prepared_pair import PreparedPair
from pyg_match.ops.attention_operators import has_kernels
from pyg_match.ops.precision import rounds_products

_KEPT = 32  # recordings, the last ones that were used
_MET = 1024  # sizes that are remembered
_MOST_NODES = 1 << 14  # up to which launching takes longer than what is launched
_turn = threading.Lock()  # of those who record, of whom a process allows one at a time

Forward = Callable[[PreparedPair], MatcherOutput]


class _Recording(NamedTuple):
    """Launches, and the memory that they read and write."""

    tensors: list[Tensor]
    output: MatcherOutput
    replay: Callable[[], None]


class RecordedForwards:
    """Forwards of prepared pairs of which launches are recorded, for each size that is met a second time.

    Pairs are padded, so that few sizes serve all.
    """

    def __init__(self) -> None:
        self._met: OrderedDict[Any, bool] = OrderedDict()  # sizes, and whether they may be recorded
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()
        self._places: dict[int, Any] = {}
        self._lock = threading.Lock()

    @torch.compiler.disable
    def __call__(self, model: nn.Module, forward: Forward, prepared: PreparedPair) -> Optional[MatcherOutput]:
        """What ``forward`` returns; ``None`` if that is not, or not yet, recorded.

        Args:
            model: The matcher, whose weights stay the same.
            forward: Its forward.
            prepared: The pairs.
        """
        if not _suits(model, prepared):
            return None
        device = prepared.position.device
        # Tensors made in inference mode could not be written to outside of it.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            padded = pad(prepared)
            leaves = list(_leaves(padded))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            shape = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
            # What is on another stream may still use the memory of a recording.
            stream = current_stream(device)
            key = (shape, rounds_products(), torch.are_deterministic_algorithms_enabled(), stream)
            if not self._may_record(key):
                return None
            if key in self._recordings:
                _copy(tensors, self._recordings[key].tensors)
            else:
                if stream not in self._places:
                    self._places[stream] = place_for(device)
                try:
                    found = record(lambda: forward(padded), device, self._places[stream])
                except RuntimeError as error:
                    self._met[key] = False
                    self._places.pop(stream, None)  # its memory may still be taken for being recorded to
                    warnings.warn(f"a forward runs without being recorded: {error}", stacklevel=2)
                    return None
                self._recordings[key] = _Recording(tensors, *found)
            self._recordings.move_to_end(key)
            while len(self._recordings) > _KEPT:
                self._recordings.popitem(last=False)
            self._recordings[key].replay()
            return without_padding(self._recordings[key].output, prepared)

    def _may_record(self, key: Any) -> bool:
        """Whether a size was met before, and not found to be one that cannot be recorded."""
        known, may_record = key in self._met, self._met.setdefault(key, True)
        self._met.move_to_end(key)
        while len(self._met) > _MET:
            self._met.popitem(last=False)
        return known and may_record

    def __reduce__(self) -> Any:
        return type(self), ()  # copies record anew


def can_record(device: torch.device) -> bool:
    """Whether launches on that device can be recorded now."""
    return device.type == "cuda" and has_kernels(device.type) and not torch.cuda.is_current_stream_capturing()


def current_stream(device: torch.device) -> int:
    """The queue of launches on a device, by its number."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def place_for(device: torch.device) -> Any:
    """A stream to record on, and memory for what recordings need, which they share as they run one after another."""
    return (torch.cuda.Stream(device), torch.cuda.graph_pool_handle()) if device.type == "cuda" else None


def record(
    function: Callable[[], MatcherOutput], device: torch.device, place: Any
) -> tuple[MatcherOutput, Callable[[], None]]:
    """Record the launches of a function; return its result, whose numbers are there after a replay, and the replay."""
    aside, pool = place
    current = torch.cuda.current_stream(device)
    # Under an autocast of the caller, copies of weights would be kept for others than the recording.
    plain = torch.autocast(device.type, enabled=False, cache_enabled=False)
    graph = torch.cuda.CUDAGraph()
    with _turn, torch.cuda.device(device), plain:
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            function()  # kernels are compiled
            # What cuBLAS keeps for itself is to lie in the memory of recordings, which lives as long as they do.
            torch._C._cuda_clearCublasWorkspaces()
            # Other threads may go on meanwhile.
            with _no_collection(), torch.cuda.graph(graph, pool, aside, capture_error_mode="thread_local"):
                output = function()
            torch._C._cuda_clearCublasWorkspaces()
        current.wait_stream(aside)
    return output, graph.replay


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected: the end of an old recording would end the capture of a new one."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _suits(model: nn.Module, prepared: PreparedPair) -> bool:
    """Whether a forward neither waits for the device nor calls anyone, and leaves nothing behind for gradients."""
    pair, graph, config = prepared.pair, prepared.graph, prepared.config
    device = prepared.position.device
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not can_record(device):
        return False
    given = pair.get("cross_edge_index") is not None and pair.get("self_step") is None
    small = 0 < graph.nodes.numel() <= _MOST_NODES
    rounded = torch.is_autocast_enabled(device.type)
    # Smaller images have fewer candidates than padded ones.
    largest = max((count for counts in graph.counts for count in counts), default=0)
    drawn = config.redraw_after is None or largest >= config.redraw_k
    if rounded or not (given and small and drawn and _never_waits(config)):
        return False
    return not is_hooked(model) and all(
        module.fuses(graph.within[0].edges)
        for module in model.modules()
        if isinstance(module, MaskedAttentionConv)
    )


def _copy(tensors: list[Tensor], into: list[Tensor]) -> None:
    """Copy with one launch for each type of numbers."""
    for kind in {tensor.dtype for tensor in tensors}:
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == kind]
        torch._foreach_copy_([into[place] for place in places], [tensors[place] for place in places])


def _never_waits(config: MatcherConfig) -> bool:
    adapts = config.depth_confidence is not None or config.width_confidence is not None
    scales = config.layer_scales is not None or config.branch is not None
    counts = config.redraw_after is not None and config.mask_mode == "zero"
    return config.assign_on_edges and not (adapts or scales or counts)


def _leaves(value: Any) -> Iterator[Any]:
    """The parts of a prepared pair: tensors, and all else that a forward may read."""
    if isinstance(value, KeypointPair):
        value = tuple(value.to_dict().values())
    elif is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in fields(value))
    if isinstance(value, tuple):
        yield len(value)
        for part in value:
            yield from _leaves(part)
    else:
        yield value
