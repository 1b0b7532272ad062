"""The pairs that a run trains and validates on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import torch
from torch.utils.data import ConcatDataset

from pyg_match.data import KeypointPair
from pyg_match.datasets.cached_pairs import CachedPairs
from pyg_match.datasets.sources import find_images
from pyg_match.training.config import TrainingConfig
from pyg_match.transforms import graph_from_recipe


def split_photos(photos: Sequence[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Photos for training and for validation, at least one each.

    Raises:
        ValueError: If there are fewer than two photos, or the share is not between 0 and 1.

    Example:
        >>> train, valid = split_photos([Path(str(i)) for i in range(10)], 0.2, seed=0)
        >>> len(train), len(valid)
        (8, 2)
    """
    if len(photos) < 2:
        raise ValueError(f"training needs at least 2 photos, one of them for validation, got {len(photos)}")
    if not 0 < share < 1:
        raise ValueError(f"'data.validation_photos' must be between 0 and 1, got {share}")
    count = min(max(round(len(photos) * share), 1), len(photos) - 1)
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = set(order[:count])
    chosen: tuple[list[Path], list[Path]] = ([], [])
    for index, photo in enumerate(photos):
        chosen[index in held_out].append(photo)
    return chosen


def make_datasets(
    config: TrainingConfig, images: Union[str, os.PathLike[str]], cache: Union[str, os.PathLike[str]]
) -> tuple[Any, Any]:
    """Pairs for training and validation from a folder of photos, with their edges; validation sees other photos.

    Pairs of photos (``data.photo_pairs``) follow those of warped photos; those that contain a photo which is held out
    for validation are left out.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are too few photos, or an argument of the warps or changes does not exist.
    """
    from pyg_match.datasets import PhotoPairs, SyntheticHomographies
    from pyg_match.datasets.homography_warps import HomographyWarps
    from pyg_match.datasets.photo_pairs import read_pairs
    from pyg_match.datasets.photometric import Photometric

    data = config.data
    try:
        settings: dict[str, Any] = {
            "warps": HomographyWarps(**data.warps),
            "photometric": Photometric(**data.photometric),
        }
        photo_warps = None if data.photo_warps is None else HomographyWarps(**data.photo_warps)
    except TypeError as error:
        raise ValueError(f"'data.warps', 'data.photo_warps' or 'data.photometric': {error}") from None
    settings |= {
        "max_num_keypoints": data.max_num_keypoints,
        "size": data.size,
        "repeats": data.repeats,
        "negative_threshold": data.negative_threshold,
        "cache": cache,
        "transform": graph_from_recipe(config.graph),
        "extractor_options": data.extractor_options,
    }
    photos = find_images(images)[0]
    train, valid = split_photos(photos, data.validation_photos, data.seed)
    warped, held_out = (
        SyntheticHomographies(
            train,
            data.extractor,
            num_pairs=data.num_pairs,
            seed=2 * data.seed,
            min_num_keypoints=data.min_num_keypoints,
            unrelated=data.unrelated,
            **settings,
        ),
        SyntheticHomographies(
            valid, data.extractor, num_pairs=data.validation_pairs, seed=2 * data.seed + 1, **settings
        ),
    )
    if data.photo_pairs is None:
        return warped, held_out
    pairs = [pair for pair in read_pairs(data.photo_pairs, images) if not set(pair) & set(valid)]
    photo_pairs = PhotoPairs(
        pairs,
        extractor=data.extractor,
        teacher=config.teacher or "",
        max_num_keypoints=data.max_num_keypoints,
        min_num_keypoints=data.min_num_keypoints,
        resize=max(data.size),
        warps=photo_warps,
        num_pairs=data.num_photo_pairs,
        seed=data.seed,
        cache=cache,
        transform=settings["transform"],
        extractor_options=data.extractor_options,
    )
    return JoinedPairs([warped, photo_pairs]), held_out


class JoinedPairs(ConcatDataset[KeypointPair]):
    """The pairs of several datasets after each other, without the homography that only some of them have."""

    datasets: list[CachedPairs]  # type: ignore[assignment]

    def __getitem__(self, index: int) -> KeypointPair:
        pair = super().__getitem__(index)
        if "homography" in pair:
            del pair.homography
        return pair

    @property
    def paths(self) -> list[Path]:
        """The photos of all parts."""
        return [path for part in self.datasets for path in part.paths]

    def prepare(self, progress: bool = False) -> int:
        """Fill the caches of all parts; returns the number of pairs that were made."""
        return sum(part.prepare(progress=progress) for part in self.datasets)
