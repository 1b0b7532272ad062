"""Removal of edges between some pairs of keypoints."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Optional, Union, cast

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import one_of, real_number, shown
from pyg_match.data.checks import check_edge_index
from pyg_match.data.edges import edge_values, sorted_edges
from pyg_match.ops import edge_scores
from pyg_match.transforms.edges import check_data, node_groups, num_nodes_of
from pyg_match.transforms.store import store_edges, store_values

Forbidden = Callable[[Data, Tensor, Tensor], Tensor]


@functional_transform("remove_pairs")
class RemovePairs(BaseTransform):
    r"""Removal of edges between some pairs of keypoints (functional name: :obj:`remove_pairs`).

    An edge is forbidden if any of the given criteria says so. What becomes of it is a research choice, and the edges
    come out sorted by target in any case:

    * ``mode="drop"``: the graph does not contain it any more;
    * ``mode="mask"``: it stays, and a mask with the edge set's name (``edge_mask`` for ``edge_index``,
      ``cross_edge_mask`` for ``cross_edge_index``) is ``False`` there. A layer with ``mask_mode="zero"`` then sets
      its coefficient to 0 without renormalising the rest; with ``mask_mode="remove"`` the edge is as if dropped.

    Args:
        pairs: Forbidden pairs of node numbers, in both directions; or the name of the attribute that holds them,
            which must contain ``index`` so that PyG renumbers it in a batch.
        min_distance: Pairs nearer than this are forbidden, in the unit of ``pos``.
        max_distance: Pairs farther apart than this are forbidden, in the unit of ``pos``.
        min_similarity: Pairs whose descriptors have a lower cosine are forbidden.
        max_similarity: Pairs whose descriptors have a higher cosine are forbidden.
        function: Called as ``function(data, source, target)`` with the node numbers of all edges; returns a mask
            that is ``True`` at forbidden edges.
        key: The edge set to act on, or several of them.
        mode: ``"drop"`` or ``"mask"``.

    Shapes:
        - **pairs:** :math:`(2, M)`
        - **source**, **target**, **mask:** :math:`(E)`

    Raises:
        ValueError: If there is no criterion, an argument is out of range, the edges are not drawn, or ``function``
            returns something else than a mask.
        TypeError: If the data lacks positions or descriptors that a criterion compares, or pairs are not whole numbers.

    Example:
        >>> data = Data(
        ...     pos=torch.tensor([[0.0], [1.0], [3.0]]), edge_index=torch.tensor([[1, 2, 0], [0, 0, 1]])
        ... )
        >>> RemovePairs(max_distance=2.0)(data).edge_index.tolist()
        [[1, 0], [0, 1]]
        >>> RemovePairs(pairs=[[0], [1]], mode="mask")(data).edge_mask
        tensor([False,  True, False])
    """

    def __init__(
        self,
        pairs: Union[Tensor, Sequence[Sequence[int]], str, None] = None,
        min_distance: Optional[float] = None,
        max_distance: Optional[float] = None,
        min_similarity: Optional[float] = None,
        max_similarity: Optional[float] = None,
        function: Optional[Forbidden] = None,
        key: Union[str, Sequence[str]] = "edge_index",
        mode: Literal["drop", "mask"] = "drop",
    ) -> None:
        one_of("mode", mode, ("drop", "mask"))
        if isinstance(pairs, str):
            if "index" not in pairs:
                raise ValueError(
                    f"the name of the pairs must contain 'index', as PyG's batching needs, got {pairs!r}"
                )
        elif pairs is not None:
            pairs = _node_pairs(pairs)
        self.pairs = pairs
        self.min_distance = _limit("min_distance", min_distance)
        self.max_distance = _limit("max_distance", max_distance)
        self.min_similarity = _limit("min_similarity", min_similarity)
        self.max_similarity = _limit("max_similarity", max_similarity)
        self.function = function
        if not self._criteria():
            raise ValueError("no criterion is given; name pairs, a distance, a similarity or a function")
        self.keys = (key,) if isinstance(key, str) else tuple(key)
        unnamed = [name for name in self.keys if "index" not in name]
        if unnamed:
            raise ValueError(f"'key' must contain 'index', as PyG's batching needs, got {unnamed[0]!r}")
        self.mode = mode

    def forward(self, data: Data) -> Data:
        """Drop the forbidden edges of each edge set, or set its mask."""
        check_data(data, self)
        node_groups(data)  # refuses a batch whose numbers do not fit the nodes
        for key in self.keys:
            edge_index = data.get(key)
            if edge_index is None:
                raise ValueError(
                    f"the data has no '{key}' to remove pairs from; draw it first, as CompleteGraph does"
                )
            if key == "edge_index" and data.get("anchor_weight") is not None:
                raise ValueError("edges of anchors must be listed for pairs to be removed, got listed=False")
            plain = check_edge_index(key, edge_index, num_nodes_of(data))
            allowed = ~self._forbidden(data, plain[0], plain[1])
            order = _order_by_target(edge_index, plain[1])
            allowed = allowed[order]
            if self.mode == "drop":
                _take_edges(data, key, plain, order[allowed])
                continue
            _take_edges(data, key, plain, order)
            mask_key = key.replace("index", "mask")
            before = data.get(mask_key)
            store_values(data, mask_key, allowed if before is None else allowed & before, edges=key)
        return data

    def _forbidden(self, data: Data, source: Tensor, target: Tensor) -> Tensor:
        forbidden = torch.zeros_like(source, dtype=torch.bool)
        check_data(data, self, *self._needed())
        if self.pairs is not None:
            pairs = self._pairs_of(data).to(source.device)
            num_nodes = num_nodes_of(data)
            wrong = pairs[(pairs < 0) | (pairs >= num_nodes)]
            if wrong.numel() > 0:
                raise ValueError(f"'pairs' name node {int(wrong[0])}, but there are {num_nodes}")
            forbidden |= torch.isin(
                _unordered(source, target, num_nodes), _unordered(pairs[0], pairs[1], num_nodes)
            )
        if self.min_distance is not None or self.max_distance is not None:
            pos = data.pos.to(torch.promote_types(data.pos.dtype, torch.float))
            distance = (pos[source] - pos[target]).norm(dim=1)
            forbidden |= _outside(distance, self.min_distance, self.max_distance)
        if self.min_similarity is not None or self.max_similarity is not None:
            similarity = _cosine(data.x.detach(), source, target)
            forbidden |= _outside(similarity, self.min_similarity, self.max_similarity)
        if self.function is not None:
            mask = self.function(data, source, target)
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != source.shape:
                seen = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"'function' must return a mask torch.bool {list(source.shape)}, got {seen}")
            forbidden |= mask
        return forbidden

    def _pairs_of(self, data: Data) -> Tensor:
        if not isinstance(self.pairs, str):
            return cast(Tensor, self.pairs)
        if data.get(self.pairs) is None:
            raise ValueError(f"the data has no '{self.pairs}', which names the pairs to forbid")
        return _node_pairs(data[self.pairs], self.pairs)

    def _needed(self) -> list[str]:
        """The node attributes that the criteria compare."""
        near = self.min_distance is not None or self.max_distance is not None
        similar = self.min_similarity is not None or self.max_similarity is not None
        return [name for name, used in (("pos", near), ("x", similar)) if used]

    def _criteria(self) -> dict[str, Any]:
        names = ("pairs", "min_distance", "max_distance", "min_similarity", "max_similarity", "function")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __repr__(self) -> str:
        plain = ("pairs", "function")
        criteria = [name if name in plain else f"{name}={value}" for name, value in self._criteria().items()]
        return (
            f"{self.__class__.__name__}({', '.join(criteria)}, key={'+'.join(self.keys)}, mode={self.mode!r})"
        )


def _node_pairs(pairs: Any, name: str = "pairs") -> Tensor:
    try:
        found = torch.as_tensor(pairs)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"'{name}' must be node numbers, got {shown(pairs)}") from None
    found = found.long() if found.numel() == 0 else found  # an empty list is of no type
    if found.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64) or found.is_meta:
        raise TypeError(f"'{name}' must be whole numbers, got {found.dtype} on {found.device}")
    if found.dim() != 2 or found.size(0) != 2:
        raise ValueError(f"'{name}' must have shape [2, M], got {list(found.shape)}")
    return found.long()


def _limit(name: str, value: Optional[float]) -> Optional[float]:
    unlimited = isinstance(value, float) and math.isinf(value)
    return value if value is None or unlimited else real_number(name, value)


def _unordered(source: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    source, target = source.long(), target.long()
    return torch.minimum(source, target) * num_nodes + torch.maximum(source, target)


def _order_by_target(edge_index: Tensor, target: Tensor) -> Tensor:
    """The edges in the order of their targets, which most edge sets have already."""
    if isinstance(edge_index, EdgeIndex) and edge_index.is_sorted_by_col:
        return torch.arange(target.numel(), device=target.device)
    return target.argsort(stable=True)


def _outside(value: Tensor, lowest: Optional[float], highest: Optional[float]) -> Tensor:
    outside = torch.zeros_like(value, dtype=torch.bool)
    if lowest is not None:
        outside |= value < lowest
    if highest is not None:
        outside |= value > highest
    return outside


def _cosine(x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """The cosine of the descriptors at both ends of each edge."""
    if not bool(torch.isfinite(x).all()):
        raise ValueError("'x' holds NaN or infinite descriptors, expected finite ones")
    x = torch.nn.functional.normalize(x.to(torch.promote_types(x.dtype, torch.float)), dim=1).unsqueeze(1)
    return edge_scores(x, x, torch.stack([source, target]), scale=1.0).squeeze(1)


def _take_edges(data: Data, key: str, edge_index: Tensor, chosen: Tensor) -> None:
    """Set an edge set to the chosen edges, sorted by target, with what they carry."""
    values = {name: data[name][chosen] for name in edge_values(data, key)}
    store_edges(data, key, sorted_edges(edge_index[:, chosen], num_nodes_of(data), is_sorted=True))
    for name, value in values.items():
        store_values(data, name, value, edges=key)
