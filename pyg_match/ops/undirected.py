"""Graphs in which every edge leads in both directions."""

import ctypes

import torch
from torch import Tensor
from torch_geometric.utils import to_undirected

from pyg_match.ops.csr import CSR, to_csr
from pyg_match.ops.edge_lists import transpose_edges
from pyg_match.ops.native.library import address, function, library

_MOST = torch.iinfo(torch.int32).max  # nodes that the code can number


def undirected(rowptr: Tensor, col: Tensor) -> CSR:
    """The edges of a graph in both directions, each once, those of a target sorted by source.

    On the CPU this is code in C, which goes through the edges a few times and sorts nothing; elsewhere it is
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
    nodes, rowptr, col = rowptr.numel() - 1, rowptr.long().contiguous(), col.long().contiguous()
    if col.device.type != "cpu" or nodes >= _MOST or library() is None:
        listed = torch.stack([CSR(rowptr, col).target(), col])
        return to_csr(to_undirected(listed, num_nodes=nodes).flip(0), nodes)  # PyG sorts by the first row
    short = col.int()
    colptr, row, _ = transpose_edges(rowptr, short, nodes)
    mark, start, both = short.new_empty(nodes), torch.empty_like(rowptr), col.new_empty(2 * col.numel())
    count = function("undirected", ctypes.c_int64)(
        address(rowptr), ctypes.c_int64(nodes), address(short), address(colptr), address(row), address(mark),
        address(start), address(both),
    )  # fmt: skip
    return CSR(start, both[:count].clone())  # without the room that was left
