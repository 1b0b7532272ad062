"""Edges between the most similar descriptors of two images."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from pyg_match.ops.csr import CSR
from pyg_match.ops.largest import LargestOfColumns, largest_indices
from pyg_match.ops.linear import similarities
from pyg_match.ops.undirected import undirected

_CHUNK_ELEMENTS = 1 << 21  # similarities held at once: 8 MiB in single precision, which caches have room for
_BATCH_ELEMENTS = 1 << 27  # the same on other devices, which take many pairs at a time


def candidate_edges(x: Tensor, ptr: Sequence[int], k: int, symmetric: bool = True) -> CSR:
    """Edges from the ``k`` most similar descriptors of the other image, by target.

    Args:
        x: Finite descriptors of images 0 and 1 of a pair after another, compared by their inner product.
        ptr: Where the descriptors of each image start, and their number at the end.
        k: See :class:`~pyg_match.transforms.CandidateEdges`.
        symmetric: See :class:`~pyg_match.transforms.CandidateEdges`.

    Shapes:
        - **x:** :math:`(N, D)`
    """
    if waits_for_counts(x.device):
        return _of_all_pairs(x, torch.tensor(ptr, device=x.device), _largest_image(ptr), k, symmetric)
    degrees, sources = [x.new_zeros(1, dtype=torch.long)], [x.new_empty(0, dtype=torch.long)]
    for first, second, end in zip(ptr[:-1:2], ptr[1::2], ptr[2::2], strict=True):
        of_first, of_second = _most_similar(x[first:second], x[second:end], k)
        for best, other in ((of_first, second), (of_second, first)):
            degrees.append(best.new_full((best.size(0),), best.size(1)))
            sources.append((best + other).reshape(-1))
    rowptr, col = torch.cat(degrees).cumsum(0), torch.cat(sources)
    return undirected(rowptr, col) if symmetric else CSR(rowptr, col)


def waits_for_counts(device: torch.device) -> bool:
    """Whether the host runs ahead of the device.

    A result of data-dependent size, as that of :func:`candidate_edges`, stops it, and a loop over pairs slows it down.
    """
    return device.type != "cpu"


@torch.no_grad()
def masked_candidate_edges(x: Tensor, offsets: Tensor, most: int, k: int) -> tuple[CSR, Tensor]:
    """The edges of :func:`candidate_edges` in both directions, in a fixed number of places.

    Each keypoint names ``k`` others, and is named by some; where two name each other, one of two equal edges is masked.
    So nothing has to be counted, and the device is not synchronised.

    Args:
        x: Finite descriptors of images 0 and 1 of a pair after another.
        offsets: Where the descriptors of each image start, and their number at the end.
        most: Upper bound of the number of descriptors of an image.
        k: Number of candidates.

    Shapes:
        - **x:** :math:`(N, D)`
        - **offsets:** :math:`(2B + 1)`
        - **output:** :math:`2 N k` edges, and which of them count, :math:`(2 N k)`
    """
    nodes = torch.arange(x.size(0), device=x.device)
    if x.size(0) == 0:
        return CSR(offsets[:1], nodes), nodes > 0
    best = _candidates(x, offsets, most, k)
    target = nodes.unsqueeze(1).expand_as(best)
    # An image with fewer keypoints names none in some places, which become edges from a keypoint to itself.
    source = torch.where(best >= 0, best, target)
    keys = torch.cat([target * x.size(0) + source, source * x.size(0) + target]).flatten().sort().values
    target, source = keys // x.size(0), keys % x.size(0)
    counts = target != source
    counts[1:] &= keys[1:] != keys[:-1]
    rowptr = torch.searchsorted(target, torch.arange(x.size(0) + 1, device=x.device))
    return CSR(rowptr, source), counts


def _of_all_pairs(x: Tensor, offsets: Tensor, most: int, k: int, symmetric: bool) -> CSR:
    """The edges of :func:`candidate_edges` without a loop over pairs."""
    if symmetric:
        edges, counts = masked_candidate_edges(x, offsets, most, k)
        return edges.subset(counts)
    if x.size(0) == 0:
        return CSR(offsets[:1], offsets[:0])
    best = _candidates(x, offsets, most, k)
    real = best >= 0
    return CSR(torch.cat([offsets[:1], real.sum(1).cumsum(0)]), best[real])


@torch.no_grad()
def _candidates(x: Tensor, offsets: Tensor, most: int, k: int) -> Tensor:
    """The most similar nodes of the other image for each node, -1 where it has fewer than ``k``, :math:`(N, k)`."""
    nodes = torch.arange(x.size(0), device=x.device)
    image = torch.searchsorted(offsets[1:], nodes, right=True)
    place = _best_of_images(x, offsets, most, min(k, most))[image * most + nodes - offsets[image]]
    return torch.where(place >= 0, place + offsets[image ^ 1].unsqueeze(1), -1)


def _best_of_images(x: Tensor, offsets: Tensor, most: int, k: int) -> Tensor:
    """The places of the most similar descriptors within the other image, -1 where it has fewer, ``[2 B most, k]``."""
    place = torch.arange(most, device=x.device)
    here = place < offsets.diff().unsqueeze(1)
    rows = (offsets[:-1].unsqueeze(1) + place).clamp(max=x.size(0) - 1)
    found = []
    chunk = 2 * max(1, _BATCH_ELEMENTS // max(1, most * most))
    for images, real in zip(rows.split(chunk), here.split(chunk), strict=True):
        padded = x[images].to(torch.promote_types(x.dtype, torch.float))
        with torch.autocast(x.device.type, enabled=False):
            similarity = padded[::2] @ padded[1::2].transpose(1, 2)
        seen = real[::2].unsqueeze(2) & real[1::2].unsqueeze(1)
        similarity.masked_fill_(~seen, -torch.inf)
        # topk reads numbers that lie side by side.
        sides = (similarity, similarity.transpose(1, 2).contiguous())
        both = torch.stack([side.topk(k, 2).indices for side in sides], dim=1)
        other = real.view(-1, 2, most).flip(1)
        found.append(torch.where(other.gather(2, both.flatten(2)).view(both.shape), both, -1).flatten(0, 2))
    return torch.cat(found)


@torch.no_grad()  # with gradients switched on, too, sums are rounded as without, so that edges are the same
def _most_similar(x0: Tensor, x1: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each descriptor the indices of its most similar ones in the other image, at most ``k``."""
    # Half precision would round products to many equal ones, or to infinity.
    x0, x1 = (x.to(torch.promote_types(x.dtype, torch.float)) for x in (x0, x1))
    k0, k1 = min(k, x1.size(0)), min(k, x0.size(0))
    step = max(1, _CHUNK_ELEMENTS // max(1, x1.size(0)))
    step = 1 << (step.bit_length() - 1)  # few numbers of rows, see pyg_match.ops.linear
    rows, columns = [torch.empty(0, k0, dtype=torch.long, device=x0.device)], LargestOfColumns(x1.size(0), k1)
    for chunk in x0.split(step):
        with torch.autocast(x0.device.type, enabled=False):  # under which many would be as similar
            similarity = similarities(chunk, x1)
        rows.append(largest_indices(similarity, k0))
        columns.add(similarity)
    return torch.cat(rows), columns.indices()


def redrawn_edges(
    x: Tensor, ptr: Sequence[int], offsets: Tensor, k: int, may_mask: bool
) -> tuple[CSR, Optional[Tensor]]:
    """Edges to candidates in both directions within a forward, and which of them count; ``None`` for all.

    Args:
        x: Finite descriptors of images 0 and 1 of a pair after another.
        ptr: Where the descriptors of each image start, and their number at the end.
        offsets: The same numbers on the device.
        k: Number of candidates.
        may_mask: Whether masked edges are as good as absent.

    Shapes:
        - **x:** :math:`(N, D)`
        - **offsets:** :math:`(2B + 1)`
    """
    if not (may_mask and waits_for_counts(x.device)):
        return candidate_edges(x, ptr, k), None
    return masked_candidate_edges(x, offsets, _largest_image(ptr), k)


def _largest_image(ptr: Sequence[int]) -> int:
    return max((stop - start for start, stop in zip(ptr, ptr[1:], strict=False)), default=0)
