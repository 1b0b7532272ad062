"""Detectors compute in single precision, whatever anybody sets."""

import math

import numpy as np
import pytest
import torch
from skimage import data

from pyg_match.features import extractor, load_image, resize_image
from pyg_match.features.by_name import EXTRACTORS


@pytest.fixture(scope="module")
def image():
    return resize_image(load_image(data.astronaut()), 128)[0]


@pytest.mark.parametrize("name", EXTRACTORS)
def test_other_precisions_change_nothing(name, image):
    detector = extractor(name, max_num_keypoints=32)
    expected = detector(image)
    assert expected.num_keypoints > 5 and expected.validate()
    for change in ("half", "bfloat16", "double", "float"):
        changed = getattr(detector, change)()
        assert changed is detector
        assert torch.equal(changed(image).pos, expected.pos), change
    assert torch.equal(detector.to(torch.half)(image.double()).x, expected.x)


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("default", [torch.double, torch.half])
def test_another_default_type_changes_nothing(name, default, image):
    expected = extractor(name, max_num_keypoints=32)(image)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = extractor(name, max_num_keypoints=32)(image)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found.pos, expected.pos) and torch.equal(found.x, expected.x)
    assert found.pos.dtype == found.x.dtype == torch.float


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "sift",
            {"detection_threshold": "abc"},
            "'detection_threshold' must be a finite number .* got 'abc'",
        ),
        ("sift", {"edge_threshold": 0}, "'edge_threshold' must be a positive number, got 0"),
        (
            "aliked",
            {"detection_threshold": math.nan},
            "'detection_threshold' must be a finite number .* got nan",
        ),
        ("aliked", {"nms_radius": 1.5}, r"'nms_radius' must be a whole number from 0 to 512, got 1\.5"),
        (
            "aliked",
            {"model_name": "aliked-n64"},
            "'model_name' must be one of aliked-t16, .* got 'aliked-n64'",
        ),
        ("disk", {"nms_window_size": 4}, "'nms_window_size' must be odd, got 4"),
        ("disk", {"detection_threshold": None}, "'detection_threshold' must be a finite number, got None"),
        ("xfeat", {"detection_threshold": [1]}, r"'detection_threshold' must be a finite number, got \[1\]"),
        (
            "xfeat",
            {"max_num_keypoints": 2.5},
            r"'max_num_keypoints' must be a whole number from 1 to 2147483647, got 2\.5",
        ),
    ],
)
def test_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        extractor(name, **options)


def test_sizes(image):
    detector = extractor("sift", max_num_keypoints=np.int64(8))
    assert detector.max_num_keypoints == 8
    for resize in (1.5, 0, "640", math.nan):
        with pytest.raises(ValueError, match="'resize' must be a whole number of at least 1, got"):
            detector.extract(image, resize=resize)
    assert detector.extract(image, resize=np.int32(64)).num_keypoints <= 8
