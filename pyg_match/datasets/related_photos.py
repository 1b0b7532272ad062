"""Photos of the same scene in a folder of any photos."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from pyg_match.checks import whole_number
from pyg_match.data import KeypointSet
from pyg_match.datasets.cached_pairs import best, check_photos, subset
from pyg_match.datasets.feature_cache import FeatureCache
from pyg_match.datasets.progress import progress_bar
from pyg_match.datasets.sources import describe_images, describe_module, find_images, make_extractor
from pyg_match.features import Extractor
from pyg_match.files import replace_file, user_path
from pyg_match.model_selection import estimate_geometry, thresholds_for
from pyg_match.retrieval import similar_images

# Of the distances to the nearest and the second nearest descriptor, up to which a match is tried.
_RATIO = 0.95
# Matches that are worth a try, which takes long where there is nothing to find.
_LEAST = 20
# Photos whose keypoints are remembered.
_PHOTOS = 256


def related_photos(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    extractor: Extractor | str = "aliked",
    top_k: int = 5,
    max_num_keypoints: int = 1024,
    resize: int | None = 640,
    num_words: int = 64,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    extractor_options: Mapping[str, Any] | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> list[tuple[Path, Path]]:
    """Find pairs of photos that show the same scene.

    Each photo is compared with those that are most similar as a whole (:func:`pyg_match.retrieval.similar_images`). A
    pair is kept if there are at least 20 mutual nearest descriptors, and they agree with one homography or fundamental
    matrix in a number that chance does not bring about (:func:`pyg_match.model_selection.estimate_geometry`). This
    finds few of the wide baselines; the pairs are for a better matcher to label, see :class:`PhotoPairs`.

    Args:
        images: A folder, searched recursively, or paths of images.
        extractor: Finds the keypoints; or its name, see :func:`pyg_match.features.extractor`.
        top_k: How many photos each photo is compared with.
        max_num_keypoints: Keep at most this many keypoints of a photo, those with the highest scores.
        resize: Longer side in pixels at which keypoints are found; ``None`` for the original size.
        num_words: Number of words that describe a photo, at most a sixteenth of all keypoints.
        seed: Seed of the words.
        cache: Folder that keeps keypoints and the pairs, so that a call that was interrupted goes on; ``None`` keeps
            nothing.
        extractor_options: Arguments of an extractor that is given by name, such as ``detection_threshold``.
        progress: Whether to show a progress bar, or to print lines to stderr where that is no terminal.
        device: Where keypoints are found, and photos compared as a whole.

    Returns:
        Paths of both photos of each pair, in order; an empty list if no two photos show the same scene.

    Raises:
        FileNotFoundError: If the folder or an image does not exist.
        ValueError: If there are no images, photos cannot be read, or a number is out of its range.
        ModuleNotFoundError: If scikit-learn is missing.

    Example:
        >>> pairs = related_photos("photos", cache="cache")  # doctest: +SKIP
        >>> dataset = PhotoPairs(pairs, cache="cache")  # doctest: +SKIP
    """
    paths, names = find_images(images)
    top_k, num_words = whole_number("top_k", top_k), whole_number("num_words", num_words)
    max_num_keypoints = whole_number("max_num_keypoints", max_num_keypoints)
    resize = None if resize is None else whole_number("resize", resize)
    detector = make_extractor(extractor, max_num_keypoints, extractor_options or {})
    of_photo = {
        "extractor": describe_module(detector),
        "max_num_keypoints": max_num_keypoints,
        "resize": resize,
    }
    settings = of_photo | {
        "images": describe_images(paths, names),
        "top_k": top_k,
        "num_words": num_words,
        "seed": seed,
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    target = None if cache is None else user_path(cache) / f"related-{fingerprint[:24]}.json"
    found = _read(target, len(paths))
    if found is None:
        check_photos(paths)
        detector.to(device)
        with TemporaryDirectory() as aside:
            folder = Path(aside) if cache is None else user_path(cache) / "photos"

            def extract(path: Path) -> KeypointSet:
                keypoints = detector.extract(path, resize)
                return subset(keypoints, best(keypoints, max_num_keypoints)).cpu()

            features = FeatureCache(folder, extract, of_photo)
            with progress_bar("finding keypoints", len(paths), 0, progress) as advance:
                count = 0
                for path in paths:
                    count += features(path).num_keypoints
                    advance()
            num_words = min(num_words, count // 16)
            found = list(_related(paths, features, top_k, num_words, seed, progress, device))
        if target is not None:
            replace_file(target, json.dumps(found).encode())
    return [(paths[first], paths[second]) for first, second in found]


def _related(
    paths: Sequence[Path],
    features: FeatureCache,
    top_k: int,
    num_words: int,
    seed: int,
    progress: bool,
    device: torch.device | str,
) -> Iterator[tuple[int, int]]:
    """The similar pairs whose matches agree; none without words or a second photo."""
    if num_words == 0 or len(paths) < 2:
        return

    @lru_cache(_PHOTOS)
    def keypoints(photo: int) -> KeypointSet:
        return features(paths[photo])

    candidates = similar_images(lambda i: keypoints(i).x, len(paths), top_k, num_words, seed, device)
    with progress_bar("comparing photos", len(candidates), 0, progress) as advance:
        for first, second in candidates:
            if _agree(keypoints(first), keypoints(second)):
                yield first, second
            advance()


def _agree(set0: KeypointSet, set1: KeypointSet) -> bool:
    """Whether mutual nearest neighbours speak for one geometry."""
    from kornia.feature import match_smnn

    if min(set0.num_keypoints, set1.num_keypoints) < 2:
        return False
    _, matches = match_smnn(set0.x, set1.x, _RATIO)
    if len(matches) < _LEAST:
        return False
    points = (set0.pos[matches[:, 0]].numpy(), set1.pos[matches[:, 1]].numpy())
    sizes = [tuple(each.image_size[0].tolist()) for each in (set0, set1)]
    homography, fundamental = thresholds_for(*sizes)
    geometry = estimate_geometry(*points, homography_threshold=homography, fundamental_threshold=fundamental)
    return geometry.kind != "none"


def scenes(num_photos: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of photos that pairs join, directly or through others, in order of their first photo.

    Example:
        >>> scenes(5, [(0, 3), (3, 4)])
        [[0, 3, 4], [1], [2]]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.asarray(pairs, dtype=int).reshape(-1, 2).T
    joined = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(num_photos, num_photos))
    groups: dict[int, list[int]] = {}
    for photo, label in enumerate(connected_components(joined, directed=False)[1].tolist()):
        groups.setdefault(label, []).append(photo)
    return list(groups.values())


def _read(target: Path | None, num_photos: int) -> list[tuple[int, int]] | None:
    """Pairs that were found before; ``None`` if there is no such file, or it is not whole."""
    if target is None:
        return None
    try:
        pairs = json.loads(target.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(pairs, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(photo, int) and 0 <= photo < num_photos for photo in pair)
        for pair in pairs
    )
    return [(first, second) for first, second in pairs] if whole else None
