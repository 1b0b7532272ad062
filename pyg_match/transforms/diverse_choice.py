"""The compiled part of :class:`~pyg_match.transforms.DiverseKNN`; importing it imports numba."""

import numpy as np
from numba import njit

# Sums may be reordered, so that dot products use vector instructions.
_FAST = {"reassoc", "contract", "nsz"}


@njit(nogil=True, fastmath=_FAST, error_model="numpy")
def choose(
    pos: np.ndarray,
    descriptors: np.ndarray,
    candidates: np.ndarray,
    k: int,
    distance_weight: float,
    orthogonality_weight: float,
    first: int,
    chosen: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Choose ``k`` candidates of each of the rows from ``start`` to ``stop``, one after the other.

    Args:
        pos: Positions, ``[N, F]``, in double precision.
        descriptors: Unit vectors, ``[N, D]``; with ``D = 0`` directions are compared instead.
        candidates: The pool of each row, the nearest first, ``[M, P]``.
        k: Number to choose, at most ``P``.
        distance_weight: Of the distance relative to the farthest candidate's.
        orthogonality_weight: Of the worst absolute cosine with those chosen so far.
        first: The node of row 0.
        chosen: All ``False``; becomes ``True`` at the chosen candidates, ``[M, P]``.
        start: First row.
        stop: Row after the last.
    """
    size, dimensions = candidates.shape[1], pos.shape[1]
    directions = descriptors.shape[1] == 0
    width = dimensions if directions else descriptors.shape[1]
    zero = descriptors.dtype.type(0)
    weight = descriptors.dtype.type(orthogonality_weight)
    vectors = np.empty((size, width), descriptors.dtype)  # side by side, so that they stay in cache
    cost = np.empty(size, descriptors.dtype)
    worst = np.empty(size, descriptors.dtype)
    distance = np.empty(size)
    rest = np.empty(size + 3, np.int64)  # the candidates left, and room to fill up a block of four
    for i in range(start, stop):
        reach = 0.0
        for j in range(size):
            node = candidates[i, j]
            square = 0.0
            for column in range(dimensions):
                square += (pos[node, column] - pos[first + i, column]) ** 2
            # Never falls along the pool, whatever rounding does, so that without cosines the nearest are chosen.
            reach = max(reach, np.sqrt(square))
            distance[j] = reach
            if directions:
                length = np.sqrt(square) if square > 0 else 1.0
                for column in range(dimensions):
                    vectors[j, column] = (pos[node, column] - pos[first + i, column]) / length
            else:
                for column in range(width):
                    vectors[j, column] = descriptors[node, column]
        scale = distance_weight / reach if reach > 0 else 0.0
        for j in range(size):
            cost[j] = scale * distance[j]
            worst[j] = zero
            rest[j] = j
        left = size
        for _ in range(k):
            # Only a lower cost is better: among equals the first, which is the nearest, is chosen.
            best, lowest = 0, cost[rest[0]] + weight * worst[rest[0]]
            for place in range(1, left):
                own = cost[rest[place]] + weight * worst[rest[place]]
                if own < lowest:
                    best, lowest = place, own
            new = rest[best]
            chosen[i, new] = True
            left -= 1
            for place in range(best, left):
                rest[place] = rest[place + 1]
            for place in range(left, left + 3):
                rest[place] = rest[0]
            for place in range(0, left, 4):
                a, b, c, d = rest[place], rest[place + 1], rest[place + 2], rest[place + 3]
                with_a, with_b, with_c, with_d = zero, zero, zero, zero
                for channel in range(width):
                    value = vectors[new, channel]
                    with_a += value * vectors[a, channel]
                    with_b += value * vectors[b, channel]
                    with_c += value * vectors[c, channel]
                    with_d += value * vectors[d, channel]
                worst[a] = max(worst[a], abs(with_a))
                worst[b] = max(worst[b], abs(with_b))
                worst[c] = max(worst[c], abs(with_c))
                worst[d] = max(worst[d], abs(with_d))
