"""Calibration, against losses and validation as they are defined elsewhere."""

import copy
import math

import numpy as np
import pytest
import torch
from training_pairs import SPARSE, Pairs, labelled_pair

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.training import LossConfig, Objective, calibrate, validate
from pyg_match.training.calibration import scale_heads
from pyg_match.training.validation import match_metrics
from pyg_match.transforms import graph_from_recipe

GRAPH = graph_from_recipe(SPARSE)


def unrelated(seed: int) -> KeypointPair:
    """Two images of which no keypoint is seen in both."""
    sets = [labelled_pair(seed + i).image(i) for i in (0, 1)]
    count = sum(each.num_keypoints for each in sets)
    nowhere = torch.full((3, 3), torch.nan, dtype=torch.float64)
    return GRAPH(KeypointPair.from_sets(*sets, y=torch.full((count,), -1), homography=nowhere))


@pytest.fixture(scope="module")
def held_out():
    return [*Pairs(6, GRAPH, first=100), *(unrelated(200 + 2 * i) for i in range(4))]


@pytest.fixture(scope="module")
def matchers():
    """A matcher that was trained for long, and one that was for less."""
    from torch_geometric.data import Batch

    torch.manual_seed(0)
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=2, heads=2)
    objective, batch = Objective(matcher, LossConfig()), Batch.from_data_list([*Pairs(96, GRAPH)])
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=3e-3)
    early = None
    for step in range(80):
        if step == 40:
            early = copy.deepcopy(matcher)
        optimizer.zero_grad()
        objective(batch, (0, 1))["total"].backward()
        optimizer.step()
    scale_heads(matcher, 2.5, 2.0)  # as sure as it is right, about
    return matcher, early


def loss(matcher, pairs):
    with torch.no_grad():
        found = [Objective(matcher.eval(), LossConfig(confidence=0.0))(pair, (1,)) for pair in pairs]
    return sum(float(each["assignment"]) for each in found) / len(found)


def test_temperatures_undo_what_makes_a_matcher_less_likely(matchers, held_out):
    plain, sure = copy.deepcopy(matchers[0]), copy.deepcopy(matchers[0])
    scale_heads(sure, 0.6, 1.5)
    before = loss(plain, held_out), loss(sure, held_out)
    found = calibrate(plain, held_out), calibrate(sure, held_out)
    after = loss(plain, held_out), loss(sure, held_out)
    assert after[0] <= before[0] + 1e-6 and after[1] <= before[1] + 1e-6
    assert after[0] == pytest.approx(after[1], abs=1e-3)
    assert found[1].temperature * 0.6 == pytest.approx(found[0].temperature, rel=0.1)
    scale_heads(plain, 1.3, 1.0)
    assert loss(plain, held_out) > after[0]


def f_score(seen):
    both = seen["precision"], seen["recall"]
    return 2 * both[0] * both[1] / max(sum(both), 1e-9)


def with_threshold(matcher, threshold):
    other = GraphMatcher(matcher.config, filter_threshold=threshold).eval()
    other.load_state_dict(matcher.state_dict())
    return other


@torch.no_grad()
def best_f_score(matcher, pairs):
    """Of all thresholds, each of which keeps those matches of none that are above it."""
    found = [with_threshold(matcher, 0.0)(pair).pair_matches() for pair in pairs]
    scores = {}
    for threshold in (number / 100 for number in range(2, 96)):
        rows = [
            match_metrics(pair, matches[score > threshold])
            for pair, (matches, score) in zip(pairs, found, strict=True)
        ]
        seen = {name: [row.get(name, math.nan) for row in rows] for name in ("precision", "recall")}
        scores[threshold] = f_score({name: np.nanmean(values) for name, values in seen.items()})
    best = max(scores, key=scores.get)
    assert scores[best] == pytest.approx(f_score(validate(with_threshold(matcher, best), pairs)))
    return scores[best]


@pytest.mark.parametrize("on_edges", [False, True])
def test_the_threshold_is_the_lowest_that_is_as_precise_as_the_teacher(matchers, held_out, on_edges):
    teacher = with_threshold(matchers[1], 0.3)
    matcher = GraphMatcher(matchers[0].config, assign_on_edges=on_edges)
    matcher.load_state_dict(matchers[0].state_dict())
    matcher.train()
    complete = [pair.clone() for pair in held_out]
    for pair in complete:
        del pair.edge_index, pair.cross_edge_index
    wanted = validate(teacher, complete)
    found = calibrate(matcher, held_out, teacher)
    assert matcher.training and matcher.config.filter_threshold == found.filter_threshold
    seen = validate(matcher, held_out)
    assert found.precision == pytest.approx((seen["precision"], wanted["precision"]))
    assert found.recall == pytest.approx((seen["recall"], wanted["recall"]))
    assert found.false_matches == pytest.approx((seen["false_matches"], wanted["false_matches"]))
    assert seen["precision"] >= wanted["precision"] and seen["false_matches"] <= wanted["false_matches"]
    assert f_score(seen) >= 0.9 * best_f_score(matcher, held_out)
    assert found.filter_threshold > 0.02
    seen = validate(with_threshold(matcher, found.filter_threshold - 0.01), held_out)
    assert seen["precision"] < wanted["precision"] or seen["false_matches"] > wanted["false_matches"]


def test_a_matcher_that_is_never_as_precise_gets_the_best_compromise(matchers, held_out):
    """Instead of a threshold that leaves a few certain matches."""
    torch.manual_seed(0)
    weak = GraphMatcher(matchers[0].config)
    found = calibrate(weak, held_out, copy.deepcopy(matchers[0]).eval(), teacher_edges=True)
    assert found.precision[0] < found.precision[1]
    assert f_score(validate(weak, held_out)) == pytest.approx(best_f_score(weak, held_out))


def test_what_cannot_be_compared_stays(matchers, held_out):
    matcher = copy.deepcopy(matchers[0])
    related = held_out[:6]
    found = calibrate(matcher, related)
    assert found.filter_threshold == matcher.config.filter_threshold == 0.1
    told = found.to_dict()
    assert told["false_matches"] == [None, None] and told["precision"][0] > 0 and told["precision"][1] is None
    sinkhorn = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=1, heads=2, assignment="sinkhorn")
    assert calibrate(sinkhorn, related, matchers[0].eval()).temperature == 1.0
    with pytest.raises(ValueError, match="needs validation pairs, got none"):
        calibrate(matcher, [])


def test_a_frozen_matcher_is_calibrated(matchers, held_out):
    plain, frozen = copy.deepcopy(matchers[0]), copy.deepcopy(matchers[0]).freeze()
    assert repr(calibrate(frozen, held_out)) == repr(calibrate(plain, held_out))
    for one, other in zip(frozen.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other)
