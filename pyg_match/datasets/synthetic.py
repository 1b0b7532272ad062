"""Image pairs whose homography is known because we made it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class WarpedPair(NamedTuple):
    """An image, its warped and relit copy, and the homography between them.

    Attributes:
        image0: The image as given, or the first view of a photo, :math:`(C, H, W)`.
        image1: The changed copy of the same size, values in [0, 1], black where the photo does not reach.
        homography: Homography from pixels of image 0 to pixels of image 1, :math:`(3, 3)`, double precision.

    Example:
        >>> image0, image1, homography = warped_pair(torch.rand(3, 48, 64), seed=1)
        >>> image1.shape == image0.shape
        True
    """

    image0: Tensor
    image1: Tensor
    homography: Tensor


def random_homography(
    width: int,
    height: int,
    generator: torch.Generator,
    perspective: float = 0.12,
    rotation: float = 25.0,
    scale: float = 1.25,
) -> Tensor:
    """Draw a homography: the image's corners are displaced, then turned and scaled about the image's centre.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        generator: Source of randomness.
        perspective: Largest displacement of a corner as a share of the width and height, below 0.5.
        rotation: Largest rotation in degrees, either way.
        scale: Largest magnification, at least 1; the smallest is its inverse.

    Shapes:
        - **output:** :math:`(3, 3)`, from pixels to pixels, double precision

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> random_homography(640, 480, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 3])
    """
    from kornia.geometry import get_perspective_transform

    if width < 2 or height < 2:
        raise ValueError(f"the image must be at least 2 x 2 pixels, got {width} x {height}")
    if not 0 <= perspective < 0.5:
        raise ValueError(f"'perspective' must be in [0, 0.5), got {perspective}")
    if not scale >= 1:
        raise ValueError(f"'scale' must be at least 1, got {scale}")
    extent = torch.tensor([width - 1, height - 1], dtype=torch.float64)
    corners = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64) * extent
    uniform = 2 * torch.rand(10, generator=generator, dtype=torch.float64) - 1
    angle = math.radians(rotation) * uniform[0]
    factor = math.log(scale) * uniform[1]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2) * factor.exp()
    displaced = corners + perspective * uniform[2:].view(4, 2) * extent
    moved = (displaced - extent / 2) @ turn.T + extent / 2
    homography: Tensor = get_perspective_transform(corners[None], moved[None])[0]
    return homography


def warped_pair(
    image: Tensor,
    seed: int = 0,
    perspective: float = 0.12,
    rotation: float = 25.0,
    scale: float = 1.25,
    lighting: float = 0.3,
    blur: float = 0.8,
    noise: float = 0.02,
) -> WarpedPair:
    r"""Warp an image by a random homography, and change its lighting, sharpness and noise.

    The second image is :math:`\mathrm{clip}(g \cdot (G_\sigma * I_H)^\gamma + \varepsilon)` with the warped
    image :math:`I_H`, a Gaussian :math:`G_\sigma`, and noise :math:`\varepsilon`. The same seed and image
    give the same pair; torch's global random state is neither used nor changed.

    Args:
        image: Image with values in [0, 1].
        seed: Chooses the homography and all changes.
        perspective: See :func:`random_homography`.
        rotation: See :func:`random_homography`, in degrees.
        scale: See :func:`random_homography`.
        lighting: Spread of the lighting: :math:`\log_2 g` and :math:`\log_2 \gamma` are drawn from ± this
            number.
        blur: Largest :math:`\sigma` in pixels; 0 for none.
        noise: Standard deviation of :math:`\varepsilon`.

    Shapes:
        - **image:** :math:`(C, H, W)`, floating point

    Raises:
        TypeError: If the image is not a floating-point tensor.
        ValueError: If its shape is wrong or an argument is out of its range.

    Example:
        >>> pair = warped_pair(torch.rand(3, 48, 64), seed=1)
        >>> pair.image1.shape, pair.homography.shape
        (torch.Size([3, 48, 64]), torch.Size([3, 3]))
    """
    from kornia.filters import gaussian_blur2d
    from kornia.geometry import warp_perspective

    if not isinstance(image, Tensor) or not image.is_floating_point():
        seen = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"'image' must be a floating-point tensor with values in [0, 1], got {seen}")
    if image.dim() != 3:
        raise ValueError(f"'image' must have shape [C, H, W], got {list(image.shape)}")
    if min(lighting, blur, noise) < 0:
        raise ValueError(
            f"'lighting', 'blur' and 'noise' must not be negative, got {lighting}, {blur}, {noise}"
        )
    height, width = image.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    homography = random_homography(width, height, generator, perspective, rotation, scale)
    gain, gamma, sharpness = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    grain = torch.randn(image.shape, generator=generator, dtype=torch.float64)

    # In double precision, so that the sampled positions are as exact as the homography.
    warped = warp_perspective(
        image[None].cpu().double(), homography[None], (height, width), align_corners=True
    )
    sigma = blur * sharpness
    if sigma > 0.05:  # a narrower Gaussian has no weight outside its centre pixel
        size = 2 * math.ceil(3 * sigma) + 1
        warped = gaussian_blur2d(warped, (size, size), (sigma, sigma))
    exponent = 2 ** (lighting * (2 * gamma - 1))
    relit = 2 ** (lighting * (2 * gain - 1)) * warped[0].clamp(0, 1) ** exponent + noise * grain
    return WarpedPair(image, relit.clamp(0, 1).to(image), homography.to(image.device))
