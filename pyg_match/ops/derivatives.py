"""Detection of derivatives that kernels do not compute."""

from typing import Optional

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual


def is_transformed(*tensors: Optional[Tensor]) -> bool:
    """Whether derivatives are computed forward, or by :mod:`torch.func`, with gradients switched off, too.

    Example:
        >>> is_transformed(torch.ones(2))
        False
    """
    if torch._C._are_functorch_transforms_active():
        return True
    return any(t is not None and unpack_dual(t).tangent is not None for t in tensors)
