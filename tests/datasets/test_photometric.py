import pytest
import torch

from pyg_match.datasets import Photometric

STILL = {
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "gamma": 1.0,
    "shadow": 0.0,
    "illumination": 0.0,
    "blur": 0.0,
    "motion": 0,
    "noise": 0.0,
    "jpeg": 100.0,
}
EFFECTS = {
    "brightness": 0.35,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gamma": 1.8,
    "shadow": 0.6,
    "illumination": 0.35,
    "blur": 2.0,
    "motion": 7,
    "noise": 0.05,
    "jpeg": 30.0,
}


def smooth_image(height=60, width=80):
    coarse = torch.rand(1, 3, height // 10, width // 10)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def test_same_seed_same_image_and_no_trace_in_the_global_generator():
    image, photometric = smooth_image(), Photometric()
    state = torch.get_rng_state()
    first = photometric(image, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert torch.equal(first, photometric(image, seed=3))
    assert not torch.equal(first, photometric(image, seed=4))


@pytest.mark.parametrize("independent", [True, False])
def test_strengths_do_not_tell_which_effects_happen(independent, monkeypatch):
    """But with the numbers of the published weights, where the same draws decide both."""
    rows = []

    def drawn(self, chosen, strength):
        rows.append((list(chosen.values()), (torch.rand(len(chosen)) < 0.5).tolist()))
        return iter(())

    monkeypatch.setattr(Photometric, "_augmentations", drawn)
    photometric = Photometric(independent=independent)
    for seed in range(200):
        photometric(torch.rand(3, 8, 8), seed)
    equal = torch.tensor([[one == other for one, other in zip(*row, strict=True)] for row in rows])
    assert equal.float().mean() == 1 if not independent else 0.4 < equal.float().mean() < 0.6


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_changes_the_image_within_its_range(effect):
    image = smooth_image()
    photometric = Photometric(**{**STILL, "probability": 1.0, effect: EFFECTS[effect]})
    changed = [photometric(image, seed=seed) for seed in range(4)]
    assert any(not torch.allclose(image, other, atol=1e-3) for other in changed)
    for other in changed:
        assert other.shape == image.shape and other.dtype == image.dtype
        assert bool(torch.isfinite(other).all()) and 0 <= float(other.min()) <= float(other.max()) <= 1


@pytest.mark.parametrize("effect", ["none", "never"])
def test_no_effect_leaves_the_image(effect):
    image = smooth_image()
    photometric = Photometric(**STILL, probability=1.0) if effect == "none" else Photometric(probability=0.0)
    assert torch.equal(photometric(image, seed=0), image)


@pytest.mark.parametrize("effect", EFFECTS)
def test_no_effect_moves_anything(effect):
    """The centre of gravity of a symmetric blob stays, though its brightness and width change."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    blob = torch.exp(-((x - 47) ** 2 + (y - 31) ** 2) / 50).expand(3, -1, -1)
    photometric = Photometric(**{**STILL, "probability": 1.0, effect: EFFECTS[effect]})
    offsets = []
    for seed in range(8):
        grey = photometric(0.1 + 0.7 * blob, seed=seed).mean(0)[11:52, 27:68]
        mass = (grey - grey.min() - 0.3 * (grey.max() - grey.min())).clamp(min=0)
        centre = (
            torch.stack([(mass.sum(0) * x[0, 27:68]).sum(), (mass.sum(1) * y[11:52, 0]).sum()]) / mass.sum()
        )
        offsets.append(centre - torch.tensor([47.0, 31.0]))
    assert float(torch.stack(offsets).norm(dim=1).median()) < 0.25  # a shadow's edge may cut through one


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (61, 83)])
def test_any_size(size):
    image = torch.rand(3, *size)
    for seed in range(4):
        assert Photometric(probability=1.0)(image, seed=seed).shape == image.shape


@pytest.mark.parametrize(
    "kwargs",
    [
        {"probability": 1.5},
        {"noise": -1.0},
        {"hue": 0.6},
        {"gamma": 0.5},
        {"motion": 4},
        {"jpeg": 0.0},
        {"blur": float("nan")},
    ],
)
def test_ranges(kwargs):
    with pytest.raises(ValueError, match=f"'{next(iter(kwargs))}' must be .*, got"):
        Photometric(**kwargs)
