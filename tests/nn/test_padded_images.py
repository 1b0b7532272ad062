"""Assignments of all pairs at once, as other devices make them, against those of one pair after another."""

import math

import pytest
import torch
from helpers import NeverWaits, random_pair
from torch_geometric.data import Batch
from training_pairs import SPARSE, labelled_pair

from pyg_match.nn import DualSoftmaxAssignment, GraphMatcher, SinkhornAssignment, layer_assignment
from pyg_match.nn.assignment import mutual_matches
from pyg_match.nn.layer_assignment import LayerAssignment
from pyg_match.nn.padded_images import PaddedImages, least
from pyg_match.ops import candidates
from pyg_match.training import LossConfig, Objective, losses, padded_losses
from pyg_match.transforms import graph_from_recipe

COUNTS = ((5, 3), (0, 4), (2, 7), (6, 0), (0, 0), (1, 1))
OFFSETS = torch.tensor([0, *[count for pair in COUNTS for count in pair]]).cumsum(0)
NODES, MOST = int(OFFSETS[-1]), 7
LEAST = least(torch.double)
SHAPE = {"in_channels": 16, "hidden_channels": 16, "num_layers": 3, "heads": 2}


@pytest.fixture
def images():
    return PaddedImages.of(OFFSETS, NODES, MOST)


@pytest.fixture
def batches(monkeypatch):
    """As on a device that prefers them."""
    monkeypatch.setattr(layer_assignment, "waits_for_counts", lambda _: True)


def matrices(padded):
    return [matrix[: a + 1, : b + 1] for matrix, (a, b) in zip(padded, COUNTS, strict=True)]


def as_padded(given):
    padded = torch.full((len(COUNTS), MOST + 1, MOST + 1), LEAST, dtype=torch.double)
    for into, matrix in zip(padded, given, strict=True):
        into[: matrix.size(0), : matrix.size(1)] = matrix
    return padded


def random_matrices(ties=False):
    draw = (lambda *size: torch.randint(-6, 0, size).double()) if ties else torch.randn
    return [draw(a + 1, b + 1).double() for a, b in COUNTS]


@pytest.mark.parametrize("head", [DualSoftmaxAssignment(8), SinkhornAssignment(8, iterations=20)], ids=repr)
def test_heads_and_their_gradients(head, images):
    head = head.double()
    x = (3 * torch.randn(NODES, 8, dtype=torch.double)).requires_grad_()
    parts = x.split(OFFSETS.diff().tolist())
    expected = [head(x0, x1) for x0, x1 in zip(parts[::2], parts[1::2], strict=True)]
    padded = head.padded(x, images)
    weights = [torch.randn_like(matrix) for matrix in expected]
    leaves = [x, *head.parameters()]
    gradients = []
    for found in (expected, matrices(padded)):
        total = sum((matrix * weight).sum() for matrix, weight in zip(found, weights, strict=True))
        gradients.append(torch.autograd.grad(total, leaves, retain_graph=True))
    for one, other in zip(matrices(padded), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    behind = torch.ones_like(padded, dtype=torch.bool)
    for matrix, (a, b) in zip(behind, COUNTS, strict=True):
        matrix[: a + 1, : b + 1] = False
    assert bool((padded[behind] < LEAST / 2).all())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.05, math.exp(-2)])
def test_matches(images, ties, threshold):
    for _ in range(10):
        given = random_matrices(ties)
        matched, scores = images.matches(as_padded(given), threshold)
        expected = LayerAssignment(COUNTS, dense=given).matches(threshold)
        assert torch.equal(matched, expected[0])
        torch.testing.assert_close(scores, expected[1])
        pairs = [mutual_matches(matrix, threshold) for matrix in given]
        assert int((matched >= 0).sum()) == sum(int((m >= 0).sum()) for pair in pairs for m in pair[:2])


def test_losses(images):
    ours, theirs = random_matrices(), random_matrices()
    y = torch.cat([torch.tensor([-2, -1, 0])[torch.randint(3, (count,))] for count in OFFSETS.diff()])
    y[:5], y[5:8] = torch.tensor([2, -1, 0, -2, 1]), torch.tensor([2, 4, 0])
    y = torch.where(images.others() > 0, y, -1)
    for found, expected in zip(
        padded_losses.log_likelihoods(as_padded(ours), images, y),
        losses.dense_log_likelihoods(ours, y),
        strict=True,
    ):
        torch.testing.assert_close(found, expected.double())
    assert torch.equal(padded_losses.decisions(as_padded(ours), images), losses.dense_decisions(ours))
    student = as_padded(ours).requires_grad_()
    divergence = padded_losses.distillation(student, as_padded(theirs), images)
    torch.testing.assert_close(divergence, losses.assignment_distillation(ours, theirs))
    (gradient,) = torch.autograd.grad(divergence.sum(), student)
    assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().sum()) > 0


def batch_of(*sizes):
    pairs = [labelled_pair(seed, count=count, extra=extra) for seed, (count, extra) in enumerate(sizes)]
    return graph_from_recipe(SPARSE)(Batch.from_data_list(pairs))


@pytest.mark.parametrize(
    "options",
    [{}, {"assignment": "sinkhorn"}, {"checkpointed": True}, {"redraw_after": 1, "redraw_k": 4}],
    ids=str,
)
def test_training(options, monkeypatch):
    torch.manual_seed(0)
    model = GraphMatcher(**SHAPE, **options)
    teacher = GraphMatcher(**SHAPE, assignment=options.get("assignment", "dual_softmax"))
    weights = LossConfig(distill_assignment=1.0, distill_descriptors=1.0)
    objective = Objective(model, weights, teacher.requires_grad_(False))
    results = []
    for prefers in (False, True):
        monkeypatch.setattr(layer_assignment, "waits_for_counts", lambda _, prefers=prefers: prefers)
        model.zero_grad()
        found = objective(batch_of((24, 6), (9, 2), (15, 0)), (0, 2))
        found["total"].backward()
        results.append((found, [p.grad for p in model.parameters()]))
    (one, gradients), (other, others) = results
    assert one.keys() == other.keys() and {"assignment", "distill_assignment"} <= one.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, others, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"depth_confidence": 0.5, "width_confidence": 0.9}], ids=str)
def test_matcher(options, monkeypatch):
    model = GraphMatcher(**SHAPE, **options, filter_threshold=0.0).eval()
    batch = Batch.from_data_list([random_pair(*size) for size in ((30, 25), (3, 1), (0, 7), (12, 40))])
    with torch.no_grad():
        expected = model(batch)
        monkeypatch.setattr(layer_assignment, "waits_for_counts", lambda _: True)
        found = model(batch)
    assert torch.equal(found.matches, expected.matches) and bool((found.matches >= 0).any())
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
    for one, other in zip(found.log_assignment, expected.log_assignment, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_hooks_see_every_call(batches):
    model, seen = GraphMatcher(**SHAPE).eval(), []
    model.assignments[-1].register_forward_hook(lambda *_: seen.append(1))
    model(Batch.from_data_list([random_pair(5, 6), random_pair(7, 3)]))
    assert len(seen) == 2


@pytest.mark.parametrize("sizes", [[(24, 6), (9, 2)], [(24, 6)]], ids=str)
def test_all_to_all_never_waits(sizes, batches, monkeypatch):
    model = GraphMatcher(**SHAPE).eval()
    with torch.no_grad():
        prepared = model.prepare(batch_of(*sizes))
        monkeypatch.setattr(torch.Tensor, "tolist", lambda _: pytest.fail("a tensor comes to the host"))
        with NeverWaits():
            model(prepared)


@pytest.mark.parametrize(
    "options", [{}, {"redraw_after": 1, "redraw_k": 4, "assign_on_edges": True}], ids=str
)
def test_losses_never_wait(options, batches, monkeypatch):
    monkeypatch.setattr(candidates, "waits_for_counts", lambda _: True)
    objective = Objective(GraphMatcher(**SHAPE, **options), LossConfig(matchability=0.5))
    batch = batch_of((24, 6), (9, 2))
    prepared = objective.matcher.prepare(batch)
    output = objective.matcher(prepared, return_descriptors=True)
    with NeverWaits():
        found = objective._losses(batch, prepared.graph, output, (0, 2), 1.0)
    assert set(found) == {"assignment", "confidence", "matchability", "total"}
    found["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_half_precision():
    """A head gives what it gives in single precision, but for rounding."""
    head = DualSoftmaxAssignment(8).half()
    x = torch.randn(NODES, 8).half()
    padded = head.padded(x, PaddedImages.of(OFFSETS, NODES, MOST))
    exact = head.float().padded(x.float(), PaddedImages.of(OFFSETS, NODES, MOST))
    for one, other in zip(matrices(padded), matrices(exact), strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=2e-2)
