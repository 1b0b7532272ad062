"""State of weights, by which changes are noticed."""

from torch import nn


def weight_state(module: nn.Module) -> list[tuple[int, int, int]]:
    """Where the weights and buffers of a module are, and how often they have been changed in place.

    It differs after any change but one through ``.data``, and in copies. Weights that are shared with other processes
    stay the same, though they move.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = weight_state(layer)
        >>> _ = layer.weight.detach().mul_(2)
        >>> weight_state(layer) == before
        False
    """
    kept = (t for part in parts_of(module) for t in (*part._parameters.values(), *part._buffers.values()))
    # Sharing memory gives a storage other addresses.
    return [
        (t.untyped_storage()._cdata, int(t.storage_offset()), 0 if t.is_inference() else t._version)
        for t in kept
        if t is not None
    ]


def parts_of(module: nn.Module) -> list[nn.Module]:
    """A module and all of its parts, as often as they are there, without the names that ``modules()`` makes of them."""
    parts = [module]
    for part in parts:
        parts.extend(child for child in part._modules.values() if child is not None)
    return parts
