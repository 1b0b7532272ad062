"""Graph of the pairs of a batch that a matcher is still working on."""

from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from pyg_match.checks import check_tensor
from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_edge_index
from pyg_match.data.edges import scales, sorted_edges
from pyg_match.nn.window_edges import window_edges
from pyg_match.ops import CSR, Anchored, Blocks, EdgeSet, to_csr
from pyg_match.ops.attention_operators import has_kernels
from pyg_match.ops.undirected import undirected


class StepEdges(NamedTuple):
    """The edges that a step of a layer attends along.

    Attributes:
        edges: The edges, and anchors if there are any that these do not list.
        mask: Which edges may be attended to; ``None`` for all.
        bias: What is added to their scores, the logarithm of their weights; ``None`` for equal ones.
    """

    edges: EdgeSet
    mask: Optional[Tensor] = None
    bias: Optional[Tensor] = None

    def subset(self, keep: Tensor) -> "tuple[StepEdges, Tensor]":
        """The same between the nodes in the boolean mask ``keep``, and the mask of the edges that are left."""
        edges, kept = self.edges.subset(keep)
        mask, bias = (None if values is None else values[kept] for values in (self.mask, self.bias))
        return StepEdges(edges, mask, bias), kept


@dataclass(frozen=True)
class PairGraph:
    """Nodes and edges of the pairs that have not stopped, without the keypoints pruned so far.

    Attributes:
        counts: Number of remaining keypoints of image 0 and 1 of each remaining pair.
        pairs: Number of each remaining pair in the batch.
        offsets: Where the nodes of each image start, and their number at the end, on the device.
        nodes: Number of each remaining node in the batch.
        within: Edges within images; several where these are parts of the images, along which layers attend in turn.
        between: Edges between images.
        scales: The scales that a partition transform has drawn within images.
        refused: Names of masks and weights of scales that the pair has; matchers that use scales refuse them.
        cross_edge_ids: Number of each remaining edge between images in the batch; ``None`` if it lists none.
    """

    counts: tuple[tuple[int, int], ...]
    pairs: tuple[int, ...]
    offsets: Tensor
    nodes: Tensor
    within: tuple[StepEdges, ...]
    between: StepEdges
    scales: tuple[EdgeIndex, ...] = ()
    refused: tuple[str, ...] = ()
    cross_edge_ids: Optional[Tensor] = None

    @classmethod
    @torch.compiler.disable  # PyG's edges and batches are not for tracing; what is made of them is
    def from_data(cls, pair: KeypointPair) -> "PairGraph":
        """Take the edges of a pair or a batch of pairs; absent ones are complete."""
        counts = tuple((row[0], row[1]) for row in pair.num_keypoints.tolist())
        ptr, device = _ptr(counts), pair.pos.device
        drawn = scales(pair)
        extras = [f"edge_{kind}_{number}" for number in range(len(drawn)) for kind in ("mask", "weight")]
        cross_edges = pair.get("cross_edge_index")
        return cls(
            counts=counts,
            pairs=tuple(range(len(counts))),
            offsets=pair.image_ptr.to(device),
            nodes=torch.arange(ptr[-1], device=device),
            within=_divisions(pair, ptr) or (_self_edges(pair, ptr),),
            between=_cross_edges(pair, ptr),
            scales=tuple(_sorted(f"edge_index_{i}", scale, ptr[-1]) for i, scale in enumerate(drawn)),
            refused=tuple(name for name in extras if name in pair),
            cross_edge_ids=None if cross_edges is None else torch.arange(cross_edges.size(1), device=device),
        )

    @property
    def ptr(self) -> tuple[int, ...]:
        """Where the nodes of each image start, and their number at the end."""
        return _ptr(self.counts)

    def self_edges(self, layer: int) -> StepEdges:
        """The edges within images of a layer."""
        # Where all are the same the number is not looked at: torch.compile makes code for each that is.
        return self.within[0] if len(self.within) == 1 else self.within[layer % len(self.within)]

    def nodes_of(self, chosen: tuple[bool, ...]) -> Tensor:
        """Mask of the nodes of the chosen pairs."""
        sizes = torch.tensor([sum(counts) for counts in self.counts], device=self.nodes.device)
        return torch.tensor(chosen, device=self.nodes.device).repeat_interleave(sizes)

    @torch.compiler.disable
    def check_both_ways(self, masked: bool) -> None:
        """Refuse edges between images without one back: two keypoints have to choose each other to be matched.

        Args:
            masked: Whether edges that the mask forbids count as absent.

        Raises:
            ValueError: If there is one.
        """
        if self.between.edges.groups is not None:
            return
        edges = self.between.edges.csr()
        if masked and self.between.mask is not None:
            edges = edges.subset(self.between.mask)
        both = undirected(edges.rowptr, edges.col)
        if torch.equal(both.rowptr, edges.rowptr) and torch.equal(both.col, edges.col.long()):
            return
        # Edges may be listed twice, or in another order within a target.
        count = (edges.target() * self.nodes.numel() + edges.col).unique().numel()
        if both.col.numel() > count:
            raise ValueError(
                "'assign_on_edges' needs edges between images in both directions, as CandidateEdges draws them, but "
                f"{both.col.numel() - count} of {count} have none back"
            )

    @torch.compiler.disable
    def with_cross_edges(self, edges: CSR, mask: Optional[Tensor]) -> "PairGraph":
        """The graph with other edges between images, of which those in the mask, or all, may be attended to.

        They are those that an operator has drawn, and not checked.
        """
        drawn = EdgeSet(edges.rowptr, edges.col.int(), edges.rowptr.numel() - 1)
        drawn = drawn.with_transpose() if torch.is_grad_enabled() else drawn
        return replace(self, between=StepEdges(drawn, mask), cross_edge_ids=None)

    @torch.compiler.disable
    def subset(self, keep: Tensor, keep_pairs: tuple[bool, ...]) -> "PairGraph":
        """The graph of the nodes in the boolean mask ``keep``, which holds no node of a pair that is left out."""
        kept = keep.split([count for pair in self.counts for count in pair])
        sizes = [int(part.sum()) for part in kept]
        counts = tuple((sizes[2 * i], sizes[2 * i + 1]) for i, stays in enumerate(keep_pairs) if stays)
        between, cross_kept = self.between.subset(keep)
        return replace(
            self,
            counts=counts,
            offsets=torch.tensor(_ptr(counts), device=keep.device),
            pairs=tuple(pair for pair, stays in zip(self.pairs, keep_pairs, strict=True) if stays),
            nodes=self.nodes[keep],
            within=tuple(step.subset(keep)[0] for step in self.within),
            between=between,
            scales=tuple(_subset_scale(scale, keep) for scale in self.scales),
            cross_edge_ids=None if self.cross_edge_ids is None else self.cross_edge_ids[cross_kept],
        )


def _subset_scale(scale: EdgeIndex, keep: Tensor) -> EdgeIndex:
    """The edges of a scale between kept nodes, renumbered."""
    listed = scale.as_tensor()
    number = keep.cumsum(0) - 1
    kept = keep[listed[0]] & keep[listed[1]]
    return sorted_edges(number[listed[:, kept]], int(keep.sum()), is_sorted=True)


def _divisions(pair: KeypointPair, ptr: tuple[int, ...]) -> tuple[StepEdges, ...]:
    """The parts that nodes see whole, if there are any."""
    window, weight = pair.get("window"), pair.get("anchor_weight")
    if window is None:
        return ()
    for name in ("edge_index", "edge_weight", "edge_mask"):
        if pair.get(name) is not None:
            raise ValueError(f"'{name}' cannot be used with parts that are seen whole, 'window'")
    check_tensor("window", window, (ptr[-1], None), "whole")
    if weight is not None and pair.get("anchor") is None:
        raise ValueError("'anchor_weight' needs 'anchor', as AnchorEdges sets it")
    # Anchors beside a part that is the whole image stand for nothing.
    anchor = None if weight is None else _anchors(pair, weight, tuple(window.shape), may_be_zero=True)
    return tuple(_with_groups(edges) for edges in window_edges(window, ptr, anchor, weight))


def _with_groups(edges: EdgeSet) -> StepEdges:
    """Edges with dense groups, which are listed for devices without kernels."""
    if has_kernels(edges.rowptr.device.type):
        return StepEdges(edges)
    listed, bias = edges.listed()
    return StepEdges(listed, bias=bias)


def _anchors(pair: KeypointPair, weight: Tensor, shape: tuple[int, ...], may_be_zero: bool = False) -> Tensor:
    """The mask of anchors whose edges are not listed, checked with their weights."""
    anchor = check_tensor("anchor", pair.anchor, shape[:1], "boolean")
    check_tensor("anchor_weight", weight, shape)
    _check_weight("anchor_weight", weight, may_be_zero)
    return anchor


def _self_edges(pair: KeypointPair, ptr: tuple[int, ...]) -> StepEdges:
    """The edges within images."""
    listed, weight, num_nodes = pair.get("edge_index"), pair.get("anchor_weight"), ptr[-1]
    edges = None if listed is None else _sorted("edge_index", listed, num_nodes)
    if weight is None:  # without edges, every keypoint sees every keypoint of its own image
        within = Blocks(ptr, ptr[:-1], ptr[1:]) if edges is None else edges
        mask, bias = _mask(pair, "edge_mask"), _log_weight(pair, "edge_weight")
        return StepEdges(_edge_set(within, num_nodes, pair.pos.device), mask, bias)
    for name in ("edge_weight", "edge_mask"):
        if pair.get(name) is not None:
            raise ValueError(f"'{name}' cannot be used with anchors that are not listed")
    if edges is None or pair.get("anchor") is None:
        raise ValueError("'anchor_weight' needs 'anchor' and 'edge_index', as AnchorEdges sets them")
    anchor = _anchors(pair, weight, (num_nodes,)).nonzero().squeeze(1)
    starts = torch.searchsorted(anchor, torch.tensor(ptr, device=anchor.device))
    csr = to_csr(edges, num_nodes)
    anchored = Anchored(csr, ptr, anchor, tuple(starts.tolist()), weight.log())
    return _with_groups(_edge_set(anchored, num_nodes, pair.pos.device))


def _cross_edges(pair: KeypointPair, ptr: tuple[int, ...]) -> StepEdges:
    """The edges between images."""
    listed = pair.get("cross_edge_index")
    edges: Union[EdgeIndex, Blocks]
    if listed is None:  # every keypoint sees every keypoint of the other image
        partners = [i ^ 1 for i in range(len(ptr) - 1)]
        edges = Blocks(ptr, tuple(ptr[i] for i in partners), tuple(ptr[i + 1] for i in partners))
    else:
        edges = _sorted("cross_edge_index", listed, ptr[-1])
    mask, bias = _mask(pair, "cross_edge_mask"), _log_weight(pair, "cross_edge_weight")
    return StepEdges(_edge_set(edges, ptr[-1], pair.pos.device), mask, bias)


def _edge_set(
    edges: Union[EdgeIndex, CSR, Blocks, Anchored], num_nodes: int, device: torch.device
) -> EdgeSet:
    """Edges for all layers of a forward, and of its backward if there may be one."""
    made = EdgeSet.of(edges, num_nodes, num_nodes, device)
    return made.with_transpose() if torch.is_grad_enabled() else made


def _log_weight(pair: KeypointPair, name: str) -> Optional[Tensor]:
    """The logarithm of the weights of edges, which is added to their scores."""
    weight = pair.get(name)
    if weight is None:
        return None
    check_tensor(name, weight, (_num_edges(pair, name, "weight"),))
    _check_weight(name, weight)
    return weight.log()


def _mask(pair: KeypointPair, name: str) -> Optional[Tensor]:
    """The mask of edges that may be attended to."""
    mask = pair.get(name)
    return None if mask is None else check_tensor(name, mask, (_num_edges(pair, name, "mask"),), "boolean")


def _num_edges(pair: KeypointPair, name: str, kind: str) -> int:
    """The number of edges that an attribute belongs to."""
    key = name.replace(kind, "index")
    if pair.get(key) is None:
        raise ValueError(f"'{name}' must hold one value for each edge, but there is no '{key}'")
    return int(pair[key].size(1))


def _check_weight(name: str, weight: Tensor, may_be_zero: bool = False) -> None:
    if weight.is_meta:
        raise ValueError(f"'{name}' is on the meta device, which holds no numbers")
    good = ((weight >= 0) if may_be_zero else (weight > 0)) & torch.isfinite(weight)
    if not bool(good.all()):
        wanted = "finite and not negative" if may_be_zero else "positive and finite"
        raise ValueError(f"'{name}' must be {wanted}, got {float(weight[~good][0])}")


def _sorted(name: str, edges: Tensor, num_nodes: int) -> EdgeIndex:
    """Edges as a user gave them, sorted by target."""
    if isinstance(edges, EdgeIndex) and edges.is_sorted_by_col:
        return edges
    plain = check_edge_index(name, edges, num_nodes)
    if bool((plain[1, 1:] < plain[1, :-1]).any()):
        raise ValueError(
            f"'{name}' must be sorted by target, as the transforms of pyg_match draw them; "
            "sort others with pyg_match.data.sorted_edges"
        )
    return sorted_edges(plain, num_nodes, is_sorted=True)


def _ptr(counts: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    return tuple(accumulate(chain(*counts), initial=0))
