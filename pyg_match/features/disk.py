"""DISK keypoints."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyg_match.checks import real_number, whole_number
from pyg_match.features.extractor import Extractor, single_precision
from pyg_match.ops.detection import local_maxima
from pyg_match.pretrained import load_weights

_DIVISOR = 16  # of the sides of images, which are padded


class DISK(Extractor):
    r"""Keypoints at whole pixels from `"DISK: Learning Local Features with Policy Gradient"
    <https://arxiv.org/abs/2006.13566>`_.

    The official ``depth`` weights and LightGlue's defaults. Keypoints come row by row; ``score`` is a raw
    network output above 0, not a probability. Keypoints and descriptors are those of
    :class:`kornia.feature.DISK`, which is :attr:`model`, several times as fast on a CPU: of the last layer only
    the scores are computed everywhere, and descriptors where keypoints are.

    Args:
        max_num_keypoints: Keep at most this many keypoints, those with the highest scores. ``None`` keeps
            all.
        detection_threshold: Keep keypoints whose score is higher.
        nms_window_size: Side in pixels of the window in which a keypoint has the highest score; odd.

    Example:
        >>> import torch
        >>> DISK(max_num_keypoints=256)(torch.rand(3, 120, 160)).x.size(1)
        128
    """

    descriptor_dim = 128
    min_side = 17  # the coarsest level, of cells of 16 pixels, is normalised and needs a second cell

    def __init__(
        self,
        max_num_keypoints: int | None = 2048,
        detection_threshold: float = 0.0,
        nms_window_size: int = 5,
    ) -> None:
        super().__init__(max_num_keypoints)
        from kornia import feature

        self.detection_threshold = real_number("detection_threshold", detection_threshold)
        self.nms_window_size = whole_number("nms_window_size", nms_window_size, most=1025)
        if self.nms_window_size % 2 == 0:
            raise ValueError(f"'nms_window_size' must be odd, got {nms_window_size}")
        with single_precision():
            self.model = feature.DISK(desc_dim=self.descriptor_dim)
        self.model.load_state_dict(load_weights("disk"))
        self.freeze()

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        return self.detect_batch(image.unsqueeze(0))[0]

    def detect_batch(self, images: Tensor) -> list[dict[str, Tensor]]:
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % _DIVISOR, 0, -height % _DIVISOR))
        x, last = self._before_last_layer(images)
        score = _channel(x, last, self.descriptor_dim)[:, :height, :width]
        threshold = score.new_full((len(score),), self.detection_threshold)
        maxima = local_maxima(score, self.nms_window_size // 2, threshold)
        found = []
        for one, maximum, scores in zip(x, maxima, score, strict=True):
            pos = maximum.nonzero()
            best = scores[maximum].sort(descending=True, stable=True).indices[: self.max_num_keypoints]
            pos = pos[best.sort().values]
            descriptors = _at_pixels(one, last, pos)[:, : self.descriptor_dim]
            found.append(
                {
                    "pos": pos.flip(1).float(),
                    "x": F.normalize(descriptors, dim=1),
                    "score": scores[pos[:, 0], pos[:, 1]],
                }
            )
        return found

    def _before_last_layer(self, images: Tensor) -> tuple[Tensor, nn.Conv2d]:
        """The input of the network's last convolution, and that convolution."""
        unet = self.model.unet
        maps = [images]
        for down in unet.path_down:
            maps.append(down(maps[-1]))
        x = maps.pop()
        *blocks, last = unet.path_up
        for block in blocks:
            x = block(x, maps.pop())
        norm, gate, _, convolution = last.conv
        return gate(norm(torch.cat([last.upsample(x), maps.pop()], dim=1))), convolution


def _channel(x: Tensor, convolution: nn.Conv2d, channel: int) -> Tensor:
    """One output channel of a convolution, :math:`(B, H, W)`: a product for each tap, which are moved and added."""
    weight, side = convolution.weight[channel], convolution.weight.size(3)
    taps = weight.flatten(1).flip(1).t() @ x.flatten(2)
    out = F.fold(taps, x.shape[2:], side, padding=side // 2).squeeze(1)
    return out if convolution.bias is None else out + convolution.bias[channel]


def _at_pixels(x: Tensor, convolution: nn.Conv2d, pos: Tensor) -> Tensor:
    """All output channels of a convolution at some pixels, row and column, of a map :math:`(C, H, W)`."""
    side = convolution.weight.size(3)
    reach = side // 2
    near = torch.arange(-reach, reach + 1, device=x.device)
    rows = (pos[:, 0, None] + near).unsqueeze(2)
    columns = (pos[:, 1, None] + near).unsqueeze(1)
    height, width = x.shape[1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    windows = x[:, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] * inside
    return F.linear(windows.transpose(0, 1).flatten(1), convolution.weight.flatten(1), convolution.bias)
