import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch

from pyg_match.nn import GraphMatcher
from pyg_match.nn.value_source import ValueSource, refresh_period
from pyg_match.transforms import CandidateEdges, KNNGraph

LAYERS = 4


def build(**kwargs):
    torch.manual_seed(1)
    return (
        GraphMatcher(in_channels=16, hidden_channels=32, num_layers=LAYERS, heads=2, **kwargs).double().eval()
    )


def dense_descriptors(matcher, pair, period, steps):
    """The same stack written with dense matrices, one head at a time."""
    count0 = int(pair.num_keypoints[0, 0])
    x, rotation = matcher._embed(matcher.prepare(pair))
    same = torch.zeros(x.size(0), x.size(0), dtype=torch.bool)
    same[:count0, :count0] = same[count0:, count0:] = True
    held, out = {}, []

    def attend(conv, x, x_value, allowed, rotation):
        query, key, value = conv._project(x, x, rotation, x_value)
        heads = []
        for h in range(conv.heads):
            score = (query[:, h] @ key[:, h].t() * conv.scale).masked_fill(~allowed, -torch.inf)
            heads.append(score.softmax(1) @ value[:, h])
        return torch.cat(heads, 1)

    for i, layer in enumerate(matcher.layers):
        for step, allowed, turn in (("self", same, rotation), ("cross", ~same, None)):
            if i == 0 or step not in steps or (period and i % period == 0):
                held[step] = x
            block = getattr(layer, f"{step}_attn")
            message = block.lin_out(attend(block.conv, x, held[step], allowed, turn))
            x = x + block.ffn(torch.cat([x, message], 1))
        out.append(x)
    return out


@pytest.mark.parametrize("steps", ["both", "self", "cross"])
@pytest.mark.parametrize("value_source", ["current", "initial", "every:1", "every:2", "every:3"])
def test_equals_dense_model(value_source, steps):
    matcher = build(value_source=value_source, value_steps=steps)
    pair = random_pair(9, 7, dtype=torch.double)
    chosen = ("self", "cross") if steps == "both" else (steps,)
    expected = dense_descriptors(matcher, pair, refresh_period(value_source), chosen)
    for mine, theirs in zip(matcher(pair, return_descriptors=True).descriptors, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-9)


def test_policies_agree_where_they_must():
    pair = random_pair(9, 7, dtype=torch.double)
    found = {
        source: build(value_source=source)(pair, return_descriptors=True).descriptors
        for source in ("current", "initial", "every:1", "every:2", f"every:{LAYERS}", "every:99")
    }
    same = {
        source: [torch.equal(a, b) for a, b in zip(found[source], found["current"], strict=True)]
        for source in found
    }
    assert same["every:1"] == [True] * LAYERS
    assert same["initial"] == [True] + [False] * (LAYERS - 1)
    assert same["every:2"] == [True] + [False] * (LAYERS - 1)
    for source in (f"every:{LAYERS}", "every:99"):
        assert all(torch.equal(a, b) for a, b in zip(found[source], found["initial"], strict=True))


def test_batches_and_pruning():
    options = {
        "value_source": "every:2",
        "depth_confidence": 0.45,
        "width_confidence": 0.6,
        "filter_threshold": 0.0,
    }
    matcher = build(**options)
    draw = lambda pair: CandidateEdges(4)(KNNGraph(5, loop=True)(pair))  # noqa: E731
    pairs = [draw(random_pair(*counts, dtype=torch.double)) for counts in [(20, 15), (6, 9), (0, 3)]]
    batch = matcher(Batch.from_data_list(pairs))
    for i, pair in enumerate(pairs):
        assert torch.equal(batch.pair_matches(i)[0], matcher(pair).pair_matches()[0])


@pytest.mark.parametrize("value_source", ["initial", "every:2"])
def test_values_of_keypoints_that_were_left_out_are_left_out(value_source):
    """In a batch all rows behind them would shift."""
    matcher = build(value_source=value_source, width_confidence=0.5).requires_grad_(False)
    for head in matcher.assignments:  # some are left out after each layer
        head.lin_matchability.weight.copy_(6 * torch.eye(1, 32))
        head.lin_matchability.bias.fill_(1)
    pairs = [random_pair(*counts, dtype=torch.double) for counts in [(20, 15), (6, 9)]]
    batch = matcher(Batch.from_data_list(pairs))
    for i, pair in enumerate(pairs):
        alone = matcher(pair)
        assert (alone.depth < LAYERS).any() and (alone.depth == LAYERS).any()
        assert torch.allclose(batch.log_assignment[i], alone.log_assignment[0], atol=1e-9)


def test_saved_with_the_weights(tmp_path):
    matcher = build(value_source="every:2", value_steps="self").float()
    matcher.save(tmp_path / "matcher.safetensors")
    loaded = GraphMatcher.from_pretrained(tmp_path / "matcher.safetensors")
    assert (loaded.config.value_source, loaded.config.value_steps) == ("every:2", "self")


@pytest.mark.parametrize("text", ["previous", "every", "every:0", "every:-1", "every:x", ""])
def test_errors(text):
    with pytest.raises(ValueError, match="'value_source' must be"):
        build(value_source=text)
    with pytest.raises(ValueError, match="'value_source' must be"):
        ValueSource(text)


def test_steps_error():
    with pytest.raises(ValueError, match="'value_steps' must be 'both', 'self' or 'cross', got 'neither'"):
        build(value_steps="neither")
