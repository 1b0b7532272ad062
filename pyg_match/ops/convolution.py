"""Convolutions of images on the way to keypoints, plain and deformable."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_match.ops.derivatives import is_transformed
from pyg_match.ops.native.job import fields, run_job
from pyg_match.ops.native.library import library
from pyg_match.ops.workspace import SCRATCH, whole_lines, workspace

_COLUMNS = 16  # output channels to which packed weights are padded
_STRIP_BYTES = 1 << 19  # of rows between two convolutions, which a core's second cache holds
_TASKS = 8  # for each thread
_INLINE_WORK = 1 << 18  # multiply-adds below which starting another thread costs more than it saves
_PIXELS = 16  # of the largest tile


class Layer(ctypes.Structure):
    """``struct layer`` in ``native/tiles.h``."""

    _fields_ = fields("side channels out_channels selu *weight *bias")


class _Job(ctypes.Structure):
    """``struct convolution`` in ``native/convolution.c``."""

    _fields_ = [
        *fields("next_task next_worker images height width rows_at_once pool scratch_bytes strip_at"),
        ("layer", Layer),
        ("before", Layer),
        *fields("*map *offset *shortcut *out *pooled *scratch"),
    ]


class Convolution(nn.Module):
    r"""The weights of a convolution of stride 1 that keeps the size of maps, with a bias and perhaps SELU after it.

    Args:
        weight: Weights of a kernel of side :math:`S`, 1 or 3.
        bias: Biases; zeros by default.
        selu: Whether :func:`torch.nn.functional.selu` follows.

    Shapes:
        - **weight:** :math:`(C', C, S, S)`
        - **bias:** :math:`(C')`

    Raises:
        ValueError: If kernels have another side, or there are not as many biases as channels.
    """

    weight: Tensor
    bias: Tensor
    packed_weight: Tensor
    packed_bias: Tensor

    def __init__(self, weight: Tensor, bias: Optional[Tensor] = None, selu: bool = False) -> None:
        super().__init__()
        out_channels, channels, side, _ = weight.shape
        if side not in (1, 3) or weight.size(3) != side:
            raise ValueError(f"kernels must be 1 x 1 or 3 x 3, got {list(weight.shape[2:])}")
        columns = -(-out_channels // _COLUMNS) * _COLUMNS
        bias = weight.new_zeros(out_channels) if bias is None else bias.to(weight)
        if bias.shape != (out_channels,):
            raise ValueError(f"expected {out_channels} biases, one per channel, got {list(bias.shape)}")
        rows, padding = weight.permute(2, 3, 1, 0).reshape(-1, out_channels), (0, columns - out_channels)
        packed = {"packed_weight": F.pad(rows, padding), "packed_bias": F.pad(bias, padding)}
        for name, value in {"weight": weight, "bias": bias, **packed}.items():
            value = value.detach().clone(memory_format=torch.contiguous_format)
            self.register_buffer(name, value, persistent=False)
        self.side, self.channels, self.out_channels, self.selu = side, channels, out_channels, selu

    def layer(self) -> Layer:
        """The struct that kernels read; the module must outlive it."""
        return Layer(
            side=self.side,
            channels=self.channels,
            out_channels=self.out_channels,
            selu=self.selu,
            weight=self.packed_weight.data_ptr(),
            bias=self.packed_bias.data_ptr(),
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.out_channels}, side={self.side}, selu={self.selu}"


def has_kernels(*tensors: Optional[Tensor]) -> bool:
    """Whether the kernels of detectors can do the work: on the CPU, in single precision, without gradients."""
    usual = not torch.compiler.is_compiling() and library() is not None
    for tensor in tensors:
        if tensor is not None:
            usual &= tensor.device.type == "cpu" and tensor.dtype == torch.float
            usual &= not (torch.is_grad_enabled() and tensor.requires_grad)
    return usual and not is_transformed(*tensors)


def convolve(
    x: Tensor,
    convolution: Convolution,
    shortcut: Optional[Tensor] = None,
    offset: Optional[Tensor] = None,
) -> Tensor:
    r"""Convolve maps whose channels lie side by side.

    A deformable convolution, from `"Deformable Convolutional Networks" <https://arxiv.org/abs/1703.06211>`_,
    reads each tap at its place plus an offset, between the pixels; maps are 0 outside.

    Args:
        x: Maps.
        convolution: The convolution.
        shortcut: What is added before SELU.
        offset: :math:`\Delta y` and :math:`\Delta x` of each of the :math:`S^2` taps.

    Shapes:
        - **x:** :math:`(B, H, W, C)`
        - **shortcut:** :math:`(B, H, W, C')`
        - **offset:** :math:`(B, H, W, 2 S^2)`
        - **output:** :math:`(B, H, W, C')`

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> convolve(torch.ones(1, 2, 2, 2), Convolution(torch.ones(1, 2, 3, 3))).flatten()
        tensor([8., 8., 8., 8.])
    """
    _check(x.shape, convolution, {"shortcut": shortcut, "offset": offset})
    if has_kernels(x, convolution.weight, shortcut, offset):
        return _run(x, convolution, shortcut=shortcut, offset=offset)[0]
    return _convolve_in_torch(x, convolution, shortcut, offset)


def convolve_twice(
    x: Tensor, first: Convolution, second: Convolution, pool: int, shortcut: Optional[Tensor] = None
) -> tuple[Tensor, Tensor]:
    r"""Two convolutions in a row, and the means of squares of what comes out.

    On the CPU the map between them is never stored.

    Args:
        x: Maps.
        first: The first convolution.
        second: The second one.
        pool: Side of the squares, which divides height and width.
        shortcut: What is added before the last SELU.

    Shapes:
        - **x:** :math:`(B, H, W, C)`
        - **shortcut:** :math:`(B, H, W, C')`
        - **output:** :math:`(B, H, W, C')` and :math:`(B, H / \text{pool}, W / \text{pool}, C')`

    Raises:
        ValueError: If shapes do not fit.
    """
    _check(x.shape, first, {})
    _check((*x.shape[:3], first.out_channels), second, {"shortcut": shortcut})
    if x.size(1) % pool or x.size(2) % pool:
        raise ValueError(f"'pool' must divide the size {x.size(1)} x {x.size(2)} of the maps, got {pool}")
    if has_kernels(x, first.weight, second.weight, shortcut):
        out, pooled = _run(x, second, before=first, shortcut=shortcut, pool=pool)
        assert pooled is not None
        return out, pooled
    out = _convolve_in_torch(_convolve_in_torch(x, first), second, shortcut)
    return out, pooled_maps(out, pool)


def pooled_maps(x: Tensor, pool: int) -> Tensor:
    """The means of squares of maps, :math:`(B, H, W, C)`."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)


def _check(shape: Sequence[int], convolution: Convolution, others: Mapping[str, Optional[Tensor]]) -> None:
    if len(shape) != 4 or shape[3] != convolution.channels:
        raise ValueError(f"maps must have shape [B, H, W, {convolution.channels}], got {list(shape)}")
    channels = {"shortcut": convolution.out_channels, "offset": 2 * convolution.side**2}
    for name, tensor in others.items():
        wanted = [*shape[:3], channels[name]]
        if tensor is not None and list(tensor.shape) != wanted:
            raise ValueError(f"'{name}' must have shape {wanted}, got {list(tensor.shape)}")


def _run(
    x: Tensor,
    convolution: Convolution,
    before: Optional[Convolution] = None,
    shortcut: Optional[Tensor] = None,
    offset: Optional[Tensor] = None,
    pool: int = 0,
) -> tuple[Tensor, Optional[Tensor]]:
    images, height, width, _ = x.shape
    x = x.contiguous()
    shortcut, offset = (None if t is None else t.contiguous() for t in (shortcut, offset))
    out = x.new_empty(images, height, width, convolution.out_channels)
    pooled = x.new_empty(images, height // pool, width // pool, convolution.out_channels) if pool else None
    work = out.numel() * convolution.channels * convolution.side**2
    threads = min(torch.get_num_threads(), 1 + work // _INLINE_WORK)
    row_bytes = 0 if before is None else width * before.out_channels * 4
    rows = -(-images * height // (threads * _TASKS))
    if before is not None:
        rows = min(rows, max(1, _STRIP_BYTES // max(1, row_bytes) - 2))
    if pool:
        rows = -(-rows // pool) * pool
    taps = max(layer.side**2 * layer.channels for layer in (convolution, before) if layer is not None)
    strip_at = whole_lines(_PIXELS * taps * 4)
    own = strip_at + whole_lines(row_bytes * (rows + 2))
    scratch = workspace(SCRATCH, threads * own)
    job = _Job(
        images=images, height=height, width=width, rows_at_once=rows, pool=pool, scratch_bytes=own,
        strip_at=strip_at, layer=convolution.layer(), map=x.data_ptr(), offset=_address(offset),
        shortcut=_address(shortcut), out=out.data_ptr(), pooled=_address(pooled), scratch=scratch.data_ptr(),
    )  # fmt: skip
    if before is not None:
        job.before = before.layer()
    memory = (x, convolution, before, shortcut, offset, out, pooled, scratch)
    run_job("convolve", torch.float, job, threads, *memory)
    return out, pooled


def _address(tensor: Optional[Tensor]) -> Optional[int]:
    return None if tensor is None else tensor.data_ptr()


def _convolve_in_torch(
    x: Tensor,
    convolution: Convolution,
    shortcut: Optional[Tensor] = None,
    offset: Optional[Tensor] = None,
) -> Tensor:
    """The result of :func:`convolve` on any device, with gradients."""
    if x.numel() == 0:  # which torch refuses
        return x.new_empty(*x.shape[:3], convolution.out_channels)
    maps, weight, side = x.permute(0, 3, 1, 2), convolution.weight, convolution.side
    if offset is None:
        out = F.conv2d(maps, weight, convolution.bias, padding=side // 2).permute(0, 2, 3, 1)
    else:
        taps = _sample_taps(maps, offset, side)
        out = torch.einsum("bckhw,dck->bhwd", taps, weight.flatten(2)) + convolution.bias
    if shortcut is not None:
        out = out + shortcut
    return F.selu(out) if convolution.selu else out


def _sample_taps(maps: Tensor, offset: Tensor, side: int) -> Tensor:
    """The values that the taps of a deformable convolution read, :math:`(B, C, S^2, H, W)`."""
    images, channels, height, width = maps.shape
    taps = torch.arange(side**2, device=maps.device)
    rows, columns = (
        torch.arange(size, device=maps.device).to(maps.dtype) - side // 2 for size in (height, width)
    )
    offset = offset.view(images, height, width, side**2, 2)
    y = rows.view(-1, 1, 1) + taps // side + offset[..., 0]
    x = columns.view(-1, 1) + taps % side + offset[..., 1]
    sampled = sample_at(maps, torch.stack([x, y], dim=-1).flatten(1, 3))
    return sampled.view(images, channels, height, width, -1).permute(0, 1, 4, 2, 3)


def sample_at(maps: Tensor, pos: Tensor) -> Tensor:
    """Maps between their pixels, 0 outside.

    Args:
        maps: Maps.
        pos: Positions, x and y, in pixels.

    Shapes:
        - **maps:** :math:`(B, C, H, W)`
        - **pos:** :math:`(B, N, 2)`
        - **output:** :math:`(B, C, N)`
    """
    height, width = maps.shape[2:]
    # With the corners of pixels at -1 and 1, no size divides by zero.
    grid = (2 * pos + 1) / pos.new_tensor([width, height]) - 1
    return F.grid_sample(maps, grid.unsqueeze(1), align_corners=False).squeeze(2)
