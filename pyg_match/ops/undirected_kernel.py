"""The kernel of :func:`~pyg_match.ops.undirected.undirected`, compiled by numba when first used.

Going through nodes in order and writing each to the rows of its neighbours leaves all rows sorted, so that nothing has
to be compared. A neighbour is marked when it is met, so that it counts once: there are two lists of them, those that a
node names and those that name it.
"""

from typing import Any

import numpy as np


def undirected(rowptr: Any, col: Any, out: Any) -> Any:
    """Write where the rows of the graph in both directions start to ``out``; returns what they hold."""
    nodes = rowptr.shape[0] - 1
    naming, named_by = np.zeros(nodes + 1, np.int64), np.empty(col.shape[0], np.int32)
    for e in range(col.shape[0]):
        naming[col[e] + 1] += 1
    for node in range(nodes):
        naming[node + 1] += naming[node]
    free = naming.copy()
    for node in range(nodes):
        for e in range(rowptr[node], rowptr[node + 1]):
            named_by[free[col[e]]] = node
            free[col[e]] += 1
    mark = np.full(nodes, -1, np.int32)
    out[:] = 0
    for node in range(nodes):
        for e in range(rowptr[node], rowptr[node + 1]):
            out[col[e] + 1] += mark[col[e]] != node
            mark[col[e]] = node
        for e in range(naming[node], naming[node + 1]):
            out[named_by[e] + 1] += mark[named_by[e]] != node
            mark[named_by[e]] = node
    for node in range(nodes):
        out[node + 1] += out[node]
    both = np.empty(out[nodes], np.int64)
    free[:] = out
    mark[:] = -1
    for node in range(nodes):
        for e in range(rowptr[node], rowptr[node + 1]):
            if mark[col[e]] != node:
                mark[col[e]] = node
                both[free[col[e]]] = node
                free[col[e]] += 1
        for e in range(naming[node], naming[node + 1]):
            if mark[named_by[e]] != node:
                mark[named_by[e]] = node
                both[free[named_by[e]]] = node
                free[named_by[e]] += 1
    return both
