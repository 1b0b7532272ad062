"""Graphs in which every edge leads in both directions."""

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import to_undirected

from pyg_match.ops import cpu
from pyg_match.ops.csr import CSR, to_csr

_MOST = torch.iinfo(torch.int32).max  # nodes that the kernel can number


def undirected(rowptr: Tensor, col: Tensor) -> CSR:
    """The edges of a graph in both directions, each once, those of a target sorted by source.

    On the CPU this is a compiled kernel, which goes through the edges a few times and sorts nothing; elsewhere it is
    :func:`torch_geometric.utils.to_undirected`.

    Args:
        rowptr: Where the edges of each target start, and their number at the end.
        col: The source of each edge, one of the targets; that is not checked.

    Shapes:
        - **rowptr:** :math:`(N + 1)`
        - **col:** :math:`(E)`

    Example:
        >>> undirected(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 2, 0])).listed()
        tensor([[1, 2, 0, 0],
                [0, 0, 1, 2]])
    """
    rowptr, col = rowptr.long(), col.long()
    kernels = cpu.kernels() if col.device.type == "cpu" and rowptr.numel() <= _MOST else None
    if kernels is None:
        nodes, listed = rowptr.numel() - 1, torch.stack([CSR(rowptr, col).target(), col])
        return to_csr(to_undirected(listed, num_nodes=nodes).flip(0), nodes)  # PyG sorts by the first row
    both = np.empty(rowptr.numel(), np.int64)
    sources = kernels.undirected(rowptr.contiguous().numpy(), col.contiguous().numpy(), both)
    return CSR(torch.from_numpy(both), torch.from_numpy(sources))
