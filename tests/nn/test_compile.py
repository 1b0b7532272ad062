"""The matcher under torch.compile: the same numbers as without."""

import pytest
import torch
from helpers import compiles, random_pair
from torch_geometric.transforms import Compose

from pyg_match.nn import GraphMatcher, MatcherLayer
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.nn.value_source import ValueSource
from pyg_match.transforms import CandidateEdges, KNNGraph, RemovePairs, RingPartition


@compiles
@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (Compose([]), {}),
        (
            Compose(
                [KNNGraph(6, loop=True), CandidateEdges(4), RemovePairs(max_distance=200.0, mode="mask")]
            ),
            {"assign_on_edges": True, "mask_mode": "zero", "value_source": "every:2"},
        ),
        (
            Compose([KNNGraph(6, loop=True), CandidateEdges(4), RingPartition([3, 6])]),
            {"branch": "attention"},
        ),
        (Compose([KNNGraph(6, loop=True), CandidateEdges(4)]), {"redraw_after": 1, "redraw_k": 3}),
    ],
    ids=["complete", "sparse", "scales", "redrawn"],
)
def test_compiled_matcher(transform, options):
    torch._dynamo.reset()
    matcher = GraphMatcher(
        in_channels=16, hidden_channels=32, num_layers=2, heads=2, filter_threshold=0.0, **options
    )
    # Traced, differentiated and run as with the default backend, which would take a minute to compile C++ here.
    compiled = torch.compile(matcher, backend="aot_eager")
    for counts in [(20, 15), (9, 30)]:
        pair = transform(random_pair(*counts))
        expected, out = matcher(pair), compiled(pair)
        assert torch.equal(out.matches, expected.matches)
        assert torch.allclose(out.scores, expected.scores, atol=1e-5)
        loss, expected_loss = out.scores.sum(), expected.scores.sum()
        weights = [p for name, p in matcher.named_parameters() if name.endswith("lin_query.weight")]
        for mine, theirs in zip(
            torch.autograd.grad(loss, weights), torch.autograd.grad(expected_loss, weights), strict=True
        ):
            assert torch.allclose(mine, theirs, atol=1e-5)


@compiles
def test_layers_share_their_code():
    """What is compiled for one layer does for all: Dynamo makes code for no more than eight."""
    torch._dynamo.reset()
    matcher = GraphMatcher(in_channels=16, hidden_channels=16, num_layers=4, heads=2).eval()
    pair = KNNGraph(4)(random_pair(9, 7))
    graph, values = PairGraph.from_data(pair), ValueSource()
    compiled = torch.compile(MatcherLayer.forward, backend="eager")
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for layer in matcher.layers:
            found, _ = compiled(layer, pair.x, graph, None, values)
            assert torch.equal(found, layer(pair.x, graph, None, values)[0])
