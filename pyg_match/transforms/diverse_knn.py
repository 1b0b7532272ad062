"""Near neighbours that differ from each other."""

from typing import Literal, Optional

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import one_of, real_number, whole_number
from pyg_match.data.edges import sorted_edges
from pyg_match.ops.diverse import diverse_choice
from pyg_match.ops.knn import KNNBackend, knn_graph
from pyg_match.ops.precision import widest
from pyg_match.transforms.edges import check_data, group_ptr, node_groups
from pyg_match.transforms.store import store_edges


@functional_transform("diverse_knn")
class DiverseKNN(BaseTransform):
    r"""Graph of :math:`k` neighbours **of the same image** that are near a keypoint *and* differ from each other
    (functional name: :obj:`diverse_knn`).

    The neighbours of node :math:`i` are chosen one by one from its pool, the :math:`P` nearest keypoints. Given
    those chosen so far, :math:`\mathcal{S}`, the next one is the :math:`j` of least cost

    .. math::
        w_d \frac{\lVert \mathbf{p}_j - \mathbf{p}_i \rVert}{\max_{l \in \mathrm{pool}(i)}
        \lVert \mathbf{p}_l - \mathbf{p}_i \rVert} + w_o \max_{s \in \mathcal{S}}
        \lvert \cos(\mathbf{v}_j, \mathbf{v}_s) \rvert ,

    the nearer one of equals, with the second term 0 for the first choice. Both terms are between 0 and 1. The vector
    :math:`\mathbf{v}_j` is the descriptor :math:`\mathbf{x}_j`, or the direction
    :math:`\mathbf{p}_j - \mathbf{p}_i`; the cosine with a zero vector counts as 0. With :math:`w_o = 0` this is
    :class:`~pyg_match.transforms.KNNGraph`.

    The edges of a keypoint are sorted by distance, not by the order of choice. The time is
    :math:`\mathcal{O}(N P k D)` and the memory :math:`\mathcal{O}(N P)`.

    Args:
        k: Number of neighbours. With fewer than :math:`k` other keypoints in an image, all of them.
        distance_weight: The weight :math:`w_d` of the distance.
        orthogonality_weight: The weight :math:`w_o` of the worst absolute cosine.
        pool: Number of nearest keypoints to choose from; ``None`` for :math:`4k`.
        space: ``"descriptor"`` for the cosine of descriptors ``x``, ``"direction"`` for that of directions.
        loop: Whether a keypoint counts as its own first neighbour, to which the others are compared, too.
        backend: See :func:`pyg_match.knn_graph`; all backends give the same edges.

    Raises:
        ValueError: If an argument is out of range, or a descriptor is not finite.
        TypeError: If the data has no positions, or no descriptors where they are needed.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> data = Data(pos=torch.tensor([[0.0], [1.0], [2.0], [3.0]]), x=x)
        >>> DiverseKNN(2)(data).edge_index[0, :2].tolist()  # not 1 and 2, which look the same
        [1, 3]
    """

    def __init__(
        self,
        k: int,
        distance_weight: float = 1.0,
        orthogonality_weight: float = 1.0,
        pool: Optional[int] = None,
        space: Literal["descriptor", "direction"] = "descriptor",
        loop: bool = False,
        backend: KNNBackend = "auto",
    ) -> None:
        k = whole_number("k", k)
        pool = 4 * k if pool is None else whole_number("pool", pool)
        if pool < k:
            raise ValueError(f"'pool' must hold at least the k={k} neighbours to choose, got {pool}")
        self.distance_weight = real_number("distance_weight", distance_weight, least=0)
        self.orthogonality_weight = real_number("orthogonality_weight", orthogonality_weight, least=0)
        self.space = one_of("space", space, ("descriptor", "direction"))
        self.k = k
        self.pool = pool
        self.loop = loop
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Set ``data.edge_index``, sorted by target, the nearest source first."""
        check_data(data, self, "pos")
        descriptors = self._descriptors(data)
        # A k-d tree has most of the work, so it gets threads; each worker of a loader has one.
        workers = torch.get_num_threads()
        edge_index = knn_graph(
            data.pos,
            self.pool,
            node_groups(data),
            loop=self.loop,
            num_workers=workers,
            backend=self.backend,
        )
        candidates = edge_index[0]
        parts = [torch.empty(2, 0, dtype=torch.long, device=candidates.device)]
        ptr = group_ptr(data)
        done = 0
        for start, end in zip(ptr[:-1], ptr[1:], strict=True):
            size = min(self.pool, end - start if self.loop else end - start - 1)
            if size < 1:
                continue
            own = candidates[done : done + (end - start) * size].view(end - start, size)
            done += own.numel()
            chosen = self._choose(data.pos.detach(), descriptors, own, start)
            target = torch.arange(start, end, device=own.device).repeat_interleave(chosen.size(1))
            parts.append(torch.stack([chosen.reshape(-1), target]))
        store_edges(data, "edge_index", sorted_edges(torch.cat(parts, dim=1), ptr[-1], is_sorted=True))
        return data

    def _descriptors(self, data: Data) -> Tensor:
        """Descriptors of unit length; of width 0 if directions are compared."""
        if self.space == "direction":
            return widest(data.pos).new_zeros(data.pos.size(0), 0)
        check_data(data, self, "pos", "x")
        x = data.x.detach()
        if x.dim() < 2 or x.shape[1:].numel() == 0:
            raise ValueError(f"'x' must hold descriptors of shape [N, D], got shape {list(x.shape)}")
        x = x.to(torch.promote_types(x.dtype, torch.float)).flatten(1)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("'x' holds NaN or infinite descriptors, expected finite ones")
        return torch.nn.functional.normalize(x, dim=1)

    def _choose(self, pos: Tensor, descriptors: Tensor, candidates: Tensor, first: int) -> Tensor:
        """The chosen ones among the candidates ``[M, P]`` of the nodes from ``first`` on, ``[M, min(k, P)]``."""
        if candidates.size(1) <= self.k:
            return candidates
        weights = self.distance_weight, self.orthogonality_weight
        mask = diverse_choice(pos, descriptors, candidates, self.k, *weights, first)
        return candidates[mask].view(-1, self.k)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(k={self.k}, distance_weight={self.distance_weight}, "
            f"orthogonality_weight={self.orthogonality_weight}, pool={self.pool}, space={self.space!r})"
        )
