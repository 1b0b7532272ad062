"""Images that may show the same thing, by an aggregate of their local descriptors."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyg_match.checks import whole_number
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.pair_lists import Pair

_SAMPLE = 200_000  # descriptors that words are learned from
_CHUNK = 1 << 26  # similarities that are held at once


def retrieval_pairs(
    features: FeatureFile,
    top_k: int = 20,
    num_words: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Pair]:
    """Pair each image with the ones that are most similar as a whole.

    An image is described by a VLAD vector of its local descriptors, normalized within each word, from `"All about VLAD"
    <https://doi.org/10.1109/CVPR.2013.207>`_. The vectors of all images are kept in memory in half precision, 16 KiB an
    image for descriptors of 128 numbers.

    Args:
        features: The features of the collection.
        top_k: How many images each image is paired with; a pair that both choose is one pair.
        num_words: Number of words, which k-means learns from the collection itself.
        seed: Seed of the words.
        device: Where images are compared.

    Yields:
        Each pair once, the name that comes first in the alphabet first.

    Raises:
        ValueError: If there are fewer than two images, or an argument is out of range.
        ModuleNotFoundError: If scikit-learn is missing.
    """
    top_k = whole_number("top_k", top_k)
    names = features.names()
    if len(names) < 2:
        raise ValueError(f"retrieval needs at least two images, {features.path} has {len(names)}")
    words = torch.from_numpy(_learn_words(features, names, whole_number("num_words", num_words), seed))
    vectors = torch.stack([vlad(features.read(name).x, words).half() for name in names]).to(device)
    best = _most_similar(vectors, min(top_k, len(names) - 1))
    chosen = {(min(row, column), max(row, column)) for row, columns in enumerate(best) for column in columns}
    for first, second in sorted(chosen):
        yield names[first], names[second]


def _most_similar(vectors: Tensor, k: int) -> Iterator[list[int]]:
    """For each image the ones with the most similar vectors."""
    index = torch.arange(len(vectors), device=vectors.device)
    for rows in index.split(_CHUNK):
        similarity = torch.cat(
            [vectors[rows].float() @ some.float().T for some in vectors.split(_CHUNK)], dim=1
        )
        similarity[rows - rows[0], rows] = -torch.inf
        yield from similarity.topk(k, dim=1).indices.tolist()


def vlad(descriptors: Tensor, words: Tensor) -> Tensor:
    r"""The sum of differences of descriptors to the word next to each, normalized within words and as a whole.

    Shapes:
        - **descriptors:** :math:`(N, D)`
        - **words:** :math:`(W, D)`
        - **output:** :math:`(W \cdot D)`, of length 1, or 0 for an image without keypoints

    Example:
        >>> vlad(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.0, 0.5]])).tolist()
        [0.7071067690849304, 0.0, 0.0, 0.7071067690849304]
    """
    word = torch.cdist(descriptors, words).argmin(dim=1)
    sums = torch.zeros_like(words).index_add_(0, word, descriptors - words[word])
    return torch.nn.functional.normalize(torch.nn.functional.normalize(sums, dim=1).flatten(), dim=0)


def _learn_words(features: FeatureFile, names: list[str], num_words: int, seed: int) -> np.ndarray:
    """Words by k-means of a sample of descriptors, as many of each of some images."""
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    images = generator.permutation(len(names))[:2000]
    share = -(-_SAMPLE // len(images))
    sample = []
    for image in images.tolist():
        descriptors = features.read(names[image]).x.numpy()
        sample.append(descriptors[generator.permutation(len(descriptors))[:share]])
    descriptors = np.concatenate(sample)
    if len(descriptors) < num_words:
        raise ValueError(f"'num_words' must be at most the {len(descriptors)} descriptors, got {num_words}")
    kmeans = MiniBatchKMeans(num_words, random_state=seed, batch_size=4096, n_init=3).fit(descriptors)
    return np.asarray(kmeans.cluster_centers_, dtype=np.float32)
