"""Data that is none: said by constructors and ``validate`` alike, in the same words."""

import math

import pytest
import torch
from helpers import random_pair, random_set
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair, KeypointSet

POS, X = torch.rand(4, 2), torch.rand(4, 8)


@pytest.mark.parametrize(
    ("size", "error"),
    [((640, 480, 3), ValueError), (640, ValueError), ("ab", TypeError), ([[1, 2], [3]], TypeError)],
)
def test_sizes_that_are_none_are_refused_at_once(size, error):
    with pytest.raises(error, match="'image_size' must be"):
        KeypointSet(pos=POS, x=X, image_size=size)
    with pytest.raises(error, match="'image_size' must be"):
        KeypointPair(num_keypoints=(2, 2), pos=POS, x=X, image_size=size)


@pytest.mark.parametrize("size", [(0, 480), (-640, 480), (math.inf, math.inf), (math.nan, 480)])
def test_sizes_that_no_image_has(size):
    features = KeypointSet(pos=POS, x=X, image_size=size)
    assert features.validate(raise_on_error=False) is False
    with pytest.raises(ValueError, match=r"must hold positive finite \(width, height\) rows, got"):
        features.validate()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pos": torch.tensor(3.0)}, ValueError, r"'pos' must have shape \[N, 2\], got \[\]"),
        ({"pos": torch.rand(1, 4, 2)}, ValueError, r"'pos' must have shape \[N, 2\], got \[1, 4, 2\]"),
        ({"pos": torch.rand(4)}, ValueError, r"'pos' must have shape \[4, 2\], got \[4\]"),
        ({"pos": [[1.0, 2.0]]}, TypeError, "'pos' must be a tensor with one row per keypoint, got list"),
        ({"pos": torch.ones(4, 2).long()}, TypeError, "'pos' must be a floating-point tensor"),
        ({"pos": torch.rand(4, 2, device="meta")}, ValueError, "'pos' is on the meta device"),
        ({"x": torch.rand(3, 8)}, ValueError, r"'x' must have shape \[4, D\], got \[3, 8\]"),
        ({"x": torch.tensor(1.0)}, ValueError, r"'x' must have shape \[4, D\], got \[\]"),
        ({"x": None}, TypeError, "'x' must be a tensor with one row per keypoint, got NoneType"),
        ({"score": [0.1] * 4}, TypeError, "'score' must be a tensor with one row per keypoint, got list"),
        (
            {"score": torch.tensor([1, 1, math.nan, 1])},
            ValueError,
            "'score' holds NaN .* first at keypoint 2",
        ),
        ({"scale": torch.rand(4, 1)}, ValueError, r"'scale' must have shape \[4\], got \[4, 1\]"),
    ],
)
def test_keypoint_sets(change, error, message):
    features = KeypointSet(**{"pos": POS, "x": X, **change})
    assert features.validate(raise_on_error=False) is False
    with pytest.raises(error, match=message):
        features.validate()


@pytest.mark.parametrize(
    ("counts", "error"),
    [
        ((-1, 5), ValueError),
        ((1, 2, 3), ValueError),
        (4, ValueError),
        ("ab", TypeError),
        ((2.0, 2.0), TypeError),
    ],
)
def test_numbers_of_keypoints_that_are_none_are_refused_at_once(counts, error):
    with pytest.raises(error, match="'num_keypoints' must"):
        KeypointPair(num_keypoints=counts, pos=POS, x=X)


@pytest.mark.parametrize(
    ("homography", "error"), [(torch.eye(2), ValueError), ("x", TypeError), (torch.ones(18), ValueError)]
)
def test_homographies_that_are_none_are_refused_at_once(homography, error):
    with pytest.raises(error, match="'homography' must"):
        KeypointPair(num_keypoints=(2, 2), pos=POS, x=X, homography=homography)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_keypoints": torch.tensor([3, 2])}, ValueError, r"must have shape \[B, 2\]"),
        (
            {"num_keypoints": torch.tensor([[3.0, 2.0]])},
            TypeError,
            "whole numbers, two for each pair, got torch.float32",
        ),
        ({"num_keypoints": torch.tensor([[6, -1]])}, ValueError, r"must not be negative, got \[6, -1\]"),
        ({"num_keypoints": (3, 2)}, TypeError, "two for each pair, got tuple"),
        (
            {"cross_edge_index": (0, 4)},
            TypeError,
            "'cross_edge_index' must be a tensor of int64 .* got tuple",
        ),
        (
            {"cross_edge_index": torch.rand(2, 3)},
            TypeError,
            "'cross_edge_index' must be .* got torch.float32",
        ),
        (
            {"cross_edge_index": torch.tensor([[0, 4]] * 3)},
            ValueError,
            r"must have shape \[2, E\], got \[3, 2\]",
        ),
        ({"edge_index": torch.tensor([0, 1])}, ValueError, r"must have shape \[2, E\], got \[2\]"),
        ({"y": [-1] * 5}, TypeError, "'y' must be a tensor of int64 indices, got list"),
        (
            {"y": torch.full((5,), -1.0)},
            TypeError,
            "'y' must be a tensor of int64 indices, got torch.float32",
        ),
        ({"y": torch.tensor([2, -1, -1, -1, -1])}, ValueError, "got 2 at keypoint 0, for which there are 2"),
        ({"homography": torch.zeros(1, 3, 3)}, ValueError, "'homography' must be invertible, got"),
        ({"homography": torch.full((1, 3, 3), math.inf)}, ValueError, "'homography' must be finite, or NaN"),
        (
            {"homography": torch.eye(3)[None].expand(2, 3, 3)},
            ValueError,
            r"must have shape \[1, 3, 3\], got \[2, 3, 3\]",
        ),
    ],
)
def test_pairs(change, error, message):
    pair = random_pair(3, 2)
    for name, value in change.items():
        pair[name] = value
    assert pair.validate(raise_on_error=False) is False
    with pytest.raises(error, match=message):
        pair.validate()


def test_what_is_right_passes():
    for homography in (
        torch.full((3, 3), math.nan),
        torch.eye(3),
        torch.tensor([[1, 0, 5e3], [0, 1, 0], [1e-6, 0, 1]]),
    ):
        pair = KeypointPair.from_sets(
            random_set(3), random_set(2), y=torch.tensor([1, -1, -2, -1, 0]), homography=homography
        )
        assert pair.validate() and pair.validate(raise_on_error=False)
    assert KeypointSet(pos=POS, x=X, image_size=torch.tensor([640, 480])).validate()
    assert random_pair(0, 0).validate()


def test_batches_of_sets_make_no_pair():
    single, batch = (Batch.from_data_list([random_set(3)] * count) for count in (1, 2))
    assert KeypointPair.from_sets(single, random_set(4)).validate()
    for sets in ((batch, batch), (random_set(3), batch)):
        with pytest.raises(ValueError, match="keypoints of one image, got a batch of 2; make pairs first"):
            KeypointPair.from_sets(*sets)
