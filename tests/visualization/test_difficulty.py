import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, RemovePairs
from pyg_match.visualization import (
    EASY,
    HARD,
    MEDIUM,
    UNKNOWN,
    Difficulty,
    LayerMatches,
    difficulty,
    layer_matches,
    nearest_neighbours,
)


def small(**kwargs):
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, heads=2, **kwargs).eval()
    with torch.no_grad():  # random weights match nothing otherwise
        for head in matcher.assignments:
            head.lin.weight.mul_(6)
            if hasattr(head, "lin_matchability"):
                head.lin_matchability.bias.fill_(3.0)
    return matcher


def pair_of(x0, x1, y=None):
    sets = [
        KeypointSet(pos=torch.rand(len(x), 2), x=torch.as_tensor(x, dtype=torch.float), image_size=(9, 9))
        for x in (x0, x1)
    ]
    return KeypointPair.from_sets(*sets, y=y)


def test_one_keypoint_of_each_kind():
    # Keypoints 0 to 4 belong to 0 to 4; descriptors tell 0 for sure, and confuse 1 with 2.
    x0 = [[9, 0, 0], [0, 9, 0], [0, 9.1, 0], [0, 0, 9], [5, 5, 5], [3, 1, 1]]
    x1 = [[9, 0.1, 0], [0, 9.1, 0], [0, 9, 0], [0, 9, 9], [-5, 5, 5]]
    truth = torch.tensor([0, 1, 2, 3, 4, -1, 0, 1, 2, 3, -2])
    matches = torch.full((6, 11), -1)
    matches[:, 0] = 0
    matches[2:, 1] = 1  # right for good after three layers of six
    matches[0, 2] = 2  # right once, and again after five
    matches[4:, 2] = 2
    matches[:5, 3] = 3  # lost in the end
    result = difficulty(pair_of(x0, x1, truth), LayerMatches(matches, torch.ones(6, 11)))
    assert result.labels[:6].tolist() == [EASY, MEDIUM, HARD, HARD, HARD, UNKNOWN]
    assert result.layer[:6].tolist() == [1, 3, 5, 0, 0, 0]
    assert result.partner[:6].tolist() == [0, 1, 2, 3, 4, -1]
    assert result.labels[6] == EASY and result.layer[6] == 0  # missed, but descriptors tell
    assert result.labels[10] == UNKNOWN
    assert result.counts(slice(0, 6)) == {"easy": 1, "medium": 1, "hard": 3, "unknown": 1}
    late = difficulty(pair_of(x0, x1, truth), LayerMatches(matches, torch.ones(6, 11)), late=0.4)
    assert late.labels[1] == HARD
    # Lowe's ratio: without it, the nearest one is as good as clear.
    x1[0] = [9, 0, 0]
    strict = difficulty(pair_of(x0, x1, truth), LayerMatches(matches, torch.ones(6, 11)), ratio=1e-6)
    assert strict.labels[0] == EASY  # distance 0


def test_without_ground_truth():
    pair = pair_of(torch.eye(4), torch.eye(4)[[1, 0, 2, 3]])
    matches = torch.tensor([[1, 1, -1, -1], [1, 0, 3, -1], [1, 0, 3, -1]]).repeat(1, 2)
    scores = torch.tensor([0.2, 0.9, 0.3, 0.0]).repeat(3, 2)
    result = difficulty(pair, LayerMatches(matches, scores))
    # The first two agree with their descriptors; the third does not, and is unsure.
    assert result.labels[:4].tolist() == [EASY, EASY, HARD, UNKNOWN]
    assert result.layer[:4].tolist() == [1, 2, 2, 0]
    sure = difficulty(pair, LayerMatches(matches, scores), confidence=0.2)
    assert sure.labels[2] == MEDIUM


def test_nearest_neighbours_against_brute_force(monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["pyg_match.visualization.difficulty"], "_CHUNK", 50)
    pairs = [random_pair(20, 15), random_pair(0, 4), random_pair(6, 1)]
    nearest, clear = nearest_neighbours(Batch.from_data_list(pairs), ratio=0.9)
    nearest, clear = (t.split([pair.num_nodes for pair in pairs]) for t in (nearest, clear))
    for pair, best, sure in zip(pairs, nearest, clear, strict=True):
        x0, x1 = pair.image(0).x.double(), pair.image(1).x.double()
        distance = (x0[:, None] - x1).norm(dim=-1)
        if distance.numel() == 0:
            assert (best == -1).all() and not sure.any()
            continue
        assert best.tolist() == [*distance.argmin(1).tolist(), *distance.argmin(0).tolist()]
        for i, row in enumerate(distance):
            j = int(row.argmin())
            ordered = row.sort().values
            ratio = float(ordered[0] / ordered[1]) if len(row) > 1 else 0
            assert bool(sure[i]) == (int(distance[:, j].argmin()) == i and ratio <= 0.9)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("kind", ["dense", "edges", "remove", "zero", "redrawn", "sinkhorn"])
def test_matches_of_each_layer(kind, pruned):
    options = {"assign_on_edges": True} if kind in ("edges", "remove", "zero", "redrawn") else {}
    options |= {"mask_mode": kind} if kind in ("remove", "zero") else {}
    options |= {"redraw_after": 1, "redraw_k": 4} if kind == "redrawn" else {}
    options |= {"assignment": "sinkhorn"} if kind == "sinkhorn" else {}
    if pruned:
        if kind == "sinkhorn":
            pytest.skip("needs the heads of dual softmax")
        options["width_confidence"] = 0.1
    matcher = small(**options)
    if pruned:
        with torch.no_grad():
            for head in matcher.assignments:
                head.lin_matchability.weight.mul_(2)
    pairs = [random_pair(20, 15), random_pair(4, 9)]
    if options.get("assign_on_edges"):
        pairs = [CandidateEdges(5)(pair) for pair in pairs]
    if kind in ("remove", "zero"):
        pairs = [
            RemovePairs(function=lambda data, i, j: (i + j) % 3 == 0, key="cross_edge_index", mode="mask")(
                pair
            )
            for pair in pairs
        ]
    assert (int(matcher(pairs[0]).depth.min()) < 3) == pruned
    found = layer_matches(matcher, Batch.from_data_list(pairs))
    assert found.matches.shape == found.scores.shape == (3, 48)
    assert (found.matches >= 0).any(dim=1).all()
    # A matcher that is cut after a layer says the same.
    for depth in (1, 2, 3):
        if depth <= (matcher.config.redraw_after or 0):
            continue  # a cut one would not have drawn edges anew
        cut = small(**options)
        cut.load_state_dict(matcher.state_dict())
        cut.config = type(cut.config)(**{**vars(cut.config), "num_layers": depth})
        cut.layers = cut.layers[:depth]
        for i, pair in enumerate(pairs):
            nodes = slice(0, 35) if i == 0 else slice(35, 48)
            output = cut(pair)
            assert torch.equal(found.matches[depth - 1, nodes], output.matches)
            assert torch.allclose(found.scores[depth - 1, nodes], output.scores, atol=1e-5)


def test_early_exit_keeps_the_answer():
    matcher = small(depth_confidence=0.5, width_confidence=0.8)
    with torch.no_grad():
        for head in matcher.assignments:
            head.lin_matchability.weight.mul_(8)
        for confidence in matcher.confidences:
            confidence.weight.mul_(20)
            confidence.bias.fill_(2.0)
    batch = Batch.from_data_list([random_pair(30, 25), random_pair(12, 18), random_pair(0, 3)])
    output = matcher(batch)
    found = layer_matches(matcher, batch)
    assert len(found.matches) == int(output.num_layers.max())
    assert torch.equal(found.matches[-1], output.matches)
    first = 0
    for ran, counts in zip(output.num_layers.tolist(), output.num_keypoints.tolist(), strict=True):
        own = slice(first, first + sum(counts))
        assert (found.matches[ran - 1 :, own] == output.matches[own]).all()
        first += sum(counts)


def test_nothing_and_errors():
    empty = random_pair(0, 0)
    result = difficulty(empty, layer_matches(small(), empty))
    assert isinstance(result, Difficulty) and result.labels.numel() == 0
    assert sum(result.counts().values()) == 0
    pair = random_pair(3, 2)
    with pytest.raises(ValueError, match=r"must have shape \[L, 5\], got \[2, 4\]"):
        difficulty(pair, LayerMatches(torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="'ratio' and 'late' must be in"):
        difficulty(pair, layer_matches(small(), pair), ratio=0.0)


def test_descriptors_in_half_precision():
    pair = random_pair(6, 5)
    pair.x = pair.x.half()
    found = nearest_neighbours(pair)
    pair.x = pair.x.float()
    assert all(torch.equal(one, other) for one, other in zip(found, nearest_neighbours(pair), strict=True))
    with pytest.raises(ValueError, match="'ratio' must be a positive number, got nan"):
        nearest_neighbours(pair, ratio=float("nan"))
    pair.x[2] = torch.nan
    with pytest.raises(ValueError, match=r"'x' holds NaN or infinite values, .* first at keypoint 2"):
        nearest_neighbours(pair)


def test_equal_descriptors_are_not_clear():
    sets = [
        KeypointSet(pos=torch.rand(len(x), 2), x=torch.tensor(x), image_size=(2, 2))
        for x in ([[1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]])
    ]
    assert not nearest_neighbours(KeypointPair.from_sets(*sets))[1][0]
