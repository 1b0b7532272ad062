"""What the page computes: features, matches and attention inputs of a pair, kept for the next click."""

import functools
import os
import threading
from dataclasses import dataclass, replace
from typing import Any, Optional, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyg_match.app.attention_rows import AttentionRows, keep_rows
from pyg_match.app.samples import sample_pair
from pyg_match.app.settings import Limits, Setting
from pyg_match.app.uploads import read_upload
from pyg_match.data import KeypointPair
from pyg_match.matcher import Matcher
from pyg_match.metrics import homography_ground_truth
from pyg_match.nn import MatcherConfig
from pyg_match.transforms import CandidateEdges
from pyg_match.visualization import (
    Difficulty,
    LayerMatches,
    difficulty,
    layer_matches,
    repeated_groups,
    repetition_score,
)

Versions: TypeAlias = tuple[tuple[int, int], ...]  # sizes and times of image files

IMAGES = ("A", "B")
CANDIDATES = 5  # of a keypoint that are shown
_DRAWN_SIDE = 1300  # largest side in pixels of an image that is kept to be drawn


@dataclass(frozen=True)
class PairChoice:
    """Which images, and whose keypoints.

    Args:
        paths: Two image files; the sample pair by default.
        weights: A pretrained matcher and its detector, see :meth:`pyg_match.Matcher.from_pretrained`.
        max_keypoints: Largest number of keypoints in an image.
    """

    paths: Optional[tuple[str, str]] = None
    weights: str = "aliked-lightglue"
    max_keypoints: int = 1024


@dataclass(frozen=True, eq=False)
class Features:
    """Two images with their keypoints, and what descriptors alone say about them.

    Attributes:
        images: The images in grey, 8 bits, reduced to what is drawn of them.
        pair: Their keypoints, without edges; with ground truth ``y`` if there is one.
        candidates: The nodes of the other image with the most similar descriptors, best first, :math:`(N, C)`.
        repetition: How many keypoints of the same image look like each, :math:`(N)`.
        groups: The group of repeated keypoints that each belongs to, or -1, :math:`(N)`.
    """

    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    pair: KeypointPair
    candidates: Tensor
    repetition: Tensor
    groups: Tensor

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of keypoints of both images."""
        count0, count1 = self.pair.num_keypoints[0].tolist()
        return count0, count1

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Widths and heights of the images in which keypoints have their positions."""
        (width0, height0), (width1, height1) = self.pair.image_size.round().int().tolist()
        return (width0, height0), (width1, height1)

    def node(self, image: int, index: int) -> int:
        """The node of a keypoint that is counted within its image.

        Raises:
            ValueError: If there is no such keypoint.
        """
        if not 0 <= index < self.counts[image]:
            raise ValueError(
                f"image {IMAGES[image]} has keypoints 0 to {self.counts[image] - 1}, there is no keypoint {index}"
            )
        return index + image * self.counts[0]

    def place(self, node: int) -> tuple[int, int]:
        """The image of a node, and its number within that image."""
        image = int(node >= self.counts[0])
        return image, node - image * self.counts[0]

    def nearest(self, image: int, x: float, y: float) -> int:
        """The node of an image that is nearest to a position in pixels."""
        start = image * self.counts[0]
        pos = self.pair.pos[start : start + self.counts[image]]
        return start + int((pos - pos.new_tensor([x, y])).norm(dim=1).argmin())


@dataclass(frozen=True, eq=False)
class Matching:
    """A pair matched with one setting.

    Attributes:
        setting: The setting.
        pair: The pair with its edges.
        found: The matches after each layer.
        difficulty: How hard each keypoint was.
        rows: What every attention step was given.
    """

    setting: Setting
    pair: KeypointPair
    found: LayerMatches
    difficulty: Difficulty
    rows: AttentionRows

    @property
    def num_matches(self) -> int:
        """Number of matches after the last layer."""
        return int((self.found.matches[-1, : int(self.pair.num_keypoints[0, 0])] >= 0).sum())


class Exploration:
    """Matches pairs, and remembers the last few with everything that a click needs.

    Args:
        limits: How large an image may be.
        resize: Longer side in pixels at which keypoints are detected.
        kept: Number of pairs, and of matched settings, to remember. At 2,048 keypoints an image a setting takes about
            120 MB.

    Example:
        >>> exploration = Exploration(resize=256)
        >>> choice = PairChoice(weights="xfeat-lighterglue", max_keypoints=64)
        >>> exploration.features(choice).counts
        (64, 64)
        >>> exploration.matching(choice, Setting("knn", 16)).rows.num_layers
        6
    """

    def __init__(self, limits: Optional[Limits] = None, resize: Optional[int] = 768, kept: int = 4) -> None:
        self.limits = limits or Limits()
        self.resize = resize
        self._lock = threading.RLock()  # two threads must not change or match with the same matcher
        self._matcher = functools.lru_cache(2)(self._load)
        self._features = functools.lru_cache(kept)(self._extract)
        self._matching = functools.lru_cache(kept)(self._match)

    def features(self, choice: PairChoice) -> Features:
        """The keypoints of a pair.

        Raises:
            ValueError: If an image is refused, or has no keypoints.
            FileNotFoundError: If there is no such file, or no weights.
        """
        with self._lock:
            return self._features(choice, _versions(choice))

    def matching(self, choice: PairChoice, setting: Setting) -> Matching:
        """The matches of a pair with one setting; raises what :meth:`features` raises."""
        with self._lock:
            return self._matching(choice, setting, _versions(choice))

    def _load(self, weights: str, max_keypoints: int) -> tuple[Matcher, MatcherConfig]:
        """A matcher, and the settings that it came with: those of a visitor replace them."""
        whole = Matcher.from_pretrained(
            weights,
            max_num_keypoints=max_keypoints,
            resize=self.resize,
            depth_confidence=None,
            width_confidence=None,
        )
        return whole, whole.matcher.config

    def _extract(self, choice: PairChoice, versions: Versions = ()) -> Features:
        homography = None
        if choice.paths is None:
            images = sample_pair()
            image0, image1, homography = images
        else:
            image0, image1 = (
                read_upload(path, self.limits, f"image {name}")
                for path, name in zip(choice.paths, IMAGES, strict=True)
            )
        whole, _ = self._matcher(choice.weights, choice.max_keypoints)
        sets = whole.extractor.extract_batch([image0, image1], resize=self.resize)
        for name, found in zip(IMAGES, sets, strict=True):
            if found.num_keypoints == 0:
                raise ValueError(
                    f"image {name} has no keypoints; choose one with more texture, this one may be of a single colour"
                )
        pair = KeypointPair.from_sets(*sets)
        if homography is not None:
            truth = homography_ground_truth(
                sets[0].pos, sets[1].pos, homography, sets[0].image_size, sets[1].image_size
            )
            pair.y = torch.cat(truth)
        drawn = (_to_draw(image0), _to_draw(image1))
        return Features(drawn, pair, _most_similar(pair), repetition_score(pair), repeated_groups(pair))

    def _match(self, choice: PairChoice, setting: Setting, versions: Versions = ()) -> Matching:
        pair = self._features(choice, versions).pair.clone()
        whole, config = self._matcher(choice.weights, choice.max_keypoints)
        trained = setting.graph == "trained"
        transform = whole.transform if trained else setting.transform()
        pair = pair if transform is None else transform(pair)
        matcher = whole.matcher
        # Another graph than the trained one is shown as it is named: its edges are not drawn once more.
        redraw_after = config.redraw_after if trained else None
        matcher.config = replace(config, value_source=setting.value_source, redraw_after=redraw_after)
        with keep_rows(matcher) as rows:
            found = layer_matches(matcher, pair)
        return Matching(setting, pair, found, difficulty(pair, found), rows)


def _versions(choice: PairChoice) -> Versions:
    """What tells the files of a pair from others that later bear their names."""
    found = []
    for path in choice.paths or ():
        try:
            status = os.stat(path)
        except OSError:  # said when it is read
            found.append((0, 0))
            continue
        found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)


def _to_draw(image: Tensor) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = (image.mean(0) * 255).byte().cpu().numpy()
    factor = _DRAWN_SIDE / max(grey.shape)
    if factor < 1:
        size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return grey


def _most_similar(pair: KeypointPair) -> Tensor:
    """The nodes of the other image with the most similar descriptors, best first."""
    count0, count1 = pair.num_keypoints[0].tolist()
    k = min(CANDIDATES, count0, count1)
    edges: Any = CandidateEdges(k, symmetric=False)(pair.clone()).cross_edge_index.as_tensor()
    return edges[0].view(-1, k)
