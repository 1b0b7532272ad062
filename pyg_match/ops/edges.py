"""Edge sets: listed edges, and dense groups whose edges are not listed."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch_geometric.utils import cumsum

from pyg_match.checks import check_tensor
from pyg_match.ops.csr import CSR, EdgesLike, to_csr
from pyg_match.ops.edge_lists import narrow_edges, transpose_edges
from pyg_match.ops.group_tables import (
    check_rising,
    count_rounds,
    group_rows,
    group_targets,
    list_groups,
    share_sources,
)


class Blocks(NamedTuple):
    """Blocks of targets, each of which sees all of a range of sources.

    Stands in for an ``edge_index`` whose blocks are complete, such as the keypoints of an image among each other.

    Attributes:
        target_ptr: Where the targets of each block start, and their number at the end, :math:`B + 1` numbers.
        source_start: The first source that each block sees, :math:`B` numbers.
        source_stop: The source after the last one that each block sees, :math:`B` numbers.

    Example:
        >>> Blocks((0, 2, 5), (0, 2), (2, 5))  # two complete graphs, of two nodes and of three
        Blocks(target_ptr=(0, 2, 5), source_start=(0, 2), source_stop=(2, 5))
    """

    target_ptr: tuple[int, ...]
    source_start: tuple[int, ...]
    source_stop: tuple[int, ...]


class Anchored(NamedTuple):
    """Edges, and anchors that all targets of their group see besides.

    Stands in for an ``edge_index`` that lists an edge from each anchor of a group to each of its targets.

    Attributes:
        edges: All other edges.
        target_ptr: Where the targets of each group start, and their number at the end, :math:`G + 1` numbers.
        anchor: The anchors, group after group.
        anchor_ptr: Where those of each group start, and their number at the end, :math:`G + 1` numbers.
        log_weight: What targets add to the scores of anchors: the logarithm of how many sources each stands for.

    Shapes:
        - **anchor:** :math:`(A)`
        - **log_weight:** :math:`(T)`

    Example:
        >>> edges, anchor = CSR(torch.tensor([0, 1, 2]), torch.tensor([1, 0])), torch.tensor([2])
        >>> Anchored(edges, (0, 2), anchor, (0, 1), torch.zeros(2)).listed()[0].col
        tensor([1, 2, 0, 2])
    """

    edges: CSR
    target_ptr: tuple[int, ...]
    anchor: Tensor
    anchor_ptr: tuple[int, ...]
    log_weight: Tensor

    def listed(self) -> tuple[CSR, Tensor]:
        """All edges, those of anchors last for each target, and what they add to their scores."""
        rows = group_rows(self.target_ptr, self.anchor_ptr[:-1], self.anchor_ptr[1:])
        groups = torch.tensor(rows, dtype=torch.long, device=self.anchor.device).view(-1, 4)
        return list_groups(self.edges.rowptr, self.edges.col, groups, self.anchor, self.log_weight)


class EdgeSet(NamedTuple):
    """Edges as the operators read them, checked when they are made: a listed part, and dense groups.

    :meth:`of` makes one of anything that :func:`~pyg_match.ops.sparse_attention` takes, and :meth:`with_groups` adds
    groups. Fields that are set in any other way are not checked, and the kernels follow wrong numbers to foreign
    memory. A complete graph is groups without a list; a graph of nearest neighbours is a list without groups;
    anchors are both.

    Attributes:
        rowptr: Where the listed edges of each target start, and their number at the end, 64 bits.
        col: The source of each listed edge, 32 bits.
        num_sources: Number of sources.
        perm: The place of each listed edge in the user's order; ``None`` if it is the same.
        transposed: The listed edges by source, for gradients: pointer, targets and places.
        groups: Of each dense group the first target, the one after its last, and the same of its sources, which are
            a range of nodes, or of places in ``source`` if that is given.
        source: The sources of the groups.
        log_weight: What targets add to the scores of their group, group after group; ``None`` for nothing.
        rounds: How many times the groups go through all targets.
        target: The targets in the order in which groups divide them; ``None`` if it is that of the nodes.

    Shapes:
        - **rowptr:** :math:`(T + 1)`
        - **col**, **perm:** :math:`(E)`
        - **transposed:** :math:`(S + 1), (E), (E)`
        - **groups:** :math:`(G, 4)`
        - **target:** :math:`(T)`

    Example:
        >>> edges = EdgeSet.of(torch.tensor([[5, 6, 7], [0, 2, 2]]), num_targets=3, num_sources=8)
        >>> edges.rowptr.tolist(), edges.col.tolist()
        ([0, 1, 1, 3], [5, 6, 7])
    """

    rowptr: Tensor
    col: Tensor
    num_sources: int
    perm: Optional[Tensor] = None
    transposed: Optional[tuple[Tensor, Tensor, Tensor]] = None
    groups: Optional[Tensor] = None
    source: Optional[Tensor] = None
    log_weight: Optional[Tensor] = None
    rounds: int = 1
    target: Optional[Tensor] = None

    @classmethod
    def of(
        cls,
        edge_index: "Union[EdgesLike, Blocks, Anchored, EdgeSet]",
        num_targets: int,
        num_sources: int,
        device: Optional[torch.device] = None,
    ) -> "EdgeSet":
        """Make one of edges in any form.

        Args:
            edge_index: Edges as :func:`~pyg_match.ops.sparse_attention` takes them.
            num_targets: Number of targets.
            num_sources: Number of sources.
            device: Device of the result for :class:`Blocks`, which have none.

        Raises:
            TypeError: If it is nothing of that kind.
            ValueError: If a shape does not fit, or a node does not exist.
        """
        if isinstance(edge_index, EdgeSet):
            if (edge_index.num_targets, edge_index.num_sources) != (num_targets, num_sources):
                raise ValueError(
                    f"expected edges of {num_targets} targets and {num_sources} sources, got those of "
                    f"{edge_index.num_targets} and {edge_index.num_sources}"
                )
            return edge_index
        if isinstance(edge_index, Blocks):
            return _of_blocks(edge_index, num_targets, num_sources, device)
        if isinstance(edge_index, Anchored):
            return _of_anchored(edge_index, num_targets, num_sources)
        csr = to_csr(edge_index, num_targets, num_sources)
        rowptr = csr.rowptr.long().contiguous()
        return cls(rowptr, narrow_edges(rowptr, csr.col, num_sources), num_sources, csr.perm)

    @property
    def num_targets(self) -> int:
        """Number of targets."""
        return self.rowptr.numel() - 1

    @property
    def is_dense(self) -> bool:
        """Whether it is complete graphs of ranges of nodes: groups without a list, without weights, in one round."""
        if self.groups is None or self.col.numel() > 0 or self.rounds != 1:
            return False
        return self.source is None and self.log_weight is None and self.target is None

    def csr(self) -> CSR:
        """The listed edges."""
        return CSR(self.rowptr, self.col.long(), self.perm)

    def sorted(self, values: Tensor) -> Tensor:
        """Bring one value per listed edge from the user's order into this one."""
        return values if self.perm is None else values[self.perm]

    def with_groups(
        self,
        groups: Union[Tensor, Sequence[Sequence[int]]],
        source: Optional[Tensor] = None,
        log_weight: Optional[Tensor] = None,
        target: Optional[Tensor] = None,
    ) -> "EdgeSet":
        """The same listed edges, and dense groups besides.

        Groups divide the targets: in their order they go through all of them, each in one group, which may have no
        sources. Having done so, they may begin again with another division.

        Args:
            groups: See :class:`EdgeSet`.
            source: See :class:`EdgeSet`.
            log_weight: See :class:`EdgeSet`.
            target: See :class:`EdgeSet`. Bounds of targets in ``groups`` are places in it.

        Shapes:
            - **groups:** :math:`(G, 4)`
            - **source:** :math:`(S_G)`
            - **log_weight:** the number of targets of all groups
            - **target:** :math:`(T)`

        Raises:
            ValueError: If groups do not divide the targets, a source does not exist, there is not one weight for each
                target of each group, ``target`` does not hold each target once, or tensors lie on another device than
                the edges.
            TypeError: If sources or targets are no whole numbers, or weights no floating-point ones.

        Example:
            >>> edges = EdgeSet.of(torch.empty(2, 0, dtype=torch.long), num_targets=5, num_sources=5)
            >>> groups = edges.with_groups([[0, 2, 0, 2], [2, 5, 2, 5]])
            >>> groups.is_dense, groups.listed()[0].col.numel()
            (True, 13)
        """
        rows = groups.tolist() if isinstance(groups, Tensor) else [list(row) for row in groups]
        device = self.rowptr.device
        for row in rows:
            if not isinstance(row, list) or len(row) != 4 or not all(isinstance(n, int) for n in row):
                raise ValueError(
                    f"a group must be four whole numbers, bounds of targets and of sources, got {row}"
                )
        if source is not None:
            check_tensor("source", source, (None,), "whole")
        if log_weight is not None:
            check_tensor("log_weight", log_weight, (None,))
        if target is not None:
            check_tensor("target", target, (self.num_targets,), "whole")
        for name, tensor in (("source", source), ("log_weight", log_weight), ("target", target)):
            if tensor is not None and tensor.device != device:
                raise ValueError(
                    f"'{name}' must be on the device of the edges, {device}, got {tensor.device}"
                )
        if source is not None:
            wrong = source[(source < 0) | (source >= self.num_sources)]
            if wrong.numel() > 0:
                raise ValueError(f"a group names source {int(wrong[0])}, but there are {self.num_sources}")
        if target is not None:
            expected = torch.arange(self.num_targets, device=device)
            if not torch.equal(target.long().sort().values, expected):
                raise ValueError(f"'target' must hold each of the {self.num_targets} targets once")
        limit = self.num_sources if source is None else source.numel()
        rounds = count_rounds(rows, self.num_targets, limit)
        count = rounds * self.num_targets
        if log_weight is not None and log_weight.shape != (count,):
            raise ValueError(
                f"'log_weight' must hold a number for each of the {count} targets of groups, got "
                f"{list(log_weight.shape)}"
            )
        if share_sources(rows):  # each group gets sources of its own, for gradients to have a place
            places = [torch.arange(start, stop, device=device) for *_, start, stop in rows]
            source = torch.cat(places) if source is None else source[torch.cat(places)]
            ends = accumulate(map(len, places))
            rows = [
                [*row[:2], end - len(part), end] for row, part, end in zip(rows, places, ends, strict=True)
            ]
        table = torch.tensor(rows, dtype=torch.long, device=device).view(-1, 4)
        # Kernels read one number after the other.
        source, target = (None if t is None else t.long().contiguous() for t in (source, target))
        log_weight = None if log_weight is None else log_weight.contiguous()
        return self._replace(groups=table, source=source, log_weight=log_weight, rounds=rounds, target=target)

    def listed(self) -> "tuple[EdgeSet, Optional[Tensor]]":
        """The same edges, all of them in the list, those of groups last for each target, and what they add to scores.

        Shapes:
            - **output:** the edges, and :math:`(E)`; ``None`` for nothing
        """
        if self.groups is None:
            return self, None
        csr, bias = list_groups(self.rowptr, self.col, self.groups, self.source, self.log_weight, self.target)
        return EdgeSet(csr.rowptr, csr.col.int(), self.num_sources), bias

    def with_transpose(self) -> "EdgeSet":
        """The same edges, prepared for gradients."""
        if self.transposed is not None or self.col.numel() == 0:
            return self
        return self._replace(transposed=transpose_edges(self.rowptr, self.col, self.num_sources))

    def subset(self, keep: Tensor) -> "tuple[EdgeSet, Tensor]":
        """The edges between kept nodes, renumbered, and the mask of them; for edges among one set of nodes.

        Args:
            keep: The mask of the nodes to keep.

        Shapes:
            - **keep:** :math:`(N)`
            - **output:** the edges, and :math:`(E)` in the order in which edges were given
        """
        if not torch.compiler.is_compiling():
            check_tensor("keep", keep, (self.num_targets,), "boolean")
        csr, before = self.csr(), cumsum(keep.long())
        inside = keep[csr.col] & keep[csr.target()]
        some, kept = csr.subset(inside), csr.unsorted(inside)
        rowptr = torch.cat([some.rowptr[:1], some.rowptr[1:][keep]])
        edges = EdgeSet(rowptr, before[some.col].int(), rowptr.numel() - 1, some.perm)
        edges = edges if self.transposed is None else edges.with_transpose()
        if self.groups is None:
            return edges, kept
        bounds, sources = self.groups[:, :2], self.groups[:, 2:]
        source, log_weight, target = self.source, self.log_weight, self.target
        in_order = keep if target is None else keep[target]
        if source is None:
            sources = before[sources]
        else:
            sources, source = cumsum(keep[source].long())[sources], before[source[keep[source]]]
        if log_weight is not None:
            log_weight = log_weight[in_order[group_targets(self.groups)]]
        target = None if target is None else before[target[in_order]]
        groups = torch.cat([cumsum(in_order.long())[bounds], sources], dim=1)
        edges = edges._replace(
            groups=groups, source=source, log_weight=log_weight, rounds=self.rounds, target=target
        )
        return edges, kept


def _of_blocks(blocks: Blocks, num_targets: int, num_sources: int, device: Optional[torch.device]) -> EdgeSet:
    if blocks.target_ptr[-1] != num_targets:
        raise ValueError(f"the blocks have {blocks.target_ptr[-1]} targets, but there are {num_targets}")
    if max((*blocks.source_stop, 0)) > num_sources:
        raise ValueError(
            f"the blocks name source {max(blocks.source_stop) - 1}, but there are {num_sources} sources"
        )
    check_rising("target_ptr", blocks.target_ptr)
    rowptr = torch.zeros(num_targets + 1, dtype=torch.long, device=device)
    none = EdgeSet(rowptr, rowptr[:0].int(), num_sources)
    return none.with_groups(group_rows(blocks.target_ptr, blocks.source_start, blocks.source_stop))


@torch.compiler.disable  # what is read of tensors here would break the graph
def _of_anchored(edges: Anchored, num_targets: int, num_sources: int) -> EdgeSet:
    anchor, num_groups = check_tensor("anchor", edges.anchor, (None,), "whole"), len(edges.target_ptr) - 1
    check_tensor("log_weight", edges.log_weight, (None,))
    if edges.target_ptr[-1] != num_targets or edges.log_weight.shape != (num_targets,):
        raise ValueError(
            f"expected groups and weights of {num_targets} targets, got groups of {edges.target_ptr[-1]} and weights "
            f"{list(edges.log_weight.shape)}"
        )
    if len(edges.anchor_ptr) != num_groups + 1 or edges.anchor_ptr[-1] != anchor.numel():
        raise ValueError(
            f"'anchor_ptr' must lead to {anchor.numel()} anchors in {num_groups} steps, got {edges.anchor_ptr}"
        )
    check_rising("target_ptr", edges.target_ptr)
    check_rising("anchor_ptr", edges.anchor_ptr)
    wrong = anchor[(anchor < 0) | (anchor >= num_sources)]
    if wrong.numel() > 0:
        raise ValueError(f"an anchor is source {int(wrong[0])}, but there are {num_sources}")
    groups = group_rows(edges.target_ptr, edges.anchor_ptr[:-1], edges.anchor_ptr[1:])
    return EdgeSet.of(edges.edges, num_targets, num_sources).with_groups(groups, anchor, edges.log_weight)
