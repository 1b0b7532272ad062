"""Packed batches against one pair at a time."""

import itertools

import numpy as np
import pytest
import torch
from helpers import random_set
from hloc_files import CHANNELS
from torch_geometric.transforms import Compose

from pyg_match.collections.image_graphs import ImageGraphs
from pyg_match.collections.matching import match_images, one_core_each
from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    CompleteGraph,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    RemovePairs,
    RingPartition,
)

COUNTS = [30, 0, 17, 1, 25, 42, 8]
PAIRS = np.array([(a, b) for a, b in itertools.permutations(range(len(COUNTS)), 2) if (a + 2 * b) % 3])
GRAPHS = {
    "complete": None,
    "knn": KNNGraph(4, loop=True),
    "trained": Compose(
        [
            KNNGraph(4, loop=True),
            AnchorEdges(5, loop=True, weighted=True, listed=False),
            CandidateEdges(6),
        ]
    ),
    "listed": Compose([KNNGraph(3), AnchorEdges(4, loop=True, weighted=True), CandidateEdges(5)]),
    "candidates first": Compose([CandidateEdges(5), KNNGraph(3)]),
    "anchors of the other": Compose([KNNGraph(3), AnchorEdges(4, loop=True, cross=True, weighted=True)]),
    "diverse": Compose([DiverseKNN(4, pool=8), CandidateEdges(4)]),
    "equal": Compose([EqualPartition(4), CandidateEdges(4)]),
    "equal edges": Compose([EqualPartition(2, by="edges", k=4), KNNGraph(4), CandidateEdges(4)]),
    "rings": Compose([RingPartition([2, 4]), KNNGraph(4), CandidateEdges(4)]),
    "nested": Compose([NestedPartition([2, 4]), KNNGraph(4), CandidateEdges(4)]),
    "removed": Compose([KNNGraph(6), RemovePairs(max_distance=200.0, mode="mask"), CandidateEdges(4)]),
    "listed complete": CompleteGraph(),
}


@pytest.fixture(scope="module")
def sets():
    torch.manual_seed(0)
    return [random_set(count, CHANNELS, (640 + 10 * i, 480 - 10 * i)) for i, count in enumerate(COUNTS)]


def make_matcher(**options):
    torch.manual_seed(0)
    options = {"hidden_channels": 32, "num_layers": 2, "heads": 2, "filter_threshold": 0.0, **options}
    return GraphMatcher(in_channels=CHANNELS, **options).freeze()


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_packed_pairs_are_those_of_each_pair(sets, name):
    transform = GRAPHS[name]
    packed = ImageGraphs(sets, transform).batch(torch.from_numpy(PAIRS))
    packed.validate()
    start = 0
    for i, (a, b) in enumerate(PAIRS.tolist()):
        pair = KeypointPair.from_sets(sets[a], sets[b])
        pair = pair if transform is None else transform(pair)
        nodes = slice(start, start + pair.num_nodes)
        for key in pair.keys():  # noqa: SIM118
            if key == "num_keypoints":
                assert torch.equal(packed[key][i : i + 1], pair[key])
            elif key == "image_size":
                assert torch.equal(packed[key][2 * i : 2 * i + 2], pair[key])
            elif "edge_" in key:
                index = (
                    key if "edge_index" in key else key.replace("weight", "index").replace("mask", "index")
                )
                target = packed[index].as_tensor()[1]
                here = (target >= nodes.start) & (target < nodes.stop)
                value = packed[key].as_tensor()[:, here] - start if key == index else packed[key][here]
                expected = pair[key].as_tensor() if key == index else pair[key]
                assert torch.equal(value, expected), key
            else:
                assert torch.equal(packed[key][nodes], pair[key]), key
        assert set(packed.keys()) == set(pair.keys())
        start = nodes.stop
    assert start == packed.num_nodes


@pytest.mark.parametrize("batch_keypoints", [1, 100, 10_000])
@pytest.mark.parametrize("name", ["complete", "trained", "listed"])
def test_packed_matches_are_those_of_each_pair(sets, name, batch_keypoints):
    matcher = make_matcher(assign_on_edges=name != "complete", redraw_after=1 if name == "trained" else None)
    packed = match_images(matcher, sets, PAIRS, GRAPHS[name], batch_keypoints)
    assert packed.counts.sum() > 40 and len(packed.matches) == len(packed.scores) == packed.counts.sum()
    ends = packed.counts.cumsum()
    for i, (a, b) in enumerate(PAIRS.tolist()):
        pair = KeypointPair.from_sets(sets[a], sets[b])
        with torch.no_grad():
            expected, scores = matcher(pair if GRAPHS[name] is None else GRAPHS[name](pair)).pair_matches()
        chosen = slice(ends[i] - packed.counts[i], ends[i])
        assert np.array_equal(packed.matches[chosen], expected)
        assert np.allclose(packed.scores[chosen], scores, rtol=2e-3, atol=1e-6)
        assert packed.num_keypoints0[i] == COUNTS[a]


def test_the_number_of_threads_changes_no_bit(sets):
    matcher = make_matcher(assign_on_edges=True, redraw_after=1)
    before = torch.get_num_threads()
    with one_core_each() as cores:
        assert cores == before and torch.get_num_threads() == 1
        one, three = (match_images(matcher, sets, PAIRS, GRAPHS["trained"], 100, n) for n in (1, 3))
    assert torch.get_num_threads() == before
    for key, value in vars(one).items():
        assert value.tobytes() == vars(three)[key].tobytes()


def test_batches_are_as_large_as_they_may_be(sets):
    images = ImageGraphs(sets)
    pairs = torch.from_numpy(PAIRS)
    for most in (1, 60, 10_000):
        bounds = list(images.batches(pairs, most))
        assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
        assert (bounds[0][0], bounds[-1][1]) == (0, len(pairs))
        sizes = [int(images.counts[pairs[slice(*bound)]].sum()) for bound in bounds]
        following = [int(images.counts[pairs[start]].sum()) for start, _ in bounds[1:]]
        for (start, end), size in zip(bounds, sizes, strict=True):
            assert size <= most or end == start + 1
        assert all(size + more > most for size, more in zip(sizes, following, strict=False))


def test_descriptors_of_different_widths_are_refused(sets):
    with pytest.raises(ValueError, match=r"same width, got \[8, 16\]"):
        ImageGraphs([*sets, random_set(4, 8)])
