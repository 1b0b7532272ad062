"""Training pairs from any folder of photos."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyg_match.checks import shown, whole_number
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets.cached_pairs import CachedPairs, best, derived_seed, subset
from pyg_match.datasets.homography_warps import HomographyWarps
from pyg_match.datasets.photometric import Photometric
from pyg_match.datasets.repeats import repeated_structure
from pyg_match.datasets.shards import PairShards, rounded
from pyg_match.datasets.sources import describe_images, describe_module, find_images, make_extractor
from pyg_match.datasets.synthetic import WarpedPair
from pyg_match.datasets.views import DrawnView, RenderedView, ViewPair, render_pair, view_keypoints
from pyg_match.features import Extractor
from pyg_match.features.image import load_image
from pyg_match.metrics import homography_ground_truth

POSITIVE, _NEGATIVE = 3.0, 6.0  # pixels; within them keypoints are partners, beyond them they have none


class SyntheticHomographies(CachedPairs):
    r"""Pairs of views of photos, warped by random homographies and changed in light, with true matches.

    Pair :math:`i` depends on the photos, ``seed`` and :math:`i` only: photos are drawn in shuffled rounds, and
    each pair has its own warps and its own photometric change, so there may be far more pairs than photos; another
    seed gives other pairs. torch's global random state is neither used nor changed. The keypoints of both views
    are labelled by reprojection, :func:`~pyg_match.metrics.homography_ground_truth` (3 px; by default 6 px to be
    without a partner). There are no keypoints outside of the photo, nor within 4 pixels of its edge, or
    their scale where that is more.

    Finding keypoints takes most of the time, so with a ``cache`` they are found once, by :meth:`prepare`.
    A pair whose shard is not there is made when it is asked for, and not kept. Cached or not, a pair is the same:
    descriptors are rounded to half precision either way. The cache knows by a fingerprint of the photos (name,
    size and a sample of the bytes), the extractor with its weights, and all settings whether a shard is of use.

    Args:
        images: A folder, searched recursively, or paths of images.
        extractor: Finds the keypoints; or its name, see :func:`pyg_match.features.extractor`.
        num_pairs: Number of pairs; ``None`` for as many as there are photos.
        seed: Chooses all pairs.
        max_num_keypoints: Keep at most this many keypoints of a view, those with the highest scores. ``None``
            keeps all that the extractor finds.
        min_num_keypoints: Limit the views of each pair to a number of its own between this and
            ``max_num_keypoints``, log-uniformly drawn, so that a matcher learns images with few keypoints and with
            many. It limits what is loaded, not the cache. ``None`` limits all pairs alike.
        size: ``(width, height)`` of both views in pixels; portrait photos have upright views.
        cache: Folder for the features; ``None`` keeps nothing.
        transform: Applied to every pair after it was loaded, for instance to draw edges. Never cached.
        warps: How far apart the views are.
        photometric: How differently they are lit and recorded; ``None`` for not at all.
        repeats: Share of the pairs whose photo is turned into repeated structure, in [0, 1].
        shard_size: Pairs in one file of the cache.
        repair: Make corrupt files of the cache anew instead of raising an error.
        extractor_options: Arguments of an extractor that is given by name, such as ``detection_threshold``.
        negative_threshold: Distance in pixels, at least 3, from all keypoints of the other view beyond which a
            keypoint has no partner. It concerns what is loaded, not the cache.
        unrelated: Share of the pairs whose second view shows another photo, in [0, 1], so that a matcher learns that
            there may be nothing to match. It is the second view of another of the ``num_pairs`` pairs. No keypoint has
            a partner then, and the homography is NaN. Two photos of the same scene count as unrelated, too, unless
            ``scene_of`` tells. It concerns what is loaded, not the cache.
        scene_of: The scene of each photo, by its absolute path; photos of one scene are not unrelated.

    Raises:
        FileNotFoundError: If the folder or an image does not exist.
        ValueError: If there are no images, or a number is out of its range.
        TypeError: If ``extractor`` is neither a name nor an extractor.

    Example:
        >>> from torch_geometric.loader import DataLoader
        >>> dataset = SyntheticHomographies(
        ...     "photos", "aliked", num_pairs=4096, cache="cache"
        ... )  # doctest: +SKIP
        >>> dataset.prepare(num_workers=2)  # doctest: +SKIP
        >>> loader = DataLoader(dataset, batch_size=8, shuffle=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        extractor: Extractor | str,
        num_pairs: int | None = None,
        seed: int = 0,
        max_num_keypoints: int | None = 512,
        size: tuple[int, int] = (640, 480),
        cache: str | os.PathLike[str] | None = None,
        transform: Callable[[KeypointPair], KeypointPair] | None = None,
        warps: HomographyWarps | None = None,
        photometric: Photometric | None = Photometric(),  # noqa: B008  (immutable)
        repeats: float = 0.0,
        shard_size: int = 64,
        repair: bool = False,
        min_num_keypoints: int | None = None,
        extractor_options: Mapping[str, Any] | None = None,
        negative_threshold: float = _NEGATIVE,
        unrelated: float = 0.0,
        scene_of: Mapping[Path, int] | None = None,
    ) -> None:
        self.paths, names = find_images(images)
        if unrelated and len(self.paths) < 2:
            raise ValueError(f"'unrelated' pairs need at least 2 photos, got {len(self.paths)}")
        self.num_pairs = whole_number("num_pairs", len(self.paths) if num_pairs is None else num_pairs)
        shard_size = whole_number("shard_size", shard_size)
        if not isinstance(size, (list, tuple)) or len(size) != 2 or min(size) < 2:
            raise ValueError(f"'size' must be (width, height) of at least 2 pixels each, got {shown(size)}")
        size = whole_number("size", size[0]), whole_number("size", size[1])
        for name, share in (("repeats", repeats), ("unrelated", unrelated)):
            if not 0 <= share <= 1:
                raise ValueError(f"'{name}' must be in [0, 1], got {share}")
        self._set_limits(min_num_keypoints, max_num_keypoints)
        if not negative_threshold >= POSITIVE:
            raise ValueError(f"'negative_threshold' must be at least {POSITIVE} px, got {negative_threshold}")
        self.negative_threshold = negative_threshold
        self.extractor = make_extractor(extractor, self.max_num_keypoints, extractor_options or {})
        self.seed = seed
        self.size = size
        self.transform = transform
        self.warps = warps or HomographyWarps()
        self.photometric = photometric
        self.repeats = float(repeats)
        self.unrelated = float(unrelated)
        self.scene_of = dict(scene_of or {})
        self.repair = repair
        self.shards: PairShards | None = None
        if cache is not None:
            settings = {
                "images": describe_images(self.paths, names),
                "extractor": describe_module(self.extractor),
                "seed": seed,
                "max_num_keypoints": self.max_num_keypoints,
                "size": self.size,
                "warps": asdict(self.warps),
                "photometric": None if photometric is None else asdict(photometric),
                "repeats": self.repeats,
            }
            self.shards = PairShards(Path(cache), settings, self.num_pairs, shard_size)

    def __getitem__(self, index: int) -> KeypointPair:
        index = self._index(index)
        pair = self.load(index)
        other = self._other(index)
        if other is not None:
            pair = _labelled(pair.image(0), self.load(other).image(1), None)
        pair = self._limited(index, pair)
        return pair if self.transform is None else self.transform(pair)

    def drawn(self, index: int) -> ViewPair[DrawnView]:
        """The photos of a pair, and how its views see them."""
        index = self._index(index)
        pair, other = self._draw_views(index), self._other(index)
        if other is None:
            return pair
        return pair._replace(view1=self._draw_views(other).view1, homography=None)

    def rendered(self, index: int) -> ViewPair[RenderedView]:
        """The views of a pair, for :meth:`find`."""
        return render_pair(self.drawn(index), self.photometric, torch.device("cpu"))

    def find(self, rendered: Sequence[ViewPair[RenderedView]]) -> list[KeypointPair]:
        """The pairs of rendered views, past the cache and without the transform, on the device of the extractor.

        Views of one size go through the detector together. Pairs are those that the cache would hold, as far as the
        detector gives the same for a batch as for each image.
        """
        return [
            self._limited(views.number, pair)
            for views, pair in zip(rendered, self._detect(rendered), strict=True)
        ]

    def path(self, index: int) -> Path:
        """The photo that a pair shows, in its first view at least."""
        round_, place = divmod(self._index(index), len(self.paths))
        return self.paths[_shuffled(len(self.paths), derived_seed(self.seed, "round", round_))[place]]

    def render(self, index: int) -> WarpedPair:
        """The two views of a pair as images, to look at, and the homography between them, NaN for unrelated views."""
        _, view0, view1, homography = self.rendered(index)
        return WarpedPair(view0.image, view1.image, _nowhere() if homography is None else homography)

    def make(self, index: int) -> KeypointPair:
        """Render both views of a pair and find their keypoints."""
        drawn = self._draw_views(self._index(index))
        (pair,) = self._detect([render_pair(drawn, self.photometric, torch.device("cpu"))])
        return pair.cpu()

    def _detect(self, rendered: Sequence[ViewPair[RenderedView]]) -> list[KeypointPair]:
        """The keypoints of rendered views with the labels that the cache has, without the limits of single pairs."""
        views = [view for pair in rendered for view in (pair.view0, pair.view1)]
        sets = view_keypoints(self.extractor, views, self.max_num_keypoints)
        return [
            rounded(_labelled(set0, set1, pair.homography))
            for pair, set0, set1 in zip(rendered, sets[::2], sets[1::2], strict=True)
        ]

    def _limited(self, index: int, pair: KeypointPair) -> KeypointPair:
        """The pair with its own limit of keypoints and this dataset's labels."""
        limit = self._limit(index)
        if limit is None and self.negative_threshold == _NEGATIVE:
            return pair
        sets = [pair.image(number) for number in (0, 1)]
        if limit is not None:  # labels are found anew: partners may be gone, others be next
            sets = [subset(each, best(each, limit)) for each in sets]
        homography = pair.homography[0]
        known = None if homography.isnan().all() else homography
        return _labelled(sets[0], sets[1], known, self.negative_threshold)

    def _other(self, index: int) -> int | None:
        """The pair whose second view takes the place of that of a pair, if any."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "unrelated", index))
        if float(torch.rand((), generator=generator)) >= self.unrelated:
            return None
        first = int(torch.randint(len(self), (), generator=generator))
        others = ((first + step) % len(self) for step in range(len(self)))
        return next((other for other in others if self._scene(other) != self._scene(index)), None)

    def _scene(self, index: int) -> Path | int:
        path = self.path(index)
        return self.scene_of.get(path, path)

    def _draw_views(self, index: int) -> ViewPair[DrawnView]:
        """The views of a pair as the cache has it, before the second one is replaced by that of an unrelated photo."""
        photo = load_image(self.path(index))
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "warps", index))
        if float(torch.rand((), generator=generator)) < self.repeats:
            photo = repeated_structure(photo, generator)
        photo_size = (photo.size(2), photo.size(1))
        views = self.warps.draw(photo_size, self.size, generator)
        light0: int | None = derived_seed(self.seed, "view 0", index)
        light1 = derived_seed(self.seed, "view 1", index)
        if self.photometric is not None:
            share = float(torch.rand((), generator=generator))
            light0 = light0 if share < self.photometric.reference else None
        view0 = DrawnView(photo, views.to_view0, views.size, light0)
        view1 = DrawnView(photo, views.to_view1, views.size, light1)
        return ViewPair(index, view0, view1, views.homography)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(images={len(self.paths)}, pairs={len(self)}, seed={self.seed})"


def _labelled(
    set0: KeypointSet, set1: KeypointSet, homography: Tensor | None, negative_threshold: float = _NEGATIVE
) -> KeypointPair:
    """A pair with its true matches, none without a homography."""
    if homography is None:
        count = set0.num_keypoints + set1.num_keypoints
        unmatched = torch.full((count,), -1, device=set0.pos.device)
        return KeypointPair.from_sets(set0, set1, y=unmatched, homography=_nowhere())
    sizes = set0.image_size, set1.image_size
    truth = homography_ground_truth(set0.pos, set1.pos, homography, *sizes, POSITIVE, negative_threshold)
    return KeypointPair.from_sets(set0, set1, y=torch.cat(truth), homography=homography)


def _nowhere() -> Tensor:
    """The homography between views of different photos."""
    return torch.full((3, 3), torch.nan, dtype=torch.float64)


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order
