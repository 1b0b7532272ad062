"""What a homography shows of a photo, and the keypoints of that."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pyg_match.data import KeypointSet
from pyg_match.datasets.cached_pairs import best, subset
from pyg_match.datasets.homography_warps import inside_photo
from pyg_match.datasets.hpatches import rescale_homography
from pyg_match.features.image import resize_image

if TYPE_CHECKING:
    from pyg_match.features import Extractor

_MARGIN = 4.0  # pixels; keypoints nearer to the edge of the photo describe the edge
_MOST_FORESHORTENED = 64.0  # what is averaged in full: more would take memory without a limit


def render_view(photo: Tensor, to_view: Tensor, size: tuple[int, int]) -> Tensor:
    """What a view shows; a photo that is shrunk is smoothed before, by averaging over areas.

    Where the view shortens one direction only, it is drawn larger and averaged instead.

    Args:
        photo: The photo, values in [0, 1].
        to_view: Homography from pixels of the photo to pixels of the view, in double precision.
        size: ``(width, height)`` of the view in pixels.

    Shapes:
        - **photo:** :math:`(C, H, W)`
        - **to_view:** :math:`(3, 3)`
        - **output:** :math:`(C, height, width)`, black where the photo does not reach
    """
    from kornia.geometry import warp_perspective

    width, height = size
    to_photo = torch.linalg.inv(to_view)
    centre = to_photo @ torch.tensor([(width - 1) / 2, (height - 1) / 2, 1], dtype=torch.float64)
    # The area that a pixel of the view covers in the photo, at the centre of the view.
    area = abs(float(torch.linalg.det(to_photo)) / float(centre[2]) ** 3)
    oversampling = round(min(_foreshortening(to_photo, centre), _MOST_FORESHORTENED) ** 0.5)
    longest = max(photo.shape[1:])
    if area > 2:
        photo, scale = resize_image(
            photo, max(1, round(longest / area**0.5)), upscale=False, interpolation="area", antialias=False
        )
        to_view = rescale_homography(to_view, scale, torch.ones(2))
    to_view = rescale_homography(to_view, torch.ones(2), torch.full((2,), float(oversampling)))
    fine = (oversampling * height, oversampling * width)
    # In double precision, so that the sampled positions are as exact as the homography.
    warped = warp_perspective(photo[None].double(), to_view[None], fine, align_corners=True)
    return avg_pool2d(warped, oversampling)[0].float().clamp(0, 1)


def _foreshortening(to_photo: Tensor, point: Tensor) -> float:
    """How much longer one direction is than the other in a view, where the view shows ``point`` of the photo."""
    jacobian = to_photo[:2, :2] - (point[:2] / point[2]).outer(to_photo[2, :2])
    # Of the singular values, the sum of squares and the product; the ratio plus its inverse is their quotient.
    half = float(jacobian.square().sum() / jacobian.det().abs()) / 2
    return half + math.sqrt(max(half * half - 1, 0.0))


def view_keypoints(
    extractor: "Extractor",
    view: Tensor,
    to_view: Tensor,
    photo_size: tuple[int, int],
    max_num_keypoints: int | None,
) -> KeypointSet:
    """The keypoints of a view, at most so many, without those that lie at the edge of the photo or beyond it."""
    device = next((p.device for p in extractor.parameters()), torch.device("cpu"))
    found = extractor(view.to(device))
    # A coarse keypoint sees the edge of the photo from further away.
    margin = found.scale.cpu() if "scale" in found else torch.zeros(found.num_keypoints)
    keep = inside_photo(found.pos, to_view, photo_size, margin.clamp(min=_MARGIN)).nonzero().flatten()
    if max_num_keypoints is not None:
        keep = keep[best(found.score[keep], max_num_keypoints)]
    return subset(found, keep, (view.size(-1), view.size(-2)))
