"""The compiled part of :class:`~pyg_match.transforms.DiverseKNN`; importing it imports numba.

Comparing descriptors takes nearly all of the time, so it is put off: the worst cosine of a candidate with some of
those chosen is a lower bound of its worst with all of them. A candidate whose cost is too high already by this bound
is not looked at, nor is anybody whose distance alone costs too much. The choice is that of comparing everything.

All arrays are flat, and all indices unsigned: for a view or a signed index numba would count references and mind
negative values in the innermost loop, which then is not vectorised.
"""

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"reassoc", "contract", "nsz"},  # sums may be reordered, so that they use vector instructions
    "error_model": "numpy",
}
U0, U1, U2, U3, U4 = (np.uint64(i) for i in range(5))


@njit(**_OPTIONS)
def choose(
    pos: np.ndarray,
    dimensions: Any,
    descriptors: np.ndarray,
    channels: Any,
    candidates: np.ndarray,
    size: Any,
    k: Any,
    distance_weight: float,
    orthogonality_weight: float,
    first: Any,
    chosen: np.ndarray,
    start: Any,
    stop: Any,
) -> None:
    """Choose ``k`` candidates of each of the rows from ``start`` to ``stop``, one after the other.

    Args:
        pos: Positions in double precision, flat, ``dimensions`` of each node.
        dimensions: Number of coordinates.
        descriptors: Unit vectors, flat, ``channels`` of each node; with none, directions are compared instead.
        channels: Width of the descriptors.
        candidates: The pool of each row, the nearest first, flat, ``size`` of each row.
        size: Number of candidates of a row.
        k: Number to choose, at most ``size``.
        distance_weight: Of the distance relative to the farthest candidate's.
        orthogonality_weight: Of the worst absolute cosine with those chosen so far.
        first: The node of row 0.
        chosen: All ``False``; becomes ``True`` at the chosen candidates, flat, ``size`` of each row.
        start: First row.
        stop: Row after the last.
    """
    real = descriptors.dtype.type
    weight = real(orthogonality_weight)
    distance = np.empty(size, np.float64)
    near = np.empty(size, descriptors.dtype)  # what the distance costs; never falls along the pool
    worst = np.empty(size + U3, descriptors.dtype)  # absolute cosine with those chosen that were looked at
    fours = (size + U3) // U4
    known = np.empty(fours, np.uint64)  # how many these are, the same for four candidates in a row
    order = np.empty(k, np.uint64)  # where the vectors of those chosen start
    vectors = np.empty(U4 * fours * channels, descriptors.dtype)  # side by side, so that they stay in cache
    offsets = np.empty(size * dimensions, np.float64)  # one coordinate of all candidates after the other
    directions = np.empty(size * dimensions, descriptors.dtype)
    cosine = np.empty(size, descriptors.dtype)
    for row in range(start, stop):
        pool, node = row * size, (first + row) * dimensions
        reach = 0.0
        for j in range(size):
            there, square = candidates[pool + j] * dimensions, 0.0
            for column in range(dimensions):
                offset = pos[there + column] - pos[node + column]
                offsets[column * size + j] = offset
                square += offset**2
            # Never falls along the pool, whatever rounding does, so that without cosines the nearest are chosen.
            reach = max(reach, np.sqrt(square))
            distance[j] = reach
            if channels == U0:
                length = np.sqrt(square) if square > 0 else 1.0
                for column in range(dimensions):
                    directions[column * size + j] = offsets[column * size + j] / length
        scale = distance_weight / reach if reach > 0 else 0.0
        for j in range(size):
            near[j], worst[j] = scale * distance[j], real(0)
        if channels == U0:
            _choose_directions(directions, dimensions, near, weight, worst, cosine, size, k, chosen, pool)
        else:
            for four in range(fours):
                known[four] = U0
            _choose_descriptors(
                descriptors,
                channels,
                candidates,
                near,
                weight,
                worst,
                known,
                order,
                vectors,
                size,
                k,
                chosen,
                pool,
            )


@njit(**_OPTIONS)
def _choose_directions(
    vectors: Any, dimensions: Any, near: Any, weight: Any, worst: Any, cosine: Any, size: Any, k: Any, chosen: Any,
    pool: Any,
) -> None:  # fmt: skip
    """Vectors are short, so each one chosen is compared with all candidates, whose coordinates lie side by side."""
    for _ in range(k):
        best, lowest = size, weight
        for j in range(size):
            # Only a lower cost is better: among equals the first, which is the nearest, is chosen.
            if best < size and near[j] >= lowest:
                break
            cost = near[j] + weight * worst[j]
            if (best == size or cost < lowest) and not chosen[pool + j]:
                best, lowest = j, cost
        chosen[pool + best] = True
        for j in range(size):
            cosine[j] = vectors[best] * vectors[j]
        for column in range(U1, dimensions):
            own = vectors[column * size + best]
            for j in range(size):
                cosine[j] += own * vectors[column * size + j]
        for j in range(size):
            worst[j] = max(worst[j], abs(cosine[j]))


@njit(**_OPTIONS)
def _choose_descriptors(
    descriptors: Any, width: Any, candidates: Any, near: Any, weight: Any, worst: Any, known: Any, order: Any,
    vectors: Any, size: Any, k: Any, chosen: Any, pool: Any,
) -> None:  # fmt: skip
    """Four candidates in a row are compared with all of those chosen as soon as one of the four may be the best."""
    zero = weight - weight
    for count in range(k):
        best, lowest = size, weight
        for j in range(size):
            # Only a lower cost is better: among equals the first, which is the nearest, is chosen.
            if best < size and near[j] >= lowest:
                break
            cost = near[j] + weight * worst[j]
            if chosen[pool + j] or (best < size and cost >= lowest):
                continue
            four = j // U4
            if known[four] < count:
                a = U4 * four * width
                b, c, d = a + width, a + U2 * width, a + U3 * width
                if known[four] == U0:  # after the first choice this holds the first candidate, too
                    for place in range(U4):
                        node = candidates[pool + min(U4 * four + place, size - U1)] * width
                        for channel in range(width):
                            vectors[a + place * width + channel] = descriptors[node + channel]
                for step in range(known[four], count):
                    new = order[step]
                    with_a, with_b, with_c, with_d = zero, zero, zero, zero
                    for channel in range(width):
                        value = vectors[new + channel]
                        with_a += value * vectors[a + channel]
                        with_b += value * vectors[b + channel]
                        with_c += value * vectors[c + channel]
                        with_d += value * vectors[d + channel]
                    worst[U4 * four] = max(worst[U4 * four], abs(with_a))
                    worst[U4 * four + U1] = max(worst[U4 * four + U1], abs(with_b))
                    worst[U4 * four + U2] = max(worst[U4 * four + U2], abs(with_c))
                    worst[U4 * four + U3] = max(worst[U4 * four + U3], abs(with_d))
                known[four] = count
                cost = near[j] + weight * worst[j]
            if best == size or cost < lowest:
                best, lowest = j, cost
        chosen[pool + best] = True
        order[count] = best * width
