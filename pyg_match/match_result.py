"""Matches between two images."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import numpy as np
from torch import Tensor

from pyg_match.features.image import ImageLike
from pyg_match.files import user_path, write_whole
from pyg_match.geometry import estimate_fundamental, estimate_homography
from pyg_match.model_selection import Geometry, estimate_geometry, thresholds_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class MatchResult:
    """Matches between two images.

    Attributes:
        keypoints0: Keypoints of image 0 in pixels of the original image.
        keypoints1: Keypoints of image 1 in pixels of the original image.
        matches: Indices of matched keypoints of image 0 and image 1.
        scores: Probability of each match. Tensors are on the device of the matcher.
        image_size0: ``(width, height)`` of image 0 in pixels.
        image_size1: ``(width, height)`` of image 1 in pixels.
        seconds: Time spent in ``"extract"``, ``"graph"`` and ``"match"``, by all pairs that were matched together.

    Shapes:
        - **keypoints0:** :math:`(N_0, 2)`
        - **keypoints1:** :math:`(N_1, 2)`
        - **matches:** :math:`(M, 2)`
        - **scores:** :math:`(M)`

    Example:
        >>> import torch
        >>> points, matches = 9 * torch.rand(3, 2), torch.tensor([[0, 2]])
        >>> result = MatchResult(points, points, matches, torch.tensor([0.9]), (10, 10), (10, 10))
        >>> bool((result.points1 == points[2]).all())
        True
    """

    keypoints0: Tensor
    keypoints1: Tensor
    matches: Tensor
    scores: Tensor
    image_size0: tuple[int, int]
    image_size1: tuple[int, int]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def points0(self) -> Tensor:
        """The matched keypoints of image 0, :math:`(M, 2)`."""
        return self.keypoints0[self.matches[:, 0]]

    @property
    def points1(self) -> Tensor:
        """The matched keypoints of image 1, :math:`(M, 2)`."""
        return self.keypoints1[self.matches[:, 1]]

    def homography(
        self,
        method: Literal["poselib", "opencv", "magsac", "dlt", "dlt-lu"] = "poselib",
        threshold: float = 3.0,
    ) -> tuple[Optional[np.ndarray], np.ndarray]:
        """The homography from image 0 to image 1; see :func:`pyg_match.geometry.estimate_homography`.

        Args:
            method: ``"poselib"``, ``"opencv"``, ``"magsac"``, ``"dlt"`` or ``"dlt-lu"``.
            threshold: Largest reprojection error of an inlier in pixels.

        Returns:
            The 3 x 3 matrix, or ``None`` if there is none, and the inlier mask :math:`(M)`.
        """
        points0, points1, scores = (
            t.detach().cpu().float().numpy() for t in (self.points0, self.points1, self.scores)
        )
        return estimate_homography(points0, points1, method=method, threshold=threshold, scores=scores)

    def fundamental(
        self, method: Literal["poselib", "opencv", "magsac"] = "poselib", threshold: float = 1.0
    ) -> tuple[Optional[np.ndarray], np.ndarray]:
        """The fundamental matrix, robustly estimated; see :func:`pyg_match.geometry.estimate_fundamental`.

        Args:
            method: ``"poselib"``, ``"opencv"`` or ``"magsac"``.
            threshold: Largest epipolar error of an inlier in pixels.

        Returns:
            The 3 x 3 matrix, or ``None`` if there is none, and the inlier mask :math:`(M)`.
        """
        points0, points1 = (t.detach().cpu().float().numpy() for t in (self.points0, self.points1))
        return estimate_fundamental(points0, points1, method=method, threshold=threshold)

    def geometry(
        self,
        method: Literal["poselib", "opencv", "magsac"] = "poselib",
        threshold: Optional[float] = None,
    ) -> Geometry:
        """The homography or the fundamental matrix, whichever the matches speak for.

        See :func:`pyg_match.model_selection.estimate_geometry`.

        Args:
            method: ``"poselib"``, ``"opencv"`` or ``"magsac"``.
            threshold: Largest error of an inlier in pixels. By default 3 for a homography and 2 for a fundamental
                matrix, and more for images of more than 1,024 pixels; see
                :func:`pyg_match.model_selection.thresholds_for`.

        Returns:
            The kind, the 3 x 3 matrix or ``None``, the inlier mask :math:`(M)`, and the threshold.
        """
        limits = thresholds_for(self.image_size0, self.image_size1)
        limits = limits if threshold is None else (threshold, threshold)
        points0, points1 = (t.detach().cpu().float().numpy() for t in (self.points0, self.points1))
        return estimate_geometry(points0, points1, method, *limits)

    def plot(self, image0: ImageLike, image1: ImageLike, **kwargs: Any) -> "Figure":
        """Draw the matches over the images; see :func:`pyg_match.visualization.plot_matches`.

        Args:
            image0: Image 0.
            image1: Image 1.
            **kwargs: Further arguments, such as ``path`` for a file to write.
        """
        from pyg_match.visualization import plot_matches

        return plot_matches(image0, image1, self, **kwargs)

    def save(self, path: Union[str, Path], **extra: Any) -> None:
        """Write the result to a ``.npz`` or ``.json`` file, whole or not at all.

        The file holds ``keypoints0``, ``keypoints1``, ``matches``, ``scores``, ``image_size0`` and ``image_size1``.

        Args:
            path: The file; its ending decides the format.
            **extra: Further arrays to store, such as ``homography``.

        Raises:
            ValueError: If the ending is neither ``.npz`` nor ``.json``.
            OSError: If the file cannot be written.
        """
        path = user_path(path)
        ending = path.suffix.lower()
        if ending not in (".npz", ".json"):
            raise ValueError(f"results are saved as .npz or .json, got {path.name!r}")
        arrays = {
            name: getattr(self, name).detach().cpu().numpy()
            for name in ("keypoints0", "keypoints1", "matches", "scores")
        }
        arrays |= {name: np.asarray(getattr(self, name)) for name in ("image_size0", "image_size1")}
        arrays |= {name: np.asarray(value) for name, value in extra.items() if value is not None}
        if ending == ".json":
            content = json.dumps({name: value.tolist() for name, value in arrays.items()}).encode()
        else:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            content = buffer.getvalue()
        write_whole(path, content)
