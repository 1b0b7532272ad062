"""Memory that a thread uses again in its next call: new memory costs as much as what is done with it."""

import threading
from typing import Any

import torch
from torch import Tensor

_KEPT_BYTES = 1 << 24  # of which more is not kept
_memory = threading.local()

_LINE_BYTES = 64  # of a cache

KEY, VALUE, QUERY, GRAD, SCRATCH, HIDDEN = range(6)  # purposes, which do not share memory


def workspace(place: int, size: int) -> Tensor:
    """At least so many bytes, which a thread keeps for one purpose unless they are very many."""
    if size > _KEPT_BYTES:
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    kept: dict[Any, Tensor] = _memory.__dict__
    if place not in kept or kept[place].numel() < size:
        with torch.inference_mode(False):  # what is made in that mode cannot be written to outside of it
            kept[place] = torch.empty(size, dtype=torch.uint8, device="cpu")
    return kept[place]


def whole_lines(size: int) -> int:
    """The bytes of whole cache lines, one more than are needed."""
    return (size // _LINE_BYTES + 2) * _LINE_BYTES
