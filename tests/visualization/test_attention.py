import numpy as np
import pytest
import torch
from helpers import random_pair, random_set
from kornia.feature import LightGlue
from kornia.feature.lightglue import SelfBlock, normalize_keypoints
from torch_geometric.data import Batch
from torch_geometric.explain import AttentionExplainer, Explainer
from torch_geometric.transforms import Compose

from pyg_match import Matcher
from pyg_match.data import KeypointPair
from pyg_match.features import Extractor
from pyg_match.nn import GraphMatcher, convert_lightglue
from pyg_match.transforms import AnchorEdges, CandidateEdges, CompleteGraph, KNNGraph, RingPartition
from pyg_match.visualization import coefficients, record_attention

SPARSE = Compose([KNNGraph(6), CandidateEdges(5)])


def small(**kwargs):
    return GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, heads=2, **kwargs).double().eval()


def double_pair(count0=14, count1=11):
    return random_pair(count0, count1, dtype=torch.double)


def sums(step, num_nodes):
    return step.alpha.new_zeros(num_nodes, step.alpha.size(1)).index_add(0, step.edge_index[1], step.alpha)


def layers_own(matcher, pair):
    """What the attention layers themselves say, from a run in which every edge is listed."""
    found, handles = [], []

    def watch(conv):
        def after(module, args, kwargs, out):
            if not kwargs.get("return_attention_weights"):
                x, edges = args
                _, (edge_index, alpha) = module(x, edges, **kwargs, return_attention_weights=True)
                found.append((edge_index, alpha))

        handles.append(conv.register_forward_hook(after, with_kwargs=True))

    for layer in matcher.layers:
        watch(layer.self_attn.conv)
        watch(layer.cross_attn.conv)
    matcher(pair)
    for handle in handles:
        handle.remove()
    return found


def interleaved(record):
    return [step for both in zip(record.self_attention, record.cross_attention, strict=True) for step in both]


def assert_same_edges(step, expected, atol=1e-12):
    """Same coefficients on the same edges, in any order."""
    ours, theirs = ({} for _ in range(2))
    for into, (edge_index, alpha) in ((ours, step), (theirs, expected)):
        for edge, values in zip(edge_index.t().tolist(), alpha.tolist(), strict=True):
            into[tuple(edge)] = values
    assert ours.keys() == theirs.keys() and len(ours) > 0
    for edge, values in ours.items():
        assert values == pytest.approx(theirs[edge], abs=atol)


@pytest.mark.parametrize(
    "case", ["complete", "sparse", "mask zero", "mask remove", "values", "scales", "mlp", "weights"]
)
def test_equals_the_layers_own(case, monkeypatch):
    monkeypatch.setattr(coefficients, "CHUNK", 40)  # several chunks
    options = {
        "mask zero": {"mask_mode": "zero"},
        "values": {"value_source": "initial"},
        "scales": {"layer_scales": (0, 1, 0), "branch": "attention", "num_scales": 2},
        "mlp": {"encoding": "mlp"},
    }
    matcher = small(**options.get(case, {}))
    pair = double_pair()
    listed = CompleteGraph()(pair.clone())
    if case == "scales":
        pair = listed = CandidateEdges(4)(RingPartition([3, 6])(pair))
    elif case not in ("complete", "mlp"):
        pair = listed = SPARSE(pair)
    if case.startswith("mask"):
        pair.edge_mask = torch.rand(pair.edge_index.size(1)) > 0.3
        pair.cross_edge_mask = torch.rand(pair.cross_edge_index.size(1)) > 0.3
    if case == "weights":
        pair.edge_weight = 1 + 5 * torch.rand(pair.edge_index.size(1), dtype=torch.double)
        pair.cross_edge_weight = 1 + 5 * torch.rand(pair.cross_edge_index.size(1), dtype=torch.double)
    before = matcher(pair)
    with record_attention(matcher) as record:
        output = matcher(pair)
    assert torch.equal(output.scores, before.scores) and torch.equal(output.matches, before.matches)
    assert (record.num_layers, record.heads) == (3, 2)
    assert record.num_keypoints.tolist() == [[14, 11]]
    for step, expected in zip(interleaved(record), layers_own(matcher, listed), strict=True):
        assert_same_edges(step, expected)
        if case != "mask zero" and case != "mask remove":
            total = sums(step, 25)[step.edge_index[1].unique()]
            assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_complete_graph_equals_kornia():
    peer = LightGlue(
        features=None, input_dim=16, descriptor_dim=32, num_heads=2, n_layers=3,
        depth_confidence=-1, width_confidence=-1,
    ).double().eval()  # fmt: skip
    config, state = convert_lightglue(peer.state_dict())
    matcher = GraphMatcher(config).double().eval()
    matcher.load_state_dict(state)
    pair = double_pair()
    with record_attention(matcher) as record:
        matcher(pair)

    # kornia's own layers, with their softmax written out.
    images = [pair.image(i) for i in (0, 1)]
    x = [peer.input_proj(image.x[None]) for image in images]
    encodings = [
        peer.posenc(normalize_keypoints(image.pos[None], image.image_size.double())) for image in images
    ]
    with torch.no_grad():
        for i, layer in enumerate(peer.transformers):
            within = [self_weights(layer.self_attn, x[k], encodings[k]) for k in (0, 1)]
            first, second = (layer.self_attn(x[k], encodings[k]) for k in (0, 1))
            between = cross_weights(layer.cross_attn, first, second)
            x = list(layer.cross_attn(first, second))
            own = dense(record.self_attention[i], 25)
            assert torch.allclose(own[:, :14, :14], within[0], atol=1e-9)
            assert torch.allclose(own[:, 14:, 14:], within[1], atol=1e-9)
            other = dense(record.cross_attention[i], 25)
            assert torch.allclose(other[:, :14, 14:], between[0], atol=1e-9)
            assert torch.allclose(other[:, 14:, :14], between[1], atol=1e-9)


def dense(step, num_nodes):
    """Coefficients as [H, target, source]."""
    out = step.alpha.new_zeros(num_nodes, num_nodes, step.alpha.size(1))
    out[step.edge_index[1], step.edge_index[0]] = step.alpha
    return out.permute(2, 0, 1)


def self_weights(block: SelfBlock, x, encoding):
    from kornia.feature.lightglue import apply_cached_rotary_emb

    query, key, _ = block.Wqkv(x).unflatten(-1, (block.num_heads, -1, 3)).transpose(1, 2).unbind(-1)
    query, key = (apply_cached_rotary_emb(encoding, t) for t in (query, key))
    return (query @ key.transpose(-1, -2) * query.size(-1) ** -0.5).softmax(-1)[0]


def cross_weights(block, x0, x1):
    keys = [block.to_qk(x).unflatten(-1, (block.heads, -1)).transpose(1, 2) for x in (x0, x1)]
    similarity = keys[0] @ keys[1].transpose(-1, -2) * keys[0].size(-1) ** -0.5
    return similarity.softmax(-1)[0], similarity.transpose(-1, -2).softmax(-1)[0]


@pytest.mark.parametrize("transform", [None, SPARSE])
def test_chosen_nodes_and_largest(transform, monkeypatch):
    pair = double_pair() if transform is None else transform(double_pair())
    matcher = small()
    with record_attention(matcher) as full:
        matcher(pair)
    monkeypatch.setattr(coefficients, "CHUNK", 16)
    with record_attention(matcher, nodes=[20, 3, 3]) as chosen:
        matcher(pair)
    with record_attention(matcher, nodes=torch.tensor([3, 20]), top=2) as top:
        matcher(pair)
    for kind in ("self", "cross"):
        for layer in range(3):
            assert chosen.steps(kind)[layer].edge_index[1].unique().tolist() == [3, 20]
            for node in (3, 20):
                source, alpha = full.of(node, layer, kind, head=1)
                again, same = chosen.of(node, layer, kind, head=1)
                assert torch.equal(source, again) and torch.allclose(alpha, same)
                kept, _ = top.of(node, layer, kind)
                wanted = set()
                for head in (0, 1):
                    source, alpha = full.of(node, layer, kind, head)
                    wanted |= set(source[alpha.topk(2).indices].tolist())
                assert set(kept.tolist()) == wanted
                values = dict(zip(source.tolist(), alpha.tolist(), strict=True))
                kept, alpha = top.of(node, layer, kind, head=1)
                assert [values[i] for i in kept.tolist()] == pytest.approx(alpha.tolist())
    mean, most = (full.of(3, -1, "cross", head)[1] for head in ("mean", "max"))
    heads = torch.stack([full.of(3, 2, "cross", head)[1] for head in (0, 1)])
    assert torch.allclose(mean, heads.mean(0)) and torch.equal(most, heads.amax(0))
    assert torch.equal(full.of(3, -1, "cross", None)[1], mean)


def test_batch_is_its_pairs():
    matcher, pairs = small(), [double_pair(8, 5), SPARSE(double_pair(9, 12)), double_pair(1, 6)]
    for part in ([pairs[0], pairs[2]], [pairs[1], SPARSE(double_pair(7, 7))]):
        with record_attention(matcher) as batch:
            matcher(Batch.from_data_list(part))
        first = 0
        for pair in part:
            with record_attention(matcher) as alone:
                matcher(pair)
            for kind in ("self", "cross"):
                for together, single in zip(batch.steps(kind), alone.steps(kind), strict=True):
                    target = together.edge_index[1]
                    own = (target >= first) & (target < first + pair.num_nodes)
                    shifted = (together.edge_index[:, own] - first, together.alpha[own])
                    assert_same_edges(single, shifted)
            first += pair.num_nodes
        assert batch.num_keypoints.tolist() == [pair.num_keypoints[0].tolist() for pair in part]


@pytest.mark.parametrize("transform", [None, SPARSE])
def test_early_exit_and_pruning_keep_node_numbers(transform):
    matcher = small(depth_confidence=0.5, width_confidence=0.7)
    with torch.no_grad():
        for head in matcher.assignments:
            head.lin_matchability.weight.mul_(8)
        for confidence in matcher.confidences:
            confidence.weight.mul_(20)
            confidence.bias.fill_(2.0)
    pairs = [double_pair(30, 25), double_pair(12, 18)]
    pairs = pairs if transform is None else [transform(pair) for pair in pairs]
    with record_attention(matcher) as record:
        output = matcher(Batch.from_data_list(pairs))
    assert record.num_layers == int(output.num_layers.max()) > 1
    pruned = 0
    for layer in range(record.num_layers):
        running = (output.depth > layer).nonzero().squeeze(1)
        pruned += len(output.depth) - len(running)
        seen = record.cross_attention[layer].edge_index[1].unique()
        assert torch.isin(seen, running).all()
        total = sums(record.self_attention[layer], len(output.depth))
        with_edges = record.self_attention[layer].edge_index[1].unique()
        assert torch.allclose(total[with_edges], torch.ones(1, dtype=torch.double))
        if transform is None:
            assert torch.equal(with_edges, running)
    assert pruned > 0


def test_attention_explainer_agrees():
    matcher = small().float()
    pair = KNNGraph(4)(random_pair(9, 8))

    class Model(torch.nn.Module):
        """The matcher as PyG's explainer calls models; cross steps are complete and list no edges."""

        def __init__(self):
            super().__init__()
            self.matcher = matcher

        def forward(self, x, edge_index):
            changed = pair.clone()
            changed.x = x
            return self.matcher(changed).scores

    explainer = Explainer(
        Model(),
        AttentionExplainer(),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    with record_attention(matcher) as record:
        explanation = explainer(pair.x, pair.edge_index)
    # Its reductions: the largest coefficient over heads and over layers.
    ours = torch.stack([step.alpha.amax(1) for step in record.self_attention]).amax(0)
    assert torch.equal(record.self_attention[0].edge_index, pair.edge_index.as_tensor())
    assert torch.allclose(explanation.edge_mask, ours, atol=1e-6)


def test_half_precision_and_inference_mode():
    matcher = small(bfloat16=True).float()
    with record_attention(matcher) as record, torch.inference_mode():
        matcher(random_pair(9, 8))
    step = record.self_attention[0]
    assert step.alpha.dtype == torch.float and not step.alpha.is_inference()
    assert torch.allclose(sums(step, 17), torch.ones(17, 2), atol=1e-6)


class Fixed(Extractor):
    descriptor_dim = 16

    def __init__(self):
        super().__init__()

    def extract(self, image, resize=None):
        return random_set(image.size(1), size=(64, 48))


def test_image_level_matcher():
    matcher = Matcher(Fixed(), small().float())
    with record_attention(matcher, nodes=[2]) as record:
        matcher(torch.rand(3, 7, 8), torch.rand(3, 5, 8))
    assert record.num_keypoints.tolist() == [[7, 5]]
    assert record.of(2, 0, "cross")[0].tolist() == [7, 8, 9, 10, 11]


def test_nothing_to_see():
    for counts in [(0, 5), (0, 0), (1, 1), (4, 0)]:
        matcher, small_pair = small(), double_pair(*counts)
        with record_attention(small()) as record:
            matcher(small_pair)
        assert record.num_layers == 0  # another matcher ran
        with record_attention(matcher) as record:
            matcher(small_pair)
        assert record.num_layers == 3
        assert record.cross_attention[0].edge_index.size(1) == 2 * counts[0] * counts[1]
        assert record.self_attention[0].edge_index.size(1) == sum(n * n for n in counts)
        weighted = AnchorEdges(2, weighted=True, cross=True)(AnchorEdges(2, weighted=True)(small_pair))
        with record_attention(matcher) as record:
            matcher(weighted)
        for step, key in (
            (record.self_attention[0], "edge_index"),
            (record.cross_attention[0], "cross_edge_index"),
        ):
            assert torch.equal(step.edge_index, weighted[key].as_tensor())


def test_leaves_nothing_behind():
    matcher = small()
    pair = double_pair()

    def hooks():
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in matcher.modules())

    with pytest.raises(RuntimeError, match="stop"), record_attention(matcher):
        assert hooks() == 9
        raise RuntimeError("stop")
    assert hooks() == 0
    with record_attention(matcher, nodes=[0]) as outer, record_attention(matcher, nodes=[1]) as inner:
        matcher(pair)
        matcher(pair)  # only the last call stays
    assert hooks() == 0 and outer.num_layers == inner.num_layers == 3
    assert inner.of(1, 0)[0].numel() == 14


def test_errors(monkeypatch):
    matcher = small()
    pair = double_pair()
    wrong = pytest.raises(TypeError, match="expected a GraphMatcher or a Matcher, got Linear")
    with wrong, record_attention(torch.nn.Linear(2, 2)):
        pass
    with pytest.raises(ValueError, match="'top' must be positive, got 0"), record_attention(matcher, top=0):
        pass
    with (
        pytest.raises(ValueError, match=r"'top' must be a whole number .* got 2\.5"),
        record_attention(matcher, top=2.5),
    ):
        pass
    mask = torch.arange(25) % 9 == 7
    for nodes, kind in (
        (torch.tensor([1.5]), "float"),
        ([1.5], "float"),
        (mask, "bool"),
        (mask.tolist(), "bool"),
    ):
        wrong = pytest.raises(TypeError, match=rf"'nodes' must be whole numbers, got torch\.{kind}")
        with wrong, record_attention(matcher, nodes=nodes):
            pass
    for numbers in (mask.nonzero(), np.array([7, 16]), range(7, 17, 9)):
        with record_attention(matcher, nodes=numbers) as record:
            matcher(pair)
        assert record.nodes.tolist() == [7, 16]
    with record_attention(matcher, nodes=[]) as record:
        matcher(pair)
    assert record.nodes.tolist() == []
    for node in (-1, 25):
        wrong = pytest.raises(ValueError, match=f"node {node} does not exist, the matcher was given 25 nodes")
        with wrong, record_attention(matcher, nodes=[node, 3]):
            matcher(pair)
    with record_attention(matcher, nodes=[3]) as record:
        matcher(pair)
    assert repr(record) == "AttentionRecord(num_layers=3, heads=2, nodes=1, top=None)"
    with pytest.raises(ValueError, match="layer 3 does not exist, 3 layers"):
        record.of(3, 3)
    with pytest.raises(ValueError, match="node 4 was not recorded"):
        record.of(4, 0)
    with pytest.raises(ValueError, match="'kind' must be 'self' or 'cross', got 'both'"):
        record.of(3, 0, "both")
    for head in (2, -1, True, "min"):
        with pytest.raises(ValueError, match="'head' must be 'mean', 'max' or a number below 2"):
            record.of(3, 0, head=head)
    monkeypatch.setattr(coefficients, "LIMIT", 100)
    wrong = pytest.raises(ValueError, match="634 coefficients, expected at most 100; choose 'nodes'")
    with wrong, record_attention(matcher):
        matcher(pair)
    with record_attention(matcher, top=1) as record:  # bounded, whatever the size
        matcher(pair)
    assert isinstance(pair, KeypointPair) and record.num_layers == 3
