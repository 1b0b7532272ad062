import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from pyg_match import Matcher, MatchResult
from pyg_match.data import KeypointSet
from pyg_match.datasets import warped_pair
from pyg_match.features import extractor, load_image
from pyg_match.geometry import corner_error, warp_points
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges


@pytest.fixture(scope="module")
def pair():
    return warped_pair(load_image(data.astronaut()[:400, :400]), seed=2)


@pytest.fixture(scope="module")
def matcher():
    return Matcher.from_pretrained("aliked-lightglue", max_num_keypoints=300, resize=400)


@pytest.mark.parametrize("weights", ["aliked-lightglue", "disk-lightglue", "xfeat-lighterglue"])
@pytest.mark.parametrize("transform", [None, CandidateEdges(16)])
def test_finds_the_homography(pair, weights, transform):
    found = Matcher.from_pretrained(weights, max_num_keypoints=400, resize=400, transform=transform)
    result = found(pair.image0, pair.image1)
    assert len(result.matches) > 50
    distance = np.linalg.norm(
        warp_points(result.points0.numpy(), pair.homography.numpy()) - result.points1.numpy(), axis=1
    )
    # XFeat's keypoints are coarser than the others'.
    pixels, share, error = (5, 0.85, 4) if weights.startswith("xfeat") else (3, 0.9, 2)
    assert (distance < pixels).mean() > share
    for method in ("poselib", "opencv", "dlt"):
        homography, inliers = result.homography(method)
        assert corner_error(homography, pair.homography.numpy(), result.image_size0) < (
            10 if method == "dlt" else error
        )
        assert inliers.shape == (len(result.matches),)
    assert set(result.seconds) == {"extract", "graph", "match"}


def test_paths_arrays_and_tensors_agree(pair, matcher, tmp_path):
    arrays = [(image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for image in pair[:2]]
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    expected = matcher(*paths)
    for images in (
        arrays,
        [torch.from_numpy(a).permute(2, 0, 1) / 255 for a in arrays],
        [str(p) for p in paths],
    ):
        result = matcher(*images)
        assert torch.equal(result.matches, expected.matches)
        assert torch.allclose(result.keypoints0, expected.keypoints0, atol=1e-3)


def test_keypoints_are_pixels_of_the_original(pair):
    small = Matcher.from_pretrained("aliked-lightglue", max_num_keypoints=300, resize=300)
    result = small(pair.image0, pair.image1)
    assert result.image_size0 == (400, 400)
    assert result.keypoints0.max() > 320
    homography, _ = result.homography()
    assert corner_error(homography, pair.homography.numpy(), (400, 400)) < 3


def test_images_without_anything_in_common(matcher):
    result = matcher(data.brick(), data.grass())
    assert len(result.matches) < 15
    assert result.homography()[1].sum() < 8
    blank = np.zeros((200, 300, 3), np.uint8)
    for images in ((blank, blank), (data.brick(), blank), (blank, data.brick())):
        result = matcher(*images)
        assert result.matches.shape == (0, 2)
        assert result.scores.shape == (0,)
        assert result.homography()[0] is None
        assert result.fundamental()[0] is None


def test_save(pair, matcher, tmp_path):
    result = matcher(pair.image0, pair.image1)
    homography, inliers = result.homography()
    result.save(tmp_path / "m.npz", homography=homography, inliers=inliers)
    result.save(tmp_path / "m.json", homography=None)
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    assert np.array_equal(arrays["matches"], result.matches.numpy())
    assert np.array_equal(arrays["homography"], homography)
    loaded = json.loads((tmp_path / "m.json").read_text())
    assert "homography" not in loaded
    assert loaded["image_size0"] == [400, 400]
    assert np.allclose(loaded["keypoints1"], result.keypoints1)
    with pytest.raises(ValueError, match=r"saved as .npz or .json, got 'm.txt'"):
        result.save(tmp_path / "m.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.npz"]


def test_nothing_half_written_is_left(tmp_path):
    empty = torch.zeros(0, 2)
    result = MatchResult(empty, empty, empty.long(), torch.zeros(0), (1, 1), (1, 1))
    with pytest.raises(TypeError):
        result.save(tmp_path / "m.json", extra=object())
    assert list(tmp_path.iterdir()) == []


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="unknown matcher 'superglue', expected one of"):
        Matcher.from_pretrained("superglue")
    with pytest.raises(ValueError, match="width 64, but the matcher expects 128"):
        Matcher(extractor("xfeat"), GraphMatcher(num_layers=1))
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.jpg"):
        Matcher.from_pretrained("xfeat-lighterglue")(tmp_path / "text.jpg", tmp_path / "text.jpg")


def test_results_can_be_worked_with(pair, matcher):
    """They are ordinary tensors, which may be changed and used where there are gradients."""
    result = matcher(*pair[:2])
    result.keypoints0.mul_(2)
    weight = torch.ones_like(result.scores, requires_grad=True)
    (weight * result.scores).sum().backward()
    assert torch.equal(weight.grad, result.scores)


@pytest.mark.parametrize("batch_keypoints", [1, 900, 1 << 16])
@pytest.mark.parametrize("weights", ["aliked-lightglue", "aliked-sparse"])
def test_batches_of_pairs_equal_single_pairs(pair, weights, batch_keypoints):
    whole = Matcher.from_pretrained(weights, max_num_keypoints=200, resize=400)
    image = load_image(data.camera()[:300])
    blank = torch.zeros(3, 90, 120)
    pairs = [(pair.image0, pair.image1), (image, pair.image0), (blank, image), (pair.image1, pair.image1)]
    results = whole.match_batch(pairs, batch_keypoints=batch_keypoints)
    assert len(results) == 4 and whole.match_batch([]) == []
    results[0].seconds["geometry"] = 1.0  # as the command line adds its own
    assert all("geometry" not in result.seconds for result in results[1:])
    del results[0].seconds["geometry"]
    lazily = whole.match_batch(iter(pairs[:2]), batch_keypoints=batch_keypoints)
    assert [len(one.matches) for one in lazily] == [len(one.matches) for one in results[:2]]
    for (image0, image1), found in zip(pairs, results, strict=True):
        alone = whole(image0, image1)
        assert torch.equal(found.keypoints0, alone.keypoints0)
        assert (found.image_size0, found.image_size1) == (alone.image_size0, alone.image_size1)
        assert torch.equal(found.matches, alone.matches)
        assert torch.allclose(found.scores, alone.scores, atol=1e-4)
        assert found.seconds.keys() == {"extract", "graph", "match"}


def test_images_of_a_batch_are_read_once(pair, matcher, monkeypatch, tmp_path):
    seen, extract_batch = [], matcher.extractor.extract_batch
    monkeypatch.setattr(
        matcher.extractor,
        "extract_batch",
        lambda images, **kw: seen.extend(images) or extract_batch(images, **kw),
    )
    file = tmp_path / "a.png"
    Image.fromarray((pair.image0.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(file)
    matcher.match_batch([(file, pair.image1), (str(file), pair.image0), (pair.image1, file)])
    assert len(seen) == 3


def test_keypoints_found_before(pair, matcher):
    expected = matcher(pair.image0, pair.image1)
    set0, set1 = matcher.extractor.extract_batch([pair.image0, pair.image1], resize=400)
    names = set(set0.keys())
    for two in ((set0, set1), (set0, pair.image1), (pair.image0, set1)):
        found = matcher(*two)
        assert torch.equal(found.matches, expected.matches) and torch.equal(found.scores, expected.scores)
        assert found.image_size1 == expected.image_size1
    assert set(set0.keys()) == names
    bare = KeypointSet(pos=set0.pos, x=set0.x, image_size=set0.image_size)
    results = matcher.match_batch([(set0, set1), (bare, set1)])
    assert torch.equal(results[0].matches, results[1].matches)
    with pytest.raises(ValueError, match="need an 'image_size'"):
        matcher(KeypointSet(pos=set0.pos, x=set0.x), set1)


def test_batches_of_something_else_are_refused(pair, matcher):
    with pytest.raises(ValueError, match="expected pairs of two images each"):
        matcher.match_batch([pair.image0])
    with pytest.raises(ValueError, match="'batch_keypoints' must be a whole number"):
        matcher.match_batch([], batch_keypoints=0)


def test_names_of_weights_may_be_paths():
    for name in ("aliked-sparse", "aliked-lightglue"):
        matcher = Matcher.from_pretrained(Path(name), max_num_keypoints=16)
        assert matcher.matcher.config == Matcher.from_pretrained(name, max_num_keypoints=16).matcher.config
