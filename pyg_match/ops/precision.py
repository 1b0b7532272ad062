"""Precision of the numbers of a device."""

import torch
from torch import Tensor

_WITHOUT_DOUBLE = frozenset({"mps"})


def rounds_products() -> bool:
    """Whether products in single precision may be rounded to TF32 on a GPU."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # where someone has said so by torch's newer setting
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def widest_dtype(device: torch.device) -> torch.dtype:
    """Double precision, or single where the device has no other.

    Example:
        >>> widest_dtype(torch.device("cpu")), widest_dtype(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float if device.type in _WITHOUT_DOUBLE else torch.double


def widest(x: Tensor) -> Tensor:
    """The same numbers in the widest type of their device, in which places and distances are compared.

    Example:
        >>> widest(torch.ones(2)).dtype
        torch.float64
    """
    return x.to(widest_dtype(x.device))
