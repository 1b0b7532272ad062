"""Edges computed beforehand, in any of PyG's forms."""

from typing import Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index

from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_edges
from pyg_match.data.edges import sorted_edges
from pyg_match.transforms.edges import check_data, node_groups, num_nodes_of
from pyg_match.transforms.store import store_edges


@functional_transform("precomputed_edges")
class PrecomputedEdges(BaseTransform):
    r"""Edges of an adjacency computed beforehand (functional name: :obj:`precomputed_edges`).

    A matcher treats them exactly as if a transform had drawn them.

    Args:
        adjacency: The adjacency in any form that :func:`as_edge_index` takes, for data with as many nodes; or the
            name of the attribute that holds it, such as ``"adj_t"``, for any data.
        key: The attribute to set: ``"edge_index"`` within images, ``"cross_edge_index"`` between them, or another.

    Raises:
        TypeError: If the adjacency has none of the forms, or the data lacks the attribute.
        ValueError: If the adjacency does not fit the number of nodes, if ``key`` does not contain ``index``, or if an
            edge joins nodes that it should not: of different examples; of different images under ``edge_index``; of
            one image under ``cross_edge_index``.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True]])  # node 1 sees both, node 0 sees itself
        >>> PrecomputedEdges(mask)(Data(pos=torch.rand(2, 2))).edge_index.tolist()
        [[0, 0, 1], [0, 1, 1]]
    """

    def __init__(self, adjacency: Union[Adj, str], key: str = "edge_index") -> None:
        if "index" not in key:
            raise ValueError(f"'key' must contain 'index', as PyG's batching needs, got {key!r}")
        self.adjacency = adjacency
        self.key = key

    def forward(self, data: Data) -> Data:
        """Set the edges, sorted by target."""
        check_data(data, self)
        adjacency = data.get(self.adjacency) if isinstance(self.adjacency, str) else self.adjacency
        if adjacency is None:
            raise TypeError(f"the data has no adjacency {self.adjacency!r}")
        edge_index = as_edge_index(adjacency, num_nodes_of(data))
        pos = data.get("pos")
        edge_index = edge_index if pos is None else edge_index.to(pos.device)
        groups = node_groups(data)
        if groups is not None:
            # Edges under another name may join any keypoints of a pair.
            if isinstance(data, KeypointPair) and not self.key.startswith(("edge_index", "cross_edge_index")):
                groups = groups // 2
            crosses = isinstance(data, KeypointPair) and self.key == "cross_edge_index"
            check_edges(self.key, edge_index, groups, groups ^ 1 if crosses else None)
        store_edges(data, self.key, edge_index)
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(key={self.key!r})"


def as_edge_index(adjacency: Adj, num_nodes: int) -> EdgeIndex:
    r"""Bring an adjacency in any of PyG's forms into the form that the layers of this package like best: an
    :class:`~torch_geometric.EdgeIndex` sorted by target.

    Matrices are read in PyG's manner, **transposed**: row :math:`i` names what node :math:`i` sees, its sources.
    The edges of a target keep their order, and values of sparse matrices are dropped.

    Args:
        adjacency: Edges from source to target (a tensor of integers or an :class:`~torch_geometric.EdgeIndex`), or a
            matrix: a :class:`torch_sparse.SparseTensor`, a sparse tensor of torch in any layout, or a dense mask.
        num_nodes: Number of nodes :math:`N`.

    Shapes:
        - **adjacency:** :math:`(2, E)`, or :math:`(N, N)` if it is a matrix

    Raises:
        TypeError: If the adjacency has none of these forms.
        ValueError: If its shape does not fit, or an edge names a node that does not exist.

    Example:
        >>> as_edge_index(torch.tensor([[0, 1, 2], [2, 1, 0]]), num_nodes=3).tolist()
        [[2, 1, 0], [0, 1, 2]]
    """
    if isinstance(adjacency, Tensor) and not is_torch_sparse_tensor(adjacency):
        return _dense_as_edge_index(adjacency, num_nodes)
    if isinstance(adjacency, SparseTensor):
        _check_size((adjacency.size(0), adjacency.size(1)), num_nodes)
        target, source, _ = adjacency.coo()
        return sorted_edges(torch.stack([source, target]), num_nodes)
    if is_torch_sparse_tensor(adjacency):
        _check_size(tuple(adjacency.shape), num_nodes)
        return sorted_edges(to_edge_index(adjacency)[0].flip(0), num_nodes)
    raise TypeError(
        "an adjacency must be a tensor of edges, an EdgeIndex, a SparseTensor, a sparse tensor or a dense mask, "
        f"got {type(adjacency).__name__}"
    )


def _dense_as_edge_index(adjacency: Tensor, num_nodes: int) -> EdgeIndex:
    """Edges from a list of them, or from a mask."""
    if adjacency.is_meta:
        raise ValueError("the adjacency is on the meta device, which holds no numbers")
    if adjacency.dtype == torch.bool:
        _check_size(tuple(adjacency.shape), num_nodes)
        target, source = adjacency.nonzero().t()
        return sorted_edges(torch.stack([source, target]), num_nodes, is_sorted=True)
    if adjacency.is_floating_point() or adjacency.is_complex():
        raise TypeError(f"a dense adjacency matrix must be a mask of dtype torch.bool, got {adjacency.dtype}")
    if adjacency.dim() != 2 or adjacency.size(0) != 2:
        raise ValueError(f"edges must have shape [2, E], got {list(adjacency.shape)}")
    edges = adjacency.as_tensor() if isinstance(adjacency, EdgeIndex) else adjacency
    outside = (edges < 0) | (edges >= num_nodes)
    if bool(outside.any()):
        raise ValueError(
            f"the adjacency names node {int(edges[outside][0])}, but there are {num_nodes} nodes"
        )
    return sorted_edges(edges.long(), num_nodes)


def _check_size(size: tuple[int, ...], num_nodes: int) -> None:
    if size != (num_nodes, num_nodes):
        raise ValueError(
            f"an adjacency matrix of {num_nodes} nodes must have shape {(num_nodes,) * 2}, got {size}"
        )
