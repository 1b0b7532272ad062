"""Pictures of matches for the documentation."""

from pathlib import Path

import numpy as np
import pytest
from helpers import loaded_example
from PIL import Image
from skimage import data


@pytest.fixture(scope="module")
def example():
    with loaded_example("match_figures") as module:
        yield module


def test_three_kinds_of_pairs_and_a_real_one(example, tmp_path, capsys):
    scene = tmp_path / "data" / "pose" / "strecha" / "fountain-P11"
    scene.mkdir(parents=True)
    for name in ("0003.jpg", "0009.jpg"):
        Image.fromarray(data.chelsea()).save(scene / name)
    out, real = tmp_path / "out", tmp_path / "real"
    options = ["--weights", "xfeat-lighterglue", "--max-keypoints", "500"]
    example.main(["--out", str(out), "--data", str(tmp_path / "data"), "--data-out", str(real), *options])
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert [Path(name).name for name in told] == [
        "matches_planar.jpg",
        "matches_3d.jpg",
        "matches_none.jpg",
        "readme.jpg",
    ]
    for line, words in zip(
        told.values(), ("homography:", "fundamental matrix:", "explained by no", "homography:"), strict=True
    ):
        assert words in line
    for name in told:
        with Image.open(name) as picture:
            assert picture.width == 1200 and np.asarray(picture).std() > 20
        assert Path(name).stat().st_size <= (250_000 if Path(name).parent == real else 200_000)
