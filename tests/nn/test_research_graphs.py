"""The research options inside the matcher, on batches of pairs of different sizes."""

import pytest
import torch
from helpers import compiles, random_pair
from skimage import data
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose
from torch_geometric.utils import to_torch_csr_tensor

from pyg_match.data import KeypointPair
from pyg_match.datasets import warped_pair
from pyg_match.features import extractor, load_image
from pyg_match.nn import GraphMatcher, convert_lightglue
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    CompleteGraph,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    PrecomputedEdges,
    RemovePairs,
    RingPartition,
)

COUNTS = [(24, 17), (1, 9), (0, 6), (12, 12)]
LAYERS = 3
RINGS = RingPartition([4, 10], loop=True)
NESTED = NestedPartition([3, 6, 10], loop=True)
DIM = RemovePairs(max_distance=200.0, key=["edge_index", "cross_edge_index"], mode="mask")


def precomputed(pair):
    """The nearest neighbours, given from outside as a CSR matrix."""
    edges = KNNGraph(4)(pair.clone()).edge_index.as_tensor()
    return PrecomputedEdges(to_torch_csr_tensor(edges.flip(0), size=(pair.num_nodes,) * 2))(pair)


# What draws or removes edges. Masks are of no concern to the other options.
GRAPHS = {
    "complete": CompleteGraph(),
    "anchors": AnchorEdges(3),
    "anchors by distance": AnchorEdges(3, method="farthest"),
    "diverse": DiverseKNN(5, loop=True),
    "diverse directions": DiverseKNN(5, space="direction"),
    "parts": EqualPartition(3),
    "neighbours in parts": EqualPartition(2, k=4),
    "candidates of one side": CandidateEdges(3, symmetric=False),
    "pairs removed by index": RemovePairs(pairs=[[0], [1]]),
    "far pairs removed": RemovePairs(max_distance=60.0),
    "alike pairs removed": RemovePairs(max_similarity=0.5, key="cross_edge_index"),
    "pairs removed by function": RemovePairs(
        function=lambda data, source, target: (source + target) % 3 == 0
    ),
    "pairs masked": DIM,
    "precomputed": precomputed,
}
OPTIONS = {
    "zero": (DIM, {"mask_mode": "zero", "num_layers": 2}),
    "remove": (DIM, {"mask_mode": "remove", "encoding": "mlp", "num_layers": 2}),
    "other head": (RINGS, {"assignment": "sinkhorn"}),
    "rings, attention": (
        RINGS,
        {"branch": "attention", "value_source": "initial", "value_steps": "self", "num_layers": 2},
    ),
    "rings, gcn": (RINGS, {"branch": "gcn", "value_source": "every:1", "num_layers": 2}),
    "nested, gcn without projection": (
        NESTED,
        {
            "branch": "gcn",
            "num_scales": 3,
            "orthogonal": False,
            "value_source": "initial",
            "value_steps": "cross",
            "num_layers": 2,
        },
    ),
    "nested, attention": (NESTED, {"branch": "attention", "num_scales": 3, "num_layers": 2}),
    "ranks modulo 2": (EqualPartition(2, by="edges", k=8), {"branch": "attention"}),
    "span shrinks with depth": (NESTED, {"layer_scales": (2, 1, 0), "value_source": "every:2"}),
    "values": (RINGS, {"branch": "gcn", "value_source": "every:2"}),
}
CASES = {**{name: (transform, {}) for name, transform in GRAPHS.items()}, **OPTIONS}
# What changes the computation is traced, each at least once; other edges are only other data, see below.
COMPILED = (
    "zero",
    "remove",
    "rings, attention",
    "rings, gcn",
    "nested, gcn without projection",
    "nested, attention",
    "span shrinks with depth",
)


@pytest.fixture(scope="module")
def real_pairs():
    """Pairs of real photos and their warped copies, with different numbers of keypoints."""
    detect = extractor("aliked", max_num_keypoints=80)
    pairs = []
    for seed, photo in enumerate((data.astronaut()[:256, :256], data.coffee()[:200, :300])):
        image0, image1, _ = warped_pair(load_image(photo), seed=seed)
        pair = KeypointPair.from_sets(detect(image0), detect(image1))
        pair.pos, pair.x, pair.score = pair.pos.double(), pair.x.double(), pair.score.double()
        pairs.append(pair)
    assert pairs[0].num_nodes != pairs[1].num_nodes
    return pairs


def build(in_channels=16, **kwargs):
    return GraphMatcher(
        in_channels=in_channels,
        hidden_channels=32,
        num_layers=kwargs.pop("num_layers", LAYERS),
        heads=2,
        filter_threshold=0.0,
        **kwargs,
    )


def loss_of(out):
    loss = sum(assignment.exp().square().mean() for assignment in out.log_assignment)
    return loss if out.orthogonality is None else loss + out.orthogonality


def assert_compiled_equals(compiled, matcher, batch):
    """The same matches, assignments and gradients."""
    found, expected = compiled(batch), matcher(batch)
    assert torch.equal(found.matches, expected.matches)
    for mine, theirs in zip(found.log_assignment, expected.log_assignment, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-9)
    parameters = list(matcher.parameters())
    grads = [torch.autograd.grad(loss_of(out), parameters, allow_unused=True) for out in (found, expected)]
    for (name, _), mine, theirs in zip(matcher.named_parameters(), *grads, strict=True):
        assert (mine is None) == (theirs is None), name
        assert mine is None or torch.allclose(mine, theirs, atol=1e-9), name


def awake(matcher):
    """New branches contribute nothing at first; let them."""
    for layer in matcher.layers:
        if layer.branch is not None:
            torch.nn.init.normal_(layer.branch.lin.weight, std=0.1)
    return matcher.double()


def draw(transform, **kwargs):
    steps = Compose([KNNGraph(6, loop=True), CandidateEdges(4), transform])
    return [steps(random_pair(*counts, dtype=torch.double, **kwargs)) for counts in COUNTS]


@compiles
@pytest.mark.parametrize("case", CASES)
def test_every_option_in_the_matcher(case, tmp_path, real_pairs):
    transform, options = CASES[case]
    matcher = awake(build(in_channels=128, **options))
    steps = Compose([KNNGraph(6, loop=True), CandidateEdges(4), transform])
    pairs = [steps(pair.clone()) for pair in real_pairs]
    pairs += [steps(random_pair(*counts, channels=128, dtype=torch.double)) for counts in [(0, 6), (1, 1)]]
    batch = Batch.from_data_list(pairs)
    out = matcher(batch)
    for i, pair in enumerate(pairs):
        single = matcher(pair)
        assert torch.allclose(out.log_assignment[i], single.log_assignment[0], atol=1e-9)
        assert torch.equal(out.pair_matches(i)[0], single.pair_matches()[0])

    loss = sum(assignment.square().mean() for assignment in out.log_assignment)
    if "branch" in options:
        assert 0 < float(out.orthogonality.detach()) < 1
        loss = loss + out.orthogonality
    else:
        assert out.orthogonality is None
    loss.backward()
    for name, parameter in matcher.named_parameters():
        used = (
            not name.startswith("confidences")
            and "assignments." not in name
            and not name.endswith("lin_key.bias")
        )
        if used:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    if case in COMPILED:
        torch._dynamo.reset()
        assert_compiled_equals(torch.compile(matcher, backend="aot_eager"), matcher, batch)

    matcher.save(tmp_path / "m.safetensors")
    loaded = GraphMatcher.from_pretrained(tmp_path / "m.safetensors").double()
    assert loaded.config == matcher.config
    for mine, theirs in zip(loaded(batch).log_assignment, out.log_assignment, strict=True):
        assert torch.equal(mine, theirs)


@compiles
def test_compiled_on_every_graph(real_pairs):
    """Edges are data: one compiled matcher takes them all."""
    torch._dynamo.reset()
    matcher = build(in_channels=128, num_layers=1).double()
    compiled = torch.compile(matcher, backend="aot_eager", dynamic=True)
    for name, transform in GRAPHS.items():
        steps = Compose([KNNGraph(6, loop=True), CandidateEdges(4), transform])
        batch = Batch.from_data_list([steps(pair.clone()) for pair in real_pairs])
        assert batch.num_nodes == sum(pair.num_nodes for pair in real_pairs), name
        assert_compiled_equals(compiled, matcher, batch)


@pytest.mark.parametrize("branch", ["attention", "gcn"])
def test_starts_out_equal_to_the_pretrained_one(branch, tmp_path):
    plain = build()
    plain.save(tmp_path / "plain.safetensors")
    grown = GraphMatcher.from_pretrained(tmp_path / "plain.safetensors", branch=branch).double()
    plain = plain.double()
    for pair in draw(RINGS):
        assert torch.equal(grown(pair).log_assignment[0], plain(pair).log_assignment[0])


def test_branches_join_official_weights():
    from kornia.feature import LightGlue

    peer = LightGlue(features=None, input_dim=16, descriptor_dim=32, num_heads=2, n_layers=LAYERS)
    config, state = convert_lightglue(peer.state_dict())
    grown = GraphMatcher(config, branch="gcn")
    missing, unexpected = grown.load_state_dict(state, strict=False)
    assert unexpected == []
    assert missing
    assert all(".branch." in key for key in missing)


def test_layer_scales_choose_the_graph_of_each_layer():
    """A matcher whose layers all use scale 1 equals one that attends along that scale as edge_index."""
    pair = draw(NESTED)[0]
    plain, scaled = build(), build(layer_scales=(1,) * LAYERS)
    scaled.load_state_dict(plain.state_dict())
    plain, scaled = plain.double(), scaled.double()
    found = scaled(pair).log_assignment[0]
    pair.edge_index = pair.edge_index_1
    assert torch.equal(found, plain(pair).log_assignment[0])


def test_branches_with_early_exit_and_pruning():
    matcher = awake(build(branch="attention", depth_confidence=0.45, width_confidence=0.6))
    pairs = draw(RINGS)
    out = matcher(Batch.from_data_list(pairs))
    for i, pair in enumerate(pairs):
        assert torch.equal(out.pair_matches(i)[0], matcher(pair).pair_matches()[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"branch": "mlp"}, "'branch' must be None, 'attention' or 'gcn', got 'mlp'"),
        ({"layer_scales": (0, 1)}, r"must name a scale for each of 3 layers, got \(0, 1\)"),
        ({"num_scales": 0}, "'num_scales' must be positive, got 0"),
    ],
)
def test_config_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_missing_scales_are_told():
    pair = draw(RINGS)[0]
    with pytest.raises(ValueError, match="the branches need 3 scales, but the pair has 2"):
        build(branch="gcn", num_scales=3).double()(pair)
    with pytest.raises(ValueError, match="names scale 2, but the pair has 2 scales"):
        build(layer_scales=(2, 1, 0)).double()(pair)
