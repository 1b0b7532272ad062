import copy
import math
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from helpers import random_pair, random_set, reads_numbers
from kornia.feature import LightGlue
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair
from pyg_match.data.edges import sorted_edges
from pyg_match.nn import AttentionBlock, GraphMatcher, MatcherConfig, convert_lightglue
from pyg_match.nn.conv.projection import Projection
from pyg_match.nn.early_exit import adapt
from pyg_match.nn.frozen import FrozenBlock
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.transforms import AnchorEdges, CandidateEdges, CompleteGraph, KNNGraph, RingPartition
from pyg_match.visualization import record_attention

COUNTS = [(30, 25), (12, 40), (1, 7), (0, 5), (9, 1), (1, 1), (18, 18), (5, 0)]


def small(**kwargs):
    return GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, heads=2, **kwargs).double().eval()


def as_kornia(pair):
    images = [pair.image(i) for i in (0, 1)]
    return {
        f"image{i}": {
            "keypoints": image.pos[None],
            "descriptors": image.x[None],
            "image_size": image.image_size,
        }
        for i, image in enumerate(images)
    }


def sharpened(model, factor=6.0):
    """Random weights give flat assignments; scale the last projection so that matches appear."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log_assignment" in name and "final_proj.weight" in name:
                parameter.mul_(factor)
            if "log_assignment" in name and "matchability.bias" in name:
                parameter.fill_(3.0)
    return model


@pytest.mark.parametrize("listed", [False, True])
def test_complete_graph_equals_kornia(listed):
    peer = (
        sharpened(
            LightGlue(
                features=None,
                input_dim=16,
                descriptor_dim=32,
                num_heads=2,
                n_layers=3,
                depth_confidence=-1,
                width_confidence=-1,
            )
        )
        .double()
        .eval()
    )
    config, state = convert_lightglue(peer.state_dict())
    assert (config.in_channels, config.hidden_channels, config.num_layers, config.heads) == (16, 32, 3, 2)
    ours = GraphMatcher(config).double().eval()
    ours.load_state_dict(state)
    pair = random_pair(30, 25, dtype=torch.double)
    expected = peer(as_kornia(pair))
    out = ours(CompleteGraph()(pair) if listed else pair)
    assert torch.allclose(out.log_assignment[0], expected["log_assignment"][0], atol=1e-9)
    assert torch.equal(out.matches, torch.cat([expected["matches0"][0], expected["matches1"][0]]))
    assert torch.allclose(out.scores[:30], expected["matching_scores0"][0], atol=1e-9)
    matches, scores = out.pair_matches()
    assert len(matches) > 3
    assert torch.equal(matches, expected["matches"][0])
    assert torch.allclose(scores, expected["scores"][0], atol=1e-9)

    weight = torch.randn_like(out.log_assignment[0])
    grads = torch.autograd.grad(
        (expected["log_assignment"][0] * weight).sum(), list(peer.parameters()), allow_unused=True
    )
    named = {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(peer.named_parameters(), grads, strict=True)
    }
    _, converted = convert_lightglue(named)
    (out.log_assignment[0] * weight).sum().backward()
    for name, parameter in ours.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(grad, converted[name], rtol=1e-6, atol=1e-8), name


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_first_layers_equal_kornia_with_fewer(num_layers, tmp_path):
    shape = {"features": None, "input_dim": 16, "descriptor_dim": 32, "num_heads": 2}
    shape |= {"depth_confidence": -1, "width_confidence": -1}
    state = sharpened(LightGlue(n_layers=3, **shape)).state_dict()
    torch.save(state, tmp_path / "official.pt")
    peer = LightGlue(n_layers=num_layers, **shape).eval()
    del state["confidence_thresholds"]  # one for each layer, and computed anew
    missing = peer.load_state_dict(state, strict=False).missing_keys
    assert missing == ["confidence_thresholds"]
    GraphMatcher.from_pretrained(tmp_path / "official.pt").save(tmp_path / "ours.safetensors")
    pair = random_pair(30, 25)
    expected = peer(as_kornia(pair))["log_assignment"][0]
    for file in ("official.pt", "ours.safetensors"):
        ours = GraphMatcher.from_pretrained(tmp_path / file, num_layers=num_layers)
        assert ours.config.num_layers == num_layers
        torch.testing.assert_close(ours(pair).log_assignment[0], expected, atol=1e-4, rtol=1e-4)
        with pytest.raises(ValueError, match="have 3 layers, got num_layers=4"):
            GraphMatcher.from_pretrained(tmp_path / file, num_layers=4)


def test_first_layers_keep_their_scales_and_need_an_assignment(tmp_path):
    small(layer_scales=(1, 0, 2)).save(tmp_path / "scales.safetensors")
    loaded = GraphMatcher.from_pretrained(tmp_path / "scales.safetensors", num_layers=2)
    assert loaded.config.layer_scales == (1, 0)
    small(assignment="sinkhorn").save(tmp_path / "sinkhorn.safetensors")
    with pytest.raises(ValueError, match="an assignment after 3 layers only, got num_layers=2"):
        GraphMatcher.from_pretrained(tmp_path / "sinkhorn.safetensors", num_layers=2)


@pytest.mark.parametrize("width", [-1, 0.7])
@pytest.mark.parametrize("depth", [-1, 0.5, 0.02])
def test_early_exit_and_pruning_equal_kornia(width, depth):
    torch.manual_seed(3)
    peer = LightGlue(
        features=None, input_dim=16, descriptor_dim=32, num_heads=2, n_layers=3,
        depth_confidence=depth, width_confidence=width,
    )  # fmt: skip
    peer = sharpened(peer)
    with torch.no_grad():
        for head in peer.log_assignment:
            head.matchability.bias.fill_(0.0)
            head.matchability.weight.mul_(5)
        for token in peer.token_confidence:
            token.token[0].weight.mul_(20)
            token.token[0].bias.fill_(2.0)
    peer = peer.double().eval()
    config, state = convert_lightglue(peer.state_dict())
    ours = GraphMatcher(
        config, depth_confidence=depth if depth > 0 else None, width_confidence=width if width > 0 else None
    )
    ours = ours.double().eval()
    ours.load_state_dict(state)
    pairs = [random_pair(*counts, dtype=torch.double) for counts in [(30, 25), (12, 40), (8, 8)]]
    graphs = [pairs, [CompleteGraph()(pair) for pair in pairs]]
    for graph in graphs:
        batch = ours(Batch.from_data_list(graph))
        depths = batch.depth.split([p.num_nodes for p in pairs])
        for i, pair in enumerate(pairs):
            expected = peer(as_kornia(pair))
            out = ours(graph[i])
            assert int(out.num_layers) == expected["stop"] == int(batch.num_layers[i])
            for matches, scores in (out.pair_matches(), batch.pair_matches(i)):
                assert torch.equal(matches, expected["matches"][0])
                assert torch.allclose(scores, expected["scores"][0], atol=1e-9)
            assert torch.equal(out.depth, depths[i])
            if width > 0 and depth < 0:
                assert torch.equal(out.depth[: expected["prune0"].numel()], expected["prune0"][0])


def test_who_stops_and_who_is_left_out_at_the_limits():
    """As in LightGlue: of all keypoints, so many must be sure; who is as sure as the threshold says stays."""
    matcher = small(depth_confidence=0.5, width_confidence=0.5).requires_grad_(False)
    matcher.confidence_thresholds[1] = 0.5
    matcher.confidences[1].weight.copy_(torch.eye(1, 32))
    matcher.confidences[1].bias.zero_()
    matcher.assignments[1].lin_matchability.bias.fill_(-99)
    pair = random_pair(6, 4, dtype=torch.double)
    graph = PairGraph.from_data(pair).subset(torch.arange(10) < 8, (True,))  # two left out before
    for unsure, stops in ((5, False), (4, True)):
        x = torch.zeros(8, 32, dtype=torch.double)
        x[:unsure, 0], x[7, 0] = -9, 9
        found, keep = adapt(matcher, 1, x, graph, pair.num_keypoints)
        assert found == (stops,)
        assert keep.tolist() == ([False] * 8 if stops else [True] * 7 + [False])


def test_weights_of_edges_between_images_go_with_them():
    matcher = small(width_confidence=0.5).requires_grad_(False)
    for head in matcher.assignments:  # some are left out after each layer
        head.lin_matchability.weight.copy_(6 * torch.eye(1, 32))
        head.lin_matchability.bias.fill_(1)
    pairs = [CandidateEdges(4)(random_pair(*counts, dtype=torch.double)) for counts in [(20, 15), (6, 9)]]
    for pair in pairs:
        pair.cross_edge_weight = 1 + 9 * torch.rand(pair.cross_edge_index.size(1), dtype=torch.double)
    batch = matcher(Batch.from_data_list(pairs))
    for i, pair in enumerate(pairs):
        alone = matcher(pair)
        assert (alone.depth < 3).any() and (alone.depth == 3).any()
        assert torch.allclose(batch.log_assignment[i], alone.log_assignment[0], atol=1e-9)


def test_pairs_that_do_not_exist():
    out = small()(random_pair(3, 2, dtype=torch.double))
    for number in (1, -1):
        with pytest.raises(IndexError, match=f"pair {number} does not exist, expected a number from 0 to 0"):
            out.pair_matches(number)


@pytest.mark.parametrize("assignment", ["dual_softmax", "sinkhorn"])
@pytest.mark.parametrize("encoding", ["rotary", "mlp"])
@pytest.mark.parametrize("sparse", [False, True])
def test_batch_equals_single_runs(assignment, encoding, sparse):
    matcher = small(assignment=assignment, encoding=encoding, filter_threshold=0.0)
    pairs = [random_pair(*counts, dtype=torch.double) for counts in COUNTS]
    if sparse:
        pairs = [CandidateEdges(4)(KNNGraph(6, loop=True)(pair)) for pair in pairs]
    (batch,) = DataLoader(pairs, batch_size=len(pairs))
    out = matcher(batch, return_descriptors=True)
    for i, pair in enumerate(pairs):
        single = matcher(pair, return_descriptors=True)
        assert torch.allclose(out.log_assignment[i], single.log_assignment[0], atol=1e-9)
        assert torch.equal(out.pair_matches(i)[0], single.pair_matches()[0])
        nodes = batch.batch == i
        assert torch.equal(out.matches[nodes], single.matches)
        for mine, theirs in zip(out.descriptors, single.descriptors, strict=True):
            assert torch.allclose(mine[nodes], theirs, atol=1e-9)


@pytest.mark.parametrize("transform", [None, CandidateEdges(4), KNNGraph(6, loop=True)])
def test_permutation_and_swap(transform):
    matcher = small(filter_threshold=0.0)
    sets = random_set(20, dtype=torch.double), random_set(14, dtype=torch.double)
    draw = transform or (lambda pair: pair)
    out = matcher(draw(KeypointPair.from_sets(*sets)))
    swapped = matcher(draw(KeypointPair.from_sets(*sets[::-1])))
    assert torch.allclose(swapped.log_assignment[0], out.log_assignment[0].t(), atol=1e-9)
    assert torch.equal(swapped.matches, out.matches.roll(-20))
    order = torch.randperm(20)
    shuffled = sets[0].clone()
    for key in ("pos", "x", "score"):
        shuffled[key] = shuffled[key][order]
    permuted = matcher(draw(KeypointPair.from_sets(shuffled, sets[1])))
    expected = out.log_assignment[0][torch.cat([order, torch.tensor([20])])]
    assert torch.allclose(permuted.log_assignment[0], expected, atol=1e-9)
    assert torch.equal(permuted.matches[:20], out.matches[:20][order])


def test_candidates_of_all_keypoints_equal_the_complete_graph():
    matcher = small()
    pair = random_pair(20, 14, dtype=torch.double)
    expected = matcher(pair).log_assignment[0]
    out = matcher(CandidateEdges(20)(KNNGraph(20, loop=True)(pair)))
    assert torch.allclose(out.log_assignment[0], expected, atol=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_assignment_on_complete_edges_equals_dense(adaptive):
    options = {"depth_confidence": 0.45, "width_confidence": 0.6} if adaptive else {}
    dense = small(filter_threshold=0.0, **options)
    on_edges = GraphMatcher(dense.config, assign_on_edges=True).double().eval()
    on_edges.load_state_dict(dense.state_dict())
    batch = Batch.from_data_list([CompleteGraph()(random_pair(*c, dtype=torch.double)) for c in COUNTS])
    expected, out = dense(batch), on_edges(batch)
    assert torch.equal(out.matches, expected.matches)
    assert torch.equal(out.num_layers, expected.num_layers)
    assert torch.allclose(out.scores, expected.scores, atol=1e-9)
    assert out.log_assignment is None
    if not adaptive:
        total = torch.cat([m[:-1, :-1].flatten() for m in expected.log_assignment]).sum()
        assert torch.isclose(out.edge_log_assignment.sum(), 2 * total)
    pair = random_pair(6, 5, dtype=torch.double)  # complete, which lists no edges
    out, expected = on_edges(pair), dense(pair)
    assert torch.equal(out.log_assignment[0], expected.log_assignment[0])
    assert out.edge_log_assignment is None and out.cross_edge_index is None


@pytest.mark.parametrize("mask_mode", ["remove", "zero"])
def test_masked_edges(mask_mode):
    matcher = small(mask_mode=mask_mode)
    pair = CompleteGraph()(random_pair(10, 8, dtype=torch.double))
    expected = matcher(pair).log_assignment[0]
    pair.edge_mask = torch.ones(pair.edge_index.size(1), dtype=torch.bool)
    pair.cross_edge_mask = torch.ones(pair.cross_edge_index.size(1), dtype=torch.bool)
    assert torch.allclose(matcher(pair).log_assignment[0], expected, atol=1e-9)
    pair.edge_mask = torch.rand(pair.edge_index.size(1)) < 0.5
    masked = matcher(pair).log_assignment[0]
    assert not torch.allclose(masked, expected, atol=1e-3)
    pair.edge_index = pair.edge_index[:, pair.edge_mask]
    del pair.edge_mask
    assert torch.allclose(matcher(pair).log_assignment[0], masked, atol=1e-9) == (mask_mode == "remove")


@pytest.mark.parametrize("mask_mode", ["remove", "zero"])
def test_masked_pairs_are_not_matched_on_edges(mask_mode):
    matcher = GraphMatcher(small(mask_mode=mask_mode, filter_threshold=0.0).config, assign_on_edges=True)
    matcher = matcher.double().eval()
    pair = CompleteGraph()(random_pair(9, 9, dtype=torch.double))
    pair.x[9:] = pair.x[:9]
    matches = matcher(pair).matches
    assert (matches >= 0).sum() > 6
    source, target = pair.cross_edge_index.as_tensor()
    pair.cross_edge_mask = source % 9 != matches[target]  # all matches are forbidden
    masked = matcher(pair)
    known = masked.matches >= 0
    assert known.any() and not (masked.matches == matches)[known].any()
    assert (masked.edge_log_assignment[~pair.cross_edge_mask] == -torch.inf).all()
    assert masked.edge_log_assignment[pair.cross_edge_mask].isfinite().all()
    dropped = pair.clone()
    dropped.cross_edge_index = torch.stack([source, target])[:, pair.cross_edge_mask]
    del dropped.cross_edge_mask
    same = torch.equal(matcher(dropped).matches, masked.matches)
    close = torch.allclose(
        matcher(dropped).edge_log_assignment, masked.edge_log_assignment[pair.cross_edge_mask], atol=1e-9
    )
    assert (same and close) if mask_mode == "remove" else not close


def test_masks_of_scales_are_refused():
    pair = RingPartition([40, 80])(random_pair(9, 9))
    plain, scaled = small(), small(layer_scales=(0, 1, 0))
    scaled(pair)
    pair.edge_mask_1 = torch.ones(pair.edge_index_1.size(1), dtype=torch.bool)
    plain(pair)
    with pytest.raises(ValueError, match="scales have neither masks nor weights, got 'edge_mask_1'"):
        scaled(pair)


def test_weights_of_edges_may_be_more_precise_than_descriptors():
    pair = random_pair(9, 9)
    pair.pos = pair.pos.double()
    pair = AnchorEdges(3, loop=True, weighted=True, listed=True)(KNNGraph(2, loop=True)(pair))
    assert pair.edge_weight.dtype == torch.double
    matcher = small().float()
    expected = matcher(pair).log_assignment[0]
    matcher.layers[0].self_attn.conv.register_message_forward_hook(lambda *_: None)
    assert torch.allclose(matcher(pair).log_assignment[0], expected, atol=1e-4)


@pytest.mark.parametrize("mask_mode", ["remove", "zero"])
def test_an_edge_of_weight_two_counts_as_two(mask_mode):
    matcher = small(mask_mode=mask_mode)
    pair = CandidateEdges(5)(KNNGraph(4, loop=True)(random_pair(15, 12, dtype=torch.double)))
    plain = matcher(pair).log_assignment[0]
    repeated = copy.copy(pair)
    for name in ("edge", "cross_edge"):
        index = pair[f"{name}_index"].as_tensor()
        count = torch.randint(1, 4, (index.size(1),))
        pair[f"{name}_weight"] = count.double()
        repeated[f"{name}_index"] = index.repeat_interleave(count, dim=1)
    weighted = matcher(pair).log_assignment[0]
    assert torch.allclose(weighted, matcher(repeated).log_assignment[0], atol=1e-9)
    assert not torch.allclose(weighted, plain, atol=1e-3)
    if mask_mode == "remove":  # pruning keeps each edge with its own weight
        options = {"width_confidence": 0.5, "depth_confidence": 0.9}
        pruned = small(**options)
        pruned.load_state_dict(matcher.state_dict())
        assert torch.allclose(pruned(pair).log_assignment[0], pruned(repeated).log_assignment[0], atol=1e-9)


def test_weights_must_fit():
    pair = KNNGraph(4)(random_pair(15, 12, dtype=torch.double))
    pair.edge_weight = torch.ones(3)
    with pytest.raises(ValueError, match=r"'edge_weight' must have shape \[108\], got \[3\]"):
        small()(pair)
    pair.edge_weight = torch.zeros(108)
    with pytest.raises(ValueError, match=r"'edge_weight' must be positive and finite, got 0\.0"):
        small()(pair)
    pair = random_pair(15, 12, dtype=torch.double)
    pair.cross_edge_weight = torch.ones(3)
    with pytest.raises(ValueError, match="there is no 'cross_edge_index'"):
        small()(pair)


def test_gradients_reach_every_parameter():
    for kwargs in ({}, {"encoding": "mlp"}, {"assignment": "sinkhorn"}):
        matcher = small(**kwargs).train()
        out = matcher(CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(20, 14, dtype=torch.double))))
        out.log_assignment[0].square().sum().backward()
        without = {name for name, p in matcher.named_parameters() if p.grad is None or not p.grad.any()}
        heads = matcher.config.num_layers - 1 if len(matcher.assignments) > 1 else 0
        expected = {
            f"assignments.{i}.lin{m}.{p}"
            for i in range(heads)
            for m in ("", "_matchability")
            for p in ("weight", "bias")
        }
        expected |= {f"confidences.{i}.{p}" for i in range(2) for p in ("weight", "bias")}
        # A bias shared by all keys of a softmax changes nothing.
        ignored = {n for n in without if n.endswith("lin_key.bias")}
        assert without - ignored == expected


def test_scale_and_orientation():
    matcher = small(use_scale_orientation=True)
    pair = random_pair(6, 5, dtype=torch.double)
    with pytest.raises(TypeError, match="lacks scale, orientation"):
        matcher(pair)
    pair.scale, pair.orientation = (
        torch.rand(11, dtype=torch.double),
        torch.rand(11, dtype=torch.double) * math.pi,
    )
    first = matcher(pair).log_assignment[0]
    pair.orientation = pair.orientation.flip(0)
    assert not torch.allclose(matcher(pair).log_assignment[0], first, atol=1e-6)


def test_assignment_in_full_precision_under_autocast():
    pair = CandidateEdges(6)(KNNGraph(6, loop=True)(random_pair(30, 25)))
    for on_edges in (False, True):
        matcher = small(filter_threshold=0.0, assign_on_edges=on_edges).float()
        expected = matcher(pair)
        with torch.autocast("cpu", torch.bfloat16):
            out = matcher(pair)
        found, full = (o.edge_log_assignment if on_edges else o.log_assignment[0] for o in (out, expected))
        assert found.dtype == torch.float and not torch.equal(found, full)
        assert (found - full).abs().max() < 0.1


def test_linear_layers_in_bfloat16():
    full = small(filter_threshold=0.0).float()
    low = GraphMatcher(full.config, bfloat16=True).eval()
    low.load_state_dict(full.state_dict())
    pair = CandidateEdges(6)(KNNGraph(6, loop=True)(random_pair(30, 25)))
    seen = []
    low.layers[0].self_attn.ffn[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    out, expected = low(pair, return_descriptors=True), full(pair, return_descriptors=True)
    assert seen == [torch.bfloat16]
    assert out.log_assignment[0].dtype == out.descriptors[-1].dtype == torch.float
    assert not torch.equal(out.log_assignment[0], expected.log_assignment[0])
    assert (out.log_assignment[0] - expected.log_assignment[0]).abs().max() < 0.1


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.half])
def test_half_precision_answers_in_inference_as_in_training(autocast):
    """What inference folds and rounds once is rounded elsewhere than in training, but no more coarsely."""
    matcher = small(filter_threshold=0.0).float()
    pair = CandidateEdges(6)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher.freeze()
    full = matcher(pair, return_descriptors=True).descriptors[-1]
    with torch.autocast("cpu", autocast):
        trained = matcher(pair, return_descriptors=True).descriptors[-1]
        with torch.no_grad():
            outs = [matcher(pair, return_descriptors=True).descriptors[-1] for _ in range(2)]
    assert matcher.layers[0].self_attn.frozen is not None
    assert torch.equal(*outs) and outs[0].dtype == torch.float
    assert not torch.equal(outs[0], full)
    assert (outs[0] - full).abs().mean() < 1.2 * (trained - full).abs().mean()
    with torch.no_grad():  # and in full precision again
        assert (matcher(pair, return_descriptors=True).descriptors[-1] - full).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.half])
def test_weights_are_rounded_once(kind):
    """As devices do that are not the CPU; the same numbers as autocast rounds each time."""
    block = AttentionBlock(16, 2).eval()
    model = GraphMatcher(in_channels=16, hidden_channels=16, num_layers=1, heads=2).freeze()
    projection = model.layers[0].self_attn.conv.lin_value
    frozen, x, message = FrozenBlock(block), torch.randn(20, 16), torch.randn(20, 16)
    with torch.no_grad(), torch.autocast("cpu", kind):
        halves = x.to(kind)
        expected = torch.nn.functional.linear(halves, projection.weight, projection.bias)
        assert torch.equal(projection(halves), expected) and expected.dtype == kind
        assert projection.ordered.rounded(kind)[0] is projection.ordered.rounded(kind)[0]
        found = frozen._whole(block, x, halves, message, None)
        assert (found - block.update(x, message)).abs().max() < 0.05 and found.dtype == torch.float
        assert frozen.first._rounded.keys() == frozen.last._rounded.keys() == {kind}
    with torch.no_grad():
        full = frozen._whole(block, x, x, message, None)
        torch.testing.assert_close(full, block.update(x, message))


def test_save_and_load(tmp_path):
    matcher = small(encoding="mlp", filter_threshold=0.3).float()
    matcher.save(tmp_path / "matcher.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["matcher.safetensors"]
    loaded = GraphMatcher.from_pretrained(tmp_path / "matcher.safetensors")
    assert loaded.config == matcher.config
    assert not loaded.training
    pair = random_pair(6, 5)
    assert torch.equal(loaded(pair).log_assignment[0], matcher(pair).log_assignment[0])
    other = GraphMatcher.from_pretrained(tmp_path / "matcher.safetensors", filter_threshold=0.9)
    assert other.config.filter_threshold == 0.9
    with pytest.raises(ValueError, match="do not fit the matcher"):
        GraphMatcher.from_pretrained(tmp_path / "matcher.safetensors", hidden_channels=64)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not the weights of LightGlue"):
        GraphMatcher.from_pretrained(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.rand(5, 8)}, ValueError, r"descriptors must have shape \[N, 16\], got \[5, 8\]"),
        ({"x": torch.full((5, 16), torch.nan)}, ValueError, "NaN"),
        ({"image_size": None}, TypeError, "lacks image_size"),
        ({"edge_index": torch.tensor([[0, 0], [1, 0]])}, ValueError, "sorted by target"),
    ],
)
def test_errors(change, error, message):
    pair = random_pair(3, 2)
    for key, value in change.items():
        pair[key] = value
    with pytest.raises(error, match=message):
        small()(pair)


def test_forward_needs_a_pair():
    with pytest.raises(TypeError, match="expected a KeypointPair"):
        small()(random_set(3))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"heads": 0}, "'heads' must be positive, got 0"),
        ({"heads": 3}, "'heads' must divide the 256 'hidden_channels', got 3"),
        (
            {"depth_confidence": -1},
            r"'depth_confidence' must be in \[0, 1\], or None to switch it off, got -1",
        ),
        ({"width_confidence": 1.5}, r"'width_confidence' must be in \[0, 1\]"),
        ({"assignment": "sinkhorn", "width_confidence": 0.0}, "need assignment='dual_softmax'"),
        ({"encoding": "sine"}, "'encoding' must be"),
        ({"assignment": "greedy"}, "'assignment' must be"),
        ({"assignment": "sinkhorn", "assign_on_edges": True}, "needs assignment='dual_softmax'"),
        (
            {"assignment": "sinkhorn", "depth_confidence": 0.9},
            "needs assignment='dual_softmax'|need assignment",
        ),
    ],
)
def test_config_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GraphMatcher(**kwargs)


def test_repr_and_config():
    assert str(small()) == "GraphMatcher(16, 32, num_layers=3, heads=2)"
    assert GraphMatcher(MatcherConfig(num_layers=1), heads=8).config == MatcherConfig(num_layers=1, heads=8)


def test_edges_serve_both_with_and_without_gradients():
    matcher = small(assign_on_edges=True)
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(20, 14, dtype=torch.double)))
    with torch.inference_mode():
        first = matcher(pair).scores.clone()
    out = matcher(pair)
    out.scores.sum().backward()
    assert torch.allclose(out.scores.detach(), first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("counts", [(9, 7), (70, 60)])  # with few and with many nodes for its width
@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("frozen", [False, True])
def test_inference_on_edges_equals_training_after_any_change(counts, bias, frozen, monkeypatch):
    from pyg_match.nn import frozen as module

    monkeypatch.setattr(module, "_NODES", 50)
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(*counts, dtype=torch.double)))
    with torch.inference_mode():  # its tensors count no versions
        small().freeze()(pair)
    matcher = small()
    for _ in range(2):
        if frozen:
            matcher.freeze()
        with torch.no_grad():
            inference = matcher(pair, return_descriptors=True).descriptors
        trained = matcher(pair, return_descriptors=True).descriptors
        for found, expected in zip(inference, trained, strict=True):
            assert torch.allclose(found, expected, rtol=0, atol=1e-10)
        for parameter in matcher.parameters():
            parameter.data.mul_(1.1).add_(0.01 * bias)  # behind the back of version counters


def test_frozen_blocks_on_other_devices():
    """All nodes at once, with the output projection folded; the CPU stands in."""
    matcher = small().freeze()
    block = matcher.layers[0].self_attn
    x, message = torch.randn(2, 40, 32, dtype=torch.double)
    with torch.no_grad():
        found = block.frozen._whole(block, x, x, message, None)
        assert torch.allclose(found, block.update(x, message), atol=1e-12)
        extra = torch.randn_like(message)
        found = block.frozen._whole(block, x, x, message, extra)
        assert torch.allclose(found, block.update(x, message, extra), atol=1e-12)
    assert block.frozen._whole(block, x, x, message, None).requires_grad


def test_frozen_matchers():
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small().float()
    block, lin = matcher.layers[0].self_attn, matcher.layers[0].self_attn.conv.lin_query
    assert block.frozen is None and lin.ordered is None and not block.conv.in_place
    with torch.no_grad():
        expected = matcher(pair).scores
    assert matcher.train().freeze() is matcher and not matcher.training
    assert block.frozen is not None and lin.ordered is not None and block.conv.in_place
    assert not matcher.layers[0].cross_attn.conv.in_place  # whose queries are its keys
    with torch.no_grad():
        first = matcher(pair).scores
        assert torch.allclose(first, expected, atol=1e-5) and torch.equal(matcher(pair).scores, first)
        for other in (pickle.loads(pickle.dumps(matcher)), copy.deepcopy(matcher)):
            assert other.layers[0].self_attn.frozen is not None
            assert torch.equal(other(pair).scores, first)
    assert (
        matcher.train() is matcher
        and block.frozen is None
        and lin.ordered is None
        and not block.conv.in_place
    )
    with torch.no_grad():
        assert torch.equal(matcher.eval()(pair).scores, expected)


def test_frozen_matchers_never_use_old_weights():
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher, other = small().float(), small().float()
    with torch.no_grad():
        expected = other(pair).scores
        matcher.freeze().load_state_dict(other.state_dict())
        assert matcher.layers[0].self_attn.frozen is None
        assert torch.equal(matcher(pair).scores, expected)
        matcher.freeze().layers[0].self_attn.lin_out.bias[1] += 1.0
        with pytest.raises(
            RuntimeError, match=r"weights have changed since freeze\(\); call freeze\(\) again"
        ):
            matcher(pair)
        changed = matcher.freeze()(pair).scores
        out = matcher.layers[0].self_attn.lin_out
        before, out.weight = out.weight, torch.nn.Parameter(out.weight + 1)
        with pytest.raises(RuntimeError, match="weights have changed"):
            matcher(pair)
        out.weight = before
        assert not torch.allclose(changed, expected, atol=1e-4)
        assert torch.equal(matcher.eval().freeze()(pair).scores, changed)
        rounded = matcher.bfloat16().float()  # frozen anew
        assert rounded.layers[0].self_attn.frozen is not None
        low = rounded(pair).scores
        assert torch.allclose(rounded.train().eval()(pair).scores, low, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_hooks_of_linear_layers_run_in_inference_too(frozen):
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small()
    seen = []
    for block in (matcher.layers[0].self_attn, matcher.layers[1].cross_attn):
        block.lin_out.register_forward_hook(lambda *_: seen.append("out"))
        block.ffn[0].register_forward_pre_hook(lambda *_: seen.append("ffn"))
    if frozen:
        matcher.freeze()
    with torch.no_grad():
        matcher(pair)
    assert seen == ["out", "ffn"] * 2


@pytest.mark.parametrize("change", ["no bias", "appended", "hook"])
def test_changed_feed_forward_networks_answer_as_in_training(change):
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small()
    seen = []
    for layer in matcher.layers:
        for block in (layer.self_attn, layer.cross_attn):
            if change == "no bias":
                block.ffn[0].bias = block.ffn[3].bias = None
            elif change == "appended":
                block.ffn.append(torch.nn.Tanh())
            else:
                block.ffn[2].register_forward_hook(lambda *args: seen.append(args) or 2 * args[-1])
    matcher.freeze()
    with torch.no_grad():
        found = matcher(pair).scores
    assert torch.allclose(found, matcher(pair).scores, atol=1e-5)
    assert bool(seen) == (change == "hook")


def test_pruned_projections_stay_as_they_are():
    """A hook makes their weights of others, which may change."""
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(300, 280)))
    matcher = small().float()
    projection = matcher.layers[0].self_attn.conv.lin_value
    prune.l1_unstructured(projection, "weight", 0.5)
    with torch.no_grad():
        projection.weight_orig.mul_(3)
        frozen = matcher.freeze()(pair).scores
        matcher.train()
        assert torch.allclose(frozen, matcher.eval()(pair).scores, atol=1e-5)


def test_early_exit_does_not_depend_on_the_precision_of_the_caller():
    matcher = small(depth_confidence=0.5, width_confidence=0.5).float()
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(20, 20)))
    seen = []
    for module in (matcher.confidences[0], matcher.assignments[0].lin_matchability):
        module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        matcher(pair)
    assert len(seen) >= 2 and set(seen) == {torch.float}


def test_assignment_on_edges_needs_them_both_ways():
    pair = CandidateEdges(3)(random_pair(6, 6, dtype=torch.double))
    matcher = small(assign_on_edges=True)
    matcher(pair)
    edges = pair.cross_edge_index.as_tensor()
    pair.cross_edge_mask = edges[1] != 0
    lost = int((edges[1] == 0).sum())
    with pytest.raises(
        ValueError, match=rf"both directions, .* but {lost} of {edges.size(1) - lost} have none"
    ):
        matcher(pair)
    assert torch.isfinite(small(assign_on_edges=True, mask_mode="zero")(pair).scores).all()
    one_way = random_pair(6, 6, dtype=torch.double)
    one_way.cross_edge_index = sorted_edges(torch.tensor([[0, 1, 2], [6, 7, 8]]), 12)
    with pytest.raises(ValueError, match="3 of 3 have none back"):
        matcher(one_way)
    # Edges that are listed twice count once.
    twice = random_pair(6, 6, dtype=torch.double)
    twice.cross_edge_index = sorted_edges(torch.tensor([[0, 6, 6], [6, 0, 0]]), 12)
    assert torch.isfinite(matcher(twice).scores).all()
    twice.cross_edge_index = sorted_edges(torch.tensor([[6, 6], [0, 0]]), 12)
    with pytest.raises(ValueError, match="1 of 1 have none back"):
        matcher(twice)
    # Edges that are drawn anew have all of them, but a pair may stop before.
    redrawn = {"assign_on_edges": True, "redraw_after": 1, "redraw_k": 2}
    assert torch.isfinite(small(**redrawn)(one_way).scores).all()
    with pytest.raises(ValueError, match="3 of 3 have none back"):
        small(**redrawn, depth_confidence=0.5)(one_way)


def test_sizes_that_do_not_fit():
    pair = random_pair(6, 5, dtype=torch.double)
    for name, value, message in (
        ("num_keypoints", torch.tensor([[6, 4]]), "must sum to the 11 keypoints"),
        ("image_size", pair.image_size[:1], r"must have shape \[2, 2\], .* got \[1, 2\]"),
        ("image_size", (64, 48), r"must have shape \[2, 2\], .* got \[2\]"),
    ):
        wrong = pair.clone()
        wrong[name] = value
        with pytest.raises(ValueError, match=message):
            small()(wrong)
    with pytest.raises(ValueError, match=r"'filter_threshold' must be in \[0, 1\], got 90"):
        small(filter_threshold=90)


def test_copies_of_frozen_matchers_know_that_weights_have_changed():
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small().float().freeze()
    with torch.no_grad():
        matcher.layers[0].self_attn.lin_out.bias[1] += 1.0
        for other in (copy.deepcopy(matcher), pickle.loads(pickle.dumps(matcher))):
            for again in (other, copy.deepcopy(other)):
                with pytest.raises(RuntimeError, match="weights have changed since freeze"):
                    again(pair)
            expected = small().float()
            expected.load_state_dict(matcher.state_dict())
            assert torch.equal(other.train().eval()(pair).scores, expected(pair).scores)


def test_copies_of_frozen_matchers_run_in_half_precision():
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small(bfloat16=True).float().freeze()
    with torch.no_grad():
        expected = matcher(pair).scores
        for other in (copy.deepcopy(matcher), pickle.loads(pickle.dumps(matcher))):
            assert torch.equal(other(pair).scores, expected)


def test_frozen_matchers_may_be_sent_to_other_processes():
    """What is sent lies in shared memory from then on."""
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small().float().freeze()
    with torch.no_grad():
        expected = matcher(pair).scores
        for _ in range(2):
            other = pickle.loads(ForkingPickler.dumps(matcher))
            assert all(weight.is_shared() for weight in matcher.parameters())
            assert torch.equal(other(pair).scores, expected) and torch.equal(matcher(pair).scores, expected)
        matcher.lin_in.bias.data = matcher.lin_in.bias + 1
        with pytest.raises(RuntimeError, match="weights have changed since freeze"):
            matcher(pair)


@pytest.mark.parametrize("part", ["lin_out", "ffn.0", "ffn.2", "ffn.3", "appended"])
def test_frozen_matchers_refuse_layers_that_were_replaced(part):
    """What replaces them may have the same weights."""
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(70, 60)))
    matcher = small().freeze()
    block = matcher.layers[1].self_attn
    with torch.no_grad():
        expected = matcher(pair).scores
        if part == "appended":
            block.ffn.append(torch.nn.Tanh())
        elif part == "ffn.2":
            block.ffn[2] = torch.nn.ReLU()
        else:
            before = block.get_submodule(part)
            after = torch.nn.Linear(1, 1)
            after.weight, after.bias = before.weight, before.bias
            after.register_forward_hook(lambda module, args, out: -out)
            parent, _, name = part.rpartition(".")
            setattr(block.get_submodule(parent), name, after)
        for other in (matcher, copy.deepcopy(matcher)):
            with pytest.raises(RuntimeError, match=r"layers or weights have changed since freeze\(\)"):
                other(pair)
        changed = matcher.train().eval()(pair).scores
        assert not torch.allclose(changed, expected)
        assert torch.allclose(matcher.freeze()(pair).scores, changed)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.parametrize("options", [{"static_graph": True}, {"find_unused_parameters": True}], ids=str)
def test_gradients_are_shared_whoever_computes_the_loss(options, tmp_path):
    """DistributedDataParallel has to see the tensors in what the matcher answers."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        matcher = small().train()
        parallel = DistributedDataParallel(matcher, **options)
        shared = []

        def share(state, bucket):
            shared.extend(bucket.parameters())
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        parallel.register_comm_hook(None, share)
        pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(20, 20)))
        for _ in range(2):
            shared.clear()
            parallel(pair).scores.sum().backward()
            assert len(shared) == len(list(matcher.parameters()))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "graph", [Compose([]), Compose([KNNGraph(6, loop=True), CandidateEdges(4)])], ids=["complete", "sparse"]
)
@pytest.mark.parametrize("grad", [False, True])
@reads_numbers
def test_frozen_matchers_have_derivatives_forward(graph, grad):
    pair, matcher = graph(random_pair(70, 60, dtype=torch.double)), small()
    direction = torch.randn_like(pair.x)

    def match(x):
        other = pair.clone()
        other.x = x
        return matcher(other).log_assignment[0]

    step = 1e-6 * direction
    with torch.no_grad():
        expected = (match(pair.x + step) - match(pair.x - step)) / 2e-6
    for _ in range(2):
        with torch.set_grad_enabled(grad):
            found = torch.func.jvp(match, (pair.x,), (direction,))[1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        matcher.freeze()


@pytest.mark.parametrize("assign", [False, True])
def test_matchers_that_begin_on_the_meta_device(assign):
    """What no file holds is there all the same."""
    pair = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(40, 30)))
    matcher = small(depth_confidence=0.5)
    with torch.device("meta"):
        other = small(depth_confidence=0.5)
    if not assign:
        other.to_empty(device="cpu")
    other.load_state_dict(matcher.state_dict(), assign=assign)
    assert other.confidence_thresholds == matcher.confidence_thresholds
    with torch.no_grad():
        assert torch.equal(other(pair).scores, matcher(pair).scores)


class Quantised(torch.nn.Module):
    """Stands in for the quantised layers of torch.ao, which have no parameters and give their weight when called."""

    def __init__(self, layer):
        super().__init__()
        self.values = [layer.weight.detach(), None if layer.bias is None else layer.bias.detach()]

    def weight(self):
        return self.values[0]

    def forward(self, x):
        return torch.nn.functional.linear(x, *self.values)


class Adapted(Quantised):
    """Stands in for layers around others."""

    def __init__(self, layer):
        super().__init__(layer)
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "graph", [Compose([]), Compose([KNNGraph(6, loop=True), CandidateEdges(4)])], ids=["complete", "sparse"]
)
@pytest.mark.parametrize("kind", [Quantised, Adapted])
def test_other_layers_may_stand_in_place_of_linear_ones(kind, graph, frozen):
    pair, matcher = graph(random_pair(300, 280, dtype=torch.double)), small(redraw_after=1, redraw_k=4)
    with torch.no_grad():
        expected = matcher(pair).scores
        for module in list(matcher.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, (torch.nn.Linear, Projection)) and not isinstance(module, Quantised):
                    setattr(module, name, kind(layer))
        matcher = matcher.freeze() if frozen else matcher
        assert torch.allclose(matcher(pair).scores, expected)
        record_attention(matcher, pair)


class Packed(torch.Tensor):
    """Stands in for weights of torchao, which know the operators of layers alone."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    def __init__(self, values):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].values)
        assert func in (torch.ops.aten.t.default, torch.ops.aten.addmm.default), func
        return func(*(t.values if isinstance(t, cls) else t for t in args), **(kwargs or {}))


def test_weights_of_other_kinds_are_not_frozen():
    pair, matcher = CandidateEdges(4)(KNNGraph(6, loop=True)(random_pair(300, 280))), small().float()
    with torch.no_grad():
        expected = matcher(pair).scores
        for layer in matcher.layers.modules():
            if isinstance(layer, (torch.nn.Linear, Projection)):
                layer.weight = torch.nn.Parameter(Packed(layer.weight.detach()), requires_grad=False)
        assert torch.allclose(matcher(pair).scores, expected, atol=1e-6)
        assert torch.allclose(matcher.freeze()(pair).scores, expected, atol=1e-6)
    assert all(layer.self_attn.frozen is None for layer in matcher.layers)
