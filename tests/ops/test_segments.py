import math

import pytest
import torch

from pyg_match.ops import segments


@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_segments_against_a_loop(devices, monkeypatch):
    """With torch's operator, and by index as on devices that lack it."""
    monkeypatch.setattr(segments, "_SEGMENTED", devices)
    ptr = torch.tensor([0, 0, 3, 4, 9, 9])
    src = torch.randn(9, dtype=torch.double) * 300
    src[3] = -math.inf
    found = segments.segment_logsumexp(src.requires_grad_(), ptr)
    expected = [src[a:b].logsumexp(0) for a, b in ptr.unfold(0, 2, 1).tolist()]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-14, atol=0)
    (grad,) = torch.autograd.grad(found[1] + 2 * found[3], src)
    (wanted,) = torch.autograd.grad(expected[1] + 2 * expected[3], src)
    torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=1e-300)
    assert segments.segment_logsumexp(src[:0], torch.zeros(1, dtype=torch.long)).shape == (0,)
    for half in (torch.bfloat16, torch.half):  # of which neither can count to 3,000
        many = segments.segment_logsumexp(torch.zeros(3000, dtype=half), torch.tensor([0, 3000]))
        assert many.dtype == half and abs(float(many) - math.log(3000)) < 0.02


def test_segments_have_derivatives_forward():
    ptr, src = torch.tensor([0, 2, 2, 5]), torch.randn(5, dtype=torch.double)
    jacobian = torch.func.jacfwd(lambda src: segments.segment_logsumexp(src, ptr)[::2])(src)
    expected = torch.block_diag(src[:2].softmax(0)[None], src[2:].softmax(0)[None])
    torch.testing.assert_close(jacobian, expected)
