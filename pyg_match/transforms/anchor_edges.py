"""Edges from a few keypoints that every keypoint sees."""

from typing import Literal, Optional

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import cumsum

from pyg_match.checks import check_tensor, one_of, whole_number
from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_edge_index
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.precision import widest
from pyg_match.transforms.edges import check_data, group_ptr, node_groups
from pyg_match.transforms.equal_partition import equal_parts, fewest_parts
from pyg_match.transforms.store import carried, store_edges, store_values


@functional_transform("anchor_edges")
class AnchorEdges(BaseTransform):
    r"""Edges from the anchors of each image, a few keypoints spread over it, to all its keypoints, so that information
    travels any distance in two steps (functional name: :obj:`anchor_edges`).

    Edges from each anchor to all keypoints of its image are added behind those of ``edge_index`` that a keypoint
    has already, without duplicates. Data without ``edge_index`` gets the anchors' edges alone. The mask ``anchor``
    tells which keypoints are anchors.

    With ``cross=True`` each keypoint sees the anchors of the **other** image: the edges are added to
    ``cross_edge_index``, and the mask is ``cross_anchor``.

    With ``weighted=True`` the edges get a weight, ``edge_weight`` or ``cross_edge_weight``, so that a sparse softmax
    comes near to the one over all keypoints. The anchors that a keypoint :math:`i` sees, near ones too, share the
    keypoints of their image that it does not see otherwise; all other edges weigh 1:

    .. math::
        w_{ij} = \frac{N - \lvert \mathcal{N}(i) \rvert}{A_i}

    with :math:`N` keypoints in the image of the anchors, of which :math:`i` sees :math:`A_i` anchors and the
    others :math:`\mathcal{N}(i)`. :class:`~pyg_match.nn.GraphMatcher` counts a weight of :math:`w` as :math:`w` edges.

    With ``listed=False`` the edges of anchors are implicit, which takes less time and memory, both to draw and to
    use: ``edge_index`` keeps the edges from other keypoints, and ``anchor_weight`` holds the weight of all anchors for
    each keypoint, or 1. :class:`~pyg_match.nn.GraphMatcher` gives the same answer; what else reads ``edge_index`` sees
    no anchors. It is the way to add anchors to the parts of :class:`~pyg_match.transforms.HilbertPartition`, all
    keypoints of which, anchors too, count as :math:`\mathcal{N}(i)` there; ``anchor_weight`` then has a column for each
    division.

    * ``method="parts"``: the keypoint nearest to the centre of each part of an equal division
      (:class:`~pyg_match.transforms.EqualPartition`), which follows the density of the keypoints;
    * ``method="farthest"``: the keypoint nearest to the centre of the image's keypoints, and then again and again the
      one farthest from all anchors so far, which follows their extent.

    Args:
        num_anchors: Number of anchors of an image. With fewer keypoints, all of them.
        method: ``"parts"`` or ``"farthest"``.
        loop: Whether an anchor is joined to itself.
        weighted: Whether edges from anchors weigh as much as all keypoints that they stand for.
        cross: Whether to join keypoints to the anchors of the other image.
        listed: Whether edges of anchors are listed. Implicit ones need ``loop=True``, as an anchor sees itself then,
            and ``cross=False``.

    Raises:
        TypeError: If the data has no positions, or is no :class:`~pyg_match.data.KeypointPair` with ``cross=True``.
        ValueError: If an argument is out of range or does not fit the others, or if the edges carry attributes,
            which new ones would lack.

    Example:
        >>> data = Data(pos=torch.arange(5.0).view(5, 1))
        >>> AnchorEdges(1)(data).edge_index.tolist()
        [[2, 2, 2, 2], [0, 1, 3, 4]]
    """

    def __init__(
        self,
        num_anchors: int,
        method: Literal["parts", "farthest"] = "parts",
        loop: bool = False,
        weighted: bool = False,
        cross: bool = False,
        listed: bool = True,
    ) -> None:
        one_of("method", method, ("parts", "farthest"))
        if not listed and (cross or not loop):
            raise ValueError(
                f"listed=False needs loop=True and cross=False, got loop={loop} and cross={cross}"
            )
        self.num_anchors = whole_number("num_anchors", num_anchors)
        self.method = method
        self.loop = loop
        self.weighted = weighted
        self.cross = cross
        self.listed = listed

    def forward(self, data: Data) -> Data:
        """Set ``data.edge_index``, sorted by target, and ``data.anchor``; of the cross edges with ``cross=True``."""
        check_data(data, self, "pos")
        if self.cross and not isinstance(data, KeypointPair):
            raise TypeError(
                f"{self.__class__.__name__} with cross=True needs a KeypointPair, got {type(data).__name__}"
            )
        prefix = "cross_" if self.cross else ""
        key = f"{prefix}edge_index"
        names = carried(data, key)
        if names:
            raise ValueError(
                f"draw the edges of anchors before setting {', '.join(names)}, which new edges lack"
            )
        window = data.get("window") if key == "edge_index" else None
        if window is not None:
            check_tensor("window", window, (data.pos.size(0), None), "whole")
            if self.listed:
                raise ValueError(
                    "anchors beside parts that see each other whole need listed=False, got listed=True"
                )
        pos = data.pos.detach()
        choose = _part_centres if self.method == "parts" else _farthest_points
        anchor = choose(widest(pos), self.num_anchors, node_groups(data))
        ptr = group_ptr(data)
        if window is not None:
            divisions = [_weight_beside(part, anchor, ptr) for part in window.unbind(1)]
            weight = torch.stack(divisions, dim=1)
        else:
            edge_index, weight = self._join(data.get(key), key, anchor, ptr)
            store_edges(data, key, sorted_edges(edge_index, pos.size(0), is_sorted=True))
        store_values(data, f"{prefix}anchor", anchor)
        weight = weight.to(pos.dtype if pos.is_floating_point() else torch.get_default_dtype())
        if not self.listed:
            store_values(data, "anchor_weight", weight if self.weighted else torch.ones_like(weight))
        elif self.weighted:
            of_edge = torch.where(anchor[edge_index[0]], weight[edge_index[1]], 1)
            store_values(data, f"{prefix}edge_weight", of_edge, edges=key)
        return data

    def _join(
        self, present: Optional[Tensor], key: str, anchor: Tensor, ptr: list[int]
    ) -> tuple[Tensor, Tensor]:
        """The edges to list, each once and sorted by target, and the weight of anchors for each target."""
        num_nodes = anchor.numel()
        edges = anchor.new_empty(2, 0, dtype=torch.long)
        if self.listed:
            edges = _anchor_edges(anchor, ptr, self.cross)
        if not self.loop:
            edges = edges[:, edges[0] != edges[1]]
        if present is not None:
            present = check_edge_index(key, present, num_nodes).long()
            # The edges of anchors hold all that start there, but for loops unless they are asked for.
            kept = ~anchor[present[0]]
            if not self.loop:
                kept |= present[0] == present[1]
            edges = torch.cat([present[:, kept], edges], dim=1)
        if bool((edges[1, 1:] < edges[1, :-1]).any()):
            edges = edges[:, edges[1].argsort(stable=True)]
        # How many keypoints each keypoint could see, and how many of them it does see, anchors and others.
        sizes = torch.tensor(ptr, device=anchor.device).diff()
        could = (sizes.view(-1, 2).flip(1).flatten() if self.cross else sizes).repeat_interleave(sizes)
        is_anchor = anchor[edges[0]]
        anchors, others = (
            torch.bincount(edges[1, mask], minlength=num_nodes) for mask in (is_anchor, ~is_anchor)
        )
        if not self.listed:
            anchors = _count_anchors(anchor, ptr)
        # At least itself, also where edges are listed twice.
        return edges, ((could - others) / anchors.clamp(min=1)).clamp(min=1)

    def __repr__(self) -> str:
        options = [f"method={self.method!r}", f"loop={self.loop}"]
        options += [f"{name}=True" for name in ("weighted", "cross") if getattr(self, name)]
        options += [] if self.listed else ["listed=False"]
        return f"{self.__class__.__name__}({self.num_anchors}, {', '.join(options)})"


def _count_anchors(anchor: Tensor, ptr: list[int]) -> Tensor:
    """The number of anchors in the group of each node."""
    return cumsum(anchor.long())[ptr].diff().repeat_interleave(torch.tensor(ptr, device=anchor.device).diff())


def _weight_beside(window: Tensor, anchor: Tensor, ptr: list[int]) -> Tensor:
    """The number of nodes that an anchor stands for, for each node that sees the nodes of its part."""
    sizes = torch.tensor(ptr, device=anchor.device).diff()
    number = torch.arange(sizes.numel(), device=anchor.device).repeat_interleave(sizes)
    _, part, seen = torch.stack([number, window]).unique(dim=1, return_inverse=True, return_counts=True)
    could = sizes.repeat_interleave(sizes)
    return (could - seen[part]) / _count_anchors(anchor, ptr).clamp(min=1)


def _anchor_edges(anchor: Tensor, ptr: list[int], cross: bool) -> Tensor:
    """Edges from the anchors of each group to all its nodes, or to those of the other image."""
    parts = [torch.empty(2, 0, dtype=torch.long, device=anchor.device)]
    for group, (start, end) in enumerate(zip(ptr[:-1], ptr[1:], strict=True)):
        source = anchor[start:end].nonzero().squeeze(1) + start
        first, last = (ptr[group ^ 1], ptr[(group ^ 1) + 1]) if cross else (start, end)
        target = torch.arange(first, last, device=anchor.device)
        parts.append(torch.stack([source.repeat(last - first), target.repeat_interleave(source.numel())]))
    return torch.cat(parts, dim=1)


def _part_centres(pos: Tensor, count: int, groups: Optional[Tensor]) -> Tensor:
    """Mask of the node nearest to the centroid of each part of each group; ties go to the lower index."""
    count = fewest_parts(count, groups, pos.size(0))
    part = equal_parts(pos, count, groups)
    part = part if groups is None else groups * count + part
    distance = _distance_to_centroid(pos, part)
    order = distance.argsort(stable=True)
    order = order[part[order].argsort(stable=True)]
    ordered = part[order]
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    mask = torch.zeros_like(is_first)
    mask[order[is_first]] = True
    return mask


def _farthest_points(pos: Tensor, count: int, groups: Optional[Tensor]) -> Tensor:
    """Mask of farthest-point samples of all groups at once; ties go to the lower index."""
    mask = torch.zeros(pos.size(0), dtype=torch.bool, device=pos.device)
    if pos.size(0) == 0:
        return mask
    groups = torch.zeros_like(mask, dtype=torch.long) if groups is None else groups
    groups = groups.unique(return_inverse=True)[1]
    num_groups = int(groups.max()) + 1
    index = torch.arange(pos.size(0), device=pos.device)
    distance = torch.full_like(pos[:, 0], torch.inf)
    merit = -_distance_to_centroid(pos, groups)
    for _ in range(min(count, pos.size(0))):
        best = merit.new_full((num_groups,), -torch.inf).scatter_reduce_(0, groups, merit, "amax")
        candidate = torch.where(merit == best[groups], index, pos.size(0))
        chosen = candidate.new_full((num_groups,), pos.size(0)).scatter_reduce_(0, groups, candidate, "amin")
        mask[chosen] = True
        distance = torch.minimum(distance, (pos - pos[chosen][groups]).square().sum(1))
        # A group whose nodes all are anchors goes on choosing one of them, which changes nothing.
        merit = distance.masked_fill(mask, -1.0)
    return mask


def _distance_to_centroid(pos: Tensor, groups: Tensor) -> Tensor:
    """The squared distance of each node to the mean of its group."""
    size = torch.bincount(groups)
    total = pos.new_zeros(size.numel(), pos.size(1)).index_add_(0, groups, pos)
    return (pos - (total / size.clamp(min=1).unsqueeze(1))[groups]).square().sum(1)
