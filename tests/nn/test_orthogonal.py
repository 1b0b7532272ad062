import pytest
import torch
from torch.autograd import gradcheck

from pyg_match.nn import OrthogonalFusion, orthogonality_penalty, orthogonalize


def overlap(a, b):
    return (a.double() * b.double()).sum(-1).abs()


def hard_features(num_scales, num_nodes=400, channels=256):
    """Features that are parallel, zero, tiny or spanned by others at some nodes."""
    features = [torch.randn(num_nodes, channels) for _ in range(num_scales)]
    features[0][:40] = features[-1][:40]
    features[0][40:80] = 3 * features[-1][40:80] + 1e-5 * features[0][40:80]
    features[-1][80:120] *= 1e-20
    features[-1][120:160] *= 1e-38
    features[-1][160:180] = 0.0
    features[0][180:200] = 0.0
    if num_scales > 2:
        features[0][200:240] = features[1][200:240] - features[2][200:240]
        features[1][240:280] = features[2][240:280]
    return features


def test_projection_of_two():
    f1, f2 = torch.randn(20, 8, dtype=torch.double), torch.randn(20, 8, dtype=torch.double)
    g1, g2 = orthogonalize(f1, f2)
    coefficient = (f1 * f2).sum(1, keepdim=True) / (f2 * f2).sum(1, keepdim=True)
    assert torch.allclose(g1, f1 - coefficient * f2, atol=1e-14)
    assert g2 is f2


@pytest.mark.parametrize("num_scales", [2, 3, 5])
def test_single_precision_leaves_no_overlap(num_scales):
    features = hard_features(num_scales)
    result = orthogonalize(*features)
    for i in range(num_scales):
        assert torch.isfinite(result[i]).all()
        for j in range(i):
            bound = features[i].double().norm(dim=1) * features[j].double().norm(dim=1)
            assert (overlap(result[i], result[j]) <= 1e-6 * bound).all()
    if num_scales == 2:
        assert torch.equal(result[0][160:180], features[0][160:180])  # nothing to project out
        assert (result[0][:40].norm(dim=1) <= 1e-5 * features[0][:40].norm(dim=1)).all()


def test_what_is_left_of_nearly_parallel_features_is_orthogonal():
    common, *others = torch.randn(4, 50, 16)
    result = orthogonalize(*(common + 1e-3 * other for other in others))
    for i in range(3):
        for j in range(i):
            assert torch.cosine_similarity(result[i].double(), result[j].double()).abs().max() < 1e-5


def test_more_scales_equal_qr():
    features = [torch.randn(30, 7, dtype=torch.double) for _ in range(4)]
    q, r = torch.linalg.qr(torch.stack(features[::-1], dim=2))
    length = r.diagonal(dim1=1, dim2=2)
    for scale, result in enumerate(orthogonalize(*features)):
        column = 3 - scale
        assert torch.allclose(result, q[:, :, column] * length[:, column, None], atol=1e-12)


def test_penalty_of_parallel_orthogonal_and_zero_features():
    x = torch.randn(50, 2)
    turned = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    assert orthogonality_penalty(x, turned) < 1e-12
    assert torch.allclose(orthogonality_penalty(x, -2.5 * x), torch.tensor(1.0))
    assert torch.allclose(orthogonality_penalty(x, x, turned), torch.tensor(1 / 3))
    assert torch.allclose(orthogonality_penalty(x * 1e-30, x * 1e30), torch.tensor(1.0))
    assert orthogonality_penalty(x, torch.zeros_like(x)) == 0
    assert orthogonality_penalty(x[:0], x[:0]) == 0
    f1, f2 = torch.randn(50, 8), torch.randn(50, 8)
    expected = torch.cosine_similarity(f1, f2).square().mean()
    assert torch.allclose(orthogonality_penalty(f1, f2), expected)
    assert orthogonality_penalty(*orthogonalize(f1, f2)) < 1e-12


def test_descent_on_the_penalty_makes_features_orthogonal():
    f1 = torch.randn(20, 8)
    f2 = (f1 + 0.3 * torch.randn(20, 8)).requires_grad_()
    optimizer = torch.optim.SGD([f2], lr=5.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = orthogonality_penalty(f1, f2)
        loss.backward()
        optimizer.step()
    assert orthogonality_penalty(f1, f2) < 1e-3


def gradcheck_features(num_scales):
    features = [torch.randn(5, 4, dtype=torch.double) for _ in range(num_scales)]
    features[0][1] = features[-1][1]  # parallel
    features[-1][2] = 0.0
    features[0][3] = 0.0
    for feature in features:
        feature[4] = 0.0
    return [feature.requires_grad_() for feature in features]


@pytest.mark.parametrize("num_scales", [2, 3])
def test_gradients(num_scales):
    features = gradcheck_features(num_scales)
    assert gradcheck(lambda *f: orthogonality_penalty(*f), features)
    if num_scales == 3:  # a parallel pair leaves the third scale without a direction to be projected on
        features = [feature.detach()[[0, 2, 3, 4]].requires_grad_() for feature in features]
    assert gradcheck(lambda *f: tuple(orthogonalize(*f)[:-1]), features)
    # The projection jumps where a vector to project on is zero, evenly to all sides; the MLP behind it is not even.
    features = [torch.randn(5, 4, dtype=torch.double).requires_grad_() for _ in range(num_scales)]
    with torch.no_grad():
        features[0][0] = 0.0
        features[0][1] = features[-1][1]
    fusion = OrthogonalFusion(4, num_scales).double()
    assert gradcheck(lambda *f: fusion(f), features)


def test_gradients_are_finite_in_single_precision():
    features = [feature.requires_grad_() for feature in hard_features(3, channels=16)]
    with torch.no_grad():
        features[-1][80:160] = 0.0
    loss = orthogonality_penalty(*features) + sum(g.square().sum() for g in orthogonalize(*features))
    for grad in torch.autograd.grad(loss, features):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("num_scales", [1, 2, 3])
def test_fusion(num_scales):
    features = [torch.randn(6, 8) for _ in range(num_scales)]
    fusion = OrthogonalFusion(8, num_scales)
    out = fusion(features)
    assert torch.equal(out, fusion.mlp(torch.cat(orthogonalize(*features), dim=1)))
    residual = OrthogonalFusion(8, num_scales, residual=True)
    residual.load_state_dict(fusion.state_dict())
    assert torch.equal(residual(features), out + features[-1])
    plain = OrthogonalFusion(8, num_scales, project=False)
    plain.load_state_dict(fusion.state_dict())
    assert torch.equal(plain(features), fusion.mlp(torch.cat(features, dim=1)))
    fusion.reset_parameters()
    assert not torch.allclose(fusion(features), out)


def test_fusion_does_not_depend_on_what_the_last_scale_says_already():
    f1, f2 = torch.randn(6, 8, dtype=torch.double), torch.randn(6, 8, dtype=torch.double)
    fusion = OrthogonalFusion(8).double()
    assert torch.allclose(fusion([f1 + 5 * f2, f2]), fusion([f1, f2]))
    assert not torch.allclose(fusion([f1, f2 + f1]), fusion([f1, f2]))


def test_repr_and_errors():
    assert str(OrthogonalFusion(8)) == "OrthogonalFusion(8, num_scales=2, project=True, residual=False)"
    with pytest.raises(ValueError, match="expected the features of 2 scales, got 3"):
        OrthogonalFusion(8)([torch.rand(2, 8)] * 3)
    with pytest.raises(ValueError, match=r"must have the same shape, got \[\[2, 8\], \[2, 4\]\]"):
        orthogonalize(torch.rand(2, 8), torch.rand(2, 4))
    with pytest.raises(ValueError, match="at least two scales, got 1"):
        orthogonality_penalty(torch.rand(2, 8))
    with pytest.raises(ValueError, match="'num_scales' must be a whole number from 1 to 65536, got 0"):
        OrthogonalFusion(8, num_scales=0)
