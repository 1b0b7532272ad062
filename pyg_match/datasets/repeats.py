"""Photos with repeated structure, where matchers fail."""

import torch
import torch.nn.functional as F
from torch import Tensor


def repeated_structure(photo: Tensor, generator: torch.Generator) -> Tensor:
    r"""Cover most of a photo with a grid of copies of one of its patches.

    Half of the grids are closed, as tiles and textures; in the others a wall of one colour separates the
    copies, as the windows of a façade. The copies are almost alike: each has a slightly different brightness,
    and 15 % of the photo underneath shines through, so that a place can be told from its neighbours by weak
    traces and by its position in the grid only.

    Args:
        photo: Image with values in [0, 1].
        generator: Source of randomness.

    Shapes:
        - **photo:** :math:`(C, H, W)`
        - **output:** :math:`(C, H, W)`

    Example:
        >>> repeated_structure(torch.rand(3, 48, 64), torch.Generator().manual_seed(0)).shape
        torch.Size([3, 48, 64])
    """
    channels, height, width = photo.shape

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    rows, columns = min(int(uniform(3, 9)), height), min(int(uniform(3, 9)), width)
    share_y, share_x = uniform(0.6, 1), uniform(0.6, 1)
    tile_h, tile_w = max(1, int(share_y * height / rows)), max(1, int(share_x * width / columns))

    zoom = uniform(1, 2.5)
    patch_h, patch_w = min(height, round(zoom * tile_h)), min(width, round(zoom * tile_w))
    top, left = int(uniform(0, height - patch_h + 1)), int(uniform(0, width - patch_w + 1))
    patch = photo[:, top : top + patch_h, left : left + patch_w]

    inner = uniform(0.55, 0.85) if uniform(0, 1) < 0.5 else 1.0
    inner_h, inner_w = max(1, round(inner * tile_h)), max(1, round(inner * tile_w))
    tile = patch.mean(dim=(1, 2), keepdim=True).expand(channels, tile_h, tile_w).clone()
    y, x = (tile_h - inner_h) // 2, (tile_w - inner_w) // 2
    shrunk = F.interpolate(patch[None], (inner_h, inner_w), mode="bilinear", antialias=True)[0]
    tile[:, y : y + inner_h, x : x + inner_w] = shrunk

    gain = 1 + 0.08 * (2 * torch.rand(rows, columns, generator=generator).to(photo) - 1)
    gain = gain.repeat_interleave(tile_h, 0).repeat_interleave(tile_w, 1)
    grid = tile.repeat(1, rows, columns) * gain
    top, left = int(uniform(0, height - grid.size(1) + 1)), int(uniform(0, width - grid.size(2) + 1))
    repeated = photo.clone()
    region = repeated[:, top : top + grid.size(1), left : left + grid.size(2)]
    region.copy_(0.85 * grid + 0.15 * region)
    return repeated.clamp_(0, 1)
