"""Images that may show the same thing, by an aggregate of their local descriptors."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pyg_match.checks import usable_device, whole_number

_SAMPLE = 200_000  # descriptors that words are learned from
_MOST_IMAGES = 2000  # that they are taken from
_CHUNK = 1 << 26  # similarities that are held at once
_WIDENED = 4096  # vectors that are held in single precision at once


def similar_images(
    read: Callable[[int], Tensor],
    num_images: int,
    top_k: int,
    num_words: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[tuple[int, int]]:
    """Pair each image with the ones that are most similar as a whole.

    An image is described by a VLAD vector of its local descriptors, normalized within each word, from `"All about VLAD"
    <https://doi.org/10.1109/CVPR.2013.207>`_. The vectors of all images are kept in memory in half precision, 16 KiB an
    image for descriptors of 128 numbers. An image without keypoints is chosen last, and chooses none.

    Args:
        read: Gives the descriptors of an image, :math:`(N, D)`.
        num_images: Number of images, at least two.
        top_k: How many images each image is paired with; a pair that both choose is one pair.
        num_words: Number of words, which k-means learns from the images themselves.
        seed: Seed of the words.
        device: Where images are compared.

    Returns:
        Each pair once, the lower number first, in order.

    Raises:
        ValueError: If an argument is out of range.
        ModuleNotFoundError: If scikit-learn is missing.

    Example:
        >>> one, other = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0))
        >>> images = [one, other, one + 0.01, other + 0.01]
        >>> similar_images(images.__getitem__, len(images), top_k=1, num_words=4)
        [(0, 2), (1, 3)]
    """
    num_images = whole_number("num_images", num_images, least=2)
    top_k, num_words = whole_number("top_k", top_k), whole_number("num_words", num_words)
    seed, device = whole_number("seed", seed, least=0), usable_device(device)

    def descriptors(image: int) -> Tensor:
        return read(image).detach().cpu().float()

    words = _learn_words(descriptors, num_images, num_words, seed)
    with torch.autocast(device.type, enabled=False):  # an autocast of the caller would round similarities
        vectors = torch.stack([vlad(descriptors(image), words).half() for image in range(num_images)])
        best = _most_similar(vectors.to(device), min(top_k, num_images - 1))
        return sorted(
            {(min(row, column), max(row, column)) for row, columns in enumerate(best) for column in columns}
        )


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


def _most_similar(vectors: Tensor, k: int) -> Iterator[list[int]]:
    """For each image the ones with the most similar vectors, none for one without keypoints."""
    index = torch.arange(len(vectors), device=vectors.device)
    blank = ~vectors.any(dim=1)
    for rows in index.split(max(1, _CHUNK // len(vectors))):
        similarity = torch.cat(
            [vectors[rows].float() @ some.float().T for some in vectors.split(_WIDENED)], dim=1
        )
        # Less than of any other, as 0 is more than of most images that show different things.
        similarity[:, blank] = -2.0
        similarity[rows - rows[0], rows] = -torch.inf
        best = similarity.topk(k, dim=1).indices.tolist()
        yield from ([] if alone else chosen for alone, chosen in zip(blank[rows].tolist(), best, strict=True))


def _learn_words(read: Callable[[int], Tensor], num_images: int, num_words: int, seed: int) -> Tensor:
    """Words by k-means of a sample of descriptors, as many of each of some images."""
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    images = generator.permutation(num_images)[:_MOST_IMAGES]
    share = -(-_SAMPLE // len(images))
    sample = []
    for image in images.tolist():
        descriptors = read(image).numpy()
        sample.append(descriptors[generator.permutation(len(descriptors))[:share]])
    descriptors = np.concatenate(sample)
    if len(descriptors) < num_words:
        raise ValueError(f"'num_words' must be at most the {len(descriptors)} descriptors, got {num_words}")
    kmeans = MiniBatchKMeans(num_words, random_state=seed % (1 << 32), batch_size=4096, n_init=3).fit(
        descriptors
    )
    return torch.from_numpy(np.asarray(kmeans.cluster_centers_, dtype=np.float32))
