"""Similar images, against the definition."""

import numpy as np
import pytest
import torch

from pyg_match import retrieval
from pyg_match.retrieval import similar_images, vlad


def test_vlad_is_the_definition():
    torch.manual_seed(0)
    descriptors, words = torch.randn(50, 6), torch.randn(4, 6)
    expected = np.zeros((4, 6))
    for descriptor in descriptors.double().numpy():
        nearest = min(range(4), key=lambda w: np.sum((descriptor - words[w].double().numpy()) ** 2))
        expected[nearest] += descriptor - words[nearest].double().numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    expected /= np.linalg.norm(expected)
    assert np.allclose(vlad(descriptors, words).view(4, 6), expected, atol=1e-5)
    assert torch.equal(vlad(torch.empty(0, 6), words), torch.zeros(24))


def test_most_similar_do_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    images = torch.randn(9, 30, 6, generator=torch.Generator().manual_seed(0))
    images[1], images[5] = images[0] + 0.01, images[8] - 0.01
    expected = similar_images(images.__getitem__, 9, top_k=2, num_words=5)
    assert {(0, 1), (5, 8)} <= set(expected)
    monkeypatch.setattr(retrieval, "_CHUNK", 20)
    monkeypatch.setattr(retrieval, "_WIDENED", 4)
    assert similar_images(images.__getitem__, 9, top_k=2, num_words=5) == expected


def test_descriptors_of_other_types_and_an_autocast_of_the_caller():
    images = torch.randn(5, 30, 6, generator=torch.Generator().manual_seed(0)).half()
    expected = similar_images(images.float().__getitem__, 5, top_k=2, num_words=5)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert similar_images(images.__getitem__, 5, top_k=2, num_words=5) == expected


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", 0.5), ("device", "nowhere")])
def test_arguments_that_are_refused(name, value):
    with pytest.raises(ValueError, match=f"'{name}' must be"):
        similar_images(torch.randn(3, 9, 6).__getitem__, 3, top_k=1, num_words=2, **{name: value})


def test_seeds_may_be_large():
    images = torch.randn(5, 30, 6, generator=torch.Generator().manual_seed(0))
    assert similar_images(images.__getitem__, 5, top_k=2, num_words=5, seed=1 << 62)


def test_images_without_keypoints_are_chosen_last_and_choose_none():
    """Their vector is zero, which is nearer to most than those of other images are."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(30, 6, generator=generator) for _ in range(6)] + [torch.empty(0, 6)] * 2
    vectors = torch.stack([vlad(image, torch.randn(4, 6, generator=generator)) for image in images[:6]])
    assert float((vectors @ vectors.T).min()) < 0
    pairs = similar_images(images.__getitem__, 8, top_k=5, num_words=4)
    assert len(pairs) == 15 and max(map(max, pairs)) == 5
    assert similar_images(images.__getitem__, 8, top_k=7, num_words=4)[-1] == (5, 7)
