"""Matching the pairs of a shard in packed batches."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_match.collections.image_graphs import ImageGraphs
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher


@dataclass(frozen=True)
class PairMatches:
    r"""Matches of several pairs, one after the other.

    Attributes:
        pairs: Numbers of the images of each pair.
        num_keypoints0: Number of keypoints of image 0 of each pair.
        counts: Number of matches of each pair.
        matches: Indices of keypoints of image 0 and 1 of each match.
        scores: Probability of each match.

    Shapes:
        - **pairs:** :math:`(P, 2)`
        - **num_keypoints0**, **counts:** :math:`(P)`
        - **matches:** :math:`(M, 2)`
        - **scores:** :math:`(M)`
    """

    pairs: np.ndarray
    num_keypoints0: np.ndarray
    counts: np.ndarray
    matches: np.ndarray
    scores: np.ndarray


@torch.inference_mode()
def match_images(
    matcher: GraphMatcher,
    sets: list[KeypointSet],
    pairs: np.ndarray,
    transform: Callable[[KeypointPair], KeypointPair] | None = None,
    batch_keypoints: int = 4096,
    threads: int = 1,
) -> PairMatches:
    """Match pairs of images, as many at once as have a number of keypoints in all.

    Args:
        matcher: The matcher.
        sets: Keypoints of the images.
        pairs: Numbers of the images of each pair.
        transform: The graph of a pair; ``None`` for the complete one.
        batch_keypoints: Most keypoints of a batch that is more than one pair.
        threads: Batches that are matched at the same time. Inside :func:`one_core_each` each takes one core, which is
            faster on a CPU than all cores for one batch, and gives the same numbers with any number of them.

    Shapes:
        - **pairs:** :math:`(P, 2)`
    """
    images = ImageGraphs(sets, transform, next(matcher.parameters()).device)
    numbers = torch.from_numpy(pairs.astype(np.int64))

    @torch.inference_mode()
    def first_step(bounds: tuple[int, int]) -> Tensor | None:
        return matcher.self_step(images.images(images.all_pairs_once[slice(*bounds)]))

    @torch.inference_mode()
    def match_batch(bounds: tuple[int, int]) -> list[np.ndarray]:
        pair = images.batch(numbers[slice(*bounds)])
        return [value.cpu().numpy() for value in _matches(pair, matcher(pair))]

    with ThreadPoolExecutor(threads) as pool:
        if images.edges_within_are_drawn:
            steps = pool.map(first_step, images.batches(images.all_pairs_once, batch_keypoints))
            stepped = [x for x in steps if x is not None]
            if stepped:
                images.set_self_step(torch.cat(stepped))
        batches = images.batches(numbers, batch_keypoints)
        counts, matches, scores = zip(*pool.map(match_batch, batches), strict=True)
    return PairMatches(
        pairs=pairs.astype(np.int32),
        num_keypoints0=images.counts.numpy()[pairs[:, 0]].astype(np.int32),
        counts=np.concatenate(counts).astype(np.int32),
        matches=np.concatenate(matches).astype(np.int16),
        scores=np.concatenate(scores).astype(np.float16),
    )


@contextmanager
def one_core_each() -> Iterator[int]:
    """Let torch compute on one core in each thread, and give the number of cores that it had before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _matches(pair: KeypointPair, output: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Number of matches of each pair, all matches and their scores."""
    counts = output.num_keypoints.flatten()
    image = pair.image_batch
    matched = ((image % 2 == 0) & (output.matches >= 0)).nonzero().squeeze(1)
    start = (counts.cumsum(0) - counts)[image[matched]]
    of_pair = torch.bincount(image[matched] // 2, minlength=output.num_keypoints.size(0))
    return of_pair, torch.stack([matched - start, output.matches[matched]], dim=1), output.scores[matched]
