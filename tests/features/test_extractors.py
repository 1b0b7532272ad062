import copy
import math
import pickle
import weakref

import cv2
import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from kornia import feature
from kornia.geometry.transform import resize

from pyg_match.features import ALIKED, SIFT, Extractor, extractor, load_image, resize_image
from pyg_match.features.by_name import EXTRACTORS
from pyg_match.pretrained import load_weights


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """A photo of 150 x 130 pixels, neither a multiple of 16."""
    photo = load_image(skimage.data.astronaut())[:, 40:300, 100:400]
    return resize(photo, (130, 150), antialias=True).clamp(0, 1)


@pytest.fixture(scope="module")
def extractors() -> dict[str, Extractor]:
    try:
        return {name: extractor(name, max_num_keypoints=150) for name in EXTRACTORS}
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(params=EXTRACTORS)
def detector(request, extractors) -> Extractor:
    return extractors[request.param]


def check(keypoints, width, height, dim):
    assert keypoints.validate()
    n = keypoints.num_keypoints
    assert keypoints.pos.shape == (n, 2) and keypoints.x.shape == (n, dim) and keypoints.score.shape == (n,)
    assert keypoints.pos.dtype == keypoints.x.dtype == keypoints.score.dtype == torch.float32
    assert keypoints.image_size.tolist() == [[width, height]]
    assert (keypoints.pos >= 0).all() and (keypoints.pos <= torch.tensor([width - 1, height - 1])).all()
    torch.testing.assert_close(keypoints.x.norm(dim=1), torch.ones(n), atol=1e-5, rtol=0)
    assert not keypoints.x.requires_grad


def test_interface(detector, image):
    keypoints = detector(image)
    check(keypoints, 150, 130, detector.descriptor_dim)
    assert 20 < keypoints.num_keypoints <= 150
    again = detector(image)
    assert again.keys() == keypoints.keys()
    assert all(torch.equal(again[key], keypoints[key]) for key in keypoints.keys())  # noqa: SIM118


def test_grey_is_repeated(detector, image):
    grey = image.mean(dim=0, keepdim=True)
    keypoints, reference = detector(grey), detector(grey.repeat(3, 1, 1))
    torch.testing.assert_close(keypoints.pos, reference.pos)
    torch.testing.assert_close(keypoints.x, reference.x)


def test_strongest_are_kept(detector, image):
    name = detector.__class__.__name__.lower()
    few, many = extractor(name, max_num_keypoints=20), detector(image)
    kept = few(image)
    assert kept.num_keypoints == 20 and repr(few) == f"{few.__class__.__name__}(max_num_keypoints=20)"
    assert (torch.cdist(kept.x, many.x).amin(dim=1) < 0.01).all()
    # ALIKED ranks by the peak of the score map and reports the value at the sub-pixel position beside it.
    best = many.score.sort(descending=True).values
    torch.testing.assert_close(
        kept.score.sum(), best[:20].sum(), rtol=0.01 if name == "aliked" else 1e-6, atol=0
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 200), (200, 3), (15, 15), (16, 16), (17, 16), (33, 17)])
def test_tiny_images(detector, size):
    tiny = torch.rand(3, *size)
    keypoints = detector(tiny)
    check(keypoints, size[1], size[0], detector.descriptor_dim)
    if min(size) < 10:
        assert keypoints.num_keypoints == 0
    assert (
        ("scale" in keypoints)
        == ("orientation" in keypoints)
        == (detector.__class__.__name__.endswith("SIFT"))
    )


@pytest.mark.parametrize("colour", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.5, 0.9)])
def test_blank_images(detector, colour):
    blank = torch.tensor(colour).view(3, 1, 1).expand(3, 60, 70)
    keypoints = detector(blank)
    check(keypoints, 70, 60, detector.descriptor_dim)
    assert keypoints.num_keypoints == 0
    assert detector.extract(blank, resize=96).num_keypoints == 0


def test_xfeat_pixel_centres(extractors):
    """Resizing to 160 x 160 oneself, with nothing left to resize inside, gives the same places."""
    photo = load_image(skimage.data.coffee())[:, 100:290, 150:340]
    resized, scale = resize_image(photo, 160, antialias=False)
    inner, direct = extractors["xfeat"](resized), extractors["xfeat"](photo)
    assert inner.num_keypoints == 150 and torch.equal(inner.pos, inner.pos.round())
    torch.testing.assert_close(direct.x, inner.x, rtol=0, atol=1e-5)
    torch.testing.assert_close(direct.pos, (inner.pos + 0.5) / scale - 0.5, rtol=0, atol=1e-4)


def test_sift_pixel_centres(extractors):
    """Turning by 180 degrees takes x to W - 1 - x only if the centre of the top-left pixel is (0, 0)."""
    photo = load_image(skimage.data.coffee())[:, 100:290, 150:340]
    pos, turned = extractors["sift"](photo).pos, 189 - extractors["sift"](photo.flip(1, 2)).pos
    distance, nearest = torch.cdist(pos, turned).min(dim=1)
    close = distance < 1
    assert close.float().mean() > 0.8
    assert (turned[nearest] - pos)[close].mean(dim=0).abs().max() < 0.02


def test_aliked_options(image):
    small = ALIKED(model_name="aliked-t16", max_num_keypoints=None, detection_threshold=0.5)
    keypoints = small(image)
    check(keypoints, 150, 130, 64)
    assert (
        0
        < keypoints.num_keypoints
        < ALIKED(model_name="aliked-t16", max_num_keypoints=None)(image).num_keypoints
    )
    always = ALIKED(model_name="aliked-t16", max_num_keypoints=100, detection_threshold=0.0)
    assert always(image).num_keypoints == 100
    with pytest.raises(ValueError, match="aliked-x"):
        ALIKED(model_name="aliked-x")


@pytest.mark.parametrize("most", [150, 10_000, None])
@pytest.mark.parametrize("threshold", [0.0, 8.0])
def test_disk_is_kornias(most, threshold, image):
    peer = feature.DISK()
    peer.load_state_dict(load_weights("disk"))
    with torch.no_grad():
        expected = peer.eval()(
            image[None], n=most, window_size=5, score_threshold=threshold, pad_if_not_divisible=True
        )[0]
    keypoints = extractor("disk", most, detection_threshold=threshold)(image)
    assert keypoints.num_keypoints > 20
    assert torch.equal(keypoints.pos, expected.keypoints)
    torch.testing.assert_close(keypoints.x, expected.descriptors, rtol=0, atol=1e-4)
    torch.testing.assert_close(keypoints.score, expected.detection_scores, rtol=0, atol=1e-3)


def test_extract_that_a_subclass_replaces_is_what_batches_call(image):
    class Kept(ALIKED):
        calls = 0

        def extract(self, image, resize=1024):
            self.calls += 1
            return super().extract(image, resize)

    detector = Kept(50)
    sets = detector.extract_batch([image, image], resize=128)
    assert detector.calls == 2 and torch.equal(sets[0].pos, ALIKED(50).extract(image, 128).pos)


def test_the_side_reaches_what_a_subclass_replaces(image):
    class Kept(SIFT):
        def extract(self, image, resize=1024, side="long"):
            return super().extract(image, resize, side)

    image = image[:, :, : image.size(2) // 2]
    found = Kept(50).extract_batch([image], resize=96, side="short")[0]
    assert torch.equal(found.pos, SIFT(50).extract(image, 96, "short").pos)


def test_images_of_one_channel_that_varies_are_not_blank():
    image = torch.zeros(3, 96, 96)
    image[0] = torch.rand(12, 12).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert SIFT()(image).num_keypoints > 0


def test_images_are_read_as_they_are_needed(image):
    """Memory does not grow with their number."""
    order = []

    class Watched(ALIKED):
        def detect_batch(self, images):
            order.append(len(images))
            return super().detect_batch(images)

    def read():
        for number in range(5):
            order.append(f"image {number}")
            yield image

    assert len(Watched(20).extract_batch(read(), resize=None, batch_size=2)) == 5
    assert order == ["image 0", "image 1", 2, "image 2", "image 3", 2, "image 4", 1]


def test_batches(detector, image):
    """Images of one size go together, and each gets what it gets alone."""
    images = [
        image,
        image.flip(2),
        image[:, 10:100],
        image.new_zeros(image.shape),
        image[:, :8],
        image.flip(1),
    ]
    sets = detector.extract_batch(images, resize=None, batch_size=2)
    for one, found in zip(images, sets, strict=True):
        alone = detector(one)
        assert found.keys() == alone.keys() and found.num_keypoints == alone.num_keypoints
        for key in ("pos", "x", "score"):
            torch.testing.assert_close(found[key], alone[key], rtol=0, atol=1e-4)
        assert found.image_size.tolist() == [[one.size(2), one.size(1)]]
    assert [keypoints.num_keypoints > 0 for keypoints in sets[:4]] == [True, True, True, False]
    resized = detector.extract_batch([image, image.mean(dim=0)], resize=200)
    for one, found in zip((image, image.mean(dim=0)), resized, strict=True):
        torch.testing.assert_close(found.pos, detector.extract(one, 200).pos, rtol=0, atol=1e-4)
    assert detector.extract_batch([]) == []
    with pytest.raises(ValueError, match="'batch_size' must be a whole number of at least 1, got 0"):
        detector.extract_batch([image], batch_size=0)


def test_xfeat_is_kornias(extractors, image):
    peer = feature.XFeat()
    peer.net.load_state_dict(load_weights("xfeat"))
    expected = peer.eval().detectAndCompute(image[None], top_k=150)[0]
    keypoints = extractors["xfeat"](image)
    torch.testing.assert_close(keypoints.x, expected["descriptors"].clone(), rtol=0, atol=0)
    torch.testing.assert_close(keypoints.score, expected["scores"].clone(), rtol=0, atol=0)
    # 150 x 130 becomes 128 x 128 inside.
    inner = expected["keypoints"].clone() * torch.tensor([128 / 150, 128 / 130])
    torch.testing.assert_close(inner, inner.round(), atol=1e-4, rtol=0)
    ratio = torch.tensor([150 / 128, 130 / 128])
    torch.testing.assert_close(keypoints.pos, (inner.round() + 0.5) * ratio - 0.5)


def test_xfeat_features_can_be_trained_on(extractors, image):
    keypoints = extractors["xfeat"](image)
    weight = torch.randn(64, 8, requires_grad=True)
    (keypoints.x @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("limit", [100, None])
def test_sift_is_opencvs(limit):
    grey = cv2.resize(skimage.data.camera(), (256, 256), interpolation=cv2.INTER_AREA)
    peer = cv2.SIFT_create(
        nfeatures=limit or 0, contrastThreshold=0.0066667, edgeThreshold=10, enable_precise_upscale=True
    )
    found, descriptors = peer.detectAndCompute(grey, None)
    keypoints = extractor("sift", max_num_keypoints=limit)(torch.from_numpy(grey)[None] / 255)
    response = np.array([k.response for k in found])
    order = np.argsort(-response, kind="stable")[:limit]
    assert keypoints.num_keypoints == len(order) > 50
    np.testing.assert_array_equal(keypoints.pos, np.float32([found[i].pt for i in order]))
    np.testing.assert_array_equal(keypoints.score, response[order].astype(np.float32))
    np.testing.assert_array_equal(keypoints.scale, np.float32([found[i].size for i in order]))
    np.testing.assert_allclose(keypoints.orientation, np.deg2rad([found[i].angle for i in order]), rtol=1e-6)
    norm = np.linalg.norm(descriptors[order], axis=1, keepdims=True)
    np.testing.assert_allclose(keypoints.x, descriptors[order] / norm, atol=1e-6)
    root = extractor("rootsift", max_num_keypoints=limit)(torch.from_numpy(grey)[None] / 255)
    hellinger = np.sqrt(descriptors[order] / descriptors[order].sum(1, keepdims=True))
    np.testing.assert_allclose(root.x, hellinger, atol=1e-6)


def test_sift_limit_holds_where_responses_tie():
    # A tile four times over: every response occurs four times.
    tile = torch.from_numpy(skimage.data.camera()[100:180, 200:280].copy())[None] / 255
    image = F.pad(tile, (20, 20, 20, 20), mode="replicate").tile(1, 2, 2)
    for limit in (5, 6, 7):
        assert extractor("sift", max_num_keypoints=limit)(image).num_keypoints == limit


def test_sift_finds_blobs_where_they_are():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:150, :200]
    grid = np.stack(np.meshgrid(np.arange(25, 200, 50), np.arange(25, 150, 50)), -1).reshape(-1, 2)
    centres = grid + rng.uniform(-4, 4, grid.shape)
    sigmas = rng.uniform(2, 4, len(centres))
    image = 0.3 + sum(
        0.6 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s * s))
        for (cx, cy), s in zip(centres, sigmas, strict=True)
    )
    sift = extractor("sift", detection_threshold=0.04)
    for size in (None, 400, 133):
        keypoints = sift.extract(image.clip(0, 1), resize=size)
        offset = keypoints.pos[None] - torch.from_numpy(centres).float()[:, None]
        distance, nearest = offset.norm(dim=2).min(dim=1)
        found = distance < 1  # OpenCV misses blobs whose size lies between two octaves
        assert found.sum() >= 9 and distance[found].max() < 0.15
        assert offset[range(len(centres)), nearest][found].mean(dim=0).abs().max() < 0.04  # no common shift
        ratio = (keypoints.scale[nearest] / torch.from_numpy(sigmas))[found]
        assert ratio.min() > 1.4 and ratio.max() < 2.3  # in pixels of the image as given, whatever the resize


def test_sift_orientation_follows_the_image():
    image = torch.from_numpy(skimage.data.camera()[50:250, 150:350].copy())[None] / 255
    sift = extractor("sift", max_num_keypoints=200)
    upright, turned = sift(image), sift(image.rot90(1, (1, 2)))  # anticlockwise: (x, y) -> (y, 199 - x)
    moved = torch.stack([upright.pos[:, 1], 199 - upright.pos[:, 0]], dim=1)
    angle = (turned.orientation[None] - upright.orientation[:, None] + math.pi / 2 + math.pi) % (
        2 * math.pi
    ) - math.pi
    agree = (torch.cdist(moved, turned.pos) < 0.5) & (angle.abs() < 0.1)
    assert agree.any(dim=1).float().mean() > 0.8


@pytest.mark.parametrize("size, side", [(200, "long"), (100, "short"), (None, "long")])
def test_extract(detector, image, size, side):
    pixels = (image * 255).round().byte()
    keypoints = detector.extract(pixels.permute(1, 2, 0).numpy(), resize=size, side=side)
    check(keypoints, 150, 130, detector.descriptor_dim)
    if size is None:
        torch.testing.assert_close(keypoints.pos, detector(pixels / 255).pos, rtol=0, atol=0)
        return
    resized, scale = resize_image(pixels / 255, size, side)
    inside = detector(resized)
    torch.testing.assert_close(keypoints.x, inside.x, rtol=0, atol=0)
    torch.testing.assert_close((keypoints.pos + 0.5) * scale - 0.5, inside.pos, atol=1e-3, rtol=0)
    if "scale" in inside:
        torch.testing.assert_close(keypoints.scale, inside.scale / scale.mean(), rtol=0.01, atol=0)
        assert torch.equal(keypoints.orientation, inside.orientation)


def test_extract_stays_in_the_frame(image):
    class Corners(Extractor):
        descriptor_dim = 1

        def detect(self, image):
            height, width = image.shape[1:]
            pos = torch.tensor([[0.0, 0.0], [width - 1.0, height - 1.0]])
            return {"pos": pos, "x": torch.ones(2, 1), "score": torch.ones(2)}

    assert Corners().extract(image, resize=600).pos.tolist() == [[0, 0], [149, 129]]


def test_from_file(detector, tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.cvtColor(skimage.data.astronaut()[:96, 200:320], cv2.COLOR_RGB2BGR))
    check(detector.extract(path, resize=None), 120, 96, detector.descriptor_dim)
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        detector.extract(tmp_path / "nothing.png")


def test_images_of_many_sizes_do_not_all_wait(image):
    alive, most = weakref.WeakSet(), []

    def read():
        for number in range(40):
            made = image[:, : 64 + number].clone()
            alive.add(made)
            most.append(len(alive))
            yield made

    found = SIFT(5).forward_batch(read(), batch_size=2)
    assert len(found) == 40 and max(most) < 12
    assert [keypoints.image_size[0, 1].item() for keypoints in found] == list(range(64, 104))


@pytest.mark.parametrize("kind", [torch.double, torch.bfloat16])
def test_another_default_type(kind, detector, image):
    expected = detector.extract(image, resize=100)
    torch.set_default_dtype(kind)
    try:
        found = detector.extract(image, resize=100)
    finally:
        torch.set_default_dtype(torch.float)
    assert found.pos.dtype == torch.float and torch.equal(found.pos, expected.pos)


def test_evaluation_mode_and_copies(detector, image):
    expected = detector(image)
    outer = torch.nn.ModuleList([detector]).train()
    assert not any(module.training for module in outer[0].modules())
    assert not any(parameter.requires_grad for parameter in outer.parameters())
    for other in (outer[0], copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        torch.testing.assert_close(other(image).x, expected.x, rtol=0, atol=0)


def test_errors(detector, image):
    for wrong in (image[0], image[None], image[:2], image[:, :0], image.permute(1, 2, 0)):
        with pytest.raises(ValueError, match=r"\[3, H, W\]"):
            detector(wrong)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        detector((image * 255).byte())
    for value in (float("nan"), float("inf")):
        broken = image.clone()
        broken[1, 5, 7] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            detector(broken)


def test_factory_errors():
    with pytest.raises(ValueError, match=r"unknown extractor 'superpoint'.*aliked, disk"):
        extractor("superpoint")
    for number in (0, -1):
        with pytest.raises(
            ValueError, match=f"'max_num_keypoints' must be a whole number from 1 to 2147483647, got {number}"
        ):
            extractor("sift", max_num_keypoints=number)
    with pytest.raises(NotImplementedError):
        Extractor()(torch.rand(3, 20, 20))


def test_images_that_are_no_tensors():
    with pytest.raises(TypeError, match="expected an image tensor, got ndarray; see load_image"):
        SIFT(5)(np.zeros((3, 32, 32), dtype=np.float32))
