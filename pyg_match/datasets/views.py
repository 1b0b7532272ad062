"""What a homography shows of a photo, and the keypoints of that."""

import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pyg_match.data import KeypointSet
from pyg_match.datasets.cached_pairs import best, subset
from pyg_match.datasets.homography_warps import inside_photo
from pyg_match.datasets.hpatches import rescale_homography
from pyg_match.datasets.photometric import Photometric
from pyg_match.features import Extractor
from pyg_match.features.image import resize_image

_MARGIN = 4.0  # pixels; keypoints nearer to the edge of the photo describe the edge
_MOST_FORESHORTENED = 64.0  # what is averaged in full: more would take memory without a limit


def render_view(photo: Tensor, to_view: Tensor, size: tuple[int, int]) -> Tensor:
    """What a view shows; a photo that is shrunk is smoothed before, by averaging over areas.

    Where the view shortens one direction only, it is drawn larger and averaged instead.

    Args:
        photo: The photo, values in [0, 1].
        to_view: Homography from pixels of the photo to pixels of the view, in double precision, on the CPU.
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
        to_view = rescale_homography(to_view, scale.cpu(), torch.ones(2))
    to_view = rescale_homography(to_view, torch.ones(2), torch.full((2,), float(oversampling)))
    fine = (oversampling * height, oversampling * width)
    # In double precision, so that the sampled positions are as exact as the homography.
    matrix = to_view[None].to(photo.device)
    warped = warp_perspective(photo[None].double(), matrix, fine, align_corners=True)
    return avg_pool2d(warped, oversampling)[0].float().clamp(0, 1)


def _foreshortening(to_photo: Tensor, point: Tensor) -> float:
    """How much longer one direction is than the other in a view, where the view shows ``point`` of the photo."""
    jacobian = to_photo[:2, :2] - (point[:2] / point[2]).outer(to_photo[2, :2])
    # Of the singular values, the sum of squares and the product; the ratio plus its inverse is their quotient.
    half = float(jacobian.square().sum() / jacobian.det().abs()) / 2
    return half + math.sqrt(max(half * half - 1, 0.0))


class RenderedView(NamedTuple):
    """A view, before keypoints are found in it.

    Attributes:
        image: What it shows, :math:`(3, H, W)`.
        to_view: Homography from pixels of the photo to pixels of the view, :math:`(3, 3)`, double precision.
        photo_size: ``(width, height)`` of the photo in pixels.
    """

    image: Tensor
    to_view: Tensor
    photo_size: tuple[int, int]


class DrawnView(NamedTuple):
    """What a view is made of.

    Attributes:
        photo: The photo, values in [0, 1], or the same as bytes, :math:`(3, H, W)`.
        to_view: Homography from pixels of the photo to pixels of the view, :math:`(3, 3)`, double precision.
        size: ``(width, height)`` of the view in pixels.
        light: Seed of its photometric change; ``None`` for none.
    """

    photo: Tensor
    to_view: Tensor
    size: tuple[int, int]
    light: int | None

    def rendered(self, photometric: Photometric | None, device: torch.device) -> RenderedView:
        """The view, rendered on a device."""
        photo = self.photo.to(device)
        photo = photo.float() / 255 if photo.dtype == torch.uint8 else photo
        image = render_view(photo, self.to_view, self.size)
        if photometric is not None and self.light is not None:
            image = photometric(image, self.light)
        return RenderedView(image, self.to_view, (photo.size(2), photo.size(1)))


View = TypeVar("View", RenderedView, DrawnView)


class ViewPair(NamedTuple, Generic[View]):
    """Both views of a pair, before keypoints are found in them.

    Attributes:
        number: The number of the pair.
        view0: View 0.
        view1: View 1.
        homography: Homography from pixels of view 0 to pixels of view 1; ``None`` for views of different photos.
    """

    number: int
    view0: View
    view1: View
    homography: Tensor | None


def as_bytes(pair: ViewPair[DrawnView]) -> ViewPair[DrawnView]:
    """The same with photos of 8 bits as such, which is a quarter of the memory."""
    photo0, photo1 = pair.view0.photo, pair.view1.photo
    first = _as_bytes(photo0)
    second = first if photo1 is photo0 else _as_bytes(photo1)
    return pair._replace(view0=pair.view0._replace(photo=first), view1=pair.view1._replace(photo=second))


def render_pair(
    pair: ViewPair[DrawnView], photometric: Photometric | None, device: torch.device
) -> ViewPair[RenderedView]:
    """The pair, rendered on a device."""
    view0, view1 = (view.rendered(photometric, device) for view in (pair.view0, pair.view1))
    return ViewPair(pair.number, view0, view1, pair.homography)


def view_keypoints(
    extractor: Extractor, views: Sequence[RenderedView], max_num_keypoints: int | None
) -> list[KeypointSet]:
    """The keypoints of views, at most so many, without those that lie at the edge of the photo or beyond it.

    They stay on the device of the extractor.
    """
    device = next((p.device for p in extractor.parameters()), torch.device("cpu"))
    found = extractor.forward_batch([view.image.to(device) for view in views])
    return [_of_photo(each, view, max_num_keypoints) for each, view in zip(found, views, strict=True)]


def _of_photo(found: KeypointSet, view: RenderedView, max_num_keypoints: int | None) -> KeypointSet:
    # A coarse keypoint sees the edge of the photo from further away.
    margin = found.scale.cpu() if "scale" in found else torch.zeros(found.num_keypoints)
    inside = inside_photo(found.pos.cpu(), view.to_view, view.photo_size, margin.clamp(min=_MARGIN))
    found = subset(found, inside.to(found.pos.device).nonzero().flatten())
    return subset(found, best(found, max_num_keypoints))


def _as_bytes(photo: Tensor) -> Tensor:
    """A photo of 8 bits as such, others as they are."""
    found = (photo * 255).round().to(torch.uint8)
    return found if torch.equal(found.float() / 255, photo) else photo
