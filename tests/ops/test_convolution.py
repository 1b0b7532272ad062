import pytest
import torch
import torch.nn.functional as F
from kornia.feature.aliked.deform_conv2d import deform_conv2d
from torch.testing import assert_close

from pyg_match.ops.convolution import Convolution, convolve, convolve_twice, sample_at

SHAPES = [
    (2, 37, 41, 3, 16, 3),
    (1, 33, 50, 16, 18, 3),
    (3, 5, 7, 32, 8, 1),
    (1, 9, 5, 7, 40, 3),
    (1, 1, 1, 16, 16, 3),
]


def layer(out_channels: int, channels: int, side: int, selu: bool = False) -> Convolution:
    weight = torch.randn(out_channels, channels, side, side) / (side * channels**0.5)
    return Convolution(weight, torch.randn(out_channels), selu)


def expected(x, convolution, shortcut=0, offset=None):
    """By torch and, where it is deformable, by kornia."""
    maps, weight, padding = x.permute(0, 3, 1, 2), convolution.weight, convolution.side // 2
    if offset is None:
        out = F.conv2d(maps, weight, convolution.bias, padding=padding)
    else:
        out = deform_conv2d(maps, offset.permute(0, 3, 1, 2), weight, convolution.bias, padding=padding)
    out = out.permute(0, 2, 3, 1) + shortcut
    return F.selu(out) if convolution.selu else out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("selu", [False, True])
def test_convolution(shape, selu, backend):
    images, height, width, channels, out_channels, side = shape
    convolution = layer(out_channels, channels, side, selu)
    x, shortcut = (
        torch.randn(images, height, width, channels),
        torch.randn(images, height, width, out_channels),
    )
    assert_close(convolve(x, convolution), expected(x, convolution), atol=2e-5, rtol=1e-5)
    assert_close(convolve(x, convolution, shortcut), expected(x, convolution, shortcut), atol=2e-5, rtol=1e-5)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(convolve(turned, convolution), convolve(x, convolution), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reach", [0.0, 0.7, 30.0])
def test_deformable_convolution(shape, reach, backend):
    images, height, width, channels, out_channels, side = shape
    convolution = layer(out_channels, channels, side, selu=True)
    x, shortcut = (
        torch.randn(images, height, width, channels),
        torch.randn(images, height, width, out_channels),
    )
    offset = reach * torch.randn(images, height, width, 2 * side**2)
    out = convolve(x, convolution, shortcut, offset)
    assert_close(out, expected(x, convolution, shortcut, offset), atol=1e-4, rtol=1e-5)


def test_offsets_that_are_no_numbers_read_zeros(backend):
    if backend == "torch":
        pytest.skip("torch promises nothing of them")
    convolution, offset = layer(16, 16, 3), torch.full((1, 20, 20, 18), torch.nan)
    offset[:, 10:] = torch.inf
    out = convolve(torch.randn(1, 20, 20, 16), convolution, offset=offset)
    assert_close(out, convolution.bias.expand(1, 20, 20, 16))


@pytest.mark.parametrize("size", [(2, 64, 96), (1, 8, 8), (3, 40, 12)])
@pytest.mark.parametrize("pool", [2, 4])
def test_two_convolutions(size, pool, backend):
    first, second = layer(16, 3, 3, selu=True), layer(32, 16, 3, selu=True)
    x, shortcut = torch.randn(*size, 3), torch.randn(*size, 32)
    out, pooled = convolve_twice(x, first, second, pool, shortcut)
    reference = expected(expected(x, first), second, shortcut)
    assert_close(out, reference, atol=2e-5, rtol=1e-5)
    means = F.avg_pool2d(reference.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)
    assert_close(pooled, means, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    first, second, x = layer(16, 3, 3, selu=True), layer(16, 16, 3, selu=True), torch.randn(1, 256, 256, 3)
    reference = convolve_twice(x, first, second, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(3):
            out = convolve_twice(x, first, second, 2)
            assert all(torch.equal(a, b) for a, b in zip(out, reference, strict=True))
    finally:
        torch.set_num_threads(before)


def test_gradients():
    """Where gradients are wanted, torch does the work; they are those of kornia."""
    convolution = layer(4, 3, 3, selu=True).double()
    x = torch.randn(1, 6, 5, 3, dtype=torch.double, requires_grad=True)
    offset = torch.randn(1, 6, 5, 18, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: convolve(a, convolution, offset=b), (x, offset))
    grads = torch.autograd.grad(convolve(x, convolution, offset=offset).square().sum(), (x, offset))
    others = torch.autograd.grad(expected(x, convolution, offset=offset).square().sum(), (x, offset))
    for grad, other in zip(grads, others, strict=True):
        assert_close(grad, other)


def test_gradients_in_single_precision(backend):
    convolution, x = layer(16, 16, 3), torch.randn(1, 6, 5, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(convolve(x, convolution).square().sum(), x)
    (other,) = torch.autograd.grad(expected(x, convolution).square().sum(), x)
    assert_close(grad, other, atol=1e-4, rtol=1e-4)


def test_numbers_that_are_none_stay(backend):
    x = torch.zeros(1, 4, 6, 3)
    x[0, 1, 1] = torch.nan
    out = convolve(x, layer(5, 3, 1, selu=True))
    assert out[0, 1, 1].isnan().all() and int(out.isnan().sum()) == 5


def test_derivatives_forward(backend):
    x, tangent, convolution = torch.randn(1, 4, 5, 3), torch.randn(1, 4, 5, 3), layer(8, 3, 3)
    found = torch.func.jvp(lambda x: convolve(x, convolution), (x,), (tangent,))[1]
    assert_close(found, convolve(tangent, convolution) - convolution.bias)


def test_biases_of_another_type():
    bias = torch.randn(8, dtype=torch.double)
    found = convolve(torch.zeros(1, 2, 2, 3), Convolution(torch.randn(8, 3, 1, 1), bias))
    assert_close(found, bias.float().expand(1, 2, 2, 8))
    with pytest.raises(ValueError, match=r"expected 8 biases, one per channel, got \[7\]"):
        Convolution(torch.randn(8, 3, 1, 1), bias[:7])


def test_no_pixels():
    assert convolve(torch.empty(0, 4, 4, 3), layer(8, 3, 3)).shape == (0, 4, 4, 8)
    assert convolve(torch.empty(1, 1, 0, 3), layer(8, 3, 1)).shape == (1, 1, 0, 8)


def test_shapes_that_do_not_fit_are_refused(backend):
    x, convolution = torch.randn(1, 4, 5, 3), layer(8, 3, 3)
    with pytest.raises(ValueError, match=r"maps must have shape \[B, H, W, 3\], got \[1, 4, 5, 4\]"):
        convolve(torch.randn(1, 4, 5, 4), convolution)
    with pytest.raises(ValueError, match=r"maps must have shape \[B, H, W, 3\], got \[4, 5, 3\]"):
        convolve(x[0], convolution)
    with pytest.raises(ValueError, match=r"maps must have shape \[B, H, W, 3\], got \[1, 4, 5, 8\]"):
        convolve_twice(x, convolution, convolution, 2)
    with pytest.raises(ValueError, match=r"'shortcut' must have shape \[1, 4, 5, 8\], got \[1, 4, 5, 3\]"):
        convolve(x, convolution, shortcut=x)
    with pytest.raises(ValueError, match=r"'shortcut' must have shape \[1, 4, 6, 8\], got \[1, 4, 5, 3\]"):
        convolve_twice(torch.randn(1, 4, 6, 3), convolution, layer(8, 8, 3), 2, x)
    with pytest.raises(ValueError, match=r"'offset' must have shape \[1, 4, 5, 18\], got \[1, 4, 5, 3\]"):
        convolve(x, convolution, offset=x)
    for height, width in ((5, 8), (8, 5)):
        with pytest.raises(
            ValueError, match=f"'pool' must divide the size {height} x {width} of the maps, got 2"
        ):
            convolve_twice(torch.randn(2, height, width, 3), layer(8, 3, 3), layer(8, 8, 3), 2)


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match=r"1 x 1 or 3 x 3, got \[5, 5\]"):
        layer(4, 4, 5)


def test_sampling():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    pos = torch.tensor([[[0.0, 0.0], [1.5, 0.5], [2.5, 1.0], [-1.0, 0.0]]])
    assert_close(sample_at(maps, pos), torch.tensor([[[0.0, 3.0, 2.5, 0.0]]]))
    assert_close(sample_at(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 2)), torch.ones(1, 1, 1))
