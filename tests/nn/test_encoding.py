import pytest
import torch
from kornia.feature.lightglue import (
    LearnableFourierPositionalEncoding,
    apply_cached_rotary_emb,
    normalize_keypoints,
)

from pyg_match.nn import KeypointEncoding, RotaryEncoding, normalize_positions, rotate


def test_rotary_equals_kornia():
    encoding = RotaryEncoding(2, 8)
    peer = LearnableFourierPositionalEncoding(2, 8, 8)
    peer.Wr.weight = encoding.lin.weight
    pos, x = torch.rand(5, 2), torch.randn(5, 3, 8)
    expected = apply_cached_rotary_emb(peer(pos[None]), x.transpose(0, 1)[None])[0].transpose(0, 1)
    assert torch.allclose(rotate(x, encoding(pos)), expected, atol=1e-6)
    assert str(encoding) == "RotaryEncoding(2, 8)"
    with pytest.raises(ValueError, match="'head_channels' must be even, got 7"):
        RotaryEncoding(2, 7)


def test_rotation_gradient_and_half_precision():
    encoding = RotaryEncoding(2, 4).double()
    pos = torch.rand(3, 2, dtype=torch.double, requires_grad=True)
    x = torch.randn(3, 2, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, pos: rotate(x, encoding(pos)), (x, pos))
    half = rotate(x.bfloat16(), encoding(pos))
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), rotate(x, encoding(pos)), atol=0.05)


def test_normalize_positions_equals_kornia():
    pos, size = torch.rand(7, 2) * 100, torch.tensor([[120.0, 90.0]])
    assert torch.allclose(normalize_positions(pos, size), normalize_keypoints(pos[None], size)[0], atol=1e-6)


def test_keypoint_encoding_does_not_depend_on_the_batch():
    encoding = KeypointEncoding(3, 16)
    pos = torch.rand(6, 3)
    assert torch.allclose(encoding(pos)[:2], encoding(pos[:2]), atol=1e-6)
    assert encoding(pos[:0]).shape == (0, 16)
    assert str(encoding) == "KeypointEncoding(3, 16)"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.long])
def test_positions_in_whole_numbers(dtype):
    pos, size = torch.tensor([[100, 90], [3, 120]]), torch.tensor([[640, 480]])
    assert torch.equal(normalize_positions(pos.to(dtype), size), normalize_positions(pos.float(), size))


@pytest.mark.parametrize(
    ("pos", "size", "error", "message"),
    [
        (torch.rand(3, 1), torch.tensor([[640, 480]]), ValueError, r"'pos' must have shape \[N, 2\]"),
        (torch.rand(3, 2), torch.tensor([640]), ValueError, r"'image_size' must have rows .*, got \[1\]"),
        (torch.rand(3, 2), (640, 480), TypeError, "'image_size' must be a tensor .*, got tuple"),
    ],
)
def test_positions_that_are_refused(pos, size, error, message):
    with pytest.raises(error, match=message):
        normalize_positions(pos, size)


@pytest.mark.parametrize(
    ("x", "rotation", "error", "message"),
    [
        (torch.randn(3, 2, 4), torch.randn(3, 2), TypeError, "'rotation' must be complex"),
        (torch.ones(3, 2, 4, dtype=torch.long), torch.ones(3, 2) * 1j, TypeError, "'x' must be a floating"),
        (
            torch.randn(1, 2, 4),
            torch.ones(3, 2) * 1j,
            ValueError,
            r"must have shape \[1, 2\], .* got \[3, 2\]",
        ),
        (
            torch.randn(3, 2, 4),
            torch.ones(3, 1) * 1j,
            ValueError,
            r"must have shape \[3, 2\], .* got \[3, 1\]",
        ),
    ],
)
def test_rotations_that_are_refused(x, rotation, error, message):
    with pytest.raises(error, match=message):
        rotate(x, rotation)


def test_hidden_channels_are_checked():
    with pytest.raises(ValueError, match="'hidden_channels' must be a whole number from 1 to 65536, got 0"):
        KeypointEncoding(3, 16, hidden_channels=(0, 8))
