"""Runs that could not end well: said before they begin, and never saved."""

import math
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from training_pairs import datasets, run, small_config
from typer.testing import CliRunner

from pyg_match.cli import app
from pyg_match.nn import GraphMatcher
from pyg_match.training import export_matcher, load_config
from pyg_match.training.checkpoint import load_checkpoint, save_checkpoint, set_random_state
from pyg_match.training.loop import train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learning_rate=.inf", "'learning_rate' must not be negative or infinite, got inf"),
        ("learning_rate=.nan", "'learning_rate' must not be negative or infinite, got nan"),
        ("final_learning_rate=.nan", "'final_learning_rate' must not be negative or infinite, got nan"),
        ("weight_decay=.inf", "'weight_decay' must not be negative or infinite, got inf"),
        ("clip=.nan", "'clip' must not be negative or infinite, got nan"),
        ("checkpoint_minutes=-1", "'checkpoint_minutes' must not be negative"),
        ("loss.assignment=.nan", r"'loss\.assignment' must not be negative or infinite, got nan"),
        ("seed=-1", "'seed' must be a whole number from 0 to 9223372036854775807, got -1"),
        ("data.seed=9223372036854775808", r"'data\.seed' must be a whole number from 0 to"),
        ("data.num_workers=-1", r"'data\.num_workers' must be a whole number of at least 0, got -1"),
        ("data.validation_photos=.inf", r"'data\.validation_photos' must be between 0 and 1, got inf"),
        (
            "data.max_num_keypoints=0",
            r"'data\.max_num_keypoints' must be a whole number of at least 1, got 0",
        ),
        ("data.repeats=2", r"'data\.repeats' must be in \[0, 1\], got 2"),
        ("weights=1e3", "'weights' must be the path of a file or one of aliked-sparse, .*, got '1e3'"),
        ("graph=[{KNNGraph: {k: 2.5}}]", r"'k' must be a whole number of at least 1, got 2\.5"),
        (
            "graph=[{RingPartition: {ks: '12'}}]",
            "'ks' must be growing positive numbers of neighbours, got '12'",
        ),
    ],
)
def test_settings(change, message):
    with pytest.raises(ValueError, match=message):
        load_config("finetune", [change])


def test_settings_in_other_bytes(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_bytes("steps: 3".encode("utf-16"))
    with pytest.raises(ValueError, match=r"settings\.yaml must be YAML in UTF-8, got other bytes"):
        load_config(file)
    with pytest.raises(FileNotFoundError, match=r"no settings at 'aaa.*characters\)"):
        load_config("a" * 5000)


def test_large_seeds_work(tmp_path):
    run(small_config(seed=20240101123456, steps=2), tmp_path)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def to_infinity(self, *args, **kwargs):
        step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].view(-1)[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", to_infinity)
    with pytest.raises(FloatingPointError, match="the weights are not finite in step 0 "):
        run(small_config(steps=1), tmp_path)
    assert not (tmp_path / "matcher.safetensors").exists() and not (tmp_path / "last.ckpt").exists()
    assert len(list(tmp_path.glob("not-finite-*.pt"))) == 1
    assert GraphMatcher.from_pretrained(tmp_path / "best.safetensors")  # from before the first step


def test_single_bits_of_a_checkpoint(tmp_path):
    file, generator = tmp_path / "last.ckpt", random.Random(0)
    run(small_config(steps=2), tmp_path)
    content = file.read_bytes()
    before = load_checkpoint(file)

    def flat(value):
        if isinstance(value, dict):
            return [item for key in sorted(value, key=str) for item in (key, *flat(value[key]))]
        return [item for part in value for item in flat(part)] if isinstance(value, list | tuple) else [value]

    refused = 0
    for _ in range(120):
        place = generator.randrange(len(content))
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        try:
            after = load_checkpoint(file)
        except ValueError as error:
            assert "not a readable checkpoint" in str(error) or "no checkpoint of this trainer" in str(error)
            refused += 1
            continue
        # What is not part of any number, such as the date of an entry, may differ.
        for one, other in zip(flat(before), flat(after), strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert refused > 60
    for length in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"is not a readable checkpoint: .*; without the file the run starts anew"
        ):
            load_checkpoint(file)


def test_checkpoints_of_others(tmp_path):
    file = tmp_path / "last.ckpt"
    save_checkpoint(file, {"state_dict": {}, "epoch": 3})
    with pytest.raises(ValueError, match="no checkpoint of this trainer, it lacks identity, matcher"):
        run(small_config(steps=2), tmp_path)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="no checkpoint of this trainer"):
        load_checkpoint(file)
    run(small_config(steps=1), tmp_path / "run")
    state = load_checkpoint(tmp_path / "run/last.ckpt")
    for identity in ([], None, {**state["identity"], "data": 5}):
        save_checkpoint(file, {**state, "identity": identity})
        with pytest.raises(ValueError, match="no checkpoint of this trainer, its settings are"):
            run(small_config(steps=2), tmp_path)
    name, keys, _, *gauss = state["random"]["numpy"]
    for position in (-1, 625, 10**9, 2.5):
        state["random"]["numpy"] = [name, keys, position, *gauss]
        with pytest.raises(ValueError, match=r"position of numpy's generator.* from 0 to 624, got"):
            set_random_state(state["random"])


def test_a_run_removes_what_a_killed_one_left(tmp_path):
    from pyg_match import files

    left = tmp_path / f"last.ckpt.{files._HOST}.999999999.tmp"
    left.write_text("half of a checkpoint")
    run(small_config(steps=1), tmp_path)
    assert not left.exists()


def test_photos_in_which_nothing_can_be_matched(tmp_path):
    for number in range(4):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / f"{number}.png")
    changes = [
        "data.extractor=sift",
        "data.num_pairs=3",
        "data.validation_pairs=2",
        "weights=null",
        "steps=1",
    ]
    changes += [
        "matcher={in_channels: 128, hidden_channels: 16, num_layers: 1, heads: 2}",
        "data.size=[64, 64]",
    ]
    config = load_config("scratch-small", changes)
    with pytest.raises(
        ValueError, match="no keypoint of the 3 training pairs has a partner; are photos blank"
    ):
        train(config, tmp_path, tmp_path / "run", accelerator="cpu", devices=1)


def test_detectors_of_another_width_are_told_by_their_settings(tmp_path):
    config = load_config("scratch-small", ["data.extractor=sift", "matcher.in_channels=64"])
    with pytest.raises(
        ValueError, match=r"'data.extractor' 'sift' .* width 128, .* 64; see 'matcher.in_channels'"
    ):
        train(config, tmp_path, tmp_path / "run", accelerator="cpu", devices=1)


def test_nothing_to_validate_by_is_told():
    from pyg_match.training.loop import _check_matches

    train_pairs, valid_pairs = ([*pairs] for pairs in datasets())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check_matches(train_pairs, valid_pairs)
        _check_matches(train_pairs, [])
    for pair in valid_pairs:
        pair.y = torch.full_like(pair.y, -1)
    with pytest.warns(UserWarning, match="no keypoint of the 1 validation pairs has a partner"):
        _check_matches(train_pairs, valid_pairs)


@pytest.mark.parametrize("name", ["temperature", "matchability_temperature"])
@pytest.mark.parametrize("value", [1e-300, math.nan, math.inf, 0, -1, "1"])
def test_temperatures(name, value, tmp_path):
    matcher = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1, heads=2)
    matcher.save(tmp_path / "m.safetensors")
    with pytest.raises(
        ValueError, match=f"'{name}' must be a positive number|would hold NaN or infinite values"
    ):
        export_matcher(tmp_path / "m.safetensors", tmp_path / "out.safetensors", **{name: value})
    assert not (tmp_path / "out.safetensors").exists()


def test_an_export_is_no_input(tmp_path):
    file = tmp_path / "m.safetensors"
    GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1, heads=2).save(file)
    content = file.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(file)
    for target in (file, tmp_path / "link.safetensors"):
        result = CliRunner().invoke(app, ["export", str(tmp_path / "m"), str(target)])
        assert result.exit_code == 1 and "the export would overwrite its source" in result.stderr
    assert file.read_bytes() == content
