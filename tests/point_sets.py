"""Point sets that are hard on geometry, for hypothesis."""

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch import Tensor

KINDS = ("random", "collinear", "duplicates", "grid", "equal")


def points(kind: str, num_points: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(num_points, 2, generator=generator) * 100
    if kind == "collinear":
        pos = pos[:, :1] * torch.tensor([[3.0, -1.0]]) + 7.0
    elif kind == "duplicates":
        pos = pos[torch.randint(max(1, num_points // 3), (num_points,), generator=generator)]
    elif kind == "grid":
        pos = (pos / 25).floor()
    elif kind == "equal":
        pos = torch.full_like(pos, 5.0)
    return pos


@st.composite
def point_sets(draw, max_points: int = 40) -> Tensor:
    kind = draw(st.sampled_from(KINDS))
    return points(kind, draw(st.integers(0, max_points)), draw(st.integers(0, 999)))


def neighbour_distances(pos: Tensor, k: int) -> np.ndarray:
    """The distances of each point to its nearest others by scipy, ``[N, min(k, N - 1)]``."""
    size = min(k, len(pos) - 1)
    if size < 1:
        return np.empty((len(pos), 0))
    array = pos.double().numpy()
    return cKDTree(array).query(array, k=np.arange(1, size + 2))[0][:, 1:]


def edge_set(edge_index: Tensor) -> set[tuple[int, int]]:
    edges = {tuple(edge) for edge in edge_index.t().tolist()}
    assert len(edges) == edge_index.size(1), "duplicate edges"
    return edges
