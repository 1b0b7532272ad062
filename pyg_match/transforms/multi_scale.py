"""Several graphs over the same keypoints: the scales of a multi-scale layer."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from pyg_match.checks import shown, whole_number
from pyg_match.data.edges import scales, sorted_edges
from pyg_match.transforms.edges import num_nodes_of
from pyg_match.transforms.store import store_edges

__all__ = ["check_ranks", "neighbour_rank", "scales", "store_scales"]


def store_scales(data: Data, edge_indices: list[Tensor]) -> None:
    """Store graphs, each sorted by target, as the scales of ``data``, in place of those that it has."""
    for number in range(len(scales(data))):
        del data[f"edge_index_{number}"]
    num_nodes = num_nodes_of(data)
    for number, edge_index in enumerate(edge_indices):
        store_edges(data, f"edge_index_{number}", sorted_edges(edge_index, num_nodes, is_sorted=True))


def neighbour_rank(target: Tensor) -> Tensor:
    """The position of each edge among those of its target, from 0; ``target`` is sorted."""
    count = torch.bincount(target)
    begin = count.cumsum(0) - count
    return torch.arange(target.numel(), device=target.device) - begin[target]


def check_ranks(ks: Any) -> tuple[int, ...]:
    """The upper ends of the scales, which must grow."""
    listed = isinstance(ks, (list, tuple, range)) or getattr(ks, "ndim", None) == 1
    if not listed:
        raise ValueError(f"'ks' must be growing positive numbers of neighbours, got {shown(ks)}")
    ranks = tuple(whole_number("ks", k, least=0) for k in ks)
    if not ranks or ranks[0] < 1 or any(b <= a for a, b in zip(ranks[:-1], ranks[1:], strict=True)):
        raise ValueError(f"'ks' must be growing positive numbers of neighbours, got {ranks}")
    return ranks
