"""The commands that make matchers."""

import json
import sys

import pytest
from PIL import Image
from skimage import data

from pyg_match import Matcher


def test_train_export_match(run, images, tmp_path):
    """From photos to matches, with the settings of a tiny matcher."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("astronaut", "brick", "chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).resize((240, 180)).save(photos / f"{name}.png")
    settings = [
        "weights=null", "teacher=null",
        "matcher={hidden_channels: 16, num_layers: 2, heads: 2, redraw_after: 1, redraw_k: 4}",
        "graph=[{KNNGraph: {k: 4, loop: true}}, {CandidateEdges: {k: 4}}]", "data.extractor=sift",
        "data.size=[160, 120]", "data.max_num_keypoints=40", "data.min_num_keypoints=20",
        "data.num_pairs=4", "data.validation_pairs=1",
        "loss={distill_assignment: 0, distill_descriptors: 0}", "steps=2", "warmup=0", "validate_every=2",
    ]  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    arguments = ("train", "--images", photos, "--out", tmp_path / "run", "--accelerator", "cpu", *options)
    result = run(*arguments, "--precision", "bf16-mixed")
    assert result.exit_code == 0, result.output
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "validation" in line] == [0, 2]
    assert any((tmp_path / "run").glob("tensorboard/*"))

    exported = tmp_path / "mine.safetensors"
    result = run("export", tmp_path / "run", exported, "--half")
    assert result.exit_code == 0 and "sha256" in result.stdout, result.output
    result = run("match", *images, "--weights", exported, "--geometry", "none", "--resize", "240")
    assert result.exit_code == 0, result.output
    assert "matches" in result.stdout

    result = run(*arguments, "--precision", "32-true")
    assert result.exit_code == 1 and "other settings (precision)" in result.output

    narrowed = tmp_path / "narrow.safetensors"
    changes = [*options, "--set", f"weights={exported}"]
    arguments = ("narrow", narrowed, "--images", photos, "--num-pairs", "2", "--ffn-channels")
    result = run(*arguments, "12", *changes)
    assert result.exit_code == 0 and "saved" in result.stdout, result.output
    assert "CandidateEdges(k=4" in repr(Matcher.from_pretrained(narrowed).transform)
    assert Matcher.from_pretrained(narrowed).matcher.config.ffn_channels == 12
    # Pairs of photos are not looked for, so that what concerns them is no matter.
    photos_of_scenes = ("data.related=5", "data.num_photo_pairs=3", f"teacher={exported}")
    photos_of_scenes += ("data.extractor_options={edge_threshold: 12.0}",)
    more = [word for setting in photos_of_scenes for word in ("--set", setting)]
    result = run(*arguments, "12", *changes, *more)
    assert result.exit_code == 0, result.output
    assert Matcher.from_pretrained(narrowed).extractor.edge_threshold == 12
    result = run(*arguments, "99", *changes)
    assert result.exit_code == 1 and "between 1 and the 32 of the matcher, got 99" in result.output
    result = run("narrow", tmp_path / "narrow.pt", "--images", photos, "--ffn-channels", "8", *changes)
    assert result.exit_code == 1 and "saved as .safetensors, got 'narrow.pt'" in result.output
    lost = tmp_path / "none" / "narrow.safetensors"
    result = run("narrow", lost, "--images", photos, "--ffn-channels", "8", *changes)
    assert result.exit_code == 1 and "to write narrow.safetensors to" in result.output


def test_train_names_what_is_wrong(run, tmp_path):
    result = run("train", "--images", tmp_path / "none", "--out", tmp_path / "run")
    assert result.exit_code == 1 and "none" in result.output
    result = run("train", "--images", tmp_path, "--set", "steps=0")
    assert result.exit_code == 1 and "'steps' must be positive, got 0" in result.output


@pytest.mark.parametrize(
    "args, missing, what",
    [
        (("train", "finetune"), "pyg_match.training.loop", "training"),
        (("narrow", "OUT", "--ffn-channels", "8"), "pyg_match.training.narrow", "this"),
        (("export", "RUN", "OUT", "--graph", "[]"), "yaml", "--graph"),
    ],
)
def test_what_the_extra_is_needed_for(run, tmp_path, monkeypatch, args, missing, what):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it raises ModuleNotFoundError
    paths = {"OUT": tmp_path / "out.safetensors", "RUN": tmp_path / "run"}
    folder = () if args[0] == "export" else ("--images", tmp_path)
    result = run(*(paths.get(arg, arg) for arg in args), *folder)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(f"; {what} needs `pip install 'pyg-match[train]'`\n")
    assert len(result.stderr.splitlines()) == 1


def test_arguments_are_checked_before_settings_are_read(run, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("settings are read")

    file = tmp_path / "file"
    file.touch()
    out = tmp_path / "out.safetensors"
    absent = ("--images", tmp_path / "absent")
    here = ("--images", tmp_path)
    channels = ("--ffn-channels", 8)
    assert "--images: there is no folder" in run("train", *absent).stderr
    monkeypatch.setattr("pyg_match.training.load_config", read)
    for args, message in (
        (("train", *here, "--out", file), "--out must be a folder for the run, got the file"),
        (("narrow", out, *absent, *channels), "--images: there is no folder"),
        (
            ("narrow", tmp_path / "out.pt", *here, *channels),
            "matchers are saved as .safetensors, got 'out.pt'",
        ),
        (("narrow", tmp_path / "absent" / "out.safetensors", *here, *channels), "no folder"),
        (("export", tmp_path, tmp_path / "out.pt"), "matchers are saved as .safetensors, got 'out.pt'"),
        (("export", tmp_path, tmp_path / "absent" / "out.safetensors"), "no folder"),
    ):
        result = run(*args)
        assert result.exit_code == 1 and f"error: {message}" in result.stderr, result.output


@pytest.mark.parametrize("name", ["best", "matcher"])
def test_export_writes_over_no_matcher_of_the_run(run, tmp_path, name):
    for file in ("best", "matcher"):
        (tmp_path / f"{file}.safetensors").write_text(file)
    result = run("export", tmp_path, tmp_path / f"{name}.safetensors")
    assert result.exit_code == 1 and "OUT would overwrite the input" in result.stderr
    assert (tmp_path / f"{name}.safetensors").read_text() == name
    result = run("export", tmp_path / name, tmp_path / f"{name}.safetensors")
    assert result.exit_code == 1 and "the export would overwrite its source" in result.stderr
    assert (tmp_path / f"{name}.safetensors").read_text() == name
