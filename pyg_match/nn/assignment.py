"""Assignment heads, and the matches that are read off an assignment."""

import math
from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import scatter

from pyg_match.checks import MOST_CHANNELS, one_of, whole_number
from pyg_match.nn.padded_images import PaddedImages, least
from pyg_match.ops import EdgeSet, edge_scores
from pyg_match.ops.attention_checks import check_edge_values
from pyg_match.ops.attention_reference import MaskMode
from pyg_match.ops.csr import EdgesLike
from pyg_match.ops.derivatives import is_transformed
from pyg_match.ops.segments import segment_logsumexp

_ROWS = 64  # of a dense assignment that a cache holds


class DualSoftmaxAssignment(nn.Module):
    r"""Assignment by a softmax in both directions, weighted by how matchable both keypoints are.

    .. math::
        S_{ij} = \frac{\langle \mathbf{W}\mathbf{x}_i, \mathbf{W}\mathbf{x}_j \rangle}{\sqrt{D}}, \qquad
        P_{ij} = \sigma_i \sigma_j \, \underset{k}{\mathrm{softmax}}(S_{ik})_j \,
        \underset{k}{\mathrm{softmax}}(S_{kj})_i

    with the matchability :math:`\sigma_i = \mathrm{sigmoid}(\mathbf{w}^\top \mathbf{x}_i + b)`. The candidates
    :math:`k` are all keypoints of the other image (:meth:`forward`) or the neighbours in ``cross_edge_index``
    (:meth:`on_edges`).

    Args:
        channels: Width :math:`D` of the descriptors.

    Shapes:
        - **input:** :math:`(N_0, D), (N_1, D)`
        - **output:** :math:`(N_0 + 1, N_1 + 1)` log assignment, whose last column and row hold
          :math:`\log(1 - \sigma)` of image 0 and 1

    Source: LightGlue (https://arxiv.org/abs/2306.13643), eqs. 6 to 8.

    Example:
        >>> DualSoftmaxAssignment(16)(torch.randn(3, 16), torch.randn(5, 16)).shape
        torch.Size([4, 6])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels = whole_number("channels", channels, most=MOST_CHANNELS)
        self.lin = nn.Linear(channels, channels)
        self.lin_matchability = nn.Linear(channels, 1)

    def reset_parameters(self) -> None:
        """Reset both projections."""
        self.lin.reset_parameters()
        self.lin_matchability.reset_parameters()

    def matchability(self, x: Tensor) -> Tensor:
        """The logit of having a match at all, :math:`(N)`."""
        logit: Tensor = self.lin_matchability(x).squeeze(-1)
        return logit

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The dense log assignment of one pair of images."""
        count0 = x0.size(0)
        x = torch.cat([x0, x1])
        projected = self.lin(x) / self.channels**0.25
        matchable = self.matchability(x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed(projected, matchable):
            similarity = projected[:count0] @ projected[count0:].t()
            inner = (
                2 * similarity
                - (similarity.logsumexp(1) - F.logsigmoid(matchable[:count0])).unsqueeze(1)
                - (similarity.logsumexp(0) - F.logsigmoid(matchable[count0:])).unsqueeze(0)
            )
            out = F.pad(inner, (0, 1, 0, 1))
        else:
            out = _in_place(projected[:count0], projected[count0:], F.logsigmoid(matchable))
        unmatched = F.logsigmoid(-matchable)
        out[:-1, -1] = unmatched[:count0]
        out[-1, :-1] = unmatched[count0:]
        return out

    def padded(self, x: Tensor, images: PaddedImages) -> Tensor:
        """The dense log assignments of all pairs at once, from the descriptors of all nodes."""
        projected = (self.lin(x) / self.channels**0.25)[images.rows]
        matchable = self.matchability(x)[images.rows]
        similarity = projected[::2] @ projected[1::2].transpose(1, 2)
        similarity = similarity.masked_fill(~images.both, least(x.dtype))
        certain = F.logsigmoid(matchable)
        inner = (
            2 * similarity
            - (similarity.logsumexp(2) - certain[::2]).unsqueeze(2)
            - (similarity.logsumexp(1) - certain[1::2]).unsqueeze(1)
        )
        return images.with_dustbins(inner, F.logsigmoid(-matchable), x.new_zeros(()))

    def on_edges(
        self,
        x: Tensor,
        cross_edge_index: Union[EdgesLike, EdgeSet],
        edge_mask: Optional[Tensor] = None,
        mask_mode: MaskMode = "remove",
    ) -> Tensor:
        r"""The log assignment of each edge between images, without any dense matrix.

        Args:
            x: Descriptors of all nodes, of any number of pairs.
            cross_edge_index: Edges between images in both directions, in any form that
                :func:`pyg_match.ops.sparse_attention` takes. The log assignment of an edge whose source has no edge
                towards it is ``-inf``.
            edge_mask: Which edges may be matches; the log assignment of others is ``-inf``.
            mask_mode: Whether others are left out before the softmax, ``"remove"``, or after it, ``"zero"``.

        Shapes:
            - **x:** :math:`(N, D)`
            - **cross_edge_index:** :math:`(2, E)`
            - **edge_mask**, **output:** :math:`(E)`

        Raises:
            TypeError: If a type does not fit.
            ValueError: If a shape does not fit, an edge names a node that does not exist, or a mode is unknown.
        """
        one_of("mask_mode", mask_mode, ("remove", "zero"))
        edges = EdgeSet.of(cross_edge_index, x.size(0), x.size(0), x.device)
        check_edge_values(edges.col.size(0), 1, None, edge_mask)
        csr = edges.csr()
        projected = self.lin(x).unsqueeze(1)
        similarity = edge_scores(projected, projected, edges, self.channels**-0.5).squeeze(1)
        if edge_mask is not None and mask_mode == "remove":
            similarity = similarity.masked_fill(~edge_mask, -torch.inf)
        certain = F.logsigmoid(self.matchability(x))
        source, target = csr.listed()
        normaliser = segment_logsumexp(csr.sorted(similarity), csr.rowptr)
        # A source that sees nobody chooses nobody.
        normaliser = normaliser.masked_fill(normaliser == -math.inf, math.inf) - certain
        out = 2 * similarity - normaliser[source] - normaliser[target]
        return out if edge_mask is None else out.masked_fill(~edge_mask, -torch.inf)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels})"


class SinkhornAssignment(nn.Module):
    r"""Assignment by optimal transport with a dustbin, computed in the log domain.

    The scores :math:`S_{ij} = \langle \mathbf{W}\mathbf{x}_i, \mathbf{W}\mathbf{x}_j \rangle / \sqrt{D}` get one more
    row and column of a learned score :math:`z`, the dustbins, and are normalised alternately until the rows of
    keypoints sum to 1 and the dustbins to the number of keypoints on the other side.

    Args:
        channels: Width :math:`D` of the descriptors.
        iterations: Number of Sinkhorn iterations.

    Shapes:
        - **input:** :math:`(N_0, D), (N_1, D)`
        - **output:** :math:`(N_0 + 1, N_1 + 1)` log assignment

    Source: SuperGlue (https://arxiv.org/abs/1911.11763), eqs. 7 to 10.

    Example:
        >>> SinkhornAssignment(16)(torch.randn(3, 16), torch.randn(5, 16)).exp().sum(1)[:3].round(decimals=3)
        tensor([1., 1., 1.], grad_fn=<RoundBackward1>)
    """

    def __init__(self, channels: int, iterations: int = 100) -> None:
        super().__init__()
        self.channels = channels = whole_number("channels", channels, most=MOST_CHANNELS)
        self.iterations = whole_number("iterations", iterations, least=0)
        self.lin = nn.Linear(channels, channels)
        self.dustbin = nn.Parameter(torch.ones(()))

    def reset_parameters(self) -> None:
        """Reset the projection and the score of the dustbins."""
        self.lin.reset_parameters()
        nn.init.ones_(self.dustbin)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The dense log assignment of one pair of images."""
        count0, count1 = x0.size(0), x1.size(0)
        projected = self.lin(torch.cat([x0, x1]))
        similarity = projected[:count0] @ projected[count0:].t() / math.sqrt(self.channels)
        column = torch.cat([similarity, self.dustbin.expand(count0, 1)], dim=1)
        scores = torch.cat([column, self.dustbin.expand(1, count1 + 1)], dim=0)
        # Masses are kept relative to one keypoint instead of the total, which leaves the result as probabilities.
        mass0 = scores.new_zeros(count0 + 1)
        mass0[-1] = math.log(max(count1, 1))
        mass1 = scores.new_zeros(count1 + 1)
        mass1[-1] = math.log(max(count0, 1))
        potential1 = torch.zeros_like(mass1)
        potential0 = torch.zeros_like(mass0)
        for _ in range(self.iterations):
            potential0 = mass0 - (scores + potential1.unsqueeze(0)).logsumexp(1)
            potential1 = mass1 - (scores + potential0.unsqueeze(1)).logsumexp(0)
        return scores + potential0.unsqueeze(1) + potential1.unsqueeze(0)

    def padded(self, x: Tensor, images: PaddedImages) -> Tensor:
        """The dense log assignments of all pairs at once, from the descriptors of all nodes."""
        projected = self.lin(x)[images.rows]
        similarity = projected[::2] @ projected[1::2].transpose(1, 2) / math.sqrt(self.channels)
        scores = images.with_dustbins(similarity, self.dustbin.expand(images.rows.shape), self.dustbin)
        places = torch.arange(scores.size(1), device=x.device)
        sizes = images.sizes.unsqueeze(2)
        real0, real1 = (places <= sizes).unbind(1)
        other = sizes.flip(1).clamp(min=1).to(scores.dtype).log()
        mass0, mass1 = torch.where(places == sizes, other, 0).unbind(1)
        potential0, potential1 = torch.zeros_like(mass0), torch.zeros_like(mass1)
        for _ in range(self.iterations):
            # What is behind the dustbins would count for as much as they do.
            potential0 = (mass0 - (scores + potential1.unsqueeze(1)).logsumexp(2)).masked_fill(~real0, 0)
            potential1 = (mass1 - (scores + potential0.unsqueeze(2)).logsumexp(1)).masked_fill(~real1, 0)
        return scores + potential0.unsqueeze(2) + potential1.unsqueeze(1)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels}, iterations={self.iterations})"


def _in_place(x0: Tensor, x1: Tensor, certain: Tensor) -> Tensor:
    """A dense log assignment without its dustbins, in one piece of memory and a few rows at a time.

    New memory of that size costs more than what is computed in it.
    """
    count0, count1 = x0.size(0), x1.size(0)
    out = x0.new_zeros(count0 + 1, count1 + 1)
    inner = out[:-1, :-1]
    if inner.numel() == 0:
        return out
    torch.mm(x0, x1.t(), out=inner)
    rows = inner.split(_ROWS)
    row = torch.cat([_logsumexp(part, 1) for part in rows]) - certain[:count0]
    column = torch.stack([_logsumexp(part, 0) for part in rows]).logsumexp(0) - certain[count0:]
    for part, part_row in zip(rows, row.split(_ROWS), strict=True):
        part.mul_(2).sub_(part_row.unsqueeze(1)).sub_(column)
    return out


def _logsumexp(src: Tensor, dim: int) -> Tensor:
    """The logarithm of the summed exponentials of finite numbers, in fewer passes than torch's."""
    top = src.amax(dim, keepdim=True)
    return (src - top).exp_().sum(dim).log_().add_(top.squeeze(dim))


def mutual_matches(log_assignment: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Read matches off a dense log assignment: pairs that are each other's best, above a threshold.

    Args:
        log_assignment: What an assignment head gives.
        threshold: Least probability of a match.

    Shapes:
        - **log_assignment:** :math:`(N_0 + 1, N_1 + 1)`
        - **output:** matches :math:`(N_0), (N_1)` with -1 for none, and scores :math:`(N_0), (N_1)`

    Source: ``filter_matches`` of LightGlue.
    """
    inner = log_assignment[:-1, :-1]
    count0, count1 = inner.shape
    if count0 == 0 or count1 == 0:
        none0, none1 = (inner.new_full((count,), -1, dtype=torch.long) for count in (count0, count1))
        return none0, none1, inner.new_zeros(count0), inner.new_zeros(count1)
    # Of several that are as good, the first one, for rows and columns alike.
    best, partner0 = inner.max(dim=1)
    partner1 = inner.detach().max(dim=0).indices
    mutual0 = partner1[partner0] == torch.arange(count0, device=inner.device)
    mutual1 = partner0[partner1] == torch.arange(count1, device=inner.device)
    scores0 = best.exp().masked_fill(~mutual0, 0)
    scores1 = scores0[partner1].masked_fill(~mutual1, 0)
    matches0 = partner0.masked_fill(~(scores0 > threshold), -1)
    matches1 = partner1.masked_fill(~(scores1 > threshold), -1)
    return matches0, matches1, scores0, scores1


def mutual_edges(
    log_assignment: Tensor, cross_edge_index: Tensor, num_nodes: int, threshold: float
) -> tuple[Tensor, Tensor]:
    r"""Read matches off the log assignment of single edges.

    Args:
        log_assignment: What :meth:`DualSoftmaxAssignment.on_edges` gives.
        cross_edge_index: Edges between images in both directions.
        num_nodes: Number of nodes :math:`N` of all images.
        threshold: Least probability of a match.

    Shapes:
        - **log_assignment:** :math:`(E)`
        - **output:** the matched *node* of each node, -1 for none, :math:`(N)`, and scores :math:`(N)`
    """
    source, target = cross_edge_index[0], cross_edge_index[1]
    top = scatter(log_assignment, target, dim_size=num_nodes, reduce="max")
    # Of several best edges, the one with the lowest source, as in a dense matrix.
    candidate = torch.where(log_assignment == top[target], source, num_nodes)
    best = scatter(candidate, target, dim_size=num_nodes, reduce="min")
    seen = torch.zeros(num_nodes, dtype=torch.bool, device=target.device).index_fill_(0, target, True)
    nodes = torch.arange(num_nodes, device=target.device)
    seen &= best < num_nodes  # none is the best of NaN
    best = torch.where(seen, best, nodes)
    mutual = seen & (best[best] == nodes) & (best != nodes)
    scores = torch.where(mutual, top.exp(), 0)
    return best.masked_fill(~(scores > threshold), -1), scores
