"""The pairs that a run trains and validates on."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import torch
from torch.utils.data import ConcatDataset

from pyg_match.data import KeypointPair
from pyg_match.datasets.cached_pairs import CachedPairs
from pyg_match.datasets.homography_warps import HomographyWarps
from pyg_match.datasets.live_pairs import LivePairs, with_homography
from pyg_match.datasets.photo_pairs import PhotoPairs, read_pairs
from pyg_match.datasets.photometric import Photometric
from pyg_match.datasets.related_photos import related_photos, scenes
from pyg_match.datasets.sources import find_images
from pyg_match.datasets.synthetic_homographies import SyntheticHomographies
from pyg_match.training.config import TrainingConfig
from pyg_match.transforms import graph_from_recipe


def split_photos(
    photos: Sequence[Path], share: float, seed: int, pairs: Sequence[tuple[Path, Path]] = ()
) -> tuple[list[Path], list[Path]]:
    """Photos for training and for validation, at least one each.

    Photos that ``pairs`` join go the same way, so that validation sees other scenes, unless there is one scene only. If
    all scenes are larger than the share, the smallest one is held out.

    Raises:
        ValueError: If there are fewer than two photos, or the share is not between 0 and 1.

    Example:
        >>> photos = [Path(str(i)) for i in range(10)]
        >>> train, valid = split_photos(photos, 0.2, seed=0)
        >>> len(train), len(valid)
        (8, 2)
    """
    if len(photos) < 2:
        raise ValueError(f"training needs at least 2 photos, one of them for validation, got {len(photos)}")
    if not 0 < share < 1:
        raise ValueError(f"'data.validation_photos' must be between 0 and 1, got {share}")
    count = min(max(round(len(photos) * share), 1), len(photos) - 1)
    groups = _scenes_of(photos, pairs)
    if len(groups) == 1:
        return split_photos(photos, share, seed)
    held_out: set[int] = set()
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    for group in order:
        if len(held_out) + len(groups[group]) <= count:
            held_out.update(groups[group])
    held_out = held_out or set(groups[min(order, key=lambda group: len(groups[group]))])
    chosen: tuple[list[Path], list[Path]] = ([], [])
    for index, photo in enumerate(photos):
        chosen[index in held_out].append(photo)
    return chosen


def _scenes_of(photos: Sequence[Path], pairs: Sequence[tuple[Path, Path]]) -> list[list[int]]:
    """Groups of photos that pairs join; pairs with a photo that is not among them join nothing."""
    place = {photo: index for index, photo in enumerate(photos)}
    inside = [(place[first], place[second]) for first, second in pairs if first in place and second in place]
    return scenes(len(photos), inside)


def make_datasets(
    config: TrainingConfig,
    images: Union[str, os.PathLike[str]],
    cache: Union[str, os.PathLike[str]],
    progress: bool = False,
    device: Union[torch.device, str] = "cpu",
) -> tuple[Any, Any]:
    """Pairs for training and validation from a folder of photos, with their edges; validation sees other photos.

    Pairs of photos, those in ``data.photo_pairs`` or found for ``data.related``, follow those of warped photos. Those
    whose photos are all held out are validated on, at most as many as there are warped ones; those of which one is held
    out are left out. With ``data.unrelated``, validation sees as many warped pairs of different photos as of the same
    ones.

    Args:
        config: All settings.
        images: Folder of photos.
        cache: Folder of their keypoints.
        progress: Whether to show a progress bar while pairs of photos are looked for.
        device: Where keypoints are found, and pairs of photos labelled.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are too few photos, or an argument of the warps or changes does not exist.
    """
    data = config.data
    try:
        warps = HomographyWarps(**data.warps)
        photometric = Photometric(**data.photometric)
        photo_warps = None if data.photo_warps is None else HomographyWarps(**data.photo_warps)
    except TypeError as error:
        raise ValueError(f"'data.warps', 'data.photo_warps' or 'data.photometric': {error}") from None
    photos = find_images(images)[0]
    pairs = _photo_pairs(config, images, cache, progress, device)
    train, valid = split_photos(photos, data.validation_photos, data.seed, pairs)
    scene_of = {photos[i]: scene for scene, group in enumerate(_scenes_of(photos, pairs)) for i in group}
    several_scenes = [len({scene_of[photo] for photo in part}) > 1 for part in (train, valid)]
    held_out = set(valid)
    train_photo_pairs = [pair for pair in pairs if not held_out & set(pair)]
    valid_photo_pairs = [pair for pair in pairs if held_out >= set(pair)]
    if pairs and progress:
        counts = f"{len(train_photo_pairs)} to train on, {len(valid_photo_pairs)} to validate on"
        print(f"{len(pairs)} pairs of photos of the same scene: {counts}", file=sys.stderr, flush=True)
    if data.photo_pairs is not None and not train_photo_pairs:
        raise ValueError(
            f"none of the {len(pairs)} 'data.photo_pairs' is left to train on; one photo of each is held out"
        )
    common: dict[str, Any] = {
        "extractor": data.extractor,
        "extractor_options": data.extractor_options,
        "max_num_keypoints": data.max_num_keypoints,
        "cache": cache,
        "transform": graph_from_recipe(config.graph),
    }
    warped_options = common | {
        "warps": warps,
        "photometric": photometric,
        "size": data.size,
        "repeats": data.repeats,
        "negative_threshold": data.negative_threshold,
        "scene_of": scene_of,
    }
    photo_options = common | {
        "teacher": config.teacher or "",
        "resize": max(data.size),
        "warps": photo_warps,
        "seed": data.seed,
    }
    train_parts: list[CachedPairs] = [
        SyntheticHomographies(
            train,
            num_pairs=data.num_pairs,
            seed=2 * data.seed,
            min_num_keypoints=data.min_num_keypoints,
            unrelated=data.unrelated if several_scenes[0] else 0.0,
            **warped_options,
        )
    ]
    valid_parts: list[CachedPairs] = [
        # With 1.0 the same views with other partners, so that no keypoints have to be found for them.
        SyntheticHomographies(
            valid, num_pairs=data.validation_pairs, seed=2 * data.seed + 1, unrelated=share, **warped_options
        )
        for share in ((0.0, 1.0) if data.unrelated and several_scenes[1] else (0.0,))
        if data.validation_pairs
    ]
    if train_photo_pairs:
        train_options = photo_options | {"min_num_keypoints": data.min_num_keypoints}
        train_parts.append(PhotoPairs(train_photo_pairs, num_pairs=data.num_photo_pairs, **train_options))
    if valid_photo_pairs and data.validation_pairs:
        count = min(len(valid_photo_pairs), data.validation_pairs)
        valid_parts.append(PhotoPairs(valid_photo_pairs, num_pairs=count, **photo_options))
    for part in train_parts + valid_parts:
        part.to(device)
    # Views are rendered in double precision, which not all devices have.
    on_gpu = torch.device(device).type == "cuda"
    train_pairs = LivePairs(train_parts, common["transform"], on_gpu) if data.live else _joined(train_parts)
    return train_pairs, _joined(valid_parts) if valid_parts else []


def _photo_pairs(
    config: TrainingConfig,
    images: Union[str, os.PathLike[str]],
    cache: Any,
    progress: bool,
    device: Union[torch.device, str],
) -> list[tuple[Path, Path]]:
    """Pairs of photos of the same scene, listed or found."""
    data = config.data
    if data.photo_pairs is not None:
        return read_pairs(data.photo_pairs, images)
    if not data.related:
        return []
    return related_photos(
        images,
        data.extractor,
        top_k=data.related,
        resize=max(data.size),
        seed=data.seed,
        cache=cache,
        extractor_options=data.extractor_options,
        progress=progress,
        device=device,
    )


def _joined(parts: "list[CachedPairs]") -> "CachedPairs | JoinedPairs":
    return parts[0] if len(parts) == 1 else JoinedPairs(parts)


class JoinedPairs(ConcatDataset[KeypointPair]):
    """The pairs of several datasets after each other; those without a homography get one of NaN."""

    datasets: list[CachedPairs]  # type: ignore[assignment]

    def __getitem__(self, index: int) -> KeypointPair:
        return with_homography(super().__getitem__(index))

    def render(self, index: int) -> Any:
        """The views of a warped pair, which come first, as images; see :meth:`SyntheticHomographies.render`."""
        first: Any = self.datasets[0]
        return first.render(index)

    @property
    def paths(self) -> list[Path]:
        """The photos of all parts."""
        return [path for part in self.datasets for path in part.paths]

    def prepare(self, progress: bool = False) -> int:
        """Fill the caches of all parts; returns the number of pairs that were made."""
        return sum(part.prepare(progress=progress) for part in self.datasets)
