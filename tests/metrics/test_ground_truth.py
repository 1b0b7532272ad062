import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_match.metrics import homography_ground_truth

IDENTITY = torch.eye(3)


def transfer(points, homography):
    projected = torch.cat([points, points.new_ones(len(points), 1)], 1) @ homography.T
    return projected[:, :2] / projected[:, 2:]


def dense(pos0, pos1, homography, threshold=3.0, negative=6.0):
    """The same rules with all pairs written out."""
    pos0, pos1, homography = pos0.double(), pos1.double(), homography.double()
    forward = torch.cdist(transfer(pos0, homography), pos1, compute_mode="donot_use_mm_for_euclid_dist")
    backward = torch.cdist(
        pos0, transfer(pos1, torch.linalg.inv(homography)), compute_mode="donot_use_mm_for_euclid_dist"
    )
    distance = torch.maximum(forward, backward)
    truth0 = torch.where(forward.min(1).values > negative, -1, -2)
    truth1 = torch.where(backward.min(0).values > negative, -1, -2)
    for i in range(len(pos0)):
        j = int(distance[i].argmin())
        if int(distance[:, j].argmin()) == i and distance[i, j] < threshold:
            truth0[i], truth1[j] = j, i
    return truth0, truth1


def random_homography(generator, strength=1.0):
    noise = torch.rand(3, 3, generator=generator, dtype=torch.float64) - 0.5
    return torch.eye(3, dtype=torch.float64) + strength * noise * torch.tensor(
        [[0.4, 0.4, 20.0], [0.4, 0.4, 20.0], [2e-3, 2e-3, 0.0]], dtype=torch.float64
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count0=st.integers(1, 60),
    count1=st.integers(1, 60),
    extent=st.sampled_from([10.0, 40.0, 100.0]),
)
def test_equals_the_dense_rules(seed, count0, count1, extent):
    generator = torch.Generator().manual_seed(seed)
    homography = random_homography(generator)
    pos0 = torch.rand(count0, 2, generator=generator) * extent
    pos1 = torch.rand(count1, 2, generator=generator) * extent
    # About half of the keypoints have a counterpart, a few pixels off.
    shared = min(count0, count1) // 2
    noise = 1.5 * torch.randn(shared, 2, generator=generator)
    pos1[:shared] = transfer(pos0[:shared].double(), homography).float() + noise
    truth0, truth1 = homography_ground_truth(pos0, pos1, homography)
    expected0, expected1 = dense(pos0, pos1, homography)
    assert torch.equal(truth0, expected0) and torch.equal(truth1, expected1)


def test_ties_go_to_the_smaller_index():
    pos0 = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    pos1 = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    truth0, truth1 = homography_ground_truth(pos0, pos1, IDENTITY)
    assert truth0.tolist() == [0, -2, -2] and truth1.tolist() == [0, -2]
    expected0, expected1 = dense(pos0, pos1, IDENTITY)
    assert torch.equal(truth0, expected0) and torch.equal(truth1, expected1)


def test_thresholds():
    pos0, pos1 = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]])
    assert homography_ground_truth(pos0, pos1, IDENTITY)[0].tolist() == [-2]  # exactly 3 px is too far
    assert homography_ground_truth(pos0, pos1, IDENTITY, threshold=3.1)[0].tolist() == [0]
    for negative, expected in ((2.9, -1), (3.0, -2)):  # exactly so far is not too far yet to be ignored
        labels = homography_ground_truth(pos0, pos1, IDENTITY, threshold=1.0, negative_threshold=negative)
        assert [label.tolist() for label in labels] == [[expected], [expected]]


def test_both_directions_count():
    # Twice as large: 2 px apart in image 0 are 4 px in image 1, whichever way one looks.
    homography = torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    pos0, pos1 = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    assert homography_ground_truth(pos0, pos1, homography)[0].tolist() == [-2]
    assert homography_ground_truth(pos1, pos0, torch.linalg.inv(homography))[0].tolist() == [-2]
    assert homography_ground_truth(pos0, pos1 / 2, homography)[0].tolist() == [0]


def test_swapping_the_images_swaps_the_labels():
    generator = torch.Generator().manual_seed(0)
    homography = random_homography(generator)
    pos0 = torch.rand(300, 2, generator=generator) * 200
    pos1 = transfer(pos0[:250].double(), homography).float() + torch.randn(250, 2, generator=generator)
    truth0, truth1 = homography_ground_truth(pos0, pos1, homography)
    swapped1, swapped0 = homography_ground_truth(pos1, pos0, torch.linalg.inv(homography))
    assert torch.equal(truth0, swapped0) and torch.equal(truth1, swapped1)
    assert (truth0 >= 0).sum() > 150
    partners = truth0[truth0 >= 0]
    assert torch.equal(truth1[partners], (truth0 >= 0).nonzero().flatten())


def test_image_size_decides_what_is_out_of_view():
    # 4 px from its nearest keypoint, which alone would leave it undecided.
    pos0, pos1 = torch.tensor([[12.0, 0.0], [1.0, 1.0]]), torch.tensor([[8.0, 0.0], [1.0, 1.0]])
    assert homography_ground_truth(pos0, pos1, IDENTITY)[0].tolist() == [-2, 1]
    truth0, truth1 = homography_ground_truth(pos0, pos1, IDENTITY, size0=(20, 20), size1=(10, 10))
    assert truth0.tolist() == [-1, 1] and truth1.tolist() == [-2, 1]
    tensors = homography_ground_truth(
        pos0, pos1, IDENTITY, torch.tensor([[20, 20]]), torch.tensor([[10, 10]])
    )
    assert tensors[0].tolist() == [-1, 1]
    # The outermost pixel reaches half a pixel beyond its centre, and a partner is a partner even beyond that.
    assert homography_ground_truth(torch.tensor([[9.5, 0.0]]), pos1, IDENTITY, size1=(10, 10))[
        0
    ].tolist() == [0]
    assert homography_ground_truth(torch.tensor([[10.5, 0.0]]), pos1, IDENTITY, size1=(10, 10))[
        0
    ].tolist() == [0]


@pytest.mark.parametrize("axis", [0, 1])
def test_images_end_half_a_pixel_beyond_the_outermost_centres(axis):
    size = (10, 20)
    for place, inside in ((-0.6, False), (-0.5, True), (size[axis] - 0.5, True), (size[axis] - 0.4, False)):
        pos0, pos1 = torch.full((1, 2), 5.0), torch.full((1, 2), 5.0)
        pos0[0, axis], pos1[0, axis] = place, place + 4
        label = -2 if inside else -1  # 4 px from its nearest keypoint
        assert homography_ground_truth(pos0, pos1, IDENTITY, size1=size)[0].tolist() == [label]
        assert homography_ground_truth(pos1, pos0, IDENTITY, size0=size)[1].tolist() == [label]


def test_no_keypoints():
    none, one = torch.empty(0, 2), torch.zeros(1, 2)
    assert [label.tolist() for label in homography_ground_truth(none, one, IDENTITY)] == [[], [-1]]
    assert [label.tolist() for label in homography_ground_truth(one, none, IDENTITY)] == [[-1], []]
    assert [label.tolist() for label in homography_ground_truth(none, none, IDENTITY)] == [[], []]


def test_point_at_infinity_is_unmatched():
    homography = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.1, 0.0, 1.0]])
    pos0, pos1 = torch.tensor([[10.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    truth0, truth1 = homography_ground_truth(pos0, pos1, homography)
    assert truth0.tolist() == [-1, 0] and truth1.tolist() == [1]


def test_many_keypoints():
    generator = torch.Generator().manual_seed(0)
    pos0 = torch.rand(20_000, 2, generator=generator) * 4000
    order = torch.randperm(20_000, generator=generator)
    truth0, truth1 = homography_ground_truth(pos0, pos0[order], IDENTITY)
    assert torch.equal(order[truth0], torch.arange(20_000)) and torch.equal(truth1, order)


def test_errors():
    pos = torch.rand(3, 2)
    with pytest.raises(ValueError, match=r"'pos0'.*\[3, 3\]"):
        homography_ground_truth(torch.rand(3, 3), pos, IDENTITY)
    with pytest.raises(ValueError, match="'pos1' holds NaN"):
        homography_ground_truth(pos, pos * float("nan"), IDENTITY)
    with pytest.raises(ValueError, match="invertible"):
        homography_ground_truth(pos, pos, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="invertible"):
        homography_ground_truth(pos, pos, IDENTITY * float("nan"))
    with pytest.raises(ValueError, match="'homography'"):
        homography_ground_truth(pos, pos, torch.eye(2))
    with pytest.raises(ValueError, match="0 < threshold"):
        homography_ground_truth(pos, pos, IDENTITY, threshold=7.0)
    with pytest.raises(ValueError, match="width, height"):
        homography_ground_truth(pos, pos, IDENTITY, size1=(3, 10, 10))
    for size in ((0, 10), (10, -1), (float("nan"), 10)):
        with pytest.raises(ValueError, match=r"must hold positive finite \(width, height\) rows, got"):
            homography_ground_truth(pos, pos, IDENTITY, size1=size)
