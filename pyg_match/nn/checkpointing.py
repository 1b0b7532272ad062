"""Gradient checkpointing: what is quick to compute is computed again for gradients instead of being kept."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch_geometric.nn import MessagePassing

from pyg_match.heap import release_memory

_STEPS = ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
_HOOKS = [f"_{step}_forward_{kind}" for step in _STEPS for kind in ("pre_hooks", "hooks")]  # of PyG's layers
_PRODUCTS = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)


def checkpointed(function: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The result of a function, of which only attention and the largest products are kept for gradients.

    Projections, rotations, normalisation, activations and assignments are computed once more when gradients are, which
    then are the same bit for bit. Gradients can be asked for once.

    Args:
        function: What to call, without effects of its own.
        x: Its first argument.
        *args: Its other arguments.
        **kwargs: Its arguments by name.

    Shapes:
        - **x:** :math:`(N, D)`
    """
    contexts = functools.partial(create_selective_checkpoint_contexts, functools.partial(_policy, x.size(-1)))

    def uncached(x: Tensor, *args: Any) -> Tensor:
        with _without_cache(x.device.type):
            return function(x, *args, **kwargs)

    out: Tensor = checkpoint(
        uncached, x, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        release_memory()
        if out.requires_grad:
            out.register_hook(lambda _: release_memory())
    return out


def is_hooked(module: nn.Module) -> bool:
    """Whether a module, or a part of it, has hooks of torch or of PyG's layers, which are to see each call once."""
    return any(
        part._forward_hooks
        or part._forward_pre_hooks
        or (isinstance(part, MessagePassing) and any(getattr(part, name) for name in _HOOKS))
        for part in module.modules()
    )


def _without_cache(device_type: str) -> AbstractContextManager[Any]:
    """The autocast that the caller has chosen, without weights kept of other passes, which computing again lacks."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, torch.get_autocast_dtype(device_type), cache_enabled=False)


def _policy(channels: int, context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep products with joined features, but for those that narrow, whose results no gradient reads."""
    product = operator in _PRODUCTS and args[-1].size(1) >= args[-1].size(0) > channels
    keeps = product or operator == torch.ops.pyg_match.attention.default
    return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE
