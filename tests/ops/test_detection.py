import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.subpix import nms2d
from torch.testing import assert_close

from pyg_match.ops.convolution import Convolution, sample_at
from pyg_match.ops.detection import features_at, local_maxima, score_map

SIZES = [(2, 64, 96), (1, 32, 32), (1, 160, 64)]


def layer(out_channels: int, channels: int, side: int = 1, selu: bool = False) -> Convolution:
    return Convolution(torch.randn(out_channels, channels, side, side) / (side * channels**0.5), selu=selu)


def coarse(images: int, height: int, width: int, channels: int) -> list[torch.Tensor]:
    return [torch.randn(images, height // step, width // step, channels) for step in (2, 8, 32)]


def enlarged(levels: list[torch.Tensor], size: tuple[int, int]) -> list[torch.Tensor]:
    return [
        F.interpolate(level.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True)
        for level in levels
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [(16, 32), (8, 16)])
def test_score_map(size, channels, backend):
    height, width = size[1:]
    x, levels = torch.randn(*size, channels[0]), coarse(*size, 8)
    hidden, head = layer(channels[1], channels[0], selu=True), layer(8, channels[1], selu=True)
    convolutions = [layer(4, 8, 3), layer(4, 4, 3), layer(1, 4, 3)]
    y = F.conv2d(F.selu(F.conv2d(x.permute(0, 3, 1, 2), hidden.weight)), head.weight)
    y = y + sum(enlarged(levels, (height, width)))
    for convolution in convolutions:
        y = F.conv2d(F.selu(y), convolution.weight, padding=1)
    out = score_map(x, levels, hidden, head, convolutions)
    assert_close(out, y.squeeze(1).sigmoid(), atol=2e-6, rtol=1e-5)


def test_score_map_of_other_sizes():
    """Torch does what the kernel has no code for."""
    x, levels = torch.randn(1, 20, 24, 6), coarse(1, 64, 64, 8)
    layers = (
        layer(12, 6, selu=True),
        layer(8, 12, selu=True),
        [layer(4, 8, 3), layer(4, 4, 3), layer(1, 4, 3)],
    )
    assert score_map(x, levels, *layers).shape == (1, 20, 24)
    assert features_at(
        x,
        coarse(1, 64, 64, 12),
        layers[0],
        torch.zeros(5, dtype=torch.long),
        torch.rand(5, 2),
        (0, 0, 20, 24),
    ).shape == (5, 48)


@pytest.mark.parametrize("radius", [1, 2, 5])
@pytest.mark.parametrize("size", [(2, 40, 61), (1, 11, 11), (3, 4, 30)])
def test_local_maxima(radius, size, backend):
    score = torch.rand(size)
    score[0, 2:9] = score[0, 2:9].mul(4).round() / 4  # many are equal
    threshold = torch.linspace(0.3, 0.7, size[0])
    expected = nms2d(score.unsqueeze(1), (2 * radius + 1, 2 * radius + 1), mask_only=True).squeeze(1)
    expected &= score > threshold.view(-1, 1, 1)
    for border in (slice(None, radius), slice(-radius, None)):
        expected[:, border] = False
        expected[:, :, border] = False
    out = local_maxima(score, radius, threshold)
    assert out.dtype == torch.bool and torch.equal(out, expected)
    assert size[1] < 40 or expected.any()


def test_every_pixel_is_a_maximum_of_itself(backend):
    score = torch.rand(1, 5, 7)
    assert torch.equal(local_maxima(score, 0, torch.tensor([0.5])), score > 0.5)
    assert local_maxima(torch.ones(1, 9, 9), 2, torch.zeros(1)).sum() == 0


@pytest.mark.parametrize("radius", [0, 1])
def test_maxima_are_above_the_threshold(radius, backend):
    score = torch.zeros(2, 5, 5)
    score[:, 2, 2] = 0.5
    assert local_maxima(score, radius, torch.tensor([0.5, 0.25])).nonzero().tolist() == [[1, 2, 2]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [(16, 32), (8, 16)])
def test_features(size, channels, backend):
    images, height, width = size
    x, levels, hidden = (
        torch.randn(*size, channels[0]),
        coarse(*size, channels[1]),
        layer(channels[1], channels[0]),
    )
    hidden.selu = True
    joint = [F.selu(F.conv2d(x.permute(0, 3, 1, 2), hidden.weight)), *enlarged(levels, (height, width))]
    joint = F.normalize(torch.cat(joint, dim=1), dim=1)
    top, left, bottom, right = frame = (3, 5, height - 2, width)
    joint = joint[:, :, top:bottom, left:right]
    n = 300
    image = torch.randint(images, (n,))
    pos = torch.rand(n, 2) * torch.tensor([width + 4.0, height + 4.0]) - 2
    pos[:50] = pos[:50].round()
    pos[50:52] = torch.tensor([[-1e9, 3.0], [3.0, 1e9]])
    at = (pos - torch.tensor([left, top])).expand(images, -1, -1)
    expected = sample_at(joint, at)[image, :, torch.arange(n)]
    out = features_at(x, levels, hidden, image, pos, frame)
    assert_close(out, expected, atol=1e-4, rtol=1e-4)
    assert (out[50:52] == 0).all() and features_at(x, levels, hidden, image[:0], pos[:0], frame).shape == (
        0,
        out.size(1),
    )


def test_features_have_gradients():
    x = torch.randn(1, 32, 32, 16, dtype=torch.double, requires_grad=True)
    levels = [level.double().requires_grad_() for level in coarse(1, 32, 32, 16)]
    hidden = layer(16, 16, selu=True).double()
    image, pos = torch.zeros(3, dtype=torch.long), 1 + 29 * torch.rand(3, 2, dtype=torch.double)
    pos.requires_grad_()

    def features(x, pos, *levels):
        return features_at(x, levels, hidden, image, pos, (0, 0, 32, 32))

    assert torch.autograd.gradcheck(features, (x, pos, *levels), fast_mode=True)


def test_what_does_not_fit_is_refused():
    x, levels, hidden = torch.randn(1, 32, 32, 16), coarse(1, 32, 32, 16), layer(16, 16, selu=True)
    image, pos = torch.zeros(3, dtype=torch.long), torch.rand(3, 2)
    for wrong in (image + 1, image - 1, image[:2]):
        with pytest.raises(ValueError, match="'pos' and 'image' must be"):
            features_at(x, levels, hidden, wrong, pos, (0, 0, 32, 32))
    with pytest.raises(ValueError, match=r"'frame' must lie in maps of 32 x 32, got \(0, 0, 33, 32\)"):
        features_at(x, levels, hidden, image, pos, (0, 0, 33, 32))
    with pytest.raises(ValueError, match=r"'threshold' must have shape \[2\], got \[1\]"):
        local_maxima(torch.rand(2, 8, 8), 1, torch.zeros(1))
    with pytest.raises(ValueError, match="'radius' must not be negative, got -1"):
        local_maxima(torch.rand(2, 8, 8), -1, torch.zeros(2))
    head, convolutions = layer(8, 16), [layer(4, 8, 3), layer(4, 4, 3), layer(1, 4, 3)]
    with pytest.raises(RuntimeError):  # torch says it
        score_map(x, coarse(1, 32, 32, 4), hidden, head, convolutions)
