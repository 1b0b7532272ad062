"""Matchers prepared for inference: folded layers, weights in oneDNN's order, nodes in chunks, reused memory.

Nothing else in the models knows of it. :meth:`Freezable.freeze` switches it on.
"""

from collections.abc import Callable
from typing import Any, Optional, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_match.nn.checkpointing import is_hooked
from pyg_match.nn.conv.masked_attention_conv import MaskedAttentionConv
from pyg_match.nn.conv.projection import Projection
from pyg_match.nn.matcher_layer import AttentionBlock
from pyg_match.nn.recorded import RecordedForwards
from pyg_match.ops import EdgeSet
from pyg_match.ops.derivatives import is_transformed
from pyg_match.ops.linear import (
    OrderedWeight,
    empty_rows,
    joined_linear,
    residual_linear,
    rounded_for_linear,
    with_room,
)
from pyg_match.weight_state import parts_of, weight_state

# The output projection and what follows it.
_LAYERS = (nn.Linear, nn.Linear, nn.LayerNorm, nn.GELU, nn.Linear)
_NODES = 2048  # whose hidden features the caches nearly hold


class Freezable(nn.Module):
    """A model that can be prepared for inference with the weights that it has."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: Optional[list[Any]] = None  # the weights and layers that it was frozen with
        self.recorded: Optional[RecordedForwards] = None  # what a GPU runs again
        self.register_load_state_dict_post_hook(_thawed)

    def freeze(self, cuda_graphs: bool = False) -> Self:
        """Prepare for inference with the weights as they are now, and return the model in evaluation mode.

        Without gradients it is faster then and gives the same up to rounding. Layers that have hooks or are not what
        they were made as stay as they are. :meth:`train` and loading weights undo it. A model whose weights have been
        changed in place since, or parts of whose layers have been replaced, refuses to run until it is frozen anew, and
        hooks that are registered on parts of layers since are not called until then.

        Args:
            cuda_graphs: Whether a GPU records its launches as CUDA graphs, which is faster for a pair at a time. Pairs
                are padded to one of few sizes. A size is recorded when it is met a second time, for which the whole GPU
                waits, and the last 32 are kept, which takes memory. It concerns forwards of at most 16,384 keypoints
                that need not wait for the GPU (see :meth:`GraphMatcher.forward
                <pyg_match.nn.GraphMatcher.forward>`), without hooks and without autocast of the caller. On other
                devices nothing changes.

        Example:
            >>> from pyg_match.nn import GraphMatcher
            >>> GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1).freeze().training
            False
        """
        for module in self.eval().modules():
            if isinstance(module, AttentionBlock):
                module.frozen = FrozenBlock(module) if _is_plain(module) else None
            elif isinstance(module, MaskedAttentionConv):
                lins = (module.lin_query, module.lin_key or module.lin_value, module.lin_value)
                plain = all(type(lin) is Projection and not is_hooked(lin) for lin in lins)
                # Queries that are keys as well are read again.
                module.in_place = plain and module.lin_key is not None
            elif type(module) is Projection and not is_hooked(module) and type(module.weight) is nn.Parameter:
                module.ordered = OrderedWeight(module.weight, module.bias)
        self._frozen = _state(self)
        self.recorded = RecordedForwards() if cuda_graphs else None
        return self

    @torch.compiler.disable
    def check_frozen(self) -> None:
        """Refuse to compute with what was made of other weights.

        Raises:
            RuntimeError: If weights have been changed, or layers replaced, since :meth:`freeze`.
        """
        if self._frozen is not None and self._frozen != _state(self):
            raise RuntimeError(
                "layers or weights have changed since freeze(); call freeze() again, or train() to undo it"
            )

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training undoes :meth:`freeze`."""
        if mode:
            _thawed(self)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Change the device or type of the weights, and freeze them anew if they were."""
        super()._apply(fn, recurse)
        return self if self._frozen is None else self.freeze(cuda_graphs=self.recorded is not None)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of what refuses to run refuses, too: no weights are those of an empty list.
        changed = self._frozen is not None and self._frozen != _state(self)
        return {**self.__dict__, "_frozen": [] if changed else self._frozen and [True]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"recorded": None, **state})
        if self._frozen:  # weights of copies are new
            self._frozen = _state(self)


def _state(model: nn.Module) -> list[Any]:
    """The weights and the layers of a model."""
    return [*weight_state(model), *parts_of(model)]


def _thawed(model: Freezable, _: Any = None) -> None:
    """Undo :meth:`Freezable.freeze`."""
    for module in model.modules():
        if isinstance(module, AttentionBlock):
            module.frozen = None
        elif isinstance(module, MaskedAttentionConv):
            module.in_place = False
        elif isinstance(module, Projection):
            module.ordered = None
    model._frozen = model.recorded = None


class FrozenBlock:
    """An :class:`~pyg_match.nn.matcher_layer.AttentionBlock` in inference.

    The output projection is multiplied into the layer behind it, which is less work for many nodes. What follows
    attention is done for some nodes at a time, so that caches hold what is in between. Dense attention keeps
    LightGlue's order of operations, to which its results can be compared bit by bit.
    """

    def __init__(self, block: AttentionBlock) -> None:
        layers: Any = block.ffn
        first, _, _, last = layers
        with torch.no_grad(), torch.autocast(first.weight.device.type, enabled=False):
            own, of_message = first.weight.split(block.lin_out.out_features, dim=1)
            weight = torch.cat([own, of_message @ block.lin_out.weight], dim=1)
            self.bias = torch.addmv(first.bias, of_message, block.lin_out.bias)
        self.first, self.last = OrderedWeight(weight, self.bias), OrderedWeight(last.weight, last.bias)

    def __call__(
        self, block: AttentionBlock, x: Tensor, edge_index: Any, extra: Optional[Tensor], **kwargs: Any
    ) -> Tensor:
        """What :meth:`AttentionBlock.forward <pyg_match.nn.matcher_layer.AttentionBlock.forward>` returns."""
        rounded = rounded_for_linear(x)
        if kwargs.get("x_value") is x:
            kwargs["x_value"] = rounded
        message = block.conv(rounded, edge_index, **kwargs)
        if x.device.type != "cpu":
            return self._whole(block, x, rounded, message, extra)
        inference = not (
            torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed(x, message)
        )
        many = x.size(0) > 2 * x.size(1)
        complete = isinstance(edge_index, EdgeSet) and edge_index.is_dense
        if not inference or not many or extra is not None or complete:
            return block.update(x, message, extra)
        return self._update(block, x, rounded, message)

    def _whole(
        self, block: AttentionBlock, x: Tensor, rounded: Tensor, message: Tensor, extra: Optional[Tensor]
    ) -> Tensor:
        """The descriptors after attention, of all nodes at once, for devices that need many at a time."""
        if torch.is_grad_enabled() or extra is not None:
            return block.update(x, message, extra)
        layers: Any = block.ffn
        _, norm, gelu, _ = layers
        dtype = rounded.dtype
        hidden = F.linear(torch.cat([rounded, message.to(dtype)], dim=-1), *self.first.rounded(dtype))
        return x + F.linear(gelu(norm(hidden)).to(dtype), *self.last.rounded(dtype))

    def _update(self, block: AttentionBlock, x: Tensor, rounded: Tensor, message: Tensor) -> Tensor:
        layers: Any = block.ffn
        _, norm, gelu, last = layers
        bias = self.bias.to(rounded.dtype)
        weight = self.first.of(rounded[:1, :1].expand(x.size(0), self.first.weight.size(1)), bias)
        out = empty_rows(x.size(0), x)
        for part in zip(*(t.split(_NODES) for t in (x, rounded, message, out)), strict=True):
            hidden = norm(with_room(joined_linear(part[1:3], weight, bias)))
            hidden = torch.ops.aten.gelu_(hidden, approximate=gelu.approximate)
            residual_linear(part[0], hidden, self.last.of(hidden, last.bias), last.bias, part[3])
        return out


def _is_plain(block: AttentionBlock) -> bool:
    """Whether the layers are what they were made as, without hooks, and not quantised or adapted."""
    layers: list[nn.Module] = [block.lin_out, *block.ffn]
    return len(layers) == len(_LAYERS) and all(
        type(layer) is kind and not is_hooked(layer) and not (kind is nn.Linear and not _has_weights(layer))
        for layer, kind in zip(layers, _LAYERS, strict=True)
    )


def _has_weights(layer: nn.Module) -> bool:
    """Whether a linear layer has a bias and an ordinary weight: those of subclasses know few operators."""
    return layer.bias is not None and type(layer.weight) is nn.Parameter
