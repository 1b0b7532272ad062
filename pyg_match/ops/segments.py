"""Reductions over segments, such as the edges of each target."""

import torch
from torch import Tensor
from torch_geometric.utils import scatter

_SEGMENTED = ("cpu", "cuda")  # devices for which torch has an operator of segments


def segment_logsumexp(src: Tensor, ptr: Tensor) -> Tensor:
    r"""The logarithm of the summed exponentials of each segment; ``-inf`` for empty ones.

    On a GPU it is the same on every call, which sums by index are not. Numbers in half precision are summed in single.

    Args:
        src: The numbers, one segment after another.
        ptr: Where the segments start, and the number of numbers at the end.

    Shapes:
        - **src:** :math:`(E)`
        - **ptr:** :math:`(S + 1)`
        - **output:** :math:`(S)`

    Example:
        >>> segment_logsumexp(torch.zeros(3), torch.tensor([0, 2, 2, 3])).exp()
        tensor([2., 0., 1.])
    """
    count = ptr.numel() - 1
    segments = torch.arange(count, device=ptr.device)
    index = segments.repeat_interleave(ptr.diff(), output_size=src.numel())

    # That operator has no derivatives of torch.func.
    segmented = src.device.type in _SEGMENTED and not torch._C._are_functorch_transforms_active()

    def reduce(values: Tensor, kind: str) -> Tensor:
        if segmented:  # by torch alone, as torch-scatter is not everywhere
            return torch.segment_reduce(values, kind, offsets=ptr, axis=0, unsafe=True)
        return scatter(values, index, dim_size=count, reduce=kind)

    wide = src.to(torch.promote_types(src.dtype, torch.float))
    top = reduce(wide.detach(), "max")
    top = top.masked_fill(top == -torch.inf, 0.0)
    total = reduce((wide - top[index]).exp(), "sum")
    empty = total == 0
    return (total.masked_fill(empty, 1.0).log() + top).masked_fill(empty, -torch.inf).to(src.dtype)
