"""The compiled part of :class:`~pyg_match.transforms.DiverseKNN`; importing it imports numba."""

import numpy as np
from numba import njit

# Sums may be reordered, so that dot products use vector instructions.
_FAST = {"reassoc", "contract", "nsz"}


@njit(nogil=True, fastmath=_FAST, error_model="numpy")
def choose(
    cost: np.ndarray,
    vectors: np.ndarray,
    candidates: np.ndarray,
    k: int,
    weight: float,
    chosen: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Choose ``k`` candidates of each of the rows from ``start`` to ``stop``, one after the other.

    Args:
        cost: The part of the cost that does not depend on the choice, ``[M, P]``.
        vectors: Unit vectors, ``[R, D]``.
        candidates: The number of each candidate's vector, ``[M, P]``.
        k: Number to choose, at most ``P``.
        weight: Of the worst absolute cosine with those chosen so far; of the type of ``cost``.
        chosen: All ``False``; becomes ``True`` at the chosen candidates, ``[M, P]``.
        start: First row.
        stop: Row after the last.
    """
    size, width = candidates.shape[1], vectors.shape[1]
    worst = np.empty(size, cost.dtype)
    for i in range(start, stop):
        worst[:] = 0
        for step in range(k):
            best, lowest = -1, cost[i, 0]
            for j in range(size):
                # Only a lower cost is better: among equals the first, which is the nearest, is chosen.
                if not chosen[i, j]:
                    own = cost[i, j] + weight * worst[j]
                    if best < 0 or own < lowest:
                        best, lowest = j, own
            chosen[i, best] = True
            if step + 1 == k:
                break
            new = candidates[i, best]
            for j in range(size):
                if not chosen[i, j]:
                    other = candidates[i, j]
                    cosine = worst.dtype.type(0)
                    for channel in range(width):
                        cosine += vectors[new, channel] * vectors[other, channel]
                    worst[j] = max(worst[j], abs(cosine))
