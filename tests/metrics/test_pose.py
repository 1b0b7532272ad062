import numpy as np
import pytest
import scipy
import torch
from scipy.spatial.transform import Rotation

from pyg_match.metrics import error_auc, pose_error


def poses(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    motion = np.tile(np.eye(4), (count, 1, 1))
    motion[:, :3, :3] = Rotation.from_rotvec(2 * random.normal(size=(count, 3))).as_matrix()
    motion[:, :3, 3] = random.normal(size=(count, 3))
    return (
        Rotation.from_rotvec(2 * random.normal(size=(count, 3))).as_matrix(),
        random.normal(size=(count, 3)),
        motion,
    )


def test_angles_are_those_of_scipy():
    R, t, motion = poses(20)
    rotation, translation = pose_error(R, t, motion)
    between = Rotation.from_matrix(R).inv() * Rotation.from_matrix(motion[:, :3, :3])
    np.testing.assert_allclose(rotation, np.degrees(between.magnitude()), atol=1e-6)
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 12):
        pytest.skip("SciPy turns single vectors on detours")
    for found, ours, true in zip(translation, t, motion[:, :3, 3], strict=True):
        turn, _ = Rotation.align_vectors([ours], [true / np.linalg.norm(true) * np.linalg.norm(ours)])
        assert found == pytest.approx(np.degrees(turn.magnitude()), abs=1e-5)


def test_the_larger_angle_counts_for_accuracy():
    known = np.eye(4)
    known[:3, :3] = Rotation.from_rotvec([0, 20, 0], degrees=True).as_matrix()
    known[:3, 3] = 0, 0, 2
    for turned, moved in ((3.0, 1.0), (1.0, 7.0), (0.0, 0.0), (179.0, 120.0)):
        rotation = known[:3, :3] @ Rotation.from_rotvec([turned, 0, 0], degrees=True).as_matrix()
        translation = 5 * Rotation.from_rotvec([moved, 0, 0], degrees=True).apply([0, 0, 1.0])
        assert max(pose_error(rotation, translation, known)) == pytest.approx(max(turned, moved), abs=1e-5)
    assert max(pose_error(np.eye(3), np.zeros(3), known)) == np.inf
    assert max(pose_error(np.eye(3), np.full(3, np.nan), known)) == np.inf


def test_the_truth_has_no_error_at_any_scale():
    _, _, motion = poses(5)
    rotation, translation = pose_error(motion[:, :3, :3], 7 * motion[:, :3, 3], motion)
    assert rotation.max() < 1e-5 and translation.max() < 1e-5
    assert pose_error(motion[0, :3, :3], -motion[0, :3, 3], motion[0])[1] == pytest.approx(180)


def test_stacks_equal_single_poses_and_tensors_arrays():
    R, t, motion = poses(6)
    together = pose_error(R.reshape(2, 3, 3, 3), t.reshape(2, 3, 3), motion.reshape(2, 3, 4, 4))
    for i in range(6):
        for stack, single in zip(together, pose_error(R[i], t[i], motion[i]), strict=True):
            assert stack.flat[i] == single and single.shape == ()
    for array, tensor in zip(
        together, pose_error(torch.tensor(R), torch.tensor(t), torch.tensor(motion)), strict=True
    ):
        np.testing.assert_array_equal(array.ravel(), tensor)


@pytest.mark.filterwarnings("error")
def test_what_is_no_estimate_is_infinitely_wrong():
    R, t, motion = poses(1)
    R, t, motion = R[0], t[0], motion[0]
    assert pose_error(R, np.zeros(3), motion)[1] == np.inf
    assert pose_error(R, t, np.diag([1.0, 1, 1, 1]))[1] == np.inf
    assert pose_error(np.full((3, 3), np.nan), t, motion)[0] == np.inf
    assert pose_error(R, np.full(3, np.inf), motion)[1] == np.inf
    assert error_auc([float(np.maximum(*pose_error(R, np.zeros(3), motion)))], [5]) == [0.0]
    assert [angle.shape for angle in pose_error(*(values[:0] for values in poses(1)))] == [(0,), (0,)]


@pytest.mark.parametrize("shapes", [((3, 3), (3,), (3, 4)), ((2, 3, 3), (3,), (4, 4)), ((3,), (3,), (4, 4))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"expected poses of shapes \[\*, 3, 3\]"):
        pose_error(*map(np.zeros, shapes))
    with pytest.raises(TypeError, match="real numbers"):
        pose_error("R", [0, 0, 1], np.eye(4))


@pytest.mark.parametrize("length", [1e-300, 1e-170, 1e160, 1e300])
def test_translations_of_any_length(length):
    motion = np.eye(4)
    motion[:3, 3] = [1, 2, 3]
    assert pose_error(np.eye(3), np.array([1, 2, 3]) * length, motion)[1] == pytest.approx(0, abs=1e-5)
    assert pose_error(np.eye(3), np.array([3, 0, -1]) * length, motion)[1] == pytest.approx(90)
