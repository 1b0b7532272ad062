"""Numbers that are not finite never end as "no matches"."""

import math

import pytest
import torch
from helpers import random_pair

from pyg_match.data import KeypointPair
from pyg_match.nn import GraphMatcher, MatcherConfig
from pyg_match.transforms import CandidateEdges, KNNGraph

SMALL = {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2}


def drawn() -> KeypointPair:
    return CandidateEdges(4)(KNNGraph(4, loop=True)(random_pair(12, 9)))


@pytest.mark.parametrize(
    "options", [{}, {"assign_on_edges": True}, {"encoding": "mlp"}, {"assignment": "sinkhorn"}]
)
@pytest.mark.parametrize(
    "size",
    [
        [[0, 0], [640, 480]],
        [[-640, 480], [640, 480]],
        [[math.nan, 480], [640, 480]],
        [[640, 480], [math.inf, 480]],
    ],
)
def test_sizes_of_images(options, size):
    matcher, pair = GraphMatcher(**SMALL, **options).eval(), drawn()
    assert bool(torch.isfinite(matcher(pair).scores).all())
    for given in (size, torch.tensor(size)):
        pair.image_size = given
        with pytest.raises(
            ValueError, match=r"'image_size' must hold positive finite \(width, height\) rows, got"
        ):
            matcher(pair)
    pair.image_size = [[640, 480], [640, 480]]
    matcher(pair)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pos", {}),
        ("x", {}),
        ("score", {"encoding": "mlp"}),
        ("scale", {"use_scale_orientation": True}),
        ("orientation", {"use_scale_orientation": True}),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_keypoints(name, options, value):
    pair = drawn()
    pair.scale, pair.orientation = torch.rand(21), torch.rand(21)
    pair[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=f"'{name}' holds NaN or infinite values, .* first at keypoint 20"):
        GraphMatcher(**SMALL, **options).eval()(pair)


@pytest.mark.parametrize("name", ["edge_weight", "cross_edge_weight"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, -1.0])
def test_weights_of_edges(name, value):
    pair = drawn()
    pair[name] = torch.ones(pair[name.replace("weight", "index")].size(1))
    pair[name][3] = value
    with pytest.raises(ValueError, match=f"'{name}' must be positive and finite, got {value}"):
        GraphMatcher(**SMALL).eval()(pair)


@pytest.mark.parametrize("options", [{}, {"assign_on_edges": True}, {"assignment": "sinkhorn"}])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_weights_of_the_matcher(options, value, tmp_path):
    matcher = GraphMatcher(**SMALL, **options).eval()
    with torch.no_grad():
        matcher.layers[1].self_attn.ffn[3].weight[3, 5] = value
    with torch.no_grad():
        matcher.layers[1].cross_attn.ffn[3].weight[2, 1] = value
    with pytest.raises(
        ValueError, match=r"after layer 1 the descriptors of \d+ of 21 keypoints are NaN or infinite"
    ):
        matcher(drawn())
    if not math.isfinite(value):
        with pytest.raises(
            ValueError, match=r"m\.safetensors would hold NaN or infinite values, 1 of 512 in 'layers\.1"
        ):
            matcher.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="would hold NaN or infinite values"):
        matcher.save(tmp_path / "m.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


def test_files_of_weights_that_are_not_finite(tmp_path):
    from safetensors.torch import load_file, save_file

    file = tmp_path / "m.safetensors"
    GraphMatcher(**SMALL).save(file)
    state = load_file(file)
    state["lin_in.weight"] = torch.full((16, 16), math.nan)
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as stored:
        metadata = {key: value for key, value in stored.metadata().items() if key != "pyg_match_digest"}
    key = next(name for name in state if name.endswith("lin_query.weight"))
    state[key][0, 0] = math.inf
    del state["lin_in.weight"]
    save_file(state, file, metadata)
    with pytest.raises(ValueError, match=r"m\.safetensors hold NaN or infinite values, 1 of 256 in 'layers"):
        GraphMatcher.from_pretrained(file)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_keypoints": [[12, 9]]}, TypeError, "'num_keypoints' must be a tensor of whole numbers"),
        ({"num_keypoints": torch.tensor([[12, 8]])}, ValueError, "must sum to the 21 keypoints"),
        ({"num_keypoints": torch.tensor([12, 9])}, ValueError, r"must have shape \[B, 2\]"),
        ({"pos": torch.rand(20, 2)}, ValueError, r"'x' must have shape \[20, D\], got \[21, 16\]"),
        ({"pos": torch.rand(21, 2, device="meta")}, ValueError, "'pos' is on the meta device"),
        ({"x": torch.rand(21, 0)}, ValueError, r"descriptors must have shape \[N, 16\], got \[21, 0\]"),
        ({"x": torch.ones(21, 16) > 0}, TypeError, "'x' must be a floating-point tensor"),
        ({"image_size": "ab"}, TypeError, "'image_size' must be"),
        ({"score": torch.rand(3)}, ValueError, r"'score' must have shape \[21\], got \[3\]"),
    ],
)
def test_pairs_that_do_not_fit(change, error, message):
    pair = drawn()
    for name, value in change.items():
        pair[name] = value
    with pytest.raises(error, match=message):
        GraphMatcher(**SMALL, encoding="mlp").eval()(pair)


def test_options_of_the_wrong_type_and_name():
    for options, message in (
        ({"value_source": True}, "'value_source' must be text, got True"),
        ({"num_layers": 2.5}, r"'num_layers' must be a whole number, got 2\.5"),
        ({"heads": "4"}, "'heads' must be a whole number, got '4'"),
        ({"filter_threshold": math.nan}, "'filter_threshold' must be in"),
        ({"filter_threshold": "0.1"}, r"'filter_threshold' must be a number, got '0\.1'"),
        ({"bfloat16": 1}, "'bfloat16' must be true or false, got 1"),
        ({"layer_scales": 3}, "'layer_scales' must be a list of whole numbers or null, got 3"),
        ({"heads": 3}, "'heads' must divide the 256 'hidden_channels', got 3"),
        ({"hidden_channels": 6, "heads": 2}, "needs heads of an even width, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            MatcherConfig(**options)
    with pytest.raises(TypeError, match="'filter_treshold' of a matcher; did you mean 'filter_threshold'"):
        GraphMatcher(filter_treshold=0.3)
