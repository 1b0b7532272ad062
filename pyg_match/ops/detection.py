"""Score maps, their maxima, and features at some pixels, for detectors that join maps of several resolutions."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_match.ops.convolution import Convolution, Layer, has_kernels
from pyg_match.ops.native.job import fields, run_job
from pyg_match.ops.workspace import SCRATCH, whole_lines, workspace

_FIRST, _OTHER = 8, 4  # channels of the score head after the first layer, and after the second and third
_CHANNELS = 32  # of a pixel of the fine map, and of its share of the joint one, at most
_WIDTH = 32  # of which that of the fine map is a multiple
_ROWS = 64  # of a task; six more are computed besides
_AROUND = 16  # numbers before and behind a row
_POINTS = 64  # of a task
# Numbers of features that are in memory at a time without the kernel, on the CPU and on devices that need many.
_MOST_NUMBERS, _MOST_ON_DEVICES = 1 << 24, 1 << 28


class _Level(ctypes.Structure):
    """``struct level`` in ``native/detection.c``."""

    _fields_ = fields("height width *map")


_Levels, _Weights = _Level * 3, ctypes.c_void_p * 3


class _ScoreJob(ctypes.Structure):
    """``struct score_job`` in ``native/detection.c``."""

    _fields_ = [
        *fields("next_task next_worker images height width rows_at_once scratch_bytes"),
        ("hidden", Layer),
        ("head", Layer),
        ("level", _Levels),
        ("weight", _Weights),
        *fields("*map *out *scratch"),
    ]


class _MaximaJob(ctypes.Structure):
    """``struct maxima_job`` in ``native/detection.c``."""

    _fields_ = fields("next_task images height width radius *score *threshold *out")


class _FeatureJob(ctypes.Structure):
    """``struct feature_job`` in ``native/detection.c``."""

    _fields_ = [
        *fields("next_task points points_at_once height width top left bottom right"),
        ("hidden", Layer),
        ("level", _Levels),
        *fields("*map *image *pos *out"),
    ]


def score_map(
    x: Tensor,
    levels: Sequence[Tensor],
    hidden: Convolution,
    head: Convolution,
    convolutions: Sequence[Convolution],
) -> Tensor:
    r"""The score of each pixel from a fine map and coarse ones.

    Args:
        x: The fine map.
        levels: Coarse maps, after their share of the head's first layer; they are enlarged so that corners meet.
        hidden: Layer from a pixel of the fine map to its share of the joint one.
        head: From there to 8 channels; SELU follows when the coarse maps are added.
        convolutions: Those of the head after it, to 4, 4 and 1 channels, with SELU between them and a sigmoid in the
            end, without biases.

    Shapes:
        - **x:** :math:`(B, H, W, C)`, :math:`H` and :math:`W` being multiples of 32 for the kernel
        - **levels:** :math:`(B, H_l, W_l, 8)` each
        - **output:** :math:`(B, H, W)`
    """
    images, height, width, _ = x.shape
    weights = [convolution.weight for convolution in convolutions]
    shapes = [tuple(weight.shape) for weight in weights]
    usual = has_kernels(x, hidden.weight, head.weight, *levels, *weights) and _fits(x, levels, hidden, _FIRST)
    usual &= width % _WIDTH == 0 and head.out_channels == _FIRST and head.channels == hidden.out_channels
    if not usual or shapes != [(_OTHER, _FIRST, 3, 3), (_OTHER, _OTHER, 3, 3), (1, _OTHER, 3, 3)]:
        y = F.selu(F.linear(x, hidden.weight.flatten(1)))
        y = F.linear(y, head.weight.flatten(1)).permute(0, 3, 1, 2)
        for level in levels:
            level = level.permute(0, 3, 1, 2)
            y = y + F.interpolate(level, (height, width), mode="bilinear", align_corners=True)
        for weight in weights:
            y = F.conv2d(F.selu(y), weight, padding=1)
        return y.sigmoid().squeeze(1)
    x, levels = x.contiguous(), [level.contiguous() for level in levels]
    out = x.new_empty(images, height, width)
    tasks = images * -(-height // _ROWS)
    threads = min(torch.get_num_threads(), tasks)
    own = whole_lines(4 * (width * _FIRST + 3 * (_FIRST + 2 * _OTHER) * (width + 2 * _AROUND)))
    scratch = workspace(SCRATCH, threads * own)
    weights = [weight.contiguous() for weight in weights]
    job = _ScoreJob(
        images=images, height=height, width=width, rows_at_once=_ROWS, scratch_bytes=own, hidden=hidden.layer(),
        head=head.layer(), level=_as_levels(levels), weight=_Weights(*(weight.data_ptr() for weight in weights)),
        map=x.data_ptr(), out=out.data_ptr(), scratch=scratch.data_ptr(),
    )  # fmt: skip
    run_job("score", torch.float, job, threads, x, levels, hidden, head, weights, out, scratch)
    return out


def local_maxima(score: Tensor, radius: int, threshold: Tensor) -> Tensor:
    r"""Pixels whose score is above a threshold and above all others within a radius.

    Pixels nearer to the border than the radius are none.

    Args:
        score: Scores.
        radius: Pixels to each side, so that windows are :math:`2 r + 1` wide.
        threshold: For each image.

    Shapes:
        - **score:** :math:`(B, H, W)`
        - **threshold:** :math:`(B)`
        - **output:** :math:`(B, H, W)`, ``bool``

    Example:
        >>> local_maxima(torch.tensor([[[0.0, 0, 0], [0, 2, 1], [0, 0, 0]]]), 1, torch.zeros(1)).nonzero()
        tensor([[0, 1, 1]])
    """
    images, height, width = score.shape
    if radius < 0:
        raise ValueError(f"'radius' must not be negative, got {radius}")
    if threshold.shape != (images,):
        raise ValueError(f"'threshold' must have shape {[images]}, got {list(threshold.shape)}")
    if not has_kernels(score, threshold):
        return _maxima_in_torch(score, radius, threshold)
    score, threshold = score.contiguous(), threshold.contiguous()
    out = score.new_zeros(score.shape, dtype=torch.bool)
    job = _MaximaJob(
        images=images, height=height, width=width, radius=radius, score=score.data_ptr(),
        threshold=threshold.data_ptr(), out=out.data_ptr(),
    )  # fmt: skip
    run_job("maxima", torch.float, job, torch.get_num_threads(), score, threshold, out)
    return out


def features_at(
    x: Tensor,
    levels: Sequence[Tensor],
    hidden: Convolution,
    image: Tensor,
    pos: Tensor,
    frame: tuple[int, int, int, int],
) -> Tensor:
    r"""The joint map, of unit length in each pixel, between pixels.

    Args:
        x: The fine map.
        levels: Coarse maps, which are enlarged so that corners meet.
        hidden: Layer from a pixel of the fine map to its share of the joint one; SELU follows.
        image: The image of each position.
        pos: Positions, x and y, in pixels of the fine map.
        frame: Rows and columns outside of which the joint map is 0: top, left, bottom, right, the latter two
            exclusive.

    Shapes:
        - **x:** :math:`(B, H, W, C)`
        - **levels:** :math:`(B, H_l, W_l, C')` each
        - **image:** :math:`(N)`
        - **pos:** :math:`(N, 2)`
        - **output:** :math:`(N, 4 C')`
    """
    size = hidden.out_channels * (1 + len(levels))
    images, height, width = x.shape[:3]
    top, left, bottom, right = frame
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(f"'frame' must lie in maps of {height} x {width}, got {frame}")
    if not has_kernels(x, pos, hidden.weight, *levels) or not _fits(x, levels, hidden, hidden.out_channels):
        most = _MOST_NUMBERS if x.device.type == "cpu" else _MOST_ON_DEVICES
        chunk = max(1, most // (4 * size))
        parts = zip(image.split(chunk), pos.split(chunk), strict=True)
        return torch.cat([_features_in_torch(x, levels, hidden, *part, frame) for part in parts])
    x, levels = x.contiguous(), [level.contiguous() for level in levels]
    image, pos = image.to(x.device, torch.long).contiguous(), pos.contiguous()
    if pos.shape != (image.numel(), 2) or (image.numel() and not 0 <= image.amin() <= image.amax() < images):
        raise ValueError(f"'pos' and 'image' must be [N, 2] and [N], and name one of {images} maps")
    out = x.new_empty(pos.size(0), size)
    job = _FeatureJob(
        points=pos.size(0), points_at_once=_POINTS, height=height, width=width, top=top, left=left,
        bottom=bottom, right=right, hidden=hidden.layer(), level=_as_levels(levels), map=x.data_ptr(),
        image=image.data_ptr(), pos=pos.data_ptr(), out=out.data_ptr(),
    )  # fmt: skip
    threads = min(torch.get_num_threads(), 1 + pos.size(0) // _POINTS)
    run_job("features", torch.float, job, threads, x, levels, hidden, image, pos, out)
    return out


def _fits(x: Tensor, levels: Sequence[Tensor], hidden: Convolution, channels: int) -> bool:
    """Whether the kernels know maps of these shapes."""
    same = all(
        level.size(0) == x.size(0) and level.size(3) == channels and level.numel() > 0 for level in levels
    )
    room = hidden.channels <= _CHANNELS and hidden.out_channels in (_CHANNELS // 2, _CHANNELS)
    return same and room and len(levels) == 3 and x.size(3) == hidden.channels and hidden.side == 1


def _as_levels(levels: Sequence[Tensor]) -> Any:
    return _Levels(*(_Level(level.size(1), level.size(2), level.data_ptr()) for level in levels))


def _maxima_in_torch(score: Tensor, radius: int, threshold: Tensor) -> Tensor:
    from kornia.geometry.subpix import nms2d

    above = score > threshold.view(-1, 1, 1)
    if radius == 0:
        return above
    side = 2 * radius + 1
    inside = torch.zeros_like(above)
    inside[:, radius:-radius, radius:-radius] = True
    return above & inside & nms2d(score.unsqueeze(1), (side, side), mask_only=True).squeeze(1)


def _features_in_torch(
    x: Tensor,
    levels: Sequence[Tensor],
    hidden: Convolution,
    image: Tensor,
    pos: Tensor,
    frame: tuple[int, int, int, int],
) -> Tensor:
    corner = pos.detach().floor()
    beside = pos - corner
    top, left, bottom, right = frame
    height, width = x.shape[1:3]
    out = pos.new_zeros(pos.size(0), hidden.out_channels * (1 + len(levels)))
    for right_of, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share_x = beside[:, 0] if right_of else 1 - beside[:, 0]
        share_y = beside[:, 1] if below else 1 - beside[:, 1]
        column, row = corner[:, 0].long() + right_of, corner[:, 1].long() + below
        inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        row, column = row.clamp(top, bottom - 1), column.clamp(left, right - 1)
        parts = [F.selu(F.linear(x[image, row, column], hidden.weight.flatten(1)))]
        for level in levels:
            size = level.new_tensor([level.size(2) - 1, level.size(1) - 1])
            at = torch.stack([column, row], dim=1) * (size / level.new_tensor([width - 1, height - 1]))
            parts.append(_gather(level, image, at))
        share = share_x * share_y * inside
        out = out + share.unsqueeze(1) * F.normalize(torch.cat(parts, dim=1), dim=1)
    return out


def _gather(level: Tensor, image: Tensor, pos: Tensor) -> Tensor:
    """A coarse map between its pixels, at positions in some image each, :math:`(N, C)`."""
    corner = pos.floor().long()
    right, down = (pos - corner).unsqueeze(2).unbind(1)
    x, y = corner.unbind(1)
    after, below = (x + 1).clamp(max=level.size(2) - 1), (y + 1).clamp(max=level.size(1) - 1)
    top = level[image, y, x] * (1 - right) + level[image, y, after] * right
    bottom = level[image, below, x] * (1 - right) + level[image, below, after] * right
    return top * (1 - down) + bottom * down
