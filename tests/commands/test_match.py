"""The command for two images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers import not_text
from PIL import Image
from skimage import data

from pyg_match import Matcher
from pyg_match.commands.options import Detector

FAST = ["--weights", "xfeat-lighterglue", "--resize", "360", "--max-keypoints", "400"]


def loaded(*_, **__):
    raise AssertionError("weights are loaded")


def test_match(run, images, tmp_path):
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
    assert "(homography, poselib, 3 px)" in lines["inliers"]
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
    assert "fundamental, opencv, 1 px" in result.stdout
    assert "inliers" not in run("match", *images, "--geometry", "none", *fast).stdout
    found = run("match", *images, "--geometry", "homography", "--threshold", "1e9", *fast).stdout
    assert "inliers    0 (no homography found, poselib)" in found


@pytest.mark.parametrize("name", ["x$_{$y.png", "日本.png", pytest.param(b"\xff.png", marks=not_text)])
def test_file_names_are_shown_as_they_are(run, images, tmp_path, name):
    """Names are no formulas, and need not be of one language, or of any."""
    name = os.fsdecode(name)
    try:
        shutil.copy(images[0], tmp_path / name)
    except OSError:
        pytest.skip("the file system has no such names")
    result = run("match", tmp_path / name, images[1], "--out", tmp_path / "m.png", *FAST)
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "m.png").width > 1000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--save", "x.txt"], "--save must end in .npz or .json, got 'x.txt'"),
        (["--weights", "superglue"], "unknown matcher 'superglue'"),
        (["--out", "x.txt"], "figures are saved as"),
        (["--out", "none/x.png"], "no folder 'none' to write x.png to"),
        (["--save", "none/x.npz"], "no folder 'none' to write x.npz to"),
        (["--threshold", "0"], "'--threshold' must be a positive number, got 0"),
    ],
)
def test_bad_options_are_told_in_one_line(run, images, args, message, monkeypatch):
    monkeypatch.setattr(Matcher, "from_pretrained", loaded)
    result = run("match", *images, *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_all_edges_instead_of_those_of_training(run, images, monkeypatch):
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


def test_bad_images_are_told_in_one_line(run, images, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    for bad in (text, tmp_path / "missing.png"):
        result = run("match", images[0], bad, "--weights", "xfeat-lighterglue")
        assert result.exit_code == 1
        assert bad.name in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_fewer_matches_and_upper_case_endings(run, images, tmp_path):
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


def test_a_threshold_needs_a_model(run, images):
    result = run("match", *images, "--geometry", "none", "--threshold", "5", *FAST)
    assert result.exit_code == 1 and "'--geometry none' fits none" in result.stderr


@pytest.mark.parametrize("args", [["--geometry", "affine"], ["--estimator", "ransac"], ["--threshold", "-1"]])
def test_unknown_choices_are_told_with_the_known_ones(run, images, args):
    result = run("match", *images, *args)
    assert result.exit_code == 2 and args[0] in result.stderr and "Traceback" not in result.output


def test_arguments_are_checked_before_weights_are_loaded(run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(Matcher, "from_pretrained", loaded)
    folder = tmp_path / "pictures.png"
    folder.mkdir()
    for args, message in (
        ([images[0], tmp_path / "absent.png"], "no image at"),
        ([images[0], tmp_path], "the image must be a file, got the folder"),
        ([*images, "--out", folder], "--out must be a file to write, got the folder"),
        ([*images, "--out", images[1]], "--out would overwrite the input"),
        ([*images, "--threshold", "inf"], "'--threshold' must be a positive number, got inf"),
        ([*images, "--weights", "absent.safetensors"], "unknown matcher 'absent.safetensors'"),
    ):
        result = run("match", *args)
        assert result.exit_code == 1 and f"error: {message}" in result.stderr, result.output
    # And before anything is imported that takes long.
    script = (
        "import sys; from pyg_match.cli import app\n"
        "try: app(['match', 'absent.png', 'absent.png'])\n"
        "finally: print([name for name in ('torch', 'cv2', 'kornia', 'matplotlib.figure') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.strip() == "[]", done.stderr


def test_the_geometry_is_chosen_by_the_data(run, tmp_path):
    left, right, _ = data.stereo_motorcycle()
    paths = [tmp_path / "left.png", tmp_path / "right.png"]
    for path, image in zip(paths, (left, right), strict=True):
        Image.fromarray(image).save(path)
    saved = tmp_path / "matches.npz"
    result = run("match", *paths, "--save", saved, *FAST[:2], "--resize", 640)
    assert result.exit_code == 0 and "(fundamental, poselib, 2 px)" in result.stdout, result.output
    with np.load(saved) as file:
        assert file["fundamental"].shape == (3, 3) and file["inliers"].mean() > 0.8
        assert "homography" not in file
    other = tmp_path / "other.png"
    Image.fromarray(data.coffee()).save(other)
    result = run("match", paths[0], other, "--save", saved, *FAST)
    assert result.exit_code == 0 and "0 (no homography or fundamental matrix, poselib)" in result.stdout
    with np.load(saved) as file:
        assert not file["inliers"].any() and not {"homography", "fundamental", "none"} & set(file)


def test_without_a_geometry_colours_are_those_of_scores(run, images, tmp_path, monkeypatch):
    from pyg_match import visualization

    seen = []
    monkeypatch.setattr(visualization, "plot_matches", lambda *_, **options: seen.append(options))
    out = tmp_path / "m.png"
    for geometry in ("none", "auto"):
        result = run("match", *images, "--geometry", geometry, "--out", out, *FAST)
        assert result.exit_code == 0, result.output
    assert [options["color_by"] for options in seen] == ["score", "inlier"]
    assert seen[0]["geometry"] is None and seen[1]["geometry"].kind == "homography"
    assert seen[0]["title"] == "0.png and 1.png, xfeat-lighterglue"


def test_names_in_help_are_those_that_exist(run):
    from pyg_match.features.by_name import EXTRACTORS
    from pyg_match.training import config

    assert get_args(Detector) == EXTRACTORS
    presets = Path(config.__file__).parent / "presets"
    assert sorted(config.PRESETS) == sorted(file.stem for file in presets.glob("*.yaml"))
    for command, names in (("extract", EXTRACTORS), ("train", config.PRESETS)):
        shown = run(command, "--help").output
        assert [name for name in names if name not in shown] == []


@pytest.mark.parametrize("out", ["/proc/x.png", "a" * 240 + ".png"])
def test_files_that_cannot_be_written_are_told_before_the_work(run, images, out, tmp_path, monkeypatch):
    if not os.path.isdir("/proc"):
        pytest.skip("the system has no folder that nobody can write to")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Matcher, "from_pretrained", loaded)
    for words in (
        ("match", *images, "--out", out),
        ("explore", *images, "--export", out.replace("png", "html")),
    ):
        result = run(*words)
        assert result.exit_code == 1 and "cannot write " in result.stderr, result.output
    assert list(tmp_path.iterdir()) == []


@not_text
def test_names_of_files_that_are_no_text(images, tmp_path):
    """On a terminal that takes UTF-8 and nothing else."""
    out = tmp_path / os.fsdecode(b"q\xff.png")
    command = [sys.executable, "-m", "pyg_match", "match", *images, "--out", out, "--geometry", "none", *FAST]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert (
        out.is_file() and "picture    " in result.stdout.decode() and "q\ufffd.png" in result.stdout.decode()
    )
