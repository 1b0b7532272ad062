"""What the command and the server compute: the keypoints of a pair, and its matches with a setting, kept a while."""

import functools
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypeAlias

import torch
from torch import Tensor

from pyg_match.app.content import Looks, drawn
from pyg_match.app.explorer import Explorer, View
from pyg_match.app.settings import Limits, Setting
from pyg_match.app.uploads import read_upload
from pyg_match.data import KeypointPair
from pyg_match.datasets import WarpedPair, warped_pair
from pyg_match.features import load_image
from pyg_match.files import shown_path
from pyg_match.matcher import Matcher
from pyg_match.nn import MatcherConfig
from pyg_match.visualization import LayerMatches, layer_matches, record_attention

Versions: TypeAlias = tuple[tuple[int, int], ...]  # sizes and times of image files

IMAGES = ("A", "B")
_SAMPLE_NAMES = ("grace_hopper.jpg", "grace_hopper.jpg, warped")
# More of the largest coefficients would not fit into a page of usual size.
_RECORDED = 16


@dataclass(frozen=True)
class PairChoice:
    """Which images, and whose keypoints.

    Args:
        paths: Two image files; the sample pair by default.
        weights: A pretrained matcher and its detector, see :meth:`pyg_match.Matcher.from_pretrained`.
        max_keypoints: Largest number of keypoints in an image.
        names: What the images are called; the names of the files by default.

    Example:
        >>> PairChoice(("a.jpg", "b.jpg"), weights="xfeat-lighterglue").max_keypoints
        1024
    """

    paths: Optional[tuple[str, str]] = None
    weights: str = "aliked-sparse"
    max_keypoints: int = 1024
    names: Optional[tuple[str, str]] = None


class Features(NamedTuple):
    """Two images with their keypoints.

    Attributes:
        pair: The keypoints, without edges; with the true homography if there is one.
        images: The images as they are drawn.
        names: What they are called.
        looks: What descriptors alone say about the keypoints.
    """

    pair: KeypointPair
    images: list[dict[str, str]]
    names: tuple[str, str]
    looks: Looks


class Exploration:
    """Matches pairs, and remembers the last few.

    Args:
        limits: How large an image may be.
        resize: Longer side in pixels at which keypoints are detected.
        kept: Number of pairs, and of matched settings, to remember. At 2,048 keypoints an image a setting takes about
            120 MB.
        device: Where to compute.

    Example:
        >>> exploration = Exploration(resize=256)
        >>> choice = PairChoice(weights="xfeat-lighterglue", max_keypoints=64)
        >>> exploration.explorer(choice, Setting("knn", 16))
        Explorer([64, 64], settings=['knn k=16'])
    """

    def __init__(
        self,
        limits: Optional[Limits] = None,
        resize: Optional[int] = 768,
        kept: int = 4,
        device: Any = "cpu",
    ) -> None:
        self.limits = limits or Limits()
        self.resize = resize
        self.device = device
        # Two threads must not change or match with the same matcher.
        self._lock = threading.RLock()
        # Sizes and times of files are among the keys, so that a file that has changed is read anew.
        self._matcher = functools.lru_cache(2)(self._load)
        self._features = functools.lru_cache(kept)(self._extract)
        self._explorer = functools.lru_cache(kept)(self._match)

    def explorer(self, choice: PairChoice, setting: Setting, compare: Optional[Setting] = None) -> Explorer:
        """The explorer of a pair, matched with one setting or with two.

        Args:
            choice: The pair.
            setting: The graph and value policy.
            compare: Another one to put beside it.

        Raises:
            ValueError: If an image is refused, or a setting does not fit the weights.
            FileNotFoundError: If there is no such file, or no weights.
        """
        with self._lock:
            first = self._explorer(choice, setting, _versions(choice))
            if compare is None:
                return first
            return first.compare(self._explorer(choice, compare, _versions(choice)))

    def _load(self, weights: str, max_keypoints: int) -> tuple[Matcher, MatcherConfig]:
        """A matcher, and the settings that it came with: those of a visitor replace them."""
        whole = Matcher.from_pretrained(
            weights,
            max_num_keypoints=max_keypoints,
            resize=self.resize,
            device=self.device,
            depth_confidence=None,
            width_confidence=None,
        )
        return whole, whole.matcher.config

    def _extract(self, choice: PairChoice, versions: Versions = ()) -> Features:
        homography: Optional[Tensor] = None
        if choice.paths is None:
            image0, image1, homography = _sample_pair()
            names = _SAMPLE_NAMES
        else:
            image0, image1 = (
                read_upload(path, self.limits, f"image {name}")
                for path, name in zip(choice.paths, IMAGES, strict=True)
            )
            names = shown_path(Path(choice.paths[0]).name), shown_path(Path(choice.paths[1]).name)
        whole, _ = self._matcher(choice.weights, choice.max_keypoints)
        sets = whole.extractor.extract_batch([image0, image1], resize=self.resize)
        pair = KeypointPair.from_sets(sets[0], sets[1], homography=homography)
        return Features(pair, [drawn(image0), drawn(image1)], choice.names or names, Looks.of(pair.cpu()))

    def _match(self, choice: PairChoice, setting: Setting, versions: Versions = ()) -> Explorer:
        features = self._features(choice, versions)
        whole, config = self._matcher(choice.weights, choice.max_keypoints)
        trained = setting.graph == "trained"
        transform = whole.transform if trained else setting.transform()
        pair = features.pair.clone().to(self.device)
        pair = pair if transform is None else transform(pair)
        matcher = whole.matcher
        # Another graph than the trained one is shown as it is named: its edges are not drawn once more.
        redraw_after = config.redraw_after if trained else None
        values = config.value_source if setting.value_source == "trained" else setting.value_source
        matcher.config = replace(config, value_source=values, redraw_after=redraw_after)
        with torch.no_grad(), record_attention(matcher, top=_RECORDED) as record:
            found = layer_matches(matcher, pair)
        on_cpu = LayerMatches(found.matches.cpu(), found.scores.cpu())
        view = View(record, on_cpu, str(setting), Path(choice.weights).name)
        return Explorer(features.pair, view, features.images, features.names, looks=features.looks)


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


def _sample_pair() -> WarpedPair:
    """A portrait that comes with matplotlib, and a warped and relit copy of it.

    The stars and stripes of the flag behind it repeat, which is what makes matching hard.
    """
    from matplotlib.cbook import get_sample_data

    photo: Tensor = load_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    return warped_pair(photo, seed=4, perspective=0.1, rotation=20.0, scale=1.2, lighting=0.5)
