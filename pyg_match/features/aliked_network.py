"""The network of ALIKED, arranged for inference."""

from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_match.ops.convolution import Convolution, convolve, convolve_twice, pooled_maps, sample_at
from pyg_match.ops.detection import features_at, local_maxima, score_map

_DIVISOR = 32  # of the sides of images, which are padded
_MOST_KEYPOINTS = 20_000
_TEMPERATURE = 0.1  # of the soft argmax around a maximum


class ALIKEDNetwork(nn.Module):
    r"""What kornia's :class:`~kornia.feature.ALIKED` computes, with its weights, in another order.

    Norms of batches are part of the convolutions before them. Coarse maps go through their share of the score head
    before they are enlarged, and the joint map is put together only where descriptors read it.

    Args:
        model: The network whose weights are taken, in evaluation mode.
        max_num_keypoints: See :class:`~pyg_match.features.ALIKED`.
        detection_threshold: See there.
        nms_radius: See there.

    Shapes:
        - **input:** images :math:`(B, 3, H, W)`, RGB in [0, 1]
    """

    def __init__(
        self,
        model: nn.Module,
        max_num_keypoints: Optional[int] = None,
        detection_threshold: float = 0.2,
        nms_radius: int = 2,
    ) -> None:
        super().__init__()
        self.max_num_keypoints = max_num_keypoints
        self.detection_threshold = detection_threshold
        self.radius = nms_radius
        self.by_rank = detection_threshold <= 0 and max_num_keypoints is not None
        parts: Any = model
        first, *others = (layer.weight for layer in parts.score_head if isinstance(layer, nn.Conv2d))
        heads = first.chunk(4, dim=1)
        self.conv1, self.conv2 = _folded(parts.block1, 1), _folded(parts.block1, 2)
        self.conv3, self.conv4 = _folded(parts.block2, 1), _folded(parts.block2, 2)
        self.shortcut = _shortcut(parts.block2)
        self.block3, self.block4 = _DeformableBlock(parts.block3), _DeformableBlock(parts.block4)
        self.share, self.head = Convolution(parts.conv1.weight, selu=True), Convolution(heads[0], selu=True)
        self.level2 = _Level(parts.conv2.weight, heads[1])
        self.level3 = _Level(parts.conv3.weight, heads[2])
        self.level4 = _Level(parts.conv4.weight, heads[3])
        self.score1, self.score2, self.score3 = (Convolution(weight) for weight in others)
        self.describe = _Description(parts.desc_head)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """The keypoints of each image: ``pos``, ``x`` and ``score``."""
        height, width = images.shape[2:]
        left, right = _padding(width)
        top, bottom = _padding(height)
        padded = F.pad(images, (left, right, top, bottom), mode="replicate").permute(0, 2, 3, 1)
        fine, levels, heads = self.maps(padded)
        score = score_map(fine, heads, self.share, self.head, (self.score1, self.score2, self.score3))
        score = score[:, top : top + height, left : left + width]
        pos, score, image, counts = self.keypoints(score)
        joint = _JointMap(fine, levels, self.share, (top, left, top + height, left + width))
        x = self.describe(joint, image, pos)
        size = pos.new_tensor([width - 1, height - 1])
        parts = zip((size * (pos + 1) / 2).split(counts), x.split(counts), score.split(counts), strict=True)
        return [{"pos": pos, "x": x, "score": score} for pos, x, score in parts]

    def maps(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The fine map, the shares of the coarse ones in the joint map, and those in the head's first layer."""
        fine, x = convolve_twice(images, self.conv1, self.conv2, pool=2)
        x2, x = convolve_twice(x, self.conv3, self.conv4, pool=4, shortcut=convolve(x, self.shortcut))
        x3 = self.block3(x)
        x4 = self.block4(pooled_maps(x3, 4))
        levels = [self.level2(x2), self.level3(x3), self.level4(x4)]
        return fine, [level for level, _ in levels], [head for _, head in levels]

    def keypoints(self, score: Tensor) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Positions in [-1, 1], scores and images of the keypoints, and their number in each image."""
        images, height, width = score.shape
        threshold = score.new_full((images,), -torch.inf if self.by_rank else self.detection_threshold)
        if not self.by_rank and self.detection_threshold <= 0:
            threshold = score.mean(dim=(1, 2))
        maxima = local_maxima(score, self.radius, threshold)
        empty = ~maxima.flatten(1).any(dim=1)
        if self.detection_threshold > 0 and empty.any():
            maxima[empty] = local_maxima(score[empty], self.radius, score[empty].mean(dim=(1, 2)))
        chosen = [self.strongest(*both) for both in zip(maxima, score, strict=True)]
        counts = [places.numel() for places in chosen]
        image = torch.arange(images, device=score.device).repeat_interleave(
            torch.tensor(counts, device=score.device)
        )
        places = torch.cat(chosen)

        near = _window(-self.radius, self.radius + 1, score.device)
        steps = near[:, 1] * width + near[:, 0]
        window = score.reshape(-1)[(image * height * width + places).unsqueeze(1) + steps]
        weight = ((window - window.amax(dim=1, keepdim=True)) / _TEMPERATURE).exp()
        offset = weight @ near.to(weight) / weight.sum(dim=1, keepdim=True)
        at = torch.stack([places % width, places // width], dim=1) + offset
        pos = at / score.new_tensor([width - 1, height - 1]) * 2 - 1
        parts = zip(score.unsqueeze(1), at.split(counts), strict=True)
        found = [sample_at(one.unsqueeze(0), part.unsqueeze(0)).view(-1) for one, part in parts]
        return pos, torch.cat(found), image, counts

    def strongest(self, maxima: Tensor, score: Tensor) -> Tensor:
        """Places of the maxima of an image, in the order of pixels, or of scores if there are too many."""
        places = maxima.flatten().nonzero().flatten()
        most = _MOST_KEYPOINTS if self.max_num_keypoints is None else self.max_num_keypoints
        if places.numel() > most or self.by_rank:
            order = score.flatten()[places].sort(descending=True).indices
            places = places[order[:most]]
        return places


class _Level(nn.Module):
    """The share of a coarse map in the joint one, and that in the first layer of the score head."""

    def __init__(self, share: Tensor, head: Tensor) -> None:
        super().__init__()
        self.share, self.head = Convolution(share, selu=True), Convolution(head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = convolve(x, self.share)
        return x, convolve(x, self.head)


class _DeformableBlock(nn.Module):
    """Two deformable convolutions with a shortcut."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = _folded(block, 1), _folded(block, 2), _shortcut(block)
        self.offset1, self.offset2 = (
            Convolution(conv.offset_conv.weight, conv.offset_conv.bias) for conv in (block.conv1, block.conv2)
        )

    def forward(self, x: Tensor) -> Tensor:
        most = max(x.shape[1:3]) / 4
        shortcut = convolve(x, self.shortcut)
        x = convolve(x, self.conv1, offset=convolve(x, self.offset1).clamp(-most, most))
        return convolve(x, self.conv2, shortcut, convolve(x, self.offset2).clamp(-most, most))


class _Description(nn.Module):
    """Descriptors, from features at positions that depend on those around a keypoint."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        first, _, second = head.offset_conv
        self.side, self.num_positions = head.kernel_size, head.n_pos
        columns = first.weight.permute(0, 2, 3, 1).flatten(1)
        self.first = Convolution(columns[..., None, None], first.bias, selu=True)
        self.second = Convolution(second.weight, second.bias)
        self.each = Convolution(head.sf_conv.weight, selu=True)
        weights = head.agg_weights.flatten(0, 1).t()
        self.all = Convolution(weights[..., None, None])

    def forward(self, joint: "_JointMap", image: Tensor, pos: Tensor) -> Tensor:
        top, left, bottom, right = joint.frame
        height, width = bottom - top, right - left
        origin, size = pos.new_tensor([left, top]), pos.new_tensor([width - 1, height - 1])
        pos = (pos / 2 + 0.5) * size
        n = pos.size(0)

        # The window around a keypoint; it never reaches the last row and column.
        last = torch.tensor([width - 1 - self.side, height - 1 - self.side], device=pos.device)
        corner = (pos.long() - self.side / 2 + 1).long().clamp(min=0).minimum(last)
        window = corner.unsqueeze(1) + _window(0, self.side, pos.device)
        around = joint.at(image, window + origin)
        offset = convolve(convolve(around.view(1, 1, n, self.first.channels), self.first), self.second)
        most = max(height, width) / 4
        offset = offset.view(n, 2, self.num_positions).transpose(1, 2).clamp(-most, most)

        features = joint.at(image, pos.unsqueeze(1) + offset + origin)
        features = convolve(features.view(1, n, self.num_positions, self.each.channels), self.each)
        x = convolve(features.view(1, 1, n, self.all.channels), self.all)
        return F.normalize(x.view(n, self.all.out_channels), dim=1)


class _JointMap(NamedTuple):
    """The map of all levels, of which features are read between pixels; see :func:`features_at`."""

    fine: Tensor
    levels: list[Tensor]
    share: Convolution
    frame: tuple[int, int, int, int]

    def at(self, image: Tensor, pos: Tensor) -> Tensor:
        """Features at several positions for each keypoint, ``[N, K, 2]``, in its image; ``[N K, C]``."""
        image = image.repeat_interleave(pos.size(1))
        return features_at(self.fine, self.levels, self.share, image, pos.reshape(-1, 2), self.frame)


def _window(start: int, stop: int, device: torch.device) -> Tensor:
    """Steps in x and y to the pixels of a square, row by row."""
    reach = torch.arange(start, stop, device=device)
    return torch.cartesian_prod(reach, reach).flip(1).view(-1, 2)


def _folded(block: Any, i: int) -> Convolution:
    """A convolution of a block and the norm after it, as one."""
    conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
    conv = getattr(conv, "regular_conv", conv)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = norm.bias - norm.running_mean * factor
    if conv.bias is not None:
        bias = bias + conv.bias * factor
    return Convolution(conv.weight * factor.view(-1, 1, 1, 1), bias, selu=True)


def _shortcut(block: Any) -> Convolution:
    return Convolution(block.downsample.weight, block.downsample.bias)


def _padding(size: int) -> tuple[int, int]:
    """Pixels before and behind, up to the next multiple."""
    missing = -size % _DIVISOR
    return missing // 2, missing - missing // 2
