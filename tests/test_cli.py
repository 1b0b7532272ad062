import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from pyg_match import Matcher
from pyg_match.cli import app


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    photo = data.astronaut()[:360, :360]
    Image.fromarray(photo).save(folder / "0.png")
    Image.fromarray(photo[20:, 10:]).save(folder / "1.png")
    return [str(folder / name) for name in ("0.png", "1.png")]


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def test_match(images, tmp_path):
    out, save = tmp_path / "m.png", tmp_path / "m.json"
    fast = ["--weights", "xfeat-lighterglue", "--resize", "360", "--max-keypoints", "400"]
    result = run("match", *images, "--out", out, "--save", save, *fast)
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert {"keypoints", "matches", "inliers", "saved", "picture", "seconds"} == set(lines)
    stages = [part.split("=")[0] for part in lines["seconds"].split()]
    assert stages == ["extract", "graph", "match", "geometry"]
    saved = json.loads(save.read_text())
    assert len(saved["matches"]) == int(lines["matches"]) > 50
    homography = np.array(saved["homography"])
    assert np.allclose(homography / homography[2, 2], [[1, 0, -10], [0, 1, -20], [0, 0, 1]], atol=0.5)
    assert Image.open(out).width > 1000

    result = run(
        "match",
        *images,
        "--geometry",
        "fundamental",
        "--estimator",
        "opencv",
        "--candidates",
        8,
        "--neighbors",
        32,
        *fast,
    )
    assert result.exit_code == 0, result.output
    assert "fundamental, opencv" in result.stdout
    assert "inliers" not in run("match", *images, "--geometry", "none", *fast).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--geometry", "affine"], "--geometry must be one of homography, fundamental, none, got 'affine'"),
        (["--estimator", "ransac"], "--estimator must be one of poselib, opencv, got 'ransac'"),
        (["--save", "x.txt"], "--save must end in .npz or .json, got 'x.txt'"),
        (["--weights", "superglue"], "unknown matcher 'superglue'"),
        (["--out", "x.txt"], "figures are saved as"),
        (["--out", "none/x.png"], "no folder 'none' to write x.png to"),
        (["--save", "none/x.npz"], "no folder 'none' to write x.npz to"),
        (["--threshold", "0"], "'--threshold' must be a positive number, got 0"),
    ],
)
def test_bad_options_are_told_in_one_line(images, args, message):
    result = run("match", *images, *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_all_edges_instead_of_those_of_training(images, monkeypatch):
    made = []
    load = Matcher.from_pretrained
    monkeypatch.setattr(Matcher, "from_pretrained", lambda *a, **k: made.append(load(*a, **k)) or made[-1])
    options = [
        "--geometry",
        "none",
        "--resize",
        "240",
        "--max-keypoints",
        "200",
        "--weights",
        "aliked-sparse",
    ]
    for chosen in ([], ["--candidates", 0, "--neighbors", 0]):
        result = run("match", *images, *options, *chosen)
        assert result.exit_code == 0, result.output
    trained, complete = made
    assert "CandidateEdges(k=32" in repr(trained.transform) and trained.matcher.config.redraw_after == 2
    assert complete.transform.transforms == [] and complete.matcher.config.redraw_after is None


def test_bad_images_are_told_in_one_line(images, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    for bad in (text, tmp_path / "missing.png"):
        result = run("match", images[0], bad, "--weights", "xfeat-lighterglue")
        assert result.exit_code == 1
        assert bad.name in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_train_export_match(images, tmp_path):
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
    result = run(*arguments, "99", *changes)
    assert result.exit_code == 1 and "between 1 and the 32 of the matcher, got 99" in result.output
    result = run("narrow", tmp_path / "narrow.pt", "--images", photos, "--ffn-channels", "8", *changes)
    assert result.exit_code == 1 and "saved as .safetensors, got 'narrow.pt'" in result.output
    lost = tmp_path / "none" / "narrow.safetensors"
    result = run("narrow", lost, "--images", photos, "--ffn-channels", "8", *changes)
    assert result.exit_code == 1 and "to write narrow.safetensors to" in result.output


def test_train_names_what_is_wrong(tmp_path):
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
def test_what_the_extra_is_needed_for(tmp_path, monkeypatch, args, missing, what):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it raises ModuleNotFoundError
    paths = {"OUT": tmp_path / "out.safetensors", "RUN": tmp_path / "run"}
    folder = () if args[0] == "export" else ("--images", tmp_path)
    result = run(*(paths.get(arg, arg) for arg in args), *folder)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(f"; {what} needs `pip install 'pyg-match[train]'`\n")
    assert len(result.stderr.splitlines()) == 1


def test_version_and_module(images):
    from pyg_match import __version__

    assert run("--version").stdout == f"pyg-match {__version__}\n"
    words = [sys.executable, "-m", "pyg_match", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == run("--version").stdout


def test_help_names_all_matchers():
    from pyg_match.commands.options import Weights
    from pyg_match.pretrained import DETECTORS, packaged

    told = Weights.__metadata__[0].help
    assert all(name in told for name in (*DETECTORS, *packaged()))


def test_fewer_matches_and_upper_case_endings(images, tmp_path):
    fast = [
        "--weights",
        "xfeat-lighterglue",
        "--resize",
        "360",
        "--max-keypoints",
        "300",
        "--geometry",
        "none",
    ]
    out, save, counts = tmp_path / "M.PNG", tmp_path / "M.JSON", []
    for threshold in (0.0, 0.9):
        options = ["--filter-threshold", threshold, "--out", out, "--save", save, "--device", "cpu"]
        result = run("match", *images, *options, *fast)
        assert result.exit_code == 0, result.output
        saved = json.loads(save.read_text())
        assert min(saved["scores"]) > threshold
        counts.append(len(saved["matches"]))
    assert counts[0] > counts[1] > 0
    assert Image.open(out).format == "PNG"
    assert run("match", *images, "--filter-threshold", 2).exit_code == 2
    result = run("match", *images, "--device", "abacus")
    assert result.exit_code == 1 and "'device' must be one that this torch can use" in result.stderr


def test_a_result_is_plotted(images, tmp_path):
    matcher = Matcher.from_pretrained("xfeat-lighterglue", max_num_keypoints=200, resize=360)
    result = matcher(*images)
    result.plot(*images, path=tmp_path / "matches.png", title="two photos")
    assert Image.open(tmp_path / "matches.png").width > 1000
