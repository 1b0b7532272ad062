import pytest
import torch
from skimage import data

from pyg_match.datasets import random_homography, warped_pair


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1).float()[:, ::2, ::2] / 255


def transfer(points: torch.Tensor, homography: torch.Tensor) -> torch.Tensor:
    projected = torch.cat([points, torch.ones(len(points), 1)], 1).double() @ homography.T
    return projected[:, :2] / projected[:, 2:]


def test_homography_moves_the_pixels():
    # A smooth image is nearly unchanged by bilinear sampling, so image 1 at H p must be image 0 at p.
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(160.0), indexing="ij")
    image = torch.stack([x / 160, y / 120, 0.5 + 0.4 * torch.sin(x / 15) * torch.cos(y / 12)])
    image0, image1, homography = warped_pair(image, seed=3, lighting=0, blur=0, noise=0)
    assert torch.equal(image0, image)
    points = torch.stack([x, y], -1).view(-1, 2)
    target = transfer(points, homography)
    rounded = target.round()
    # Compare where a pixel of image 0 lands within .05 px of a pixel of image 1, away from the border.
    near = ((target - rounded).abs() < 0.05).all(1)
    near &= ((rounded > 1) & (rounded < torch.tensor([158, 118]))).all(1)
    near &= ((points > 1) & (points < torch.tensor([158, 118]))).all(1)
    assert near.sum() > 50
    source, index = points[near].long(), rounded[near].long()
    difference = image1[:, index[:, 1], index[:, 0]] - image0[:, source[:, 1], source[:, 0]]
    assert difference.abs().max() < 5e-3


def test_reproducible_and_leaves_the_global_state_alone(photo):
    state = torch.get_rng_state()
    first, again, other = warped_pair(photo, seed=5), warped_pair(photo, seed=5), warped_pair(photo, seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.image1, again.image1) and torch.equal(first.homography, again.homography)
    assert not torch.equal(first.homography, other.homography)


@pytest.mark.parametrize("seed", range(3))
def test_output(photo, seed):
    pair = warped_pair(photo, seed=seed)
    assert pair.image1.shape == photo.shape and pair.image1.dtype == photo.dtype
    assert pair.image1.min() >= 0 and pair.image1.max() <= 1
    assert pair.homography.dtype == torch.float64
    assert warped_pair(photo[:1], seed=seed).image1.shape == photo[:1].shape


def test_lighting_blur_and_noise_change_the_image(photo):
    still = {"perspective": 0.0, "rotation": 0.0, "scale": 1.0, "lighting": 0.0, "blur": 0.0, "noise": 0.0}
    pair = warped_pair(photo, **still)
    assert torch.allclose(pair.homography, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(pair.image1, photo, atol=1e-5)
    for name, value in (("lighting", 0.5), ("blur", 2.0), ("noise", 0.05)):
        changed = warped_pair(photo, **{**still, name: value})
        assert (changed.image1 - photo).abs().mean() > 5e-3, name


def test_homography_stays_within_its_ranges():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        homography = random_homography(200, 100, generator, perspective=0.0, rotation=30.0, scale=1.5)
        assert torch.allclose(homography[2], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), atol=1e-9)
        factor = torch.linalg.det(homography[:2, :2]).sqrt()
        angle = torch.rad2deg(torch.atan2(homography[1, 0], homography[0, 0]))
        assert 1 / 1.5 - 1e-9 <= factor <= 1.5 + 1e-9 and angle.abs() <= 30 + 1e-9
        assert torch.allclose(
            transfer(torch.tensor([[99.5, 49.5]]), homography).float(), torch.tensor([[99.5, 49.5]])
        )


def test_errors(photo):
    with pytest.raises(TypeError, match="floating-point"):
        warped_pair((photo * 255).byte())
    with pytest.raises(TypeError, match="ndarray"):
        warped_pair(photo.numpy())
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        warped_pair(photo[0])
    with pytest.raises(ValueError, match="'perspective'"):
        warped_pair(photo, perspective=0.5)
    with pytest.raises(ValueError, match="'scale'"):
        warped_pair(photo, scale=0.9)
    with pytest.raises(ValueError, match="negative"):
        warped_pair(photo, noise=-1.0)
    with pytest.raises(ValueError, match="2 x 2"):
        warped_pair(photo[:, :1])
