"""Images from arrays, tensors, and files with some bytes changed."""

import io

import numpy as np
import torch
from fuzz.oracle import accepted, attempt, fuzz
from fuzz.strategies import counts, junk, numbers, tensors
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyg_match.features import extractor, load_image, resize_image

FORMATS = ["png", "jpeg", "ppm", "tiff", "bmp", "webp", "gif"]
DETECTOR = extractor("sift", max_num_keypoints=16)


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    dtype = draw(
        st.sampled_from(
            [np.uint8, np.uint16, np.float32, np.float64, np.int64, np.bool_, np.complex64, object]
        )
    )
    out = np.random.default_rng(draw(st.integers(0, 99))).uniform(0, draw(st.sampled_from([1, 255])), shape)
    return out.astype(dtype)


def check_image(image) -> None:
    assert image.dtype == torch.float and image.dim() == 3 and image.size(0) == 3 and image.numel() > 0
    assert bool(((image >= 0) & (image <= 1)).all())


@fuzz
@given(source=st.one_of(arrays(), tensors(), junk))
def test_sources(source):
    good, image = accepted(lambda: load_image(source))
    if good:
        check_image(image)
        found, features = accepted(lambda: DETECTOR.extract(source, resize=None))
        assert found and features.validate()


@fuzz
@given(data=st.data())
def test_files(data, tmp_path_factory):
    form = data.draw(st.sampled_from(FORMATS))
    pixels = np.random.default_rng(0).integers(0, 255, (11, 13, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    file = tmp_path_factory.getbasetemp() / f"fuzz.{form}"
    file.write_bytes(content[:length])
    good, image = accepted(lambda: load_image(file))
    if good:
        check_image(image)


@fuzz
@given(data=st.data())
def test_sizes(data):
    image = torch.rand(3, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    image = image if data.draw(st.integers(0, 4)) else data.draw(junk)
    size = data.draw(counts)
    if isinstance(size, int) and size > 4096:
        return
    side = data.draw(st.sampled_from(["long", "short", "other", None]))
    mode = data.draw(st.sampled_from(["bilinear", "area", "other"]))
    good, out = accepted(lambda: resize_image(image, size, side, interpolation=mode))
    if good:
        lengths = out[0].shape[-2:]
        assert (max(lengths) if side == "long" else min(lengths)) == int(size)
        assert out[1].is_meta or bool((out[1] > 0).all())


@fuzz
@given(data=st.data())
def test_detectors(data):
    name = data.draw(st.sampled_from(["sift", "rootsift", "xfeat", "aliked", "disk", "orb", None, 3]))
    option = data.draw(
        st.sampled_from(["max_num_keypoints", "detection_threshold", "nms_radius", "edge_threshold"])
    )
    if name in ("xfeat", "aliked", "disk") and data.draw(st.integers(0, 3)):
        name = "sift"  # the others take a while to be made
    options = {option: data.draw(st.one_of(counts, numbers))}
    if name in ("sift", "rootsift") and option == "nms_radius":
        return  # an argument that it does not have: a TypeError of Python's
    if name in ("xfeat", "disk") and option in ("nms_radius", "edge_threshold"):
        return
    if name == "aliked" and option == "edge_threshold":
        return
    made, detector = accepted(lambda: extractor(name, **options))
    if made and name in ("sift", "rootsift"):
        good, features = accepted(lambda: detector(torch.rand(3, 24, 24)))
        assert good and features.validate()
        assert detector.max_num_keypoints is None or features.num_keypoints <= detector.max_num_keypoints


XFEAT = extractor("xfeat", max_num_keypoints=16)
PHOTO = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
FOUND = XFEAT(PHOTO).pos


@fuzz
@given(
    changes=st.lists(st.sampled_from(["half", "bfloat16", "double", "float", "train", "eval"]), max_size=3)
)
def test_precisions(changes):
    detector = XFEAT
    for change in changes:
        detector = getattr(detector, change)()
    assert torch.equal(attempt(lambda: detector(PHOTO)).pos, FOUND)
