"""Commands: an answer, or a line that says what is wrong."""

import json
from pathlib import Path

import numpy as np
import torch
from fuzz.oracle import UnclearError, attempt, fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from pyg_match.cli import app
from pyg_match.nn import GraphMatcher

SMALL = {"in_channels": 128, "hidden_channels": 8, "num_layers": 1, "heads": 2}
words = st.one_of(
    st.sampled_from(
        [
            "0",
            "-1",
            "1",
            "8",
            "2.5",
            "nan",
            "inf",
            "-inf",
            "1e400",
            "abc",
            "",
            " ",
            "a" * 5000,
            "m",
            "p.png",
            "b.png",
            "text.png",
            "missing.png",
            "folder",
            "out.png",
            "out.npz",
            "m.safetensors",
            "out.safetensors",
        ]
    ),
    st.text(max_size=5),
)
OPTIONS = {
    "match": [
        "--out",
        "--save",
        "--max-keypoints",
        "--resize",
        "--candidates",
        "--neighbors",
        "--geometry",
        "--estimator",
        "--threshold",
        "--filter-threshold",
        "--device",
        "--weights",
    ],
    "pairs": ["--out", "--method", "--window", "--loop-step", "--top-k", "--list"],
    "match-pairs": ["--filter-threshold", "--batch-keypoints", "--block", "--shard", "--weights"],
    "extract": ["--detector", "--max-keypoints", "--resize"],
    "to-colmap": ["--pairs", "--camera-model", "--camera-mode", "--camera-params", "--max-error"],
    "export": ["--half", "--filter-threshold", "--graph", "--temperature", "--matchability-temperature"],
    "train": ["--out", "--set", "--accelerator", "--precision", "--images"],
    "narrow": ["--ffn-channels", "--config", "--set", "--num-pairs", "--images"],
    "other": ["--help", "--nothing"],
}


def prepare(root) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    for name in ("p.png", "b.png"):
        Image.fromarray(pixels).save(root / name)
    (root / "text.png").write_text("not an image")
    (root / "folder").mkdir(exist_ok=True)
    state = {key: value.contiguous() for key, value in GraphMatcher(**SMALL).state_dict().items()}
    save_file(state, root / "m.safetensors", {"config": json.dumps(SMALL), "extractor": json.dumps("sift")})


@fuzz
@given(data=st.data())
def test_commands(data, tmp_path_factory, monkeypatch_session):
    root = tmp_path_factory.mktemp("command")
    prepare(root)
    monkeypatch_session.chdir(root)
    before = {file: file.read_bytes() for file in root.iterdir() if file.is_file()}
    command = data.draw(st.sampled_from(sorted(OPTIONS)))
    arguments = [command]
    if command == "match":
        arguments += ["p.png", "b.png", "--weights", "m.safetensors"]
    elif command in ("pairs", "match-pairs", "extract", "to-colmap"):
        # Files of any kind, most of which are none of the right one.
        names = st.sampled_from(["p.png", "text.png", "missing", "folder", "m.safetensors"])
        number = {"pairs": 1, "match-pairs": 2, "extract": 1, "to-colmap": 3}[command]
        arguments += [data.draw(names) for _ in range(number)]
        arguments += ["--out", data.draw(st.one_of(names, st.just("out.h5")))]
    elif command == "export":
        arguments += ["m.safetensors", data.draw(st.sampled_from(["out.safetensors", "m.safetensors", "x"]))]
    elif command == "train":
        # Nothing that would begin to train.
        arguments += ["finetune", "--images", "folder", "--set", "steps=1"]
    elif command == "narrow":
        arguments += ["out.safetensors", "--images", "folder", "--ffn-channels", "4"]
    for option in data.draw(st.lists(st.sampled_from(OPTIONS[command]), max_size=3)):
        # Nothing that would begin to find keypoints.
        value = st.sampled_from(["folder", "missing", "p.png", "a" * 5000]) if option == "--images" else words
        arguments += [option] if option in ("--half", "--help") else [option, data.draw(value)]
    result = attempt(lambda: CliRunner().invoke(app, arguments))
    said = result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise UnclearError(f"{arguments}: {result.exception!r}") from result.exception
    assert result.exit_code in (0, 1, 2) and "Traceback" not in said and len(said) < 20_000
    if result.exit_code == 1:
        assert "error: " in said and len(said) < 3000, said
    for file, content in before.items():
        assert file.read_bytes() == content, f"{arguments} changed {file.name}"
    if result.exit_code != 0 and command == "export":
        assert not list(root.glob("out.*"))
    for file in filter(Path.is_file, root.glob("*.safetensors")):  # training makes folders of any name
        assert all(
            bool(torch.isfinite(v).all()) for v in GraphMatcher.from_pretrained(file).state_dict().values()
        )
