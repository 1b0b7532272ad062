"""Training pairs of real photos, labelled by a matcher that is trusted."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyg_match.checks import real_number, whole_number
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets.cached_pairs import CachedPairs, best, derived_seed, subset
from pyg_match.datasets.homography_warps import HomographyWarps
from pyg_match.datasets.shards import PairShards, rounded
from pyg_match.datasets.sources import describe_images, describe_module, make_extractor
from pyg_match.datasets.views import RenderedView, render_view, view_keypoints
from pyg_match.features import Extractor
from pyg_match.features.image import load_image, resize_image
from pyg_match.files import user_path
from pyg_match.geometry import estimate_fundamental
from pyg_match.metrics import homography_ground_truth
from pyg_match.nn import GraphMatcher
from pyg_match.nn.assignment import mutual_matches

_UNKNOWN = -2  # the label of a keypoint that is to be ignored
_PHOTOS = 64  # whose keypoints are remembered, as a photo may be part of many pairs
_NEAR = 1.5  # pixels that a keypoint of a view may be off; the errors of both ends of a label add up
_SEEN = 0.02  # score from which on a match of the teacher counts; geometry sorts out the wrong ones


class PhotoPairs(CachedPairs):
    r"""Pairs of photos of the same scene, with the matches of a teacher that agree with one epipolar geometry.

    Warped photos are planes. These pairs bring depth, occlusion and real changes of light and viewpoint to
    training, without any ground truth: a teacher, by default LightGlue on complete graphs, matches each pair, a
    fundamental matrix is estimated from its matches, and the inliers become labels. All other keypoints are
    labelled -2, unknown, so train with a loss that imitates the teacher's assignment as well. A pair of which
    fewer than ``min_matches`` matches, or than a share of ``min_inliers`` of them, agree has unknown keypoints
    only.

    Few scenes are soon learned by heart. With ``warps`` each pair shows views of its photos, each through a homography
    of its own, in which keypoints are found anew. A keypoint of a view takes the place of that of a label if each is
    the other's nearest and within 1.5 pixels of it, in the view and in the photo. There may then be more pairs than
    were given, in rounds, each with other warps. How much the views of two photos overlap nobody knows, so some pairs
    have few labels.

    Pairs are made once, by :meth:`prepare`, if there is a ``cache``; it knows by a fingerprint of the photos,
    the extractor and the teacher with their weights, and all settings whether a shard is of use.

    Args:
        pairs: Paths of both photos of each pair; or a text file with two names in a line, relative to ``images``.
            Between them stand spaces, or a tab if names hold spaces. What follows the names in a line is ignored, as
            are empty lines.
        images: The folder that names in a file are relative to; by default that of the file.
        extractor: Finds the keypoints; or its name, see :func:`pyg_match.features.extractor`.
        teacher: A matcher for these keypoints that assigns all of them; or the name of its weights.
        max_num_keypoints: Keep at most this many keypoints of a photo, those with the highest scores.
        min_num_keypoints: Limit the photos of each pair to a number of its own, as in
            :class:`SyntheticHomographies`.
        resize: Longer side in pixels at which keypoints are found; ``None`` for the original size.
        threshold: Largest epipolar error of a label in pixels of the photos at that size.
        min_matches: Fewest labels of a pair.
        min_inliers: Smallest share of the teacher's matches that must be labels, in [0, 1].
        warps: How the photos are warped: the first as view 0 of :class:`HomographyWarps`, the second as view 1.
            ``None`` leaves them as they are.
        num_pairs: Number of pairs, the first of those given if these are more; ``None`` for as many as are given.
        seed: Chooses the limits on keypoints, and the warps.
        cache: Folder for the pairs; ``None`` keeps nothing.
        transform: Applied to every pair after it was loaded, for instance to draw edges. Never cached.
        shard_size: Pairs in one file of the cache.
        repair: Make corrupt files of the cache anew instead of raising an error.
        extractor_options: Arguments of an extractor that is given by name, such as ``detection_threshold``.

    Raises:
        FileNotFoundError: If the file of pairs or a photo does not exist.
        ValueError: If there are no pairs, a line has no two names, a number is out of its range, or the
            teacher is one for other keypoints, prunes them or assigns on edges.

    Example:
        >>> dataset = PhotoPairs("pairs.txt", cache="cache")  # doctest: +SKIP
        >>> dataset.prepare()  # doctest: +SKIP
    """

    def __init__(
        self,
        pairs: str | os.PathLike[str] | Sequence[tuple[str | os.PathLike[str], str | os.PathLike[str]]],
        images: str | os.PathLike[str] | None = None,
        extractor: Extractor | str = "aliked",
        teacher: GraphMatcher | str = "aliked-lightglue",
        max_num_keypoints: int | None = 1024,
        min_num_keypoints: int | None = None,
        resize: int | None = 640,
        threshold: float = 1.5,
        min_matches: int = 20,
        min_inliers: float = 0.35,
        warps: HomographyWarps | None = None,
        num_pairs: int | None = None,
        seed: int = 0,
        cache: str | os.PathLike[str] | None = None,
        transform: Callable[[KeypointPair], KeypointPair] | None = None,
        shard_size: int = 64,
        repair: bool = False,
        extractor_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.pairs = read_pairs(pairs, images)
        self.paths = sorted({path for pair in self.pairs for path in pair})
        self.num_pairs = whole_number("num_pairs", len(self.pairs) if num_pairs is None else num_pairs)
        shard_size = whole_number("shard_size", shard_size)
        if warps is None and self.num_pairs > len(self.pairs):
            raise ValueError(f"without 'warps' there are {len(self.pairs)} pairs, got num_pairs={num_pairs}")
        self._set_limits(min_num_keypoints, max_num_keypoints)
        self.resize = resize = None if resize is None else whole_number("resize", resize)
        self.threshold = threshold = real_number("threshold", threshold, positive=True)
        self.min_matches = min_matches = whole_number("min_matches", min_matches, least=0)
        if min_matches < 8:
            raise ValueError(f"'min_matches' must be at least 8, which any geometry fits, got {min_matches}")
        if not 0 <= min_inliers <= 1:
            raise ValueError(f"'min_inliers' must be in [0, 1], got {min_inliers}")
        self.extractor = make_extractor(extractor, self.max_num_keypoints, extractor_options or {})
        if isinstance(teacher, str):
            whole = {"assign_on_edges": False, "depth_confidence": None, "width_confidence": None}
            teacher = GraphMatcher.from_pretrained(teacher, **whole)
        self.teacher = teacher
        if self.extractor.descriptor_dim != self.teacher.config.in_channels:
            raise ValueError(
                f"the detector gives descriptors of width {self.extractor.descriptor_dim}, but the teacher expects "
                f"{self.teacher.config.in_channels}"
            )
        on_edges, width = self.teacher.config.assign_on_edges, self.teacher.config.width_confidence
        if on_edges or width is not None:
            raise ValueError(
                "'teacher' must assign all keypoints, with assign_on_edges=False and width_confidence=None, got "
                f"{on_edges} and {width}"
            )
        self.min_inliers = min_inliers
        self.warps = warps
        self.seed = seed
        self.transform = transform
        self.repair = repair
        self._found: OrderedDict[Path, KeypointSet] = OrderedDict()
        self.shards: PairShards | None = None
        if cache is not None:
            number = {path: index for index, path in enumerate(self.paths)}
            config = asdict(self.teacher.config)
            del config["checkpointed"]  # which is a matter of training
            settings = {
                "images": describe_images(self.paths, [path.name for path in self.paths]),
                "pairs": [[number[path] for path in pair] for pair in self.pairs],
                "extractor": describe_module(self.extractor),
                "teacher": describe_module(self.teacher) | {"config": config},
                "max_num_keypoints": self.max_num_keypoints,
                "resize": resize,
                "threshold": threshold,
                "min_matches": min_matches,
                "min_inliers": min_inliers,
            } | ({} if warps is None else {"warps": {"seed": seed, **asdict(warps)}})
            self.shards = PairShards(Path(cache), settings, self.num_pairs, shard_size)

    def __getitem__(self, index: int) -> KeypointPair:
        index = self._index(index)
        pair, limit = self.load(index), self._limit(index)
        pair = pair if limit is None else _limited(pair, limit)
        return pair if self.transform is None else self.transform(pair)

    @torch.no_grad()  # what is made in inference mode could not be trained on
    def make(self, index: int) -> KeypointPair:
        """Find the keypoints of both photos, match them and keep the matches that agree."""
        paths = self.pairs[index % len(self.pairs)]
        sets = [self._keypoints(path) for path in paths]
        pair = KeypointPair.from_sets(sets[0], sets[1])
        device = next(self.teacher.parameters()).device
        log_assignment: Any = self.teacher(pair.to(device)).log_assignment
        matched, _, _, _ = mutual_matches(log_assignment[0].cpu(), _SEEN)
        first = (matched >= 0).nonzero().flatten()
        labels = self._agreeing(sets, torch.stack([first, matched[first]], dim=1))
        if self.warps is not None:
            sets, labels = self._warped(self.warps, index, paths, sets, labels)
        return rounded(_labelled(sets[0], sets[1], labels))

    def _photo(self, path: Path) -> Tensor:
        image = load_image(path)
        return image if self.resize is None else resize_image(image, self.resize)[0]

    def _keypoints(self, path: Path) -> KeypointSet:
        found = self._found.get(path)
        if found is None:
            image = self._photo(path)
            device = next((p.device for p in self.extractor.parameters()), torch.device("cpu"))
            found = self.extractor(image.to(device))
            found = subset(found, best(found, self.max_num_keypoints)).cpu()
            self._found[path] = found
            if len(self._found) > _PHOTOS:
                self._found.popitem(last=False)
        return found

    def _agreeing(self, sets: Sequence[KeypointSet], matches: Tensor) -> Tensor:
        """The matches that one fundamental matrix explains; none if those are too few."""
        points0, points1 = (each.pos[index] for each, index in zip(sets, matches.unbind(1), strict=True))
        _, inliers = estimate_fundamental(points0, points1, threshold=self.threshold)
        count = int(inliers.sum())
        enough = count >= max(self.min_matches, self.min_inliers * len(matches))
        return matches[torch.from_numpy(inliers)] if enough else matches[:0]

    def _warped(
        self,
        warps: HomographyWarps,
        index: int,
        paths: Sequence[Path],
        sets: Sequence[KeypointSet],
        matches: Tensor,
    ) -> tuple[list[KeypointSet], Tensor]:
        """The keypoints of a view of each photo, and the matches between those at the places of others."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "photo pairs", index))
        seen, ends = [], []
        for side, (path, keypoints) in enumerate(zip(paths, sets, strict=True)):
            photo = self._photo(path)
            size = (photo.size(2), photo.size(1))
            views = warps.draw(size, size, generator)
            to_view = (views.to_view0, views.to_view1)[side]
            view = RenderedView(render_view(photo, to_view, views.size), to_view, size)
            found = view_keypoints(self.extractor, [view], self.max_num_keypoints)[0].cpu()
            place, _ = homography_ground_truth(keypoints.pos, found.pos, to_view, threshold=_NEAR)
            seen.append(found)
            ends.append(place[matches[:, side]])
        matches = torch.stack(ends, dim=1)
        return seen, matches[(matches >= 0).all(dim=1)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": OrderedDict()}  # workers find their own

    def __repr__(self) -> str:
        return f"{type(self).__name__}(photos={len(self.paths)}, pairs={len(self)})"


def read_pairs(
    pairs: str | os.PathLike[str] | Sequence[tuple[str | os.PathLike[str], str | os.PathLike[str]]],
    images: str | os.PathLike[str] | None = None,
) -> list[tuple[Path, Path]]:
    """Absolute paths of the photos of each pair; see :class:`PhotoPairs`.

    Raises:
        FileNotFoundError: If the file of pairs or a photo does not exist.
        ValueError: If there are no pairs, or a line has no two names.
    """
    if isinstance(pairs, str | os.PathLike):
        file = user_path(pairs)
        if not file.is_file():
            raise FileNotFoundError(f"no file of pairs at '{file}'")
        root = file.parent if images is None else user_path(images)
        named = []
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
            # Names may hold spaces where a tab stands between them.
            words = [word.strip() for word in line.split("\t")] if "\t" in line.strip() else line.split()
            if len(words) == 1:
                raise ValueError(
                    f"line {number} of '{file}' must begin with the names of two photos, got {line!r}"
                )
            if words and os.path.abspath(root / words[0]) == os.path.abspath(root / words[1]):
                raise ValueError(
                    f"line {number} of '{file}' pairs {words[0]} with itself, expected two photos"
                )
            if words:
                named.append((root / words[0], root / words[1]))
    else:
        root = Path() if images is None else user_path(images)
        named = [(root / one, root / other) for one, other in pairs]
    if not named:
        raise ValueError("there are no pairs of photos, expected at least one")
    found = [(Path(os.path.abspath(one)), Path(os.path.abspath(other))) for one, other in named]
    missing = sorted({path for pair in found for path in pair if not path.is_file()})
    if missing:
        raise FileNotFoundError(f"no photo at '{missing[0]}' ({len(missing)} are missing)")
    return found


def _labelled(set0: KeypointSet, set1: KeypointSet, matches: Tensor) -> KeypointPair:
    """A pair in which the matches are known, and nothing about other keypoints."""
    y0, y1 = (torch.full((each.num_keypoints,), _UNKNOWN) for each in (set0, set1))
    y0[matches[:, 0]] = matches[:, 1]
    y1[matches[:, 1]] = matches[:, 0]
    return KeypointPair.from_sets(set0, set1, y=torch.cat([y0, y1]))


def _limited(pair: KeypointPair, count: int) -> KeypointPair:
    """The best ``count`` keypoints of each photo, and the labels between them."""
    sets = [pair.image(index) for index in (0, 1)]
    kept = [best(each, count) for each in sets]
    place = [torch.full((each.num_keypoints,), -1) for each in sets]
    for numbers, keep in zip(place, kept, strict=True):
        numbers[keep] = torch.arange(len(keep))
    y: Any = pair.y
    y0 = y[: sets[0].num_keypoints]
    first = (y0 >= 0).nonzero().flatten()
    matches = torch.stack([place[0][first], place[1][y0[first]]], dim=1)
    matches = matches[(matches >= 0).all(dim=1)]
    set0, set1 = (subset(each, keep) for each, keep in zip(sets, kept, strict=True))
    return _labelled(set0, set1, matches)
