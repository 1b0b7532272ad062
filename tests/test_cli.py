import json

import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

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
    ],
)
def test_bad_options_are_told_in_one_line(images, args, message):
    result = run("match", *images, *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_bad_images_are_told_in_one_line(images, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    for bad in (text, tmp_path / "missing.png"):
        result = run("match", images[0], bad, "--weights", "xfeat-lighterglue")
        assert result.exit_code == 1
        assert bad.name in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
