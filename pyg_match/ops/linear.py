"""Affine maps of many nodes."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from pyg_match.ops.derivatives import is_transformed
from pyg_match.ops.workspace import HIDDEN, workspace

_ROWS = 256  # fewer are multiplied before oneDNN has brought the weight into its order
_USUAL_ROWS = 2048  # for which that order is chosen where a weight is kept in it
# oneDNN keeps memory for each number of rows that it has ever seen, so that it is shown few: whole multiples of these
# rows, or of a share of the next power of two where that is more.
_FEWEST_ROWS, _SHARE = 64, 16
# The same for similarities, whose columns differ as well, but which are little work.
_FEWEST_COMPARED, _SHARE_COMPARED = 256, 2


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    r"""The affine map :math:`\mathbf{x} \mathbf{W}^\top + \mathbf{b}`.

    In inference on a CPU with AVX-512 the product is oneDNN's: on AMD processors, for the shapes of a matcher, it is
    faster there than MKL's, which :func:`torch.nn.functional.linear` uses where torch comes with it, but slower where
    there is AVX2 only. The results differ by rounding. Everywhere else that function does the work. Under autocast to
    bfloat16, ``x`` and ``weight`` are rounded to it, and so is the result.

    Args:
        x: Features.
        weight: The matrix, as in :class:`torch.nn.Linear`, or as :class:`OrderedWeight` gives it.
        bias: The shift.

    Shapes:
        - **x:** :math:`(N, F_{in})`
        - **weight:** :math:`(F_{out}, F_{in})`
        - **bias:** :math:`(F_{out})`
        - **output:** :math:`(N, F_{out})`

    Raises:
        RuntimeError: If shapes do not fit, as :func:`torch.nn.functional.linear` says it.

    Source: the inner product of oneDNN (https://github.com/uxlfoundation/oneDNN), which torch contains.

    Example:
        >>> linear(torch.ones(2, 3), torch.ones(1, 3))
        tensor([[3.],
                [3.]])
    """
    dtype = weight.dtype if weight.is_mkldnn else onednn_type(x, weight, bias)
    if dtype is None:
        return F.linear(x, weight, bias)
    # oneDNN is a thousand times slower on views whose rows lie apart.
    rows, x = x.size(0), with_room(x.to(dtype).contiguous())
    weight = weight if weight.is_mkldnn else weight.to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out[:rows]


def similarities(x0: Tensor, x1: Tensor) -> Tensor:
    r"""The inner products of two sets of descriptors, as :func:`linear` computes them.

    Shapes:
        - **x0:** :math:`(N, D)`
        - **x1:** :math:`(M, D)`
        - **output:** :math:`(N, M)`
    """
    if onednn_type(x0, x1, None) is None:
        return F.linear(x0, x1)
    shapes = _FEWEST_COMPARED, _SHARE_COMPARED
    out = linear(with_room(x0.contiguous(), *shapes), with_room(x1.contiguous(), *shapes))
    return out[: x0.size(0), : x1.size(0)]


def whole_rows(rows: int, fewest: int = _FEWEST_ROWS, share: int = _SHARE) -> int:
    """The number of rows that oneDNN is shown in place of this one."""
    multiple = max(fewest, (1 << max(rows - 1, 0).bit_length()) // share)
    return -(-rows // multiple) * multiple


def empty_rows(rows: int, like: Tensor) -> Tensor:
    """New memory for so many rows as wide as those of ``like``, with room for :func:`with_room` behind them."""
    return like.new_empty(whole_rows(rows), like.size(1))[:rows]


def with_room(x: Tensor, fewest: int = _FEWEST_ROWS, share: int = _SHARE) -> Tensor:
    """Contiguous rows and any others behind them, :func:`whole_rows` in all; a copy where memory has no room."""
    rows, width = x.shape
    whole = whole_rows(rows, fewest, share)
    if whole == rows:
        return x
    room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    if room >= whole * width and not x.requires_grad:
        return x.as_strided((whole, width), (width, 1))
    out = x.new_zeros(whole, width)
    out[:rows] = x
    return out


class OrderedWeight:
    """A weight that does not change, kept in the order that oneDNN multiplies in.

    Args:
        weight: The matrix, :math:`(F_{out}, F_{in})`.
        bias: The shift, :math:`(F_{out})`, for :meth:`rounded`.
    """

    def __init__(self, weight: Tensor, bias: Optional[Tensor] = None) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._ordered: dict[torch.dtype, Tensor] = {}
        self._rounded: dict[torch.dtype, tuple[Tensor, Optional[Tensor]]] = {}

    def rounded(self, dtype: torch.dtype) -> tuple[Tensor, Optional[Tensor]]:
        """Weight and bias in another type of numbers, converted once."""
        if dtype not in self._rounded:
            self._rounded[dtype] = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        return self._rounded[dtype]

    def of(self, x: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """The weight to call :func:`linear` with: in oneDNN's order where oneDNN multiplies ``x``, else as it is.

        Args:
            x: Features, of which only shape and type matter.
            bias: The shift.

        Shapes:
            - **x:** :math:`(N, F_{in})`
            - **output:** :math:`(F_{out}, F_{in})`
        """
        dtype = onednn_type(x, self.weight, bias)
        if dtype is None or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            return self.weight
        if dtype not in self._ordered:
            with torch.autocast("cpu", enabled=False):
                weight = self.weight.to(dtype).contiguous()
            self._ordered[dtype] = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)
        return self._ordered[dtype]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ordered": {}, "_rounded": {}}


def rounded_for_linear(x: Tensor) -> Tensor:
    """``x`` in the type in which linear layers compute under autocast, so that several layers convert it once.

    It has no gradients.
    """
    dtype = _autocast_type(x)
    if dtype is None or x.dtype != torch.float:
        return x
    if x.device.type != "cpu" or is_transformed(x) or x.dim() != 2 or not x.is_contiguous():
        return x.to(dtype)
    return with_room(x).to(dtype)[: x.size(0)]


def is_rounded(x: Tensor) -> bool:
    """Whether linear layers take ``x`` as it is under autocast; no gradients."""
    return x.dtype == _autocast_type(x)


def _autocast_type(x: Tensor) -> Optional[torch.dtype]:
    """The type that linear layers compute in under autocast; ``None`` without it, with gradients or when compiling."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def joined_linear(parts: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    r""":func:`linear` of features that lie in several tensors, which are brought together only where that is needed.

    It has no gradients. The result may lie in memory that the next call in this thread writes to: new memory costs as
    much as filling it.

    Shapes:
        - **parts:** :math:`(N, F_k)` each
        - **weight:** :math:`(F_{out}, \sum_k F_k)`
        - **bias:** :math:`(F_{out})`
        - **output:** :math:`(N, F_{out})`
    """
    if weight.is_mkldnn or _prefers_linear(parts[0], weight[:, : parts[0].size(-1)], bias):
        joined = empty_rows(parts[0].size(0), parts[0].new_empty(0, sum(part.size(-1) for part in parts)))
        torch.cat([part.to(parts[0].dtype) for part in parts], dim=-1, out=joined)
        return linear(joined, weight, bias)
    own = weight.t().split([part.size(-1) for part in parts])
    size = parts[0].size(0) * weight.size(0)
    memory = workspace(HIDDEN, size * bias.element_size())[: size * bias.element_size()]
    out = memory.view(bias.dtype).view(parts[0].size(0), weight.size(0))
    torch.addmm(bias, parts[0], own[0], out=out)
    for part, columns in zip(parts[1:], own[1:], strict=True):
        out.addmm_(part, columns)
    return out


def residual_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    r"""The sum of ``residual`` and :func:`linear`, written to ``out``, both :math:`(N, F_{out})`; without gradients.

    Rows of ``x`` beyond those of ``residual``, as :func:`with_room` leaves them, count for nothing.
    """
    rows = residual.size(0)
    if weight.is_mkldnn or _prefers_linear(x, weight, bias):
        torch.add(residual, linear(x, weight, bias)[:rows].to(residual.dtype), out=out)
    else:
        torch.add(residual, bias, out=out).addmm_(x[:rows], weight.t())


def _prefers_linear(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether products cannot, or should not, be added to what there is."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return True
    if x.dtype not in (torch.float, torch.double) or not x.dtype == weight.dtype == bias.dtype:
        return True  # half precision would be rounded in between
    return onednn_type(x, weight, bias) is not None


def onednn_type(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Optional[torch.dtype]:
    """The type in which oneDNN multiplies; ``None`` if it cannot, if that does not pay, or if shapes do not fit."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.dim() != 2 or x.size(0) < _ROWS:
        return None
    if x.device.type != "cpu" or weight.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return None
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return None
    if weight.numel() == 0 or weight.shape[1:] != x.shape[1:]:
        return None
    if type(weight) not in (Tensor, Parameter):  # subclasses know few operators
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    if is_transformed(x, weight, bias):
        return None
    if torch.is_autocast_enabled("cpu"):
        rounds = torch.get_autocast_dtype("cpu") == torch.bfloat16
        rounds &= x.dtype in (torch.float, torch.bfloat16)
        return torch.bfloat16 if rounds and torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.float if wide and x.dtype == weight.dtype == torch.float else None
