import pytest
import torch
from helpers import random_pair

from pyg_match.app.attention_rows import keep_rows
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, KNNGraph
from pyg_match.visualization import record_attention

PAIR = {
    "complete": lambda pair: pair,
    "sparse": lambda pair: CandidateEdges(3)(KNNGraph(4, loop=True)(pair)),
}


@pytest.mark.parametrize("graph", PAIR)
@pytest.mark.parametrize("node", [0, 8, 9, 15])
def test_rows_are_what_recording_gives(graph, node):
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3).eval()
    pair = PAIR[graph](random_pair(9, 7))
    with torch.no_grad(), keep_rows(matcher) as rows:
        matcher(pair)
    with torch.no_grad(), record_attention(matcher, nodes=[node]) as record:
        matcher(pair)
    for layer in range(3):
        for kind in ("self", "cross"):
            sources, alpha = rows.of(node, layer, kind)
            step = record.steps(kind)[layer]
            assert torch.equal(sources, step.edge_index[0])
            assert torch.allclose(alpha, step.alpha, atol=1e-6)
            assert torch.allclose(alpha.sum(0), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("graph", PAIR)
def test_rows_of_a_matcher_in_half_precision(graph):
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=2, bfloat16=True).eval()
    pair = PAIR[graph](random_pair(9, 7))
    with torch.no_grad(), keep_rows(matcher) as rows:
        matcher(pair)
    with torch.no_grad(), record_attention(matcher, nodes=[3]) as record:
        matcher(pair)
    for kind in ("self", "cross"):
        sources, alpha = rows.of(3, 1, kind)
        step = record.steps(kind)[1]
        assert torch.equal(sources, step.edge_index[0])
        assert torch.allclose(alpha, step.alpha, atol=0.02)


def test_nothing_is_left_behind_and_errors():
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=2)
    with keep_rows(matcher) as rows:
        matcher(random_pair(4, 3))
    assert not any(module._forward_pre_hooks for module in matcher.modules())
    with pytest.raises(IndexError, match="there is no self step 2, expected 0 to 1"):
        rows.of(0, 2, "self")
    with pytest.raises(IndexError, match="keypoint 7 does not exist, expected 0 to 6"):
        rows.of(7, 0, "self")
    early = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=2, depth_confidence=0.9)
    with pytest.raises(ValueError, match="neither stop early nor prune"), keep_rows(early):
        pass
