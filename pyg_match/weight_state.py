"""State of weights, by which changes are noticed."""

from torch import nn


def weight_state(module: nn.Module) -> list[tuple[int, int]]:
    """The addresses of a module's weights and buffers, and how often each was changed in place.

    It differs after any change but one through ``.data``, and in copies.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = weight_state(layer)
        >>> _ = layer.weight.detach().mul_(2)
        >>> weight_state(layer) == before
        False
    """
    tensors = [*module.parameters(), *module.buffers()]
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
