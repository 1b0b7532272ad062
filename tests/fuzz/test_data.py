"""Keypoint sets and pairs against a check written a second time, with numpy alone."""

import copy
import math

import numpy as np
import torch
from fuzz.oracle import accepted, attempt, fuzz
from fuzz.strategies import attributes, edges, junk
from hypothesis import given
from hypothesis import strategies as st

from pyg_match.data import KeypointPair, KeypointSet

ODD = [(0, 480), (-640, 480), (math.nan, 480), (math.inf, math.inf)]
SIZES = [(640, 480), (3, 2), None, *ODD]
NAMES = ["pos", "x", "score", "scale", "orientation", "image_size"]


def number_rows(value, shape) -> bool:
    """Whether something is a tensor of finite floating-point numbers of a shape, ``None`` standing for any size."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_meta:
        return False
    fits = len(value.shape) == len(shape) and all(
        w in (None, s) for s, w in zip(value.shape, shape, strict=True)
    )
    return fits and bool(np.isfinite(value.double().numpy()).all())


def nodes_are_right(data) -> bool:
    pos = data.get("pos")
    count = len(pos) if isinstance(pos, torch.Tensor) and pos.dim() == 2 else -1
    right = number_rows(pos, (count, 2)) and number_rows(data.get("x"), (count, None))
    return right and all(
        data.get(name) is None or number_rows(data[name], (count,))
        for name in ("score", "scale", "orientation")
    )


def sizes_are_right(size, images) -> bool:
    if size is None:
        return True
    array = np.asarray(torch.as_tensor(size).tolist(), dtype=object)
    rows = array.shape == (images, 2)
    return rows and all(np.isreal(v) and np.isfinite(v) and v > 0 for v in array.reshape(-1).tolist())


def edges_are_right(edge_index, image, cross) -> bool:
    if not isinstance(edge_index, torch.Tensor) or edge_index.dtype not in (torch.int, torch.long):
        return False
    if edge_index.is_meta or edge_index.dim() != 2 or len(edge_index) != 2:
        return False
    return all(
        0 <= s < len(image) and 0 <= t < len(image) and image[s] ^ int(cross) == image[t]
        for s, t in edge_index.t().tolist()
    )


def judge(data, right: bool) -> None:
    said = attempt(lambda: data.validate(raise_on_error=False))
    passes, _ = accepted(data.validate)
    assert said is passes is right, (said, passes, right)


@fuzz
@given(data=st.data())
def test_keypoint_sets(data):
    count = data.draw(st.integers(0, 6))
    values = attributes(data.draw, count) | {"image_size": data.draw(st.sampled_from(SIZES))}
    for name in data.draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True)):
        values[name] = data.draw(junk)
    made, features = accepted(lambda: KeypointSet(**values))
    if not made:
        assert "image_size" in features
        return
    judge(
        features,
        nodes_are_right(features)
        and sizes_are_right(features.get("image_size"), len(features.get("image_size", ()))),
    )


@fuzz
@given(data=st.data())
def test_keypoint_pairs(data):
    counts = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    total = sum(counts)
    values = attributes(data.draw, total)
    values |= {
        "num_keypoints": counts,
        "image_size": torch.tensor([[64, 64], [64, 64]]),
        "homography": torch.eye(3),
    }
    values["y"] = torch.full((total,), -1)
    for name in ("edge_index", "cross_edge_index"):
        if data.draw(st.booleans()):
            values[name] = data.draw(edges(total))
    for name in data.draw(
        st.lists(st.sampled_from([*NAMES, "num_keypoints", "y", "homography"]), max_size=1)
    ):
        values[name] = data.draw(junk)
    made, pair = accepted(lambda: KeypointPair(**values))
    if not made:
        return
    later = data.draw(st.sampled_from([None, None, *NAMES, "num_keypoints", "y", "homography"]))
    if later is not None:
        pair = copy.copy(pair)
        pair[later] = data.draw(junk)
    said = attempt(lambda: pair.validate(raise_on_error=False))
    assert said is accepted(pair.validate)[0]
    if not said:
        return
    assert nodes_are_right(pair) and sizes_are_right(pair.get("image_size"), 2 * len(pair.num_keypoints))
    sizes = pair.num_keypoints.flatten().tolist()
    assert min(sizes, default=0) >= 0 and sum(sizes) == len(pair.pos)
    image = [number for number, size in enumerate(sizes) for _ in range(size)]
    for name, cross in (("edge_index", False), ("cross_edge_index", True)):
        assert pair.get(name) is None or edges_are_right(pair[name], image, cross)
    if pair.y is not None:
        assert all(
            -2 <= label < sizes[number ^ 1] for label, number in zip(pair.y.tolist(), image, strict=True)
        )
    if pair.get("homography") is not None:
        for matrix in pair.homography.double().numpy():
            assert np.isnan(matrix).all() or np.linalg.matrix_rank(matrix) == 3
