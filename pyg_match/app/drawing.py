"""The picture to click on: both images side by side, with attention drawn over them."""

from dataclasses import dataclass
from typing import Any, Optional

import cv2
import numpy as np
from numpy.typing import NDArray

from pyg_match.app.exploration import IMAGES, Features
from pyg_match.app.report import Attended, PointReport
from pyg_match.visualization.canvas import GREEN, ORANGE, PURPLE, SKY, YELLOW

Pixels = NDArray[np.uint8]

COLOURS = {"self": SKY, "cross": ORANGE, "match": GREEN, "alike": PURPLE, "keypoint": YELLOW}
PARTS = {
    "self": "self-attention",
    "cross": "cross-attention",
    "match": "match",
    "candidates": "candidates",
    "alike": "looks alike",
    "keypoints": "all keypoints",
}
MAX_LINES = 400
_SHIFT = 4  # OpenCV's drawing takes coordinates in 1/16 pixels
_GAP = 12  # between the images, in pixels of the picture


@dataclass(frozen=True)
class Layout:
    """Where the images lie in the picture.

    Args:
        scales: Pixels of the picture for each pixel of both images.
        offsets: Top left corners of the images in the picture.
        size: Width and height of the picture.
        image_sizes: Widths and heights of the images as drawn.
    """

    scales: tuple[float, float]
    offsets: tuple[tuple[int, int], tuple[int, int]]
    size: tuple[int, int]
    image_sizes: tuple[tuple[int, int], tuple[int, int]]

    @classmethod
    def side_by_side(
        cls, sizes: tuple[tuple[int, int], tuple[int, int]], max_width: int = 1300, max_height: int = 720
    ) -> "Layout":
        """Both images, of which widths and heights are given, at the same height, as large as they fit."""
        height = min(max_height, int((max_width - _GAP) / sum(w / h for w, h in sizes)))
        height = max(height, 16)
        widths = [max(1, round(w * height / h)) for w, h in sizes]
        scales = (height / sizes[0][1], height / sizes[1][1])
        return cls(
            scales,
            ((0, 0), (widths[0] + _GAP, 0)),
            (sum(widths) + _GAP, height),
            ((widths[0], height), (widths[1], height)),
        )

    def locate(self, x: float, y: float) -> Optional[tuple[int, float, float]]:
        """The image at a position of the picture, and the position in pixels of that image; ``None`` between them."""
        for image in (0, 1):
            left, top = self.offsets[image]
            width, height = self.image_sizes[image]
            if left <= x < left + width and top <= y < top + height:
                scale = self.scales[image]
                return image, (x - left + 0.5) / scale - 0.5, (y - top + 0.5) / scale - 0.5
        return None

    def points(self, features: Features) -> NDArray[np.float64]:
        """Positions of all nodes in the picture, :math:`(N, 2)`: whole numbers are centres of pixels in both."""
        pos = features.pair.pos.double().cpu().numpy()
        image = (np.arange(len(pos)) >= features.counts[0]).astype(int)
        places: NDArray[np.float64] = (pos + 0.5) * np.array(self.scales)[image, None] - 0.5
        return places + np.array(self.offsets, dtype=float)[image]


def background(images: tuple[Pixels, Pixels], layout: Layout) -> Pixels:
    """Both images in dark grey, so that bright lines of any colour stand out."""
    canvas = np.full((layout.size[1], layout.size[0], 3), 255, dtype=np.uint8)
    for number, grey in enumerate(images):
        width, height = layout.image_sizes[number]
        method = cv2.INTER_AREA if width < grey.shape[1] else cv2.INTER_LINEAR
        small = cv2.resize(grey, (width, height), interpolation=method)
        left, top = layout.offsets[number]
        dimmed = (40 + small * 0.55).astype(np.uint8)
        canvas[top : top + height, left : left + width] = dimmed[..., None]
        _text(canvas, f"image {IMAGES[number]}", (left + 10, top + height - 12))
    return canvas


def overlay(
    canvas: Pixels,
    points: NDArray[np.float64],
    report: Optional[PointReport],
    parts: tuple[str, ...] = ("self", "cross", "match", "alike"),
    threshold: float = 0.05,
) -> Pixels:
    """Draw what a keypoint attends to.

    The opacity of a line is its weight divided by the largest one of that step.

    Args:
        canvas: The picture without lines; it is not changed.
        points: Positions of all nodes in it.
        report: The numbers of the keypoint; only keypoints are drawn without.
        parts: What to draw, some of :data:`PARTS`.
        threshold: Leave out weights below this share of the largest one.
    """
    picture = canvas.copy()
    if "keypoints" in parts:
        for point in points:
            cv2.circle(picture, _fixed(point), 24, _rgb("keypoint"), -1, cv2.LINE_AA, _SHIFT)
    if report is None:
        return picture
    if "match" in parts and report.match >= 0:
        ends = _fixed(points[report.node]), _fixed(points[report.match])
        cv2.line(picture, *ends, _rgb("match"), 7, cv2.LINE_AA, _SHIFT)  # attention to the match lies on top
    for kind, attended in report.attended.items():
        if kind in parts and attended.nodes.numel() > 0:
            nodes, share = drawn_lines(attended, threshold)
            picture = _lines(picture, points[report.node], points[nodes], share, _rgb(kind))
    if "alike" in parts:
        for node in report.group.tolist():
            _marker(picture, points[node], "alike", cv2.MARKER_DIAMOND, 13)
    if "candidates" in parts:
        for rank, node in enumerate(report.candidates.tolist(), start=1):
            _marker(picture, points[node], "keypoint", cv2.MARKER_SQUARE, 15)
            _text(picture, str(rank), (int(points[node, 0]) + 10, int(points[node, 1]) - 8), 0.45)
    if "match" in parts and report.match >= 0:
        _ring(picture, points[report.match], "match")
    _ring(picture, points[report.node], "keypoint")
    return picture


def drawn_lines(attended: Attended, threshold: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The keypoints to which lines lead, at most :data:`MAX_LINES`, and their shares of the largest weight."""
    share = attended.weights[:MAX_LINES] / attended.weights[0].clamp(min=1e-12)
    kept = share >= max(threshold, 1e-3)
    return attended.nodes[:MAX_LINES][kept].cpu().numpy(), share[kept].cpu().numpy()


def _lines(
    picture: Pixels,
    start: NDArray[np.float64],
    ends: NDArray[np.float64],
    share: NDArray[np.floating[Any]],
    colour: tuple[int, int, int],
) -> Pixels:
    """Lines of one colour, blended by their opacity, the strongest on top."""
    opacity = np.zeros(picture.shape[:2], dtype=np.uint8)
    for end, alpha in zip(ends[::-1], share[::-1], strict=True):
        level = round(255 * min(float(alpha), 1.0))
        cv2.line(opacity, _fixed(start), _fixed(end), level, 2, cv2.LINE_AA, _SHIFT)
        cv2.circle(opacity, _fixed(end), 56, level, -1, cv2.LINE_AA, _SHIFT)
    rows, columns = np.flatnonzero(opacity.any(1)), np.flatnonzero(opacity.any(0))
    if len(rows) == 0:
        return picture
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    alpha = opacity[box].astype(np.float32)[..., None] / 255
    blended = picture[box] * (1 - alpha) + np.array(colour, dtype=np.float32) * alpha
    picture[box] = blended.astype(np.uint8)
    return picture


def _fixed(point: Any) -> tuple[int, int]:
    return round(float(point[0]) * 2**_SHIFT), round(float(point[1]) * 2**_SHIFT)


def _rgb(name: str) -> tuple[int, int, int]:
    code = COLOURS[name]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def _ring(picture: Pixels, point: Any, name: str) -> None:
    cv2.circle(picture, _fixed(point), 8 << _SHIFT, (0, 0, 0), 5, cv2.LINE_AA, _SHIFT)
    cv2.circle(picture, _fixed(point), 8 << _SHIFT, _rgb(name), 3, cv2.LINE_AA, _SHIFT)


def _marker(picture: Pixels, point: Any, name: str, kind: int, size: int) -> None:
    where = round(point[0]), round(point[1])
    cv2.drawMarker(picture, where, (0, 0, 0), kind, size, 3, cv2.LINE_AA)
    cv2.drawMarker(picture, where, _rgb(name), kind, size, 2, cv2.LINE_AA)


def _text(picture: Pixels, text: str, where: tuple[int, int], size: float = 0.65) -> None:
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)
