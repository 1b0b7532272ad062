"""Images of a collection that may show the same thing."""

from collections.abc import Iterator

import torch

from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.pair_lists import Pair
from pyg_match.retrieval import similar_images

_WORDS, _KEYPOINTS_OF_A_WORD = 64, 16  # at most, and at least


def retrieval_pairs(
    features: FeatureFile,
    top_k: int = 20,
    num_words: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Pair]:
    """Pair each image with the ones that are most similar as a whole, by VLAD vectors of their local descriptors;
    see :func:`pyg_match.retrieval.similar_images`.

    Args:
        features: The features of the collection.
        top_k: How many images each image is paired with; a pair that both choose is one pair.
        num_words: Number of words, which k-means learns from the collection itself; by default 64, or a sixteenth of
            the keypoints if there are fewer.
        seed: Seed of the words.
        device: Where images are compared.

    Yields:
        Each pair once, the name that comes first in the alphabet first.

    Raises:
        ValueError: If there are fewer than two images, or an argument is out of range.
        ModuleNotFoundError: If scikit-learn is missing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from pyg_match.collections import open_features
        >>> arrays = {
        ...     "keypoints": np.zeros((3, 2)),
        ...     "descriptors": np.random.default_rng(0).random((3, 8)),
        ...     "image_size": np.array([64, 48]),
        ... }
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.jpg", "b.jpg"):
        ...         np.savez(f"{folder}/{name}.npz", **arrays)
        ...     with open_features(folder) as features:
        ...         list(retrieval_pairs(features, top_k=1, num_words=2))
        [('a.jpg', 'b.jpg')]
    """
    names = features.names()
    if len(names) < 2:
        raise ValueError(f"retrieval needs at least two images, {features.path} has {len(names)}")

    def read(image: int) -> torch.Tensor:
        return features.read(names[image]).x

    if num_words is None:
        count = sum(features.num_keypoints(name) or 0 for name in names)
        if count == 0:
            return
        num_words = min(_WORDS, max(1, count // _KEYPOINTS_OF_A_WORD))
    for first, second in similar_images(read, len(names), top_k, num_words, seed, device):
        yield names[first], names[second]
