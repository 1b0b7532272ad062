import sys

import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.visualization import repeated_groups, repetition_score

MODULE = sys.modules["pyg_match.visualization.repetition"]


def windows(rows=2, columns=4, others=20, noise=0.02):
    """Two kinds of windows on a grid of 100 pixels, and other keypoints, which are orthogonal to all."""
    x = torch.zeros(2 * rows * columns + others, 40)
    kind = torch.arange(2 * rows * columns) % 2
    x[: len(kind)] = torch.eye(40)[kind] + noise * torch.randn(len(kind), 40)
    x[len(kind) :] = torch.eye(40)[2 : 2 + others]
    pos = torch.rand(len(x), 2) * 1000
    place = torch.arange(2 * rows * columns) // 2
    pos[: len(kind)] = 100.0 * torch.stack([place % columns, place // columns], 1) + 30 * kind[:, None]
    return KeypointSet(pos=pos, x=3 * x, image_size=(1000, 1000)), kind


@pytest.mark.parametrize("chunk", [1 << 22, 50])
def test_windows_are_found(chunk, monkeypatch):
    monkeypatch.setattr(MODULE, "_CHUNK", chunk)
    image, kind = windows()
    score = repetition_score(image)
    assert score.tolist() == [7] * 16 + [0] * 20
    groups = repeated_groups(image)
    assert (groups[16:] == -1).all() and sorted(groups[:16].unique().tolist()) == [0, 1]
    assert len(groups[:16][kind == 0].unique()) == len(groups[:16][kind == 1].unique()) == 1
    assert torch.equal(repeated_groups(image.x, pos=image.pos), groups)
    assert (repeated_groups(image, min_size=9) == -1).all()


def test_same_place_does_not_count():
    image, _ = windows()
    image.pos[:16] = torch.rand(16, 2) * 10
    assert (repetition_score(image) == 0).all() and (repeated_groups(image) == -1).all()
    assert repetition_score(image, min_distance=0)[:16].tolist() == [7] * 16
    assert repetition_score(image.x)[:16].tolist() == [7] * 16


def test_chains_do_not_run_together():
    angle = torch.linspace(0, 3.1, 32)  # neighbours are alike, ends are opposite
    x = torch.stack([angle.cos(), angle.sin()], 1)
    groups = repeated_groups(x, similarity=0.95)
    assert int(groups.max()) > 2
    for group in range(int(groups.max()) + 1):
        members = angle[groups == group]
        assert members.max() - members.min() <= 2 * torch.tensor(0.95).acos() + 1e-5
        leader = (x @ x[groups == group].t() >= 0.95 - 1e-6).all(1)
        assert leader.any() and len(members) >= 3
    sizes = torch.bincount(groups[groups >= 0]).tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_score_against_brute_force(monkeypatch):
    monkeypatch.setattr(MODULE, "_CHUNK", 64)
    image = random_pair(60, 1).image(0)
    x = torch.nn.functional.normalize(image.x.double(), dim=1)
    alike = (x @ x.t() >= 0.3) & ((image.pos[:, None] - image.pos).norm(dim=-1) >= 100)
    assert torch.equal(repetition_score(image, 0.3, 100.0), alike.fill_diagonal_(False).sum(1))


def test_images_of_pairs_stay_apart():
    image, _ = windows()
    pair = KeypointPair.from_sets(image, image)
    batch = Batch.from_data_list([pair, random_pair(5, 0, channels=40)])
    groups = repeated_groups(batch)
    assert groups[:16].unique().tolist() == [0, 1] and groups[36:52].unique().tolist() == [2, 3]
    assert (groups[72:] == -1).all() and len(groups) == 77
    assert repetition_score(batch)[:16].tolist() == [7] * 16


def test_nothing_and_errors():
    assert repetition_score(torch.zeros(0, 8)).shape == repeated_groups(torch.zeros(0, 8)).shape == (0,)
    assert repeated_groups(torch.ones(1, 8)).tolist() == [-1]
    assert repetition_score(torch.zeros(3, 8)).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"descriptors \[N, D\], a KeypointSet or a KeypointPair, got \[3\]"):
        repetition_score(torch.zeros(3))
    with pytest.raises(ValueError, match=r"'pos' must have shape \[3, 2\], got \[2, 2\]"):
        repetition_score(torch.zeros(3, 8), pos=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="'similarity' must be a cosine, from -1 to 1, got 2"):
        repeated_groups(torch.zeros(3, 8), similarity=2)
    with pytest.raises(ValueError, match="'min_size' must be at least 2, got 1"):
        repeated_groups(torch.zeros(3, 8), min_size=1)
    for distance in (float("nan"), "16"):
        with pytest.raises(ValueError, match="'min_distance' must be a finite number, got"):
            repeated_groups(torch.zeros(3, 8), min_distance=distance)
    with pytest.raises(ValueError, match="'x' holds NaN or infinite values"):
        repeated_groups(torch.full((3, 8), torch.nan))
    with pytest.raises(TypeError, match=r"'pos' must be a tensor of real numbers, got torch.complex64"):
        repetition_score(torch.zeros(3, 8), pos=torch.zeros(3, 2, dtype=torch.complex64))
