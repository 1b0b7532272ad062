import copy
import glob
import pickle

import pytest
import skimage.data
import torch
from kornia import feature
from torch.testing import assert_close

from pyg_match.features import ALIKED, load_image, resize_image
from pyg_match.features.aliked import MODELS
from pyg_match.ops import convolution, detection
from pyg_match.pretrained import load_weights


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return resize_image(load_image(skimage.data.astronaut())[:, :400], 320)[0]


@pytest.fixture(params=["c", "torch"])
def backend(request, monkeypatch):
    if request.param == "torch":
        for module in (convolution, detection):
            monkeypatch.setattr(module, "has_kernels", lambda *_: False)


def kornias(model_name: str = "aliked-n16", **options) -> feature.ALIKED:
    peer = feature.ALIKED(model_name, **options)
    peer.load_state_dict(load_weights(model_name), strict=False)
    return peer.eval()


def check(found, expected, share: float = 1.0):
    """The same keypoints, in the same order unless some are missing."""
    distance, nearest = (found.pos.unsqueeze(1) - expected.keypoints).norm(dim=2).min(dim=1)
    same = distance < 0.05
    assert same.float().mean() >= share and abs(found.num_keypoints - expected.n) <= (1 - share) * expected.n
    nearest = nearest[same]
    if share == 1:
        assert torch.equal(nearest, torch.arange(expected.n))
    assert (found.x[same] * expected.descriptors[nearest]).sum(dim=1).min() > 0.9999
    assert_close(found.score[same], expected.keypoint_scores[nearest], atol=1e-3, rtol=0)


@pytest.mark.parametrize("model_name", MODELS)
def test_models(model_name, photo, backend):
    found = ALIKED(300, model_name=model_name)(photo)
    with torch.no_grad():
        expected = kornias(model_name, max_num_keypoints=300)(photo[None])[0]
    assert found.num_keypoints > 100
    check(found, expected)


@pytest.mark.parametrize(
    ("threshold", "most", "radius"),
    [(0.2, None, 2), (0.0, 100, 2), (0.0, None, 2), (0.5, 50, 4), (0.99, 2048, 1)],
)
@pytest.mark.parametrize("size", [(101, 77), (64, 96), (17, 200)])
def test_options(threshold, most, radius, size, photo, backend):
    image = photo[:, : size[0], : size[1]]
    found = ALIKED(most, threshold, radius)(image)
    with torch.no_grad():
        limit = -1 if most is None else most
        expected = kornias(max_num_keypoints=limit, detection_threshold=threshold, nms_radius=radius)(
            image[None]
        )[0]
    assert found.num_keypoints > 0
    check(found, expected)


def test_real_photos(shared_data):
    """Ten photos of several sets at the size that matchers take."""
    files = sorted(glob.glob(f"{shared_data}/homography/*/*/1.*"))[::2][:10]
    assert len(files) >= 8
    detector, peer = ALIKED(1024), kornias(max_num_keypoints=1024)
    for file in files:
        image = resize_image(load_image(file), 640)[0]
        with torch.no_grad():
            expected = peer(image[None])[0]
        check(detector(image), expected, share=0.995)


def test_gradients_are_kornias(photo):
    """Of maps, positions and descriptors with respect to the image, by what stands in for the kernels."""
    if torch.__version__.startswith("2.5."):
        pytest.skip("torch 2.5 gives kornia's network other gradients than later versions")
    image, options = photo[:, :96, :128], {"max_num_keypoints": 50}
    grads = []
    for network in (ALIKED(50).network, kornias(**options)):
        x = image.clone().requires_grad_()
        found = network(x[None])[0]
        found = (
            found
            if isinstance(found, dict)
            else {"pos": found.keypoints, "x": found.descriptors, "score": found.keypoint_scores}
        )
        weight = torch.linspace(-1, 1, found["x"].size(1))
        loss = (found["x"] @ weight).sum() + found["pos"].mean() + found["score"].sum()
        grads.append(torch.autograd.grad(loss, x)[0])
    assert grads[1].abs().max() > 0
    assert (grads[0] - grads[1]).norm() < 1e-3 * grads[1].norm()


def test_weights_of_the_module_are_what_runs(photo):
    detector, other = ALIKED(100), ALIKED(100, model_name="aliked-n16rot")
    first = detector(photo)
    assert not torch.equal(first.x, other(photo).x)
    detector.load_state_dict(other.state_dict())
    assert torch.equal(detector(photo).x, other(photo).x) and not detector.network.training
    assert set(detector.state_dict()) == {f"model.{key}" for key in detector.model.state_dict()}
    detector.model.load_state_dict(ALIKED(100).model.state_dict())
    assert torch.equal(detector(photo).x, first.x)
    with torch.no_grad():
        detector.model.desc_head.agg_weights.mul_(-1)
    assert_close(detector(photo).x, -first.x)
    assert detector.model.max_num_keypoints == 100


@pytest.mark.parametrize(
    "image", [torch.linspace(0, 1, 64).expand(3, 64, 64), (torch.arange(17.0) > 8).float().expand(3, 16, 17)]
)
def test_images_without_keypoints(image, backend):
    assert kornias()(image[None])[0].n == 0
    found = ALIKED()(image)
    assert found.num_keypoints == 0 and found.x.shape == (0, 128)
    assert ALIKED(nms_radius=10)(torch.rand(3, 18, 18)).num_keypoints == 0


def test_another_default_device(photo):
    expected = ALIKED(100)(photo)
    detector = ALIKED(100)
    with torch.device("meta"):
        assert torch.equal(detector(photo).pos, expected.pos)


def test_copies(photo):
    detector = ALIKED(100)
    for again in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert torch.equal(again(photo).x, detector(photo).x)
