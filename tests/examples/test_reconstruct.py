import json

import numpy as np
import pytest
from helpers import loaded_example
from scipy.spatial.transform import Rotation


@pytest.fixture
def example():
    with loaded_example("reconstruct") as module:
        yield module


def random_poses(count, seed=0):
    generator = np.random.default_rng(seed)
    poses = {}
    for i in range(count):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.random(random_state=generator.integers(1000)).as_matrix()
        pose[:3, 3] = generator.normal(size=3)
        poses[f"{i}.jpg"] = pose
    return poses


def test_pose_errors_do_not_depend_on_where_the_model_lies(example):
    known = random_poses(5)
    # Another frame of the world: turned, moved and scaled.
    frame = random_poses(1, seed=1)["0.jpg"]
    moved = {name: pose @ np.linalg.inv(frame) for name, pose in known.items()}
    for pose in moved.values():
        pose[:3, 3] *= 7.0
    rotation, direction = example.pose_errors(moved, known)
    assert len(rotation) == 10 and max(rotation.max(), direction.max()) < 1e-4
    # A camera turned by two degrees about itself: all its pairs, and no others.
    moved["0.jpg"] = (
        np.block(
            [
                [Rotation.from_euler("x", 2, degrees=True).as_matrix(), np.zeros((3, 1))],
                [np.zeros((1, 3)), np.ones((1, 1))],
            ]
        )
        @ moved["0.jpg"]
    )
    rotation, _ = example.pose_errors(moved, known)
    assert np.allclose(np.sort(rotation), [0] * 6 + [2] * 4, atol=1e-4)
    del moved["3.jpg"]
    rotation, direction = example.pose_errors(moved, known)
    assert (rotation == 180).sum() == (direction == 180).sum() == 4


def test_cameras_are_read(example, tmp_path):
    poses = random_poses(2)
    lines = [f"{name} " + " ".join(map(str, [*range(9), *pose.flatten()])) for name, pose in poses.items()]
    (tmp_path / "cameras.txt").write_text("\n".join(["# name K[9] T[16]", *lines, ""]))
    read = example.read_cameras(tmp_path / "cameras.txt")
    assert all(np.allclose(read[name], pose) for name, pose in poses.items())
    (tmp_path / "cameras.txt").write_text("a.jpg 1 2 3\n")
    with pytest.raises(ValueError, match="must hold a name and 25 numbers, got 3"):
        example.read_cameras(tmp_path / "cameras.txt")


def test_a_scene_is_reconstructed(example, shared_data, tmp_path, capsys):
    scene = shared_data / "pose/strecha/Herz-Jesus-P8"
    words = [str(scene), "--out", str(tmp_path), "--cameras", str(scene / "cameras.txt")]
    (result,) = example.main([*words, "--max-keypoints", "512", "--resize", "640"])
    assert result["registered"] == result["images"] == 8 and result["pairs"] == 28
    assert result["pose_error"] < 1.5 and result["points"] > 300
    assert json.loads((tmp_path / "reconstruction.json").read_text()) == [result]
    assert "registered    8 of 8 images" in capsys.readouterr().out
    # What is there is not computed again.
    (again,) = example.main([*words, "--max-keypoints", "512", "--resize", "640"])
    assert again["seconds"]["match"] < result["seconds"]["match"] / 2
    assert again["pose_errors"] == result["pose_errors"] == [result["pose_error"]]
    (several,) = example.main([*words, "--max-keypoints", "512", "--resize", "640", "--repeats", "3"])
    errors = several["pose_errors"]
    assert errors[0] == result["pose_error"] and len(errors) == 3
    assert {path.name for path in (tmp_path / "sparse").iterdir()} == {
        f"aliked-sparse{seed}" for seed in ("", "-1", "-2")
    }
    assert several["pose_error"] == sorted(errors)[1]
    assert f"from {min(errors):.3f} to {max(errors):.3f}" in capsys.readouterr().out


def test_models_are_repeated_only_for_known_cameras(example, tmp_path, capsys):
    for repeats in ("0", "2"):
        with pytest.raises(SystemExit):
            example.main([str(tmp_path), "--out", str(tmp_path / "out"), "--repeats", repeats])
        assert "--repeats must be 1, or more with --cameras" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        words = ["--weights", "a/matcher.safetensors", "--compare", "b/matcher.safetensors"]
        example.main([str(tmp_path), "--out", str(tmp_path / "out"), *words])
    assert "named after the weights, which must differ, got matcher twice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
