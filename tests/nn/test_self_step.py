"""The first self step taken once for an image, and not again for each of its pairs."""

import pytest
import torch
from helpers import random_set

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, KNNGraph, RingPartition


def make(**options):
    torch.manual_seed(0)
    options = {"hidden_channels": 32, "num_layers": 3, "heads": 2, "filter_threshold": 0.0, **options}
    return GraphMatcher(in_channels=16, **options).double().eval()


def draw(pair):
    return CandidateEdges(5)(KNNGraph(4, loop=True)(pair))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"assign_on_edges": True, "redraw_after": 1, "redraw_k": 6},
        {"depth_confidence": 0.1, "width_confidence": 0.9},
        {"assignment": "sinkhorn"},
        {"layer_scales": (0, 1, 0)},
    ],
)
def test_matches_are_the_same(options):
    matcher = make(**options)
    sets = [random_set(count, dtype=torch.double) for count in (30, 21, 17)]
    scaled = RingPartition([2, 5])
    images = [
        scaled(draw(KeypointPair.from_sets(sets[a], sets[b]))) for a, b in ((0, 1), (2, 2))
    ]  # edges between images play no part
    first, last = (matcher.self_step(image) for image in images)
    steps = [*first.split([30, 21]), last[:17]]
    for a, b in ((0, 1), (2, 0), (1, 2)):
        pair = scaled(draw(KeypointPair.from_sets(sets[a], sets[b])))
        with torch.no_grad():
            expected = matcher(pair, return_descriptors=True)
            pair.self_step = torch.cat([steps[a], steps[b]])
            got = matcher(pair, return_descriptors=True)
        for one, other in zip(got.descriptors, expected.descriptors, strict=True):
            assert torch.allclose(one, other, atol=1e-12)
        assert torch.equal(got.matches, expected.matches) and (got.matches >= 0).any()
        assert torch.allclose(got.scores, expected.scores, atol=1e-12)
        # It is what counts: other numbers give another answer.
        pair.self_step = torch.cat([steps[a], steps[b]]).roll(1, 0)
        with torch.no_grad():
            assert not torch.allclose(matcher(pair).scores, expected.scores, atol=1e-3)


def test_frozen_matchers_take_it_too():
    matcher = make().float()
    pair = draw(KeypointPair.from_sets(random_set(30), random_set(20)))
    with torch.no_grad():
        expected = matcher(pair).scores
        matcher.freeze()
        pair.self_step = matcher.self_step(pair)
        assert torch.allclose(matcher(pair).scores, expected, atol=1e-5)


def test_what_needs_earlier_descriptors_refuses_it():
    pair = draw(KeypointPair.from_sets(random_set(9, dtype=torch.double), random_set(8, dtype=torch.double)))
    for options in ({"value_source": "initial"}, {"value_source": "every:2"}):
        matcher = make(**options)
        assert matcher.self_step(pair) is None
        other = pair.clone()
        other.self_step = torch.zeros(17, 32, dtype=torch.double)
        with pytest.raises(ValueError, match=r"'self_step' needs value_source='current' and no branch"):
            matcher(other)
    pair.self_step = torch.zeros(17, 31, dtype=torch.double)
    with pytest.raises(ValueError, match=r"'self_step' must .*32"):
        make()(pair)
