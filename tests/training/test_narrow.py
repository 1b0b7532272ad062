import pytest
import torch
from training_pairs import SPARSE, Pairs

from pyg_match.nn import GraphMatcher
from pyg_match.training import narrow
from pyg_match.transforms import graph_from_recipe

SHAPE = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2}


@pytest.fixture
def matcher():
    torch.manual_seed(0)
    return GraphMatcher(**SHAPE).eval()


@pytest.fixture
def pairs():
    return Pairs(6, graph_from_recipe(SPARSE))


def descriptors(matcher, pair):
    with torch.no_grad():
        return torch.stack(matcher(pair, return_descriptors=True).descriptors)


def networks(matcher):
    return [block.ffn for layer in matcher.layers for block in (layer.self_attn, layer.cross_attn)]


def test_channels_that_do_nothing_go_first(matcher, pairs):
    """What is left differs a little, as the layer norm sees fewer channels."""
    dead = [3, 8, 20]
    for network in networks(matcher):
        network[3].weight.data[:, dead] = 0
    small = narrow(matcher, 29, pairs)
    assert small.config.ffn_channels == 29 and matcher.config.ffn_channels is None
    alive = [channel for channel in range(32) if channel not in dead]
    for ours, theirs in zip(networks(small), networks(matcher), strict=True):
        assert torch.equal(ours[0].weight, theirs[0].weight[alive])
        assert torch.equal(ours[1].bias, theirs[1].bias[alive])
    expected = descriptors(matcher, pairs[0])
    added = (expected[1:] - expected[:-1]).square().mean()
    assert (descriptors(small, pairs[0]) - expected).square().mean() < 0.02 * added


def test_copies_of_channels_are_made_up_for(matcher, pairs):
    """Of two equal channels one is enough, whatever they weigh."""
    for network in networks(matcher):
        for part in (network[0].weight, network[0].bias, network[1].weight, network[1].bias):
            part.data[16:] = part.data[:16]  # the layer norm sees each twice, so its mean and variance stay
    small = narrow(matcher, 16, pairs)
    for network in networks(small):
        first = network[0].weight
        assert torch.unique(first, dim=0).size(0) == 16
    expected, found = descriptors(matcher, pairs[0]), descriptors(small, pairs[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_it_is_better_than_dropping_channels_and_than_no_refit(matcher, pairs):
    small = narrow(matcher, 20, pairs)
    plain = GraphMatcher(**SHAPE, ffn_channels=20).eval()
    state = matcher.state_dict()
    for name, value in plain.state_dict().items():
        old = state[name]
        state[name] = old[: value.size(0)] if "ffn.3" not in name else old[..., : value.size(-1)]
    plain.load_state_dict(state)
    held_out = Pairs(1, graph_from_recipe(SPARSE), first=100)[0]
    expected = descriptors(matcher, held_out)
    error, of_plain = ((descriptors(m, held_out) - expected).square().mean() for m in (small, plain))
    assert error < 0.3 * of_plain


def test_all_channels_change_nothing(matcher, pairs):
    matcher.train()
    same = narrow(matcher, 32, pairs)
    assert same.training and matcher.training
    expected = descriptors(matcher, pairs[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in matcher.modules())
    torch.testing.assert_close(descriptors(same, pairs[0]), expected, rtol=1e-2, atol=5e-3)


def test_what_few_keypoints_do_not_tell_stays_as_it_was(matcher):
    few = Pairs(1, graph_from_recipe(SPARSE))
    same = narrow(matcher, 32, few)
    for pair in Pairs(3, graph_from_recipe(SPARSE), first=50):
        torch.testing.assert_close(descriptors(same, pair), descriptors(matcher, pair), rtol=1e-4, atol=1e-4)


def test_early_exit_and_pruning_are_kept_but_hide_nothing(matcher, pairs):
    adaptive = GraphMatcher(**SHAPE, depth_confidence=0.0, width_confidence=0.5).eval()
    adaptive.load_state_dict(matcher.state_dict())
    small, expected = narrow(adaptive, 20, pairs), narrow(matcher, 20, pairs)
    assert small.config.depth_confidence == 0.0 and small.config.width_confidence == 0.5
    for name, value in expected.state_dict().items():
        assert torch.equal(small.state_dict()[name], value)


def test_a_narrow_matcher_is_saved_and_narrowed_again(matcher, pairs, tmp_path):
    small = narrow(matcher, 24, pairs)
    small.save(tmp_path / "small.safetensors")
    loaded = GraphMatcher.from_pretrained(tmp_path / "small.safetensors")
    assert loaded.config.ffn_channels == 24
    assert torch.equal(descriptors(loaded, pairs[0]), descriptors(small, pairs[0]))
    assert narrow(loaded, 8, pairs).config.ffn_channels == 8


@pytest.mark.parametrize("count", [0, 33])
def test_impossible_widths_are_refused(matcher, pairs, count):
    with pytest.raises(ValueError, match=f"between 1 and the 32 of the matcher, got {count}"):
        narrow(matcher, count, pairs)
    with pytest.raises(ValueError, match="'ffn_channels' must be positive, or None, got 0"):
        GraphMatcher(ffn_channels=0)


def test_pairs_are_needed(matcher):
    with pytest.raises(ValueError, match="got none in 0 pairs"):
        narrow(matcher, 8, [])


def test_a_frozen_matcher_is_narrowed(matcher, pairs):
    expected = narrow(matcher, 20, pairs)
    found = narrow(matcher.freeze(), 20, pairs)
    for one, other in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other)
