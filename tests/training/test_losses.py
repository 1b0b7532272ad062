import math

import pytest
import torch
from torch_geometric.data import Batch
from training_pairs import SPARSE, Pairs, labelled_pair

from pyg_match.nn import GraphMatcher
from pyg_match.training import LossConfig, Objective, losses, supervised_layers
from pyg_match.transforms import CandidateEdges, CompleteGraph, graph_from_recipe

SHAPE = {"in_channels": 16, "hidden_channels": 16, "num_layers": 3, "heads": 2}


def batch_of(count: int = 3, transform=None) -> Batch:
    return Batch.from_data_list([*Pairs(count, transform)])


def nll_by_hand(matrix: torch.Tensor, y0: torch.Tensor, y1: torch.Tensor, balance: float) -> torch.Tensor:
    """One keypoint after the other, as the formula reads."""
    positive = [-matrix[i, j] for i, j in enumerate(y0.tolist()) if j >= 0]
    negative = [-matrix[i, -1] for i, j in enumerate(y0.tolist()) if j == -1]
    negative += [-matrix[-1, j] for j, i in enumerate(y1.tolist()) if i == -1]
    return balance * sum(positive) / len(positive) + (1 - balance) * sum(negative) / len(negative)


def test_assignment_loss_equals_a_loop_over_keypoints():
    matcher = GraphMatcher(**SHAPE)
    batch = batch_of()
    weights = LossConfig(confidence=0.0, layer_decay=0.5, balance=0.3)
    found = Objective(matcher, weights)(batch, layers=(0, 2))
    descriptors = matcher(batch, return_descriptors=True).descriptors
    expected, start = [], 0
    for count0, count1 in batch.num_keypoints.tolist():
        y0, y1 = batch.y[start : start + count0 + count1].split([count0, count1])
        total = torch.zeros(())
        for layer, share in ((0, 0.25), (2, 1.0)):
            x0, x1 = descriptors[layer][start : start + count0 + count1].split([count0, count1])
            total = total + share * nll_by_hand(matcher.assignments[layer](x0, x1), y0, y1, 0.3)
        expected.append(total / 1.25)
        start += count0 + count1
    torch.testing.assert_close(found["assignment"], torch.stack(expected).mean())
    torch.testing.assert_close(found["total"], found["assignment"])


def test_every_assignment_is_made_once():
    matcher, made = GraphMatcher(**SHAPE), []
    for i, head in enumerate(matcher.assignments):
        head.register_forward_hook(lambda *_, i=i: made.append(i))
    Objective(matcher, LossConfig())(batch_of(2), layers=(0, 2))
    assert sorted(made) == [0, 0, 2, 2]


def test_gradient_equals_that_of_the_loop():
    pair = labelled_pair(0)
    pair.x, pair.pos = pair.x.double(), pair.pos.double()
    count0, count1 = pair.num_keypoints[0].tolist()
    matrix = torch.randn(count0 + 1, count1 + 1, dtype=torch.double, requires_grad=True)
    partnered, alone = losses.dense_log_likelihoods([matrix], pair.y)
    owner = losses.pair_of_nodes(pair.num_keypoints)
    losses.assignment_nll(partnered, alone, pair.y, owner, 1).sum().backward()
    gradient, matrix.grad = matrix.grad, None
    nll_by_hand(matrix, *pair.y.split([count0, count1]), 0.5).backward()
    torch.testing.assert_close(gradient, matrix.grad)


def test_a_batch_has_the_mean_loss_of_its_pairs():
    objective = Objective(GraphMatcher(**SHAPE), LossConfig(matchability=0.5))
    pairs = [*Pairs(3, graph_from_recipe(SPARSE))]
    together = objective(Batch.from_data_list(pairs), (0, 1, 2))
    apart = [objective(Batch.from_data_list([pair]), (0, 1, 2)) for pair in pairs]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in apart]).mean())


def test_loss_on_complete_edges_equals_the_dense_loss():
    dense = GraphMatcher(**SHAPE)
    edges = GraphMatcher(dense.config, assign_on_edges=True)
    edges.load_state_dict(dense.state_dict())
    weights = LossConfig(matchability=0.7)
    expected = Objective(dense, weights)(batch_of(), (0, 1, 2))
    found = Objective(edges, weights)(batch_of(transform=CompleteGraph(within=False)), (0, 1, 2))
    assert found.keys() == expected.keys()
    for name in ("assignment", "matchability"):
        torch.testing.assert_close(found[name], expected[name])


def test_a_true_pair_without_an_edge_counts_as_unmatched():
    # Node 0 and 1 are true partners; the only edges join node 0 to node 2.
    edge_index = torch.tensor([[2, 0], [0, 2]])
    partner = torch.tensor([1, 0, -1])
    matchability = torch.zeros(3)
    partnered, alone, y = losses.edge_log_likelihoods(
        torch.tensor([-0.1, -0.1]), edge_index, matchability, partner
    )
    assert y.tolist() == [-1, -1, -1]
    assert partnered.tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(alone, torch.full((3,), -math.log(2)))


@pytest.mark.parametrize("y", [[-1, -1, -1], [-2, -2, -2], [1, -2, 0]])
def test_pairs_without_positives_or_negatives_have_finite_losses(y):
    pair = labelled_pair(0, count=1, extra=0)
    pair = pair.__class__(
        num_keypoints=(1, 2), pos=pair.pos[:3], x=pair.x[:3], image_size=pair.image_size, y=torch.tensor(y)
    )
    pair.y = torch.tensor([0, 0, -1]) if y == [1, -2, 0] else pair.y
    found = Objective(GraphMatcher(**SHAPE), LossConfig())(Batch.from_data_list([pair]), (0, 1, 2))
    assert all(bool(torch.isfinite(value)) for value in found.values())


def test_matchability_is_not_learned_from_keypoints_that_are_ignored():
    logits, y, pair = torch.randn(6), torch.tensor([1, -2, -1, -2, 0, -1]), torch.tensor([0, 0, 0, 1, 1, 1])
    found = losses.matchability_loss(logits, y, pair, 2)
    for number, chosen in enumerate(([0, 2], [4, 5])):
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[chosen], (y[chosen] >= 0).float()
        )
        torch.testing.assert_close(found[number], expected)


def test_confidence_learns_whether_the_decision_is_final():
    matcher = GraphMatcher(**SHAPE)
    batch = batch_of(1)
    found = Objective(matcher, LossConfig())(batch, (0, 1, 2))
    descriptors = matcher(batch, return_descriptors=True).descriptors
    count0, count1 = batch.num_keypoints[0].tolist()
    decided = []
    for layer, x in enumerate(descriptors):
        matrix = matcher.assignments[layer](*x.split([count0, count1]))
        decided.append(torch.cat([matrix[:-1].argmax(1), matrix[:, :-1].argmax(0)]))
    expected = [
        torch.nn.functional.binary_cross_entropy_with_logits(
            matcher.confidences[i](descriptors[i]).squeeze(-1), (decided[i] == decided[2]).float()
        )
        for i in range(2)
    ]
    torch.testing.assert_close(found["confidence"], torch.stack(expected).mean())
    found["confidence"].backward()
    reached = {name.split(".")[0] for name, p in matcher.named_parameters() if p.grad is not None}
    assert reached == {"confidences"}


def test_distillation_is_zero_for_the_teacher_itself_and_positive_for_others():
    weights = LossConfig(distill_assignment=1.0, distill_descriptors=1.0)
    teacher = GraphMatcher(**SHAPE).requires_grad_(False)
    same = GraphMatcher(**SHAPE)
    same.load_state_dict(teacher.state_dict())
    found = Objective(same, weights, teacher)(batch_of(), (2,))
    for name in ("distill_assignment", "distill_descriptors"):
        assert abs(found[name].item()) < 1e-6
    sparse = Objective(same, weights, teacher)(batch_of(transform=graph_from_recipe(SPARSE)), (2,))
    assert float(sparse["distill_assignment"]) > 1e-6
    assert float(sparse["distill_descriptors"]) > 1e-6
    on_same_edges = Objective(same, weights, teacher, teacher_edges=True)
    found = on_same_edges(batch_of(transform=graph_from_recipe(SPARSE)), (2,))
    for name in ("distill_assignment", "distill_descriptors"):
        assert abs(found[name].item()) < 1e-6


def test_descriptor_distillation_equals_a_loop_over_layers_and_pairs():
    student, teacher = ([torch.randn(7, 4) for _ in range(3)] for _ in "st")
    found = losses.descriptor_distillation(student, teacher, torch.tensor([0] * 3 + [1] * 4), 2)
    for number, nodes in enumerate((slice(3), slice(3, None))):
        ratios = [
            (s[nodes] - t[nodes]).norm() ** 2 / t[nodes].norm() ** 2
            for s, t in zip(student, teacher, strict=True)
        ]
        torch.testing.assert_close(found[number], sum(ratios) / 3)


def test_assignment_distillation_equals_a_loop_over_rows_and_columns():
    ours, theirs = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    total = 0.0
    for row in range(3):
        p, q = theirs[row].softmax(0), ours[row].softmax(0)
        total += float((p * (p / q).log()).sum())
    for column in range(5):
        p, q = theirs[:, column].softmax(0), ours[:, column].softmax(0)
        total += float((p * (p / q).log()).sum())
    assert float(losses.assignment_distillation([ours], [theirs])) == pytest.approx(total / 8)


def test_distillation_on_complete_edges_equals_the_dense_one():
    dense = GraphMatcher(**SHAPE)
    teacher = GraphMatcher(**SHAPE).requires_grad_(False)
    edges = GraphMatcher(dense.config, assign_on_edges=True)
    edges.load_state_dict(dense.state_dict())
    weights = LossConfig(distill_assignment=1.0)
    expected = Objective(dense, weights, teacher)(batch_of(2), (2,))
    found = Objective(edges, weights, teacher)(batch_of(2, CompleteGraph(within=False)), (2,))
    torch.testing.assert_close(found["distill_assignment"], expected["distill_assignment"])


def test_distillation_on_edges_equals_a_loop_over_keypoints():
    counts = [(4, 3), (0, 2), (2, 5), (1, 0)]
    teacher = [torch.randn(a + 1, b + 1, dtype=torch.double) for a, b in counts]
    edges, start = [], 0
    for a, b in counts:
        joined = torch.rand(a, b) < 0.6
        first, second = joined.nonzero().unbind(1)
        edges += [torch.stack([start + first, start + a + second])]
        start += a + b
    listed = torch.cat(edges, dim=1)
    listed = torch.cat([listed, listed.flip(0)], dim=1)
    scores = torch.randn(listed.size(1), dtype=torch.double)
    alone = torch.randn(start, dtype=torch.double)
    found = losses.edge_assignment_distillation(scores, alone, teacher, listed, torch.tensor(counts))
    start = 0
    for (a, b), matrix, of_pair in zip(counts, teacher, found, strict=True):
        total = 0.0
        for node in range(start, start + a + b):
            own = node - start if node < start + a else node - start - a
            p = (matrix[own] if node < start + a else matrix[:, own]).softmax(0)
            ours = [(alone[node], None)]
            for number, (source, target) in enumerate(listed.t().tolist()):
                if target == node:
                    ours.append((scores[number], source - start - (a if node < start + a else 0)))
            q = torch.stack([value for value, _ in ours]).log_softmax(0)
            kept = p[[other for _, other in ours[1:]]]
            mass = torch.cat([1 - kept.sum().view(1), kept])
            total += float((mass * (mass.log() - q)).sum())
        assert float(of_pair) == pytest.approx(total / (a + b))
        start += a + b


def test_teacher_of_another_shape_is_refused():
    weights = LossConfig(distill_descriptors=1.0)
    teacher = GraphMatcher(**{**SHAPE, "num_layers": 2})
    with pytest.raises(ValueError, match=r"\(3, 16\), got \(2, 16\)"):
        Objective(GraphMatcher(**SHAPE), weights, teacher)


def test_a_teacher_on_edges_is_refused():
    weights = LossConfig(distill_assignment=1.0)
    teacher = GraphMatcher(**SHAPE, assign_on_edges=True)
    with pytest.raises(ValueError, match="assigns all to all, got one with assign_on_edges=True"):
        Objective(GraphMatcher(**SHAPE), weights, teacher, teacher_edges=True)
    found = Objective(GraphMatcher(**SHAPE), weights, teacher)(batch_of(2, CompleteGraph()), (2,))
    assert float(found["distill_assignment"]) > 0


def test_the_first_layers_of_a_deeper_teacher_are_imitated():
    weights = LossConfig(distill_assignment=1.0, distill_descriptors=1.0)
    teacher = GraphMatcher(**{**SHAPE, "num_layers": 5}).eval()
    student = GraphMatcher(**SHAPE).eval()
    first = {key: value for key, value in teacher.state_dict().items() if key in student.state_dict()}
    student.load_state_dict(first)
    found = Objective(student, weights, teacher)(batch_of(2), (2,))
    assert float(found["distill_descriptors"]) < 1e-10 < 1e-4 < float(found["distill_assignment"])


def test_sinkhorn_and_edges_and_branches_are_trained():
    cases = [
        ({"assignment": "sinkhorn"}, None),
        ({"assign_on_edges": True}, CandidateEdges(4)),
        ({"branch": "gcn"}, graph_from_recipe([{"NestedPartition": {"ks": [2, 4]}}])),
    ]
    for options, transform in cases:
        matcher = GraphMatcher(**SHAPE, **options)
        found = Objective(matcher, LossConfig())(batch_of(2, transform), (2,))
        found["total"].backward()
        assert float(matcher.lin_in.weight.grad.abs().sum() if hasattr(matcher.lin_in, "weight") else 1) > 0
        assert ("orthogonality" in found) == ("branch" in options)
        assert float(matcher.layers[0].self_attn.lin_out.weight.grad.abs().sum()) > 0


def test_supervised_layers():
    generator = torch.Generator().manual_seed(0)
    assert supervised_layers("all", 4, generator) == (0, 1, 2, 3)
    assert supervised_layers("last", 4, generator) == (3,)
    assert supervised_layers(1, 9, generator) == (8,)
    assert supervised_layers(20, 3, generator) == (0, 1, 2)
    drawn = {supervised_layers("random:2", 9, generator) for _ in range(30)}
    assert len(drawn) > 5
    assert all(len(set(layers)) == 3 and layers[-1] == 8 for layers in drawn)


def test_the_teacher_is_not_imitated_where_nothing_is_to_be_matched():
    weights = LossConfig(distill_assignment=1.0)
    teacher, matcher = GraphMatcher(**SHAPE).requires_grad_(False), GraphMatcher(**SHAPE)
    objective = Objective(matcher, weights, teacher)
    one, both = batch_of(1), batch_of(2)
    alone = objective(one, (2,))["distill_assignment"]
    count = int(one.num_keypoints.sum())
    assert alone > 0 and (one.y >= 0).any() and torch.equal(both.x[:count], one.x)
    both.y[count:] = -1
    found = objective(both, (2,))
    torch.testing.assert_close(found["distill_assignment"], alone)
    both.y[:] = -1
    found = objective(both, (2,))
    assert found["distill_assignment"] == 0 and torch.isfinite(found["total"])
    found["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters() if p.grad is not None)


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_forbidden_edges_are_no_answers(mode):
    """Losses are of the assignment that the matcher gives."""
    transform = CandidateEdges(4)
    pairs = [transform(labelled_pair(i)) for i in range(2)]
    for pair in pairs:
        source, target = pair.cross_edge_index.as_tensor()
        pair.cross_edge_mask = (source + target) % 3 != 0  # the same for both directions of an edge
    batch = Batch.from_data_list(pairs)
    matcher = GraphMatcher(**SHAPE, assign_on_edges=True, mask_mode=mode).eval()
    given = matcher(batch)
    allowed = batch.cross_edge_mask
    edges = given.cross_edge_index[:, allowed]
    pair, num_pairs = losses.pair_of_nodes(batch.num_keypoints), len(pairs)
    matchability = matcher.assignments[-1].matchability(
        matcher(batch, return_descriptors=True).descriptors[-1]
    )
    partner = losses.partner_nodes(batch.y, batch.num_keypoints)
    claims = losses.edge_log_likelihoods(given.edge_log_assignment[allowed], edges, matchability, partner)
    expected = losses.assignment_nll(*claims, pair, num_pairs).mean()
    found = Objective(matcher, LossConfig(confidence=0.0))(batch, (2,))
    torch.testing.assert_close(found["assignment"], expected)
    assert bool(torch.isfinite(found["total"]))


@pytest.mark.parametrize("option", ["depth_confidence", "width_confidence"])
def test_matchers_that_stop_early_are_refused(option):
    plain, adaptive = GraphMatcher(**SHAPE), GraphMatcher(**SHAPE, **{option: 0.5})
    with pytest.raises(ValueError, match=f"needs a matcher that sends .* all layers, got .*{option} = 0.5"):
        Objective(adaptive, LossConfig())
    with pytest.raises(ValueError, match=f"needs a teacher that sends .* all layers, got .*{option} = 0.5"):
        Objective(plain, LossConfig(), adaptive)


def test_one_head_is_supervised_after_the_last_layer():
    matcher = GraphMatcher(**SHAPE, assignment="sinkhorn").eval()
    objective = Objective(matcher, LossConfig())
    batch = batch_of(2)
    torch.testing.assert_close(objective(batch, (0, 1, 2))["total"], objective(batch, (2,))["total"])
    with pytest.raises(ValueError, match=r"loss.matchability = 5.0 needs a matcher with matchabilities"):
        Objective(matcher, LossConfig(matchability=5.0))


@pytest.mark.parametrize("options", [{}, {"assign_on_edges": True}])
def test_a_matcher_of_one_layer_learns_matchability_too(options):
    matcher = GraphMatcher(**{**SHAPE, **options, "num_layers": 1})
    batch = batch_of(2, CandidateEdges(4))
    found = Objective(matcher, LossConfig(matchability=1.0))(batch, (0,))
    torch.testing.assert_close(found["total"], found["assignment"] + found["matchability"])
    found["total"].backward()
    assert float(matcher.assignments[0].lin_matchability.weight.grad.abs().sum()) > 0
