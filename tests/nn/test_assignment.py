import math

import numpy as np
import pytest
import torch
from helpers import random_pair
from kornia.feature.lightglue import MatchAssignment, filter_matches
from scipy.optimize import linprog

from pyg_match.nn import DualSoftmaxAssignment, SinkhornAssignment
from pyg_match.nn.assignment import mutual_edges, mutual_matches
from pyg_match.ops import CSR
from pyg_match.transforms import CandidateEdges, CompleteGraph


def test_dual_softmax_equals_kornia():
    head, peer = DualSoftmaxAssignment(16).double(), MatchAssignment(16).double()
    peer.final_proj, peer.matchability = head.lin, head.lin_matchability
    x0, x1 = torch.randn(7, 16, dtype=torch.double), torch.randn(5, 16, dtype=torch.double)
    expected, _ = peer(x0[None], x1[None])
    assert torch.allclose(head(x0, x1), expected[0], atol=1e-12)
    for threshold in (0.0, 0.1, 0.9):
        mine = mutual_matches(expected[0], threshold)
        theirs = filter_matches(expected, threshold)
        assert all(torch.equal(a, b[0]) for a, b in zip(mine, theirs, strict=True))


def test_on_complete_edges_equals_dense():
    pair = CompleteGraph()(random_pair(7, 5, dtype=torch.double))
    head = DualSoftmaxAssignment(16).double()
    dense = head(pair.x[:7], pair.x[7:])
    on_edges = head.on_edges(pair.x, pair.cross_edge_index)
    source, target = pair.cross_edge_index.as_tensor()
    rows, columns = torch.minimum(source, target), torch.maximum(source, target) - 7
    assert torch.allclose(on_edges, dense[rows, columns], atol=1e-10)
    matched, scores = mutual_edges(on_edges, pair.cross_edge_index, 12, 0.0)
    matches0, matches1, scores0, scores1 = mutual_matches(dense, 0.0)
    assert torch.equal(matched[:7], torch.where(matches0 >= 0, matches0 + 7, -1))
    assert torch.equal(matched[7:], matches1)
    assert torch.allclose(scores, torch.cat([scores0, scores1]), atol=1e-12)


def test_on_edges_gradient_and_isolated_nodes():
    head = DualSoftmaxAssignment(8).double()
    edges = CandidateEdges(2)(random_pair(6, 4)).cross_edge_index
    x = torch.randn(11, 8, dtype=torch.double, requires_grad=True)  # node 10 has no edge
    assert torch.autograd.gradcheck(lambda x: head.on_edges(x, edges), (x,))
    matched, scores = mutual_edges(head.on_edges(x, edges), edges, 11, 0.0)
    assert matched[10] == -1
    assert scores[10] == 0
    none = edges[:, :0]
    matched, scores = mutual_edges(head.on_edges(x, none), none, 11, 0.0)
    assert (matched == -1).all()
    assert (scores == 0).all()


def test_sinkhorn_marginals():
    head = SinkhornAssignment(16).double()
    probability = head(torch.randn(7, 16, dtype=torch.double), torch.randn(5, 16, dtype=torch.double)).exp()
    assert torch.allclose(probability.sum(1)[:-1], torch.ones(7, dtype=torch.double), atol=1e-6)
    assert torch.allclose(probability.sum(0)[:-1], torch.ones(5, dtype=torch.double), atol=1e-6)
    assert torch.allclose(probability.sum(1)[-1], torch.tensor(5.0, dtype=torch.double), atol=1e-6)
    assert torch.allclose(probability.sum(0)[-1], torch.tensor(7.0, dtype=torch.double), atol=1e-6)


def test_sinkhorn_is_entropic_optimal_transport():
    """With scores scaled up, entropy matters less and less: the plan approaches that of a linear programme."""
    head = SinkhornAssignment(4, iterations=2000).double()
    with torch.no_grad():
        head.lin.weight.copy_(20 * torch.eye(4))
        head.lin.bias.zero_()
    x0, x1 = torch.randn(4, 4, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    plan = head(x0, x1).exp().detach().numpy()
    scores = np.full((5, 4), 1.0)
    scores[:4, :3] = (20 * x0 @ (20 * x1).t() / 2).numpy()
    rows, columns = np.array([1, 1, 1, 1, 3.0]), np.array([1, 1, 1, 4.0])
    constraints = [np.kron(np.eye(5), np.ones(4)), np.kron(np.ones(5), np.eye(4))]
    best = linprog(-scores.ravel(), A_eq=np.vstack(constraints), b_eq=np.concatenate([rows, columns]))
    assert np.allclose(plan.ravel(), best.x, atol=1e-2)


@pytest.mark.parametrize("head", [DualSoftmaxAssignment(16), SinkhornAssignment(16)])
@pytest.mark.parametrize("counts", [(0, 4), (4, 0), (0, 0), (1, 1)])
def test_few_keypoints(head, counts):
    out = head(torch.randn(counts[0], 16), torch.randn(counts[1], 16))
    assert out.shape == (counts[0] + 1, counts[1] + 1)
    matches0, matches1, scores0, _ = mutual_matches(out, 0.0)
    assert (matches0.numel(), matches1.numel()) == counts
    assert torch.isfinite(scores0).all()
    if 0 in counts:
        assert (matches0 == -1).all()
        assert (matches1 == -1).all()


def test_repr():
    assert str(DualSoftmaxAssignment(16)) == "DualSoftmaxAssignment(16)"
    assert str(SinkhornAssignment(16)) == "SinkhornAssignment(16, iterations=100)"


@pytest.mark.parametrize("counts", [(150, 70), (1, 1), (64, 65), (3, 0), (0, 0)])
def test_inference_equals_training(counts):
    head = DualSoftmaxAssignment(16).double()
    x0, x1 = (10 * torch.randn(count, 16, dtype=torch.double) for count in counts)
    expected = head(x0, x1).detach()
    with torch.no_grad():
        found = head(x0, x1)
    assert found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_mutual_matches_against_a_loop():
    for seed in range(20):
        torch.manual_seed(seed)
        matrix = torch.randint(-6, 0, (8, 7)).double()  # with ties
        matches0, matches1, scores0, scores1 = mutual_matches(matrix, 0.05)
        inner = matrix[:-1, :-1]
        for i in range(7):
            j = int(inner[i].argmax())
            column = inner[:, j]
            rivals = [r for r in range(7) if column[r] == column.max()]
            mutual = rivals[0] == i
            assert float(scores0[i]) == (math.exp(inner[i, j]) if mutual else 0)
            assert int(matches0[i]) == (j if mutual and scores0[i] > 0.05 else -1)
        for j in range(6):
            partners = (matches0 == j).nonzero().flatten().tolist()
            assert partners == ([int(matches1[j])] if matches1[j] >= 0 else [])
            mutual = [i for i in range(7) if scores0[i] > 0 and inner[i].argmax() == j]
            assert float(scores1[j]) == (float(scores0[mutual[0]]) if mutual else 0)


def test_matches_of_equal_scores_are_those_of_lightglue():
    """Swapped images have the same ones, and so do single edges."""
    for seed in range(20):
        torch.manual_seed(seed)
        matrix = torch.randint(-6, 0, (9, 7)).double()
        found = mutual_matches(matrix, 0.05)
        for one, other in zip(found, filter_matches(matrix[None], 0.05), strict=True):
            assert torch.equal(one, other[0])
        swapped = mutual_matches(matrix.t().contiguous(), 0.05)
        for one, other in zip(found, (swapped[1], swapped[0], swapped[3], swapped[2]), strict=True):
            assert torch.equal(one, other)
        row, column = torch.meshgrid(torch.arange(8), torch.arange(6) + 8, indexing="ij")
        edges = torch.stack([torch.cat([row, column]).flatten(), torch.cat([column, row]).flatten()])
        order = edges[1].argsort(stable=True)
        values = matrix[:-1, :-1].flatten().repeat(2)[order]
        matches, scores = mutual_edges(values, edges[:, order], 14, 0.05)
        assert torch.equal(matches[:8], torch.where(found[0] >= 0, found[0] + 8, -1))
        assert torch.equal(matches[8:], found[1])
        torch.testing.assert_close(scores, torch.cat(found[2:]))


def test_an_edge_from_a_source_that_sees_nobody():
    head = DualSoftmaxAssignment(8)
    edges = CSR(torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1]))
    assert torch.equal(head.on_edges(torch.randn(3, 8), edges), torch.full((2,), -torch.inf))


def test_edges_whose_numbers_are_none_match_nothing():
    edge_index = torch.tensor([[2, 3, 0, 1], [0, 1, 2, 3]])
    log_assignment = torch.tensor([-0.1, torch.nan, -0.1, torch.nan])
    matches, scores = mutual_edges(log_assignment, edge_index, 5, 0.1)
    assert matches.tolist() == [2, -1, 0, -1, -1]
    assert scores[[1, 3, 4]].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"edge_mask": torch.tensor([False])}, ValueError, r"'mask' must have shape \[2\], got \[1\]"),
        ({"edge_mask": torch.tensor([1, 0])}, TypeError, "'mask' must be boolean, got torch.int64"),
        ({"mask_mode": "drop"}, ValueError, "'mask_mode' must be 'remove' or 'zero', got 'drop'"),
    ],
)
def test_masks_that_are_refused(change, error, message):
    given = {"edge_mask": torch.tensor([True, False]), **change}
    with pytest.raises(error, match=message):
        DualSoftmaxAssignment(8).on_edges(torch.randn(3, 8), torch.tensor([[0, 1], [1, 0]]), **given)
