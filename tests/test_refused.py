"""What files and the command line say, and how a command ends."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from pyg_match import Matcher
from pyg_match.cli import app
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import load_weights

CONFIG = {"in_channels": 128, "hidden_channels": 16, "num_layers": 1, "heads": 2}


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def weights(path: Path, **metadata) -> Path:
    matcher = GraphMatcher(**CONFIG)
    state = {key: value.contiguous() for key, value in matcher.state_dict().items()}
    values = {"config": CONFIG, "extractor": "sift", **metadata}
    save_file(state, path, {key: json.dumps(value) for key, value in values.items()})
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"config": 5}, "'config' in the metadata of .* must be settings by name, got 5"),
        ({"config": {**CONFIG, "value_source": True}}, "'value_source' must be text, got True"),
        ({"config": {**CONFIG, "heads": "2"}}, "'heads' must be a whole number, got '2'"),
        ({"config": {**CONFIG, "nothing": 1}}, r"unknown configuration \['nothing'\]"),
        (
            {"extractor": ["sift"]},
            r"'extractor' in the metadata of .* must be the name of a detector, got \['sift'\]",
        ),
        ({"extractor": "superpoint"}, "unknown extractor 'superpoint'"),
        (
            {"extractor_options": "x"},
            "'extractor_options' in the metadata of .* must be arguments by name, got 'x'",
        ),
        ({"extractor_options": {"colour": 3}}, "'extractor_options' in .* do not fit 'sift': .*colour"),
        (
            {"extractor_options": {"detection_threshold": "abc"}},
            "'detection_threshold' must be a finite .* got 'abc'",
        ),
        ({"graph": "KNNGraph"}, "'graph' in the metadata of .* must be a list of transforms"),
        ({"graph": [{"KNNGraph": {"k": 1.5}}]}, r"'k' must be a whole number of at least 1, got 1\.5"),
    ],
)
def test_metadata(metadata, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Matcher.from_pretrained(weights(tmp_path / "m.safetensors", **metadata))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("log_assignment.0.matchability.weight", ()),
        ("log_assignment.0.matchability.weight", (256,)),
        ("log_assignment.0.matchability.weight", (1, 0)),
        ("posenc.Wr.weight", (0, 2)),
        ("posenc.Wr.weight", (32,)),
        ("posenc.Wr.weight", (7, 2)),
        ("posenc.Wr.weight", (32, 3)),
        ("self_attn.0.Wqkv.weight", (5, 5)),
        ("self_attn.0.Wqkv.weight", ()),
        ("self_attn.0.Wqkv.bias", (7,)),
        ("input_proj.weight", (256,)),
        ("self_attn.0.out_proj.weight", (3, 3)),
    ],
)
def test_weights_of_odd_shapes(key, shape, tmp_path):
    state = dict(load_weights("aliked-lightglue"))
    renamed = {k.replace("transformers.0.self_attn", "self_attn.0"): v for k, v in state.items()}
    name = next(k for k in renamed if k.removeprefix("matcher.") == key)
    renamed[name] = torch.zeros(shape)
    torch.save(renamed, tmp_path / "odd.pth")
    with pytest.raises(
        ValueError, match=r"not the weights of LightGlue|do not fit the matcher|are not supported"
    ):
        GraphMatcher.from_pretrained(tmp_path / "odd.pth")
    torch.save(
        {k: v for k, v in state.items() if ".self_attn." not in k and "cross_attn" not in k},
        tmp_path / "no.pth",
    )
    with pytest.raises(ValueError, match=r"not the weights of LightGlue|do not fit"):
        GraphMatcher.from_pretrained(tmp_path / "no.pth")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "1e3", 5, None, ["aliked-sparse"]])
def test_names_of_weights(name):
    for load in (Matcher.from_pretrained, GraphMatcher.from_pretrained, load_weights):
        with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
            load(name)
        assert len(str(error.value)) < 600 and repr(name)[:4] in str(error.value)


def test_devices_and_sizes():
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'device' must be one that this torch can use, got 'cuda'"):
            Matcher.from_pretrained("aliked-sparse", device="cuda")
    for resize in (1.5, 0, -3, "640", True):
        with pytest.raises(ValueError, match="'resize' must be a whole number of at least 1, got"):
            Matcher.from_pretrained("aliked-sparse", resize=resize)
    with pytest.raises(TypeError, match="did you mean 'filter_threshold'"):
        Matcher.from_pretrained("aliked-sparse", filter_treshold=0.3)


@pytest.fixture
def photos(tmp_path):
    for name, seed in (("p.png", 0), ("b.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_no_command_overwrites_what_it_reads(photos):
    (photos / "link.png").symlink_to(photos / "p.png")
    shutil.copy(photos / "p.png", photos / "m.json")
    before = {file: file.read_bytes() for file in photos.iterdir()}
    cases = [
        ("--out", "p.png"),
        ("--out", "b.png"),
        ("--out", "link.png"),
        ("--out", "../" + photos.name + "/p.png"),
    ]
    for option, name in cases:
        result = run("match", photos / "p.png", photos / "b.png", option, photos / name)
        assert result.exit_code == 1 and f"{option} would overwrite the input" in result.stderr, name
    result = run("match", photos / "p.png", photos / "m.json", "--save", photos / "m.json")
    assert result.exit_code == 1 and "--save would overwrite the input" in result.stderr
    assert {file: file.read_bytes() for file in photos.iterdir()} == before


def test_narrowing_does_not_overwrite_its_weights(photos):
    file = weights(photos / "m.safetensors")
    content = file.read_bytes()
    result = run("narrow", file, "--images", photos, "--ffn-channels", 8, "--set", f"weights={file}")
    assert result.exit_code == 1 and "OUT would overwrite the input" in result.stderr
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("explore", "--max-megapixels", "inf"), "'--max-megapixels' must be a positive number, got inf"),
        (("explore", "--max-megabytes", "nan"), "--max-megabytes"),
        (("explore", "--weights", "a" * 5000), "unknown matcher 'aaa"),
        (("match", "x.png", "y.png", "--weights", "a" * 5000), "unknown matcher 'aaa"),
        (("match", "a" * 5000 + ".png", "y.png", "--weights", "xfeat-lighterglue"), "no image at 'aaa"),
        (
            ("match", "x.png", "y.png", "--threshold", "nan"),
            "--threshold",
        ),
        (("train", "a" * 5000, "--images", "x"), "no settings at 'aaa"),
        (("train", "--images", "x", "--set", "seed=-1"), "'seed' must be a whole number from 0"),
        (("export", "a" * 5000, "out.safetensors"), "no matcher at '"),
    ],
)
def test_a_command_ends_with_a_line(words, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code in (1, 2) and text in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output and len(result.stderr) < 1200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [TypeError("a type"), OverflowError("too large"), MemoryError(), OSError(28, "full")]
)
def test_whatever_is_thrown(error, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Matcher, "from_pretrained", fail)
    image = tmp_path / "x.png"
    Image.new("RGB", (40, 40)).save(image)
    result = run("match", image, image)
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and "Traceback" not in result.output
    assert result.stderr.strip() != "error:"


@pytest.mark.skipif(sys.platform == "win32", reason="no symbolic links")
def test_large_images_are_drawn(tmp_path):
    from pyg_match.match_result import MatchResult
    from pyg_match.visualization import plot_matches

    none = torch.empty(0, 2)
    for shape in ((2, 20000), (20000, 2), (1, 1)):
        height, width = shape
        image = np.zeros((*shape, 3), np.uint8)
        result = MatchResult(none, none, none.long(), none[:, 0], (width, height), (width, height))
        path = tmp_path / f"{height}x{width}.png"
        plot_matches(image, image, result, path=path)
        with Image.open(path) as picture:
            assert max(picture.size) <= 6000 and min(picture.size) >= 1
