"""Two views of a photo, each seen through a random homography."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_match.datasets.synthetic import random_homography
from pyg_match.fields import convert, field_types
from pyg_match.geometry import warp_points

_TRIES = 100
# Largest ratio of depths within a view; beyond it, one side of the view shows a few stretched pixels.
_DEPTH_RATIO = 4.0


class Views(NamedTuple):
    """How two views see one photo.

    Attributes:
        size: ``(width, height)`` of both views in pixels.
        to_view0: Homography from pixels of the photo to pixels of view 0, :math:`(3, 3)`, double precision.
        to_view1: The same for view 1.
    """

    size: tuple[int, int]
    to_view0: Tensor
    to_view1: Tensor

    @property
    def homography(self) -> Tensor:
        """Homography from pixels of view 0 to pixels of view 1, with last element 1 where it is not 0."""
        H: Tensor = self.to_view1 @ torch.linalg.inv(self.to_view0)
        return H / H[2, 2] if abs(float(H[2, 2])) > 1e-12 else H


@dataclass(frozen=True)
class HomographyWarps:
    r"""Random homographies between the two views of a synthetic pair.

    A frame of the size of the views is laid at random on the photo; a portrait photo gets the frame upright.
    View 0 is what the frame shows, as the first image of an HPatches sequence, or with probability ``both`` a
    warped copy of it. View 1 is always warped: the corners of the frame are displaced, it is turned and scaled
    about its centre, tilted, and moved. Views show what lies outside of the frame as far as the photo reaches.
    Warps are drawn again until the views overlap enough.

    Args:
        perspective: Largest displacement of a corner as a share of the width and height, in [0, 0.5).
        rotation: Largest rotation in degrees either way, 0 to 180.
        scale: Largest magnification, at least 1; the smallest is its inverse.
        translation: Largest shift as a share of the width and height, at least 0.
        tilt: Largest foreshortening, at least 1: a plane seen at an angle :math:`\theta` from its normal is shortened
            by :math:`1 / \cos\theta` in one direction, so that 2 is 60° and 4 is 76°, the tilt of ASIFT (Morel and
            Yu, 2009). The direction is drawn too, and areas stay as they are.
        both: Probability that view 0 is warped too.
        crop: The frame spans from this share to all of the largest frame of its shape that fits the photo, in
            (0, 1].
        min_overlap: Smallest share of a view, of the one that has more of it, that the other view shows too,
            in [0, 1]. After 100 warps the one with the largest overlap is taken.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> views = HomographyWarps(rotation=180).draw(
        ...     (800, 600), (640, 480), torch.Generator().manual_seed(0)
        ... )
        >>> views.size, views.homography.shape
        ((640, 480), torch.Size([3, 3]))
    """

    perspective: float = 0.2
    rotation: float = 45.0
    scale: float = 1.8
    translation: float = 0.25
    both: float = 0.3
    crop: float = 0.75
    min_overlap: float = 0.3
    tilt: float = 1.0

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            object.__setattr__(self, name, convert(getattr(self, name), kind, name, words=False))
        ranges = {
            "perspective": (0 <= self.perspective < 0.5, "[0, 0.5)"),
            "rotation": (0 <= self.rotation <= 180, "[0, 180] degrees"),
            "scale": (1 <= self.scale < float("inf"), "[1, ∞)"),
            "translation": (0 <= self.translation < float("inf"), "[0, ∞)"),
            "tilt": (1 <= self.tilt < float("inf"), "[1, ∞)"),
            "both": (0 <= self.both <= 1, "[0, 1]"),
            "crop": (0 < self.crop <= 1, "(0, 1]"),
            "min_overlap": (0 <= self.min_overlap <= 1, "[0, 1]"),
        }
        for name, (fulfilled, expected) in ranges.items():
            if not fulfilled:
                raise ValueError(f"'{name}' must be in {expected}, got {getattr(self, name)}")

    def draw(self, photo_size: tuple[int, int], size: tuple[int, int], generator: torch.Generator) -> Views:
        """Draw two views of a photo.

        Args:
            photo_size: ``(width, height)`` of the photo in pixels.
            size: ``(width, height)`` of the views of a landscape photo in pixels.
            generator: Source of randomness.
        """
        upright = (photo_size[0] < photo_size[1]) != (size[0] < size[1]) and photo_size[0] != photo_size[1]
        width, height = size = size[::-1] if upright else size
        frame = self._frame(photo_size, size, generator)
        still = torch.eye(3, dtype=torch.float64)
        best, best_overlap = (still, still), -1.0
        for _ in range(_TRIES):
            warp0 = self._warp(width, height, generator) if _uniform(generator) < self.both else still
            warp1 = self._warp(width, height, generator)
            overlap = _overlap(warp0, warp1, size)
            if overlap > best_overlap:
                best, best_overlap = (warp0, warp1), overlap
            if overlap >= self.min_overlap:
                break
        return Views(size, best[0] @ frame, best[1] @ frame)

    def _frame(
        self, photo_size: tuple[int, int], size: tuple[int, int], generator: torch.Generator
    ) -> Tensor:
        """The map from photo to frame: a magnification and a shift, with half a pixel of care."""
        photo, extent = torch.tensor([photo_size, size], dtype=torch.float64)
        largest = float((photo / extent).min())
        share = 1 - (1 - self.crop) * _uniform(generator)
        magnification = 1 / (largest * share)
        room = photo - extent / magnification
        corner = room * torch.rand(2, generator=generator, dtype=torch.float64)
        frame = torch.diag(torch.tensor([magnification, magnification, 1.0], dtype=torch.float64))
        frame[:2, 2] = (0.5 - corner) * magnification - 0.5
        return frame

    def _warp(self, width: int, height: int, generator: torch.Generator) -> Tensor:
        H = random_homography(width, height, generator, self.perspective, self.rotation, self.scale)
        shift = 2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1
        move = torch.eye(3, dtype=torch.float64)
        move[:2, 2] = self.translation * shift * torch.tensor([width, height], dtype=torch.float64)
        if self.tilt > 1:
            move = move @ self._tilt(width, height, generator)
        return move @ H

    def _tilt(self, width: int, height: int, generator: torch.Generator) -> Tensor:
        """Shorten one direction and lengthen the other, about the centre; the logarithm of their ratio is uniform."""
        angle, share = math.pi * _uniform(generator), _uniform(generator)
        along = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        factor = self.tilt ** (share / 2)
        squeeze = factor * torch.eye(2, dtype=torch.float64) + (1 / factor - factor) * along.outer(along)
        centre = torch.tensor([width - 1, height - 1], dtype=torch.float64) / 2
        H = torch.eye(3, dtype=torch.float64)
        H[:2, :2], H[:2, 2] = squeeze, centre - squeeze @ centre
        return H


def inside_photo(pos: Tensor, to_view: Tensor, photo_size: tuple[int, int], margin: float | Tensor) -> Tensor:
    r"""Which points of a view show the photo and are at least ``margin`` pixels of the view from its edge.

    An edge :math:`\mathbf{l}` of the photo is the line :math:`\mathbf{H}^{-\top} \mathbf{l}` of the view.

    Args:
        pos: Points in pixels of the view.
        to_view: Homography from the photo to the view.
        photo_size: ``(width, height)`` of the photo in pixels.
        margin: Distance in pixels of the view, one for all or one for each point.

    Shapes:
        - **pos:** :math:`(N, 2)`
        - **to_view:** :math:`(3, 3)`
        - **output:** :math:`(N)`, bool
    """
    width, height = photo_size
    edges = torch.tensor(
        [[1, 0, 0.5], [-1, 0, width - 0.5], [0, 1, 0.5], [0, -1, height - 0.5]], dtype=torch.float64
    )
    points = torch.cat([pos.cpu().double(), torch.ones(len(pos), 1, dtype=torch.float64)], dim=1)
    to_photo = torch.linalg.inv(to_view)
    lines = edges @ to_photo
    # A homography is known up to its sign; with a positive third coordinate, inside is positive.
    sign = (points @ to_photo[2]).sign()[:, None]
    distance = sign * (points @ lines.T) / lines[:, :2].norm(dim=1)
    return (distance.amin(dim=1) >= margin).to(pos.device)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _overlap(warp0: Tensor, warp1: Tensor, size: tuple[int, int]) -> float:
    """Share of a view that the other one shows, the larger of both; -1 if a view is seen too obliquely."""
    inverse0, inverse1 = torch.linalg.inv(warp0), torch.linalg.inv(warp1)
    H = warp1 @ inverse0
    for matrix in (inverse0, inverse1, H, torch.linalg.inv(H)):
        depth = _corner_depths(matrix, size)
        if not (0 < float(depth.max()) <= _DEPTH_RATIO * float(depth.min())):
            return -1.0
    x, y = (torch.linspace(0, extent - 1, 25, dtype=torch.float64) for extent in size)
    grid = torch.cartesian_prod(x, y)
    limit = torch.tensor(size, dtype=torch.float64) - 1
    shares = []
    for matrix in (H, torch.linalg.inv(H)):
        seen = warp_points(grid, matrix)
        shares.append(float(((seen >= 0) & (seen <= limit)).all(dim=1).double().mean()))
    return max(shares)


def _corner_depths(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Third coordinates of the frame's corners, of which all others are convex combinations."""
    width, height = size
    corners = torch.tensor(
        [[0, 0, 1], [width - 1, 0, 1], [width - 1, height - 1, 1], [0, height - 1, 1]], dtype=torch.float64
    )
    return corners @ matrix[2] * matrix[2, 2].sign()
