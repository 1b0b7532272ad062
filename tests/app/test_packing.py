import base64
import gzip

import numpy as np
import pytest
import torch
from helpers import random_pair

from pyg_match.app.packing import pack
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, KNNGraph
from pyg_match.visualization import record_attention

PAIR = {
    "complete": lambda pair: pair,
    "sparse": lambda pair: CandidateEdges(3)(KNNGraph(4, loop=True)(pair)),
}


def recorded(pair, **options):
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, **options).eval()
    with torch.no_grad(), record_attention(matcher) as record:
        matcher(pair)
    return record


def unpack(packed, num_nodes):
    """What the page does, see attention.js: for each step and target its sources and their coefficients."""
    content = gzip.decompress(base64.b64decode(packed.text))
    rows = 2 * packed.layers * num_nodes
    largest = np.frombuffer(content, "<f4", rows)
    counts = np.frombuffer(content, "<u2", rows, 4 * rows)
    edges = int(counts.sum())
    source = np.frombuffer(content, "<u2", edges, 6 * rows)
    weight = np.frombuffer(content, "u1", edges * packed.heads, 6 * rows + 2 * edges)
    assert len(content) == 6 * rows + edges * (2 + packed.heads)
    weight = (weight.reshape(edges, packed.heads) / 255) ** 2 * largest.repeat(counts)[:, None]
    ends = counts.astype(int).cumsum()
    return [
        dict(zip(source[end - count : end].tolist(), weight[end - count : end], strict=True))
        for end, count in zip(ends, counts, strict=True)
    ]


@pytest.mark.parametrize("graph", PAIR)
def test_everything_fits(graph):
    record = recorded(PAIR[graph](random_pair(9, 7)))
    (packed,) = pack([record], 16)
    rows = unpack(packed, 16)
    assert (packed.layers, packed.heads) == (3, 4)
    for layer in range(3):
        for k, kind in enumerate(("self", "cross")):
            for node in range(16):
                sources, mean = record.of(node, layer, kind)
                row = rows[(2 * layer + k) * 16 + node]
                assert set(row) == set(sources.tolist())
                expected = dict(zip(sources.tolist(), mean.tolist(), strict=True))
                # The steps of the square root are at most 1/255 of the largest one apart.
                most = max(weights.max() for weights in row.values())
                assert all(abs(row[s].mean() - expected[s]) < most / 250 for s in row)


def test_the_largest_are_kept_in_order():
    record = recorded(random_pair(30, 20))
    budget = 6 * 50 * 6 + 6 * 50 * 6 * 5
    (packed,) = pack([record], 50, budget)
    assert 1 <= packed.top < 5
    rows = unpack(packed, 50)
    size = len(gzip.decompress(base64.b64decode(packed.text)))
    assert size <= budget
    node, layer = 7, 1
    row = rows[2 * layer * 50 + node]
    step = record.self_attention[layer]
    own = step.edge_index[1] == node
    expected = {
        int(s) for s in step.edge_index[0, own][step.alpha[own].topk(packed.top, dim=0).indices].flatten()
    }
    assert set(row) == expected
    means = [weights.mean() for weights in row.values()]
    assert all(one >= other - 0.01 for one, other in zip(means, means[1:], strict=False))


def test_settings_share_the_budget():
    records = [recorded(random_pair(30, 20)) for _ in range(2)]
    alone, both = pack(records[:1], 50, 20_000), pack(records, 50, 20_000)
    assert both[0].top == both[1].top < alone[0].top


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_without_keypoints(sizes):
    record = recorded(random_pair(*sizes))
    (packed,) = pack([record], sum(sizes))
    assert len(unpack(packed, sum(sizes))) == 6 * sum(sizes)


def test_a_pair_that_stopped_early():
    record = recorded(random_pair(9, 7), depth_confidence=1e-6)
    (packed,) = pack([record], 16)
    assert packed.layers == record.num_layers
    assert len(unpack(packed, 16)) == 32 * packed.layers
