"""Cross edges drawn anew between layers."""

import pytest
import torch
from helpers import random_pair, random_set
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair
from pyg_match.data.edges import sorted_edges
from pyg_match.nn import GraphMatcher, graph_matcher
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.nn.value_source import ValueSource
from pyg_match.ops.candidates import redrawn_edges
from pyg_match.training.config import LossConfig
from pyg_match.training.objective import Objective
from pyg_match.transforms import AnchorEdges, CandidateEdges, KNNGraph
from pyg_match.visualization import layer_matches, record_attention

COUNTS = [(30, 25), (12, 40), (1, 7), (0, 5), (9, 1), (1, 1), (0, 0), (18, 18)]
SPARSE = Compose([KNNGraph(6, loop=True), CandidateEdges(2)])


def small(**kwargs):
    options = {"redraw_after": 1, "redraw_k": 4, "filter_threshold": 0.0, **kwargs}
    shape = {"in_channels": 16, "hidden_channels": 32, "num_layers": 3, "heads": 2}
    return GraphMatcher(**{**shape, **options}).double().eval()


def with_weights_of(matcher, **kwargs):
    other = GraphMatcher(matcher.config, **kwargs).double().eval()
    other.load_state_dict(matcher.state_dict())
    return other


@pytest.mark.parametrize("counts", COUNTS)
def test_all_keypoints_as_candidates_equal_complete_cross_edges(counts):
    matcher = small(redraw_k=50)
    pair = random_pair(*counts, dtype=torch.double)
    expected = with_weights_of(matcher, redraw_after=None)(pair)
    out = matcher(pair)
    assert torch.allclose(out.log_assignment[0], expected.log_assignment[0], atol=1e-9)
    assert torch.equal(out.matches, expected.matches)


@pytest.mark.parametrize("assignment", ["dual_softmax", "sinkhorn"])
def test_later_layers_run_along_the_most_similar_after_the_first(assignment):
    matcher = small(assignment=assignment)
    pair = SPARSE(random_pair(25, 20, dtype=torch.double))
    descriptors = matcher(pair, return_descriptors=True).descriptors
    x = descriptors[0]
    projected = matcher.assignments[0].lin(x)
    similarity = projected[:25] @ projected[25:].t()
    near = torch.zeros(45, 45, dtype=torch.bool)
    near[:25, 25:].scatter_(1, similarity.topk(4, dim=1).indices, True)
    near[25:, :25].scatter_(1, similarity.t().topk(4, dim=1).indices, True)
    target, source = (near | near.t()).nonzero().t()
    pair.cross_edge_index = sorted_edges(torch.stack([source, target]), 45, is_sorted=True)
    rotation, values = matcher._embed(matcher.prepare(pair))[1], ValueSource("current", "both")
    for layer, expected in zip(matcher.layers[1:], descriptors[1:], strict=True):
        x, _ = layer(x, PairGraph.from_data(pair), rotation, values)
        assert torch.allclose(x, expected, atol=1e-9)


def test_batch_permutation_and_swap():
    matcher = small()
    pairs = [SPARSE(random_pair(*counts, dtype=torch.double)) for counts in COUNTS]
    out = matcher(Batch.from_data_list(pairs))
    for i, pair in enumerate(pairs):
        assert torch.allclose(out.log_assignment[i], matcher(pair).log_assignment[0], atol=1e-9)
    sets = random_set(20, dtype=torch.double), random_set(14, dtype=torch.double)
    expected = matcher(SPARSE(KeypointPair.from_sets(*sets))).log_assignment[0]
    swapped = matcher(SPARSE(KeypointPair.from_sets(*sets[::-1]))).log_assignment[0]
    assert torch.allclose(swapped, expected.t(), atol=1e-9)
    order = torch.randperm(20)
    shuffled = sets[0].clone()
    for key in ("pos", "x", "score"):
        shuffled[key] = shuffled[key][order]
    permuted = matcher(SPARSE(KeypointPair.from_sets(shuffled, sets[1]))).log_assignment[0]
    assert torch.allclose(permuted, expected[torch.cat([order, torch.tensor([20])])], atol=1e-9)


@pytest.mark.parametrize("options", [{"depth_confidence": 0.4}, {"width_confidence": 0.6}])
def test_early_exit_and_pruning_compose(options):
    matcher = small(redraw_k=50, **options)
    batch = Batch.from_data_list([random_pair(*counts, dtype=torch.double) for counts in COUNTS])
    out, expected = matcher(batch), with_weights_of(matcher, redraw_after=None)(batch)
    assert torch.equal(out.matches, expected.matches)
    assert torch.equal(out.num_layers, expected.num_layers)
    assert torch.equal(out.depth, expected.depth)
    few = with_weights_of(matcher, redraw_k=3)(batch)
    assert torch.equal(few.depth[few.depth == 1], expected.depth[few.depth == 1])


@pytest.mark.parametrize("options", [{}, {"depth_confidence": 0.4}, {"width_confidence": 0.6}])
def test_assignment_along_the_edges_drawn_anew(options):
    """With all keypoints as candidates it is the dense one; with fewer, the softmax runs over these."""
    dense = small(redraw_k=50, **options)
    for confidence in dense.confidences:
        confidence.weight.data.mul_(30)  # so that some pairs stop early
    batch = Batch.from_data_list(
        [CandidateEdges(50)(random_pair(*counts, dtype=torch.double)) for counts in COUNTS]
    )
    expected = dense(batch)
    out = with_weights_of(dense, assign_on_edges=True)(batch)
    assert torch.equal(out.matches, expected.matches)
    assert torch.allclose(out.scores, expected.scores, atol=1e-9)
    assert torch.equal(out.num_layers, expected.num_layers)
    assert out.log_assignment is None and out.edge_log_assignment.dtype == torch.double
    few = with_weights_of(dense, redraw_k=3, assign_on_edges=True)(batch)
    source, target = few.cross_edge_index
    assert few.edge_log_assignment.shape == source.shape
    image, pair = batch.image_batch, batch.image_batch // 2
    assert bool((pair[source] == pair[target]).all() and (image[source] != image[target]).all())
    if "depth_confidence" in options:  # before the redraw and after it
        assert few.num_layers.min() == 1 < few.num_layers.max()
    best = torch.full((image.numel(),), -torch.inf, dtype=torch.double)
    best.scatter_reduce_(0, target, few.edge_log_assignment, "amax")
    matched = few.matches >= 0
    assert bool(matched.any())
    assert torch.equal(few.scores[matched], best.exp()[matched])


@pytest.mark.parametrize("width", [None, 0.5])
def test_layers_after_the_redraw_are_shown_along_its_edges(width):
    matcher = small(redraw_k=50, num_layers=4, assign_on_edges=True, width_confidence=width)
    dense = with_weights_of(matcher, assign_on_edges=False)
    for k, first in ((50, 0), (1, 1)):  # with one candidate, the first layer answers otherwise
        pair = CandidateEdges(50)(random_pair(25, 20, dtype=torch.double))
        pair = pair if k == 50 or width else CandidateEdges(k)(pair)
        found, expected = layer_matches(matcher, pair), layer_matches(dense, pair)
        assert torch.equal(found.matches[first:], expected.matches[first:])
        assert torch.allclose(found.scores[first:], expected.scores[first:], atol=1e-9)


def test_training_learns_from_all_pairs():
    pair = SPARSE(random_pair(25, 20, dtype=torch.double))
    pair.y = torch.full((45,), -1)
    matcher = small(assign_on_edges=True).train()
    losses = [
        Objective(m, LossConfig())(pair, (0, 2))["total"]
        for m in (matcher, with_weights_of(matcher, assign_on_edges=False).train())
    ]
    assert torch.equal(*losses)


def test_gradients_reach_every_layer():
    matcher = small().train()
    out = matcher(SPARSE(random_pair(25, 20, dtype=torch.double)))
    out.log_assignment[0].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in matcher.layers.parameters())


def test_draws_in_single_precision_under_autocast(monkeypatch):
    seen = []

    def candidates(x, *arguments):
        seen.append(x.dtype)
        return redrawn_edges(x, *arguments)

    monkeypatch.setattr(graph_matcher, "redrawn_edges", candidates)
    pair = SPARSE(random_pair(25, 20))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(small().float()(pair).scores).all()
    assert torch.isfinite(small(bfloat16=True).float()(pair).scores).all()
    assert seen == [torch.float, torch.float]


@pytest.mark.parametrize("options", [{}, {"width_confidence": 0.6}])
def test_weights_of_the_first_edges_end_with_them(options):
    graph = Compose([SPARSE, AnchorEdges(3, weighted=True), AnchorEdges(2, weighted=True, cross=True)])
    matcher = small(redraw_k=3, **options)
    pairs = [graph(random_pair(*counts, dtype=torch.double)) for counts in COUNTS]
    with torch.inference_mode():
        out = matcher(Batch.from_data_list(pairs))
        for i, pair in enumerate(pairs):
            assert torch.allclose(out.log_assignment[i], matcher(pair).log_assignment[0], atol=1e-9)
    dropped = pairs[0].clone()
    dropped.cross_edge_weight = torch.ones_like(dropped.cross_edge_weight)
    assert not torch.allclose(matcher(pairs[0]).scores, matcher(dropped).scores)  # the first layer sees them


def test_recorded_attention_names_the_edges_of_each_layer():
    pair, matcher = SPARSE(random_pair(25, 20, dtype=torch.double)), small()
    with record_attention(matcher) as record:
        matcher(pair)
    first, *later = record.cross_attention
    assert torch.equal(first.edge_index, pair.cross_edge_index.as_tensor())
    assert all(torch.equal(step.edge_index, later[0].edge_index) for step in later)
    assert later[0].edge_index.shape != first.edge_index.shape


def test_save_and_load(tmp_path):
    matcher = small().float()
    matcher.save(tmp_path / "m.safetensors")
    loaded = GraphMatcher.from_pretrained(tmp_path / "m.safetensors")
    assert (loaded.config.redraw_after, loaded.config.redraw_k) == (1, 4)
    pair = SPARSE(random_pair(9, 8))
    assert torch.equal(loaded(pair).scores, matcher(pair).scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"redraw_after": 0}, "'redraw_after' must be a layer before the last of 3, got 0"),
        ({"redraw_after": 3}, "'redraw_after' must be a layer before the last of 3, got 3"),
        ({"redraw_k": 0}, "'redraw_k' must be positive, got 0"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("node", [12, 10**9])
def test_edges_of_nodes_that_do_not_exist_are_refused(place, node):
    for key in ("edge_index", "cross_edge_index"):
        pair = random_pair(7, 5)
        edges = torch.tensor([[0, 8], [8, 9]] if key == "cross_edge_index" else [[0, 1], [1, 2]])
        edges[place, 1] = node
        pair[key] = edges
        with pytest.raises(ValueError, match=f"{node}, but there are 12"):
            small(assign_on_edges=True, redraw_after=None)(pair)


def test_masks_of_replaced_edges_are_refused():
    pair = SPARSE(random_pair(9, 8, dtype=torch.double))
    pair.cross_edge_mask = torch.ones(pair.cross_edge_index.size(1), dtype=torch.bool)
    with pytest.raises(ValueError, match="'cross_edge_mask' masks edges that 'redraw_after' replaces"):
        small()(pair)
