"""The research options inside the matcher, on batches of pairs of different sizes."""

import pytest
import torch
from helpers import random_pair
from skimage import data
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair
from pyg_match.datasets import warped_pair
from pyg_match.features import extractor, load_image
from pyg_match.nn import GraphMatcher, convert_lightglue
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    RemovePairs,
    RingPartition,
)

COUNTS = [(24, 17), (1, 9), (0, 6), (12, 12)]
LAYERS = 3
RINGS = RingPartition([4, 10], loop=True)
NESTED = NestedPartition([3, 6, 10], loop=True)
CASES = {
    "anchors": (AnchorEdges(3), {}),
    "diverse": (DiverseKNN(5, loop=True), {}),
    "parts": (EqualPartition(3), {}),
    "zero": (RemovePairs(max_distance=200.0, mode="mask"), {"mask_mode": "zero"}),
    "rings, attention": (RINGS, {"branch": "attention"}),
    "rings, gcn": (RINGS, {"branch": "gcn"}),
    "nested, gcn without projection": (NESTED, {"branch": "gcn", "num_scales": 3, "orthogonal": False}),
    "ranks modulo 2, attention": (EqualPartition(2, by="edges", k=8), {"branch": "attention"}),
    "span shrinks with depth": (NESTED, {"layer_scales": (2, 1, 0)}),
    "values": (RINGS, {"branch": "gcn", "value_source": "every:2"}),
}


# Traced here as well; masks, attention branches and plain sparse graphs are in test_compile.
COMPILED = ("rings, gcn", "span shrinks with depth")


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
        num_layers=LAYERS,
        heads=2,
        filter_threshold=0.0,
        **kwargs,
    )


def awake(matcher):
    """New branches contribute nothing at first; let them."""
    for layer in matcher.layers:
        if layer.branch is not None:
            torch.nn.init.normal_(layer.branch.lin.weight, std=0.1)
    return matcher.double()


def draw(transform, **kwargs):
    steps = Compose([KNNGraph(6, loop=True), CandidateEdges(4), transform])
    return [steps(random_pair(*counts, dtype=torch.double, **kwargs)) for counts in COUNTS]


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
        compiled = torch.compile(matcher, backend="aot_eager")(batch)
        assert torch.equal(compiled.matches, out.matches)
        for mine, theirs in zip(compiled.log_assignment, out.log_assignment, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-9)

    matcher.save(tmp_path / "m.safetensors")
    loaded = GraphMatcher.from_pretrained(tmp_path / "m.safetensors").double()
    assert loaded.config == matcher.config
    for mine, theirs in zip(loaded(batch).log_assignment, out.log_assignment, strict=True):
        assert torch.equal(mine, theirs)


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
