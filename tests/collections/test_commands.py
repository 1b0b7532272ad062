"""The commands for many images."""

import h5py
import numpy as np
import pytest
from helpers import not_text
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from pyg_match.cli import app
from pyg_match.collections import HlocMatches, read_pairs


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def lines_of(result):
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines())


def test_from_photos_to_a_database(tmp_path):
    images = tmp_path / "images"
    (images / "left").mkdir(parents=True)
    photo = data.astronaut()
    for i, name in enumerate(("a.png", "b.png", "left/c.png")):
        Image.fromarray(photo[20 * i : 300 + 20 * i, 10 * i : 340 + 10 * i]).save(images / name)
    features, pairs, matches = tmp_path / "f.h5", tmp_path / "p.txt", tmp_path / "m.h5"
    result = run(
        "extract", images, "-o", features, "--max-keypoints", 200, "--resize", 320, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert lines_of(result)["images"].startswith("3 (3 new")
    result = run("pairs", features, "-o", pairs)
    assert result.exit_code == 0 and lines_of(result)["pairs"] == "3"
    result = run("match-pairs", features, pairs, "-o", matches, "--filter-threshold", 0.3)
    assert result.exit_code == 0, result.output
    assert lines_of(result)["pairs"] == "3 (3 new), 0 listed again left out"
    with HlocMatches(matches) as opened, h5py.File(features) as file:
        found, scores = opened.find("left/c.png", "a.png")
        assert len(found) > 50 and scores.min() >= 0.3
        shift = file["a.png"]["keypoints"][()][found[:, 1]] - file["left/c.png"]["keypoints"][()][found[:, 0]]
        assert np.allclose(np.median(shift, axis=0), [20, 40], atol=0.5)
    result = run("match-pairs", features, pairs, "-o", matches, "--filter-threshold", 0.3)
    assert result.exit_code == 0 and "was there already" in lines_of(result)["seconds"]
    result = run("to-colmap", features, matches, images, "-o", tmp_path / "c.db", "--camera-mode", "single")
    assert result.exit_code == 0, result.output
    assert lines_of(result)["pairs"] == "3 new, 3 of them verified, 0 before"
    (images / "broken.jpg").write_bytes(b"no photo")
    result = run(
        "extract", images, "-o", features, "--max-keypoints", 200, "--resize", 320, "--device", "cpu"
    )
    assert result.exit_code == 1 and lines_of(result)["images"].startswith("3 (0 new")
    assert "warning: 1 images could not be used" in result.stderr and "broken.jpg:" in result.stderr


def test_lists_of_pairs(features, tmp_path):
    given, out = tmp_path / "given.txt", tmp_path / "p.txt"
    given.write_text("a.jpg b.jpg\nb.jpg a.jpg\na.jpg a.jpg\na.jpg gone.jpg\n")
    for options, count in (
        (("--method", "sequential", "--window", 1, "--loop-step", 3), 6 + 3),
        (("--method", "retrieval", "--top-k", 6), 21),
        (("--method", "list", "--list", given), 1),
        (("--method", "exhaustive"), 21),
    ):
        result = run("pairs", features, "-o", out, *options)
        assert result.exit_code == 0, result.output
        assert lines_of(result)["pairs"] == str(count) == str(len(list(read_pairs(out))))
    for options, message in (
        (("--method", "list"), "--method list and --list FILE go together"),
        (("--list", given), "--method list and --list FILE go together"),
    ):
        result = run("pairs", features, "-o", out, *options)
        assert result.exit_code == 1 and f"error: {message}" in result.stderr
    result = run("pairs", features, "-o", out, "--method", "all")
    assert result.exit_code == 2 and "'--method'" in result.stderr and "'retrieval'" in result.stderr
    result = run("pairs", features, "-o", features)
    assert result.exit_code == 1 and "--out would overwrite the input" in result.stderr


def test_names_with_spaces_are_named_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.fromarray(data.camera()[:100, :120]).save(tmp_path / "images/a b.png")
    result = run(
        "extract", tmp_path / "images", "-o", tmp_path / "f.h5", "--detector", "sift", "--device", "cpu"
    )
    assert (
        result.exit_code == 0
        and "names with spaces, of which there are 1, such as 'a b.png'" in result.stderr
    )
    monkeypatch.setattr("pyg_match.collections.retrieval.retrieval_pairs", None)
    for method in ("exhaustive", "retrieval"):
        result = run("pairs", tmp_path / "f.h5", "-o", tmp_path / "p.txt", "--method", method)
        assert result.exit_code == 1 and "cannot hold the name 'a b.png', as it has a space" in result.stderr


def test_what_is_left_out_is_reported(features, weights, tmp_path):
    pairs, matches = tmp_path / "p.txt", tmp_path / "m.h5"
    pairs.write_text("a.jpg b.jpg\nb.jpg a.jpg\na.jpg gone.jpg\nb.jpg gone.jpg\n")
    result = run("match-pairs", features, pairs, "-o", matches, "--weights", weights)
    assert result.exit_code == 1 and matches.exists()
    assert lines_of(result)["pairs"] == "1 (1 new), 1 listed again left out"
    assert "warning: 2 pairs were left out; images without features: 1\n  gone.jpg (line 3)" in result.stderr


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_parts_that_are_none(part, features, pairs, weights, tmp_path):
    result = run(
        "match-pairs", features, pairs, "-o", tmp_path / "m.h5", "--weights", weights, "--shard", part
    )
    assert (
        result.exit_code == 1
        and f"--shard must be I/N with I from 1 to N, such as 1/4, got '{part}'" in result.stderr
    )


def test_the_address_of_a_cluster_may_be_left_out(features, pairs, weights, tmp_path, monkeypatch):
    seen = []

    def match_pairs(*args, **kwargs):
        seen.append(args[9])
        raise ValueError("seen")

    monkeypatch.setattr("pyg_match.collections.match_pairs", match_pairs)
    files = (features, pairs, "-o", tmp_path / "m.h5", "--weights", weights)
    for words in (
        ("--ray", *files),
        (*files, "--ray"),
        ("--ray", "auto", *files),
        (*files, "--ray=host:6379"),
        files,
    ):
        assert "error: seen" in run("match-pairs", *words).stderr
    assert seen == ["local", "local", "auto", "host:6379", None]


def test_a_missing_package_is_named(features, pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    monkeypatch.delitem(__import__("sys").modules, "pyg_match.collections.hloc_features", raising=False)
    result = run("pairs", features, "-o", tmp_path / "p.txt")
    assert (
        result.exit_code == 1 and "this command needs `pip install 'pyg-match[collections]'`" in result.stderr
    )


def test_arguments_are_checked_before_anything_is_loaded(features, pairs, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("features are opened")

    for name in ("open_features", "extract_features", "match_pairs"):
        monkeypatch.setattr(f"pyg_match.collections.{name}", opened)
    monkeypatch.setattr("pyg_match.collections.colmap_database.write_colmap", opened)
    absent, out = tmp_path / "absent", tmp_path / "out.h5"
    for args, message in (
        (("extract", absent, "-o", out), "IMAGES: there is no folder"),
        (("extract", tmp_path, "-o", absent / "out.h5"), "no folder"),
        (("extract", tmp_path, "-o", tmp_path), "--out must be a file to write, got the folder"),
        (("pairs", absent, "-o", out), "there are no features at"),
        (("pairs", features, "-o", out, "--method", "list", "--list", absent), "no list of pairs at"),
        (("pairs", features, "-o", absent / "p.txt"), "no folder"),
        (("match-pairs", absent, pairs, "-o", out), "there are no features at"),
        (("match-pairs", features, absent, "-o", out), "no list of pairs at"),
        (("match-pairs", features, pairs, "-o", pairs), "--out would overwrite the input"),
        (("match-pairs", features, pairs, "-o", absent / "m.h5"), "no folder"),
        (("to-colmap", features, out, tmp_path, "-o", tmp_path / "c.db"), "there are no matches at"),
        (("to-colmap", features, pairs, absent, "-o", tmp_path / "c.db"), "IMAGES: there is no folder"),
        (("to-colmap", features, pairs, tmp_path, "-o", features), "--out would overwrite the input"),
        (("to-colmap", features, pairs, tmp_path, "-o", absent / "c.db"), "no folder"),
    ):
        result = run(*args)
        assert result.exit_code == 1 and f"error: {message}" in result.stderr, result.output


@not_text
def test_names_are_no_commands_of_the_terminal(tmp_path):
    """Neither to clear it nor to begin a line of their own."""
    images = tmp_path / "f"
    images.mkdir()
    Image.fromarray(data.astronaut()[:64, :64]).save(images / "a.png")
    bad = images / "\x1b[2J\nsaved.png"
    bad.write_text("no image")
    for result in (
        run("extract", images, "-o", tmp_path / "f.h5", "--detector", "sift", "--device", "cpu"),
        run("match", bad, bad, "--device", "cpu"),
    ):
        assert result.exit_code == 1 and r"\x1b[2J" in result.stderr and "\x1b" not in result.stderr
    assert (
        run("extract", images, "-o", tmp_path / "f.h5", "--detector", "sift").stderr.count(r"\nsaved.png: ")
        == 1
    )
