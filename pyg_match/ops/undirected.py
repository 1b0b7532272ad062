"""Graphs in which every edge leads in both directions."""

import numpy as np
import torch
from torch import Tensor

from pyg_match.ops import cpu
from pyg_match.ops.csr import CSR

_MOST = torch.iinfo(torch.int32).max


def undirected(rowptr: Tensor, col: Tensor) -> CSR:
    """The edges of a graph in both directions, each once, those of a target sorted by source.

    On the CPU this is a compiled kernel, which goes through the edges a few times and sorts nothing.

    Args:
        rowptr: Where the edges of each target start, and their number at the end.
        col: The source of each edge, one of the targets; that is not checked.

    Shapes:
        - **rowptr:** :math:`(N + 1)`
        - **col:** :math:`(E)`

    Source: what it does is that of :func:`torch_geometric.utils.to_undirected`.

    Example:
        >>> undirected(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 2, 0])).listed()
        tensor([[1, 2, 0, 0],
                [0, 0, 1, 2]])
    """
    rowptr, col = rowptr.long(), col.long()
    kernels = cpu.kernels() if col.device.type == "cpu" and rowptr.numel() <= _MOST else None
    if kernels is None:
        return _sorted(CSR(rowptr, col))
    both = np.empty(rowptr.numel(), np.int64)
    sources = kernels.undirected(rowptr.contiguous().numpy(), col.contiguous().numpy(), both)
    return CSR(torch.from_numpy(both), torch.from_numpy(sources))


def _sorted(edges: CSR) -> CSR:
    nodes = edges.rowptr.numel() - 1
    if nodes == 0:
        return edges
    source, target = edges.col, edges.target()
    key = torch.cat([target * nodes + source, source * nodes + target])
    # Numbers of 32 bits are sorted in half the time.
    key = (key.int() if nodes**2 <= _MOST else key).sort().values.unique_consecutive().long()
    rowptr = torch.searchsorted(key, torch.arange(nodes + 1, device=key.device) * nodes)
    return CSR(rowptr, key % nodes)
