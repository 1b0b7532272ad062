"""Keypoints that look alike within one image."""

from collections.abc import Iterator
from typing import Optional, Union

import torch
from torch import Tensor

from pyg_match.checks import check_points, real_number
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.data.checks import check_counts, check_nodes

Descriptors = Union[Tensor, KeypointSet, KeypointPair]

# Similarities that are in memory at a time.
_CHUNK = 1 << 22


def repetition_score(
    x: Descriptors,
    similarity: float = 0.75,
    min_distance: float = 16.0,
    pos: Optional[Tensor] = None,
) -> Tensor:
    r"""How many other keypoints of the same image have almost the same descriptor.

    .. math::
        r_i = \left| \left\{ j \neq i : \cos(\mathbf{x}_i, \mathbf{x}_j) \geq s, \;
        \lVert \mathbf{p}_i - \mathbf{p}_j \rVert \geq d \right\} \right|

    Args:
        x: Descriptors of one image; or a :class:`~pyg_match.data.KeypointSet`; or a pair or batch of pairs, whose
            images are looked at apart.
        similarity: The least cosine :math:`s` of descriptors that count as the same. The default suits ALIKED, whose
            copies of one window reach 0.75 to 0.9; SIFT's descriptors, which are never negative, need about 0.9.
        min_distance: The least distance :math:`d` in pixels of keypoints that count as different places. Only where
            positions are known.
        pos: Positions in pixels, if ``x`` is a tensor.

    Shapes:
        - **x:** :math:`(N, D)`
        - **output:** :math:`(N)`, whole numbers

    Raises:
        ValueError: If a shape or argument does not fit.

    Example:
        >>> repetition_score(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
        tensor([1, 1, 0])
    """
    parts = [_num_alike(*image, similarity, min_distance) for image in _images(x, pos)]
    return torch.cat(parts)


def repeated_groups(
    x: Descriptors,
    similarity: float = 0.75,
    min_distance: float = 16.0,
    min_size: int = 3,
    pos: Optional[Tensor] = None,
) -> Tensor:
    r"""Group the keypoints of repeated structures.

    The keypoint with the highest :func:`repetition_score` leads a group of all that it looks like; of the remaining
    ones the next leads the next group, and so on. Groups of at least ``min_size`` keypoints stay. Every member looks
    like its leader, so that chains of pairwise similar keypoints do not run together.

    Args:
        x: See :func:`repetition_score`.
        similarity: See :func:`repetition_score`.
        min_distance: See :func:`repetition_score`.
        min_size: Smallest number of keypoints in a group, at least 2.
        pos: See :func:`repetition_score`.

    Shapes:
        - **x:** :math:`(N, D)`
        - **output:** number of the group of each keypoint, :math:`(N)`, the largest group of an image first, and -1
          for keypoints that are not repeated. Groups of different images have different numbers.

    Raises:
        ValueError: If a shape or argument does not fit.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.0]])
        >>> repeated_groups(x)
        tensor([ 0, -1,  0,  0])
    """
    if min_size < 2:
        raise ValueError(f"'min_size' must be at least 2, got {min_size}")
    parts: list[Tensor] = []
    first = 0
    for descriptors, positions in _images(x, pos):
        groups = _by_size(_leaders(descriptors, positions, similarity, min_distance, min_size))
        parts.append(torch.where(groups >= 0, groups + first, -1))
        first += int(groups.max()) + 1 if groups.numel() > 0 else 0
    return torch.cat(parts)


def _images(x: Descriptors, pos: Optional[Tensor]) -> list[tuple[Tensor, Optional[Tensor]]]:
    """Descriptors and positions of each image."""
    if isinstance(x, KeypointPair):
        check_nodes(x, ())
        check_counts(x.get("num_keypoints"), x.x.size(0))
        counts = x.num_keypoints.flatten().tolist()
        return list(zip(x.x.split(counts), x.pos.split(counts), strict=True))
    if isinstance(x, KeypointSet):
        check_nodes(x, ())
        return [(x.x, x.pos)]
    if not isinstance(x, Tensor) or x.dim() != 2:
        seen = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"'x' must be descriptors [N, D], a KeypointSet or a KeypointPair, got {seen}")
    check_points("x", x)
    if pos is not None and check_points("pos", pos).shape != (x.size(0), 2):
        raise ValueError(f"'pos' must have shape [{x.size(0)}, 2], got {list(pos.shape)}")
    return [(x, pos)]


def _alike(
    x: Tensor,
    pos: Optional[Tensor],
    similarity: float,
    min_distance: float,
    chosen: Optional[list[int]] = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each chunk of the chosen keypoints their numbers, and which keypoints elsewhere look like them."""
    if not -1 <= similarity <= 1:
        raise ValueError(f"'similarity' must be a cosine, from -1 to 1, got {similarity}")
    min_distance = real_number("min_distance", min_distance)
    nodes = torch.arange(len(x), device=x.device) if chosen is None else torch.tensor(chosen, device=x.device)
    x = x.detach().to(torch.promote_types(x.dtype, torch.float))
    length = x.norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    for own in nodes.split(max(1, _CHUNK // max(len(x), 1))):
        with torch.autocast(x.device.type, enabled=False):  # which would round similarities
            product = x[own] @ x.t()
        alike = product >= similarity * length[own, None] * length
        alike.scatter_(1, own[:, None], False)
        if pos is not None and min_distance > 0:
            alike &= torch.cdist(pos[own].double(), pos.double()) >= min_distance
        yield own, alike


def _num_alike(x: Tensor, pos: Optional[Tensor], similarity: float, min_distance: float) -> Tensor:
    return torch.cat([alike.sum(1) for _, alike in _alike(x, pos, similarity, min_distance)])


def _leaders(
    x: Tensor, pos: Optional[Tensor], similarity: float, min_distance: float, min_size: int
) -> Tensor:
    """The leader of each keypoint's group, -1 for none."""
    score = _num_alike(x, pos, similarity, min_distance)
    leaders = torch.full_like(score, -1)
    for leader in score.argsort(descending=True, stable=True)[: int((score >= min_size - 1).sum())].tolist():
        if leaders[leader] >= 0:
            continue
        _, alike = next(_alike(x, pos, similarity, min_distance, [leader]))
        members = alike[0] & (leaders < 0)
        members[leader] = True
        if int(members.sum()) >= min_size:
            leaders[members] = leader
    return leaders


def _by_size(leaders: Tensor) -> Tensor:
    """Number the groups by descending size."""
    member = leaders >= 0
    _, group, size = leaders[member].unique(return_inverse=True, return_counts=True)
    rank = torch.empty_like(size)
    rank[size.argsort(descending=True, stable=True)] = torch.arange(len(size), device=size.device)
    return leaders.masked_scatter(member, rank[group])
