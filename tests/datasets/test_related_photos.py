"""Photos of the same scene, among others."""

import json
import shutil

import numpy as np
import pytest
from helpers import write_images

from pyg_match.datasets import PhotoPairs, SyntheticHomographies, related_photos
from pyg_match.datasets.related_photos import scenes
from pyg_match.features import SIFT
from pyg_match.training.data import split_photos

SIZE = (320, 220)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stereo pair, a photo and a part of it, and three photos of other things, one of them blank."""
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    folder = tmp_path_factory.mktemp("related")
    left, right, _ = data.stereo_motorcycle()
    cup = Image.fromarray(data.coffee()).crop((100, 20, 560, 380)).rotate(10)
    images = {"left": left, "deep/right": right, "coffee": data.coffee(), "cup": cup}
    images |= {"a cat": data.chelsea(), "rocket": data.rocket(), "blank": np.full((9, 9, 3), 90, np.uint8)}
    write_images(folder, images, SIZE)
    return folder


def named(pairs, folder):
    return {tuple(sorted(path.relative_to(folder).stem for path in pair)) for pair in pairs}


EXPECTED = {("left", "right"), ("coffee", "cup")}


def test_scenes_are_found_and_unrelated_photos_are_not(folder, tmp_path):
    found = related_photos(folder, SIFT(), top_k=3, cache=tmp_path, resize=640)
    assert named(found, folder) == EXPECTED and found == sorted(found)
    assert found == related_photos(sorted(folder.rglob("*.png")), SIFT(), top_k=3, resize=640)
    assert named(related_photos(folder, "aliked", top_k=2), folder) == EXPECTED
    dataset = PhotoPairs(found)
    assert all(int((pair.y >= 0).sum()) > 100 for pair in dataset)


def test_what_was_found_is_kept(folder, tmp_path, monkeypatch):
    found = related_photos(folder, SIFT(), top_k=2, cache=tmp_path)
    (file,) = tmp_path.glob("related-*.json")
    monkeypatch.setattr("pyg_match.retrieval.vlad", None)  # not looked for again
    assert related_photos(folder, SIFT(), top_k=2, cache=tmp_path) == found
    monkeypatch.undo()
    for broken in (b"[[0, 1", json.dumps([[0, 99]]).encode(), b"{}"):
        file.write_bytes(broken)
        assert related_photos(folder, SIFT(), top_k=2, cache=tmp_path) == found
        assert json.loads(file.read_bytes())
    assert related_photos(folder, SIFT(), top_k=1, cache=tmp_path)
    assert len(list(tmp_path.glob("related-*.json"))) == 2


def test_a_folder_without_anything_to_find(tmp_path, folder):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(folder / "blank.png", photos / "one.png")
    assert related_photos(photos, SIFT()) == []
    shutil.copy(folder / "blank.png", photos / "two.png")
    assert related_photos(photos, SIFT()) == []
    (photos / "three.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="1 of 3 photos cannot be read"):
        related_photos(photos, SIFT())
    with pytest.raises(ValueError, match="top_k"):
        related_photos(photos, SIFT(), top_k=0)


def test_a_scene_is_not_split_between_training_and_validation(folder):
    photos = sorted(folder.rglob("*.png"))
    pairs = [(photos[0], photos[3]), (photos[3], photos[5])]
    assert scenes(7, [(0, 3), (3, 5)]) == [[0, 3, 5], [1], [2], [4], [6]]
    for seed in range(20):
        train, valid = split_photos(photos, 0.45, seed, pairs)
        assert sorted(train + valid) == photos and len(valid) == 3
        assert {photos[0], photos[3], photos[5]} <= set(train) or set(valid) == {
            photos[0],
            photos[3],
            photos[5],
        }
    everything = list(zip(photos, photos[1:], strict=False))
    assert split_photos(photos, 0.3, 0, everything) == split_photos(photos, 0.3, 0)


def test_photos_of_a_scene_are_not_unrelated(folder):
    photos = sorted(folder.rglob("*.png"))[:3]
    kwargs = {"num_pairs": 12, "size": (160, 120), "max_num_keypoints": 8, "unrelated": 1.0}
    of_two = SyntheticHomographies(photos, SIFT(), scene_of={photos[0]: 0, photos[2]: 0}, **kwargs)
    for index in range(12):
        shown = {of_two.path(index), of_two.path(of_two._other(index))}
        assert photos[1] in shown and len(shown) == 2
    of_one = SyntheticHomographies(photos, SIFT(), scene_of=dict.fromkeys(photos, 0), **kwargs)
    assert of_one._other(0) is None and not of_one[0].homography.isnan().any()


def test_listed_photos_may_lie_outside_of_the_folder(folder, tmp_path):
    photos = sorted(folder.rglob("*.png"))
    assert split_photos(photos, 0.3, 0, [(photos[0], tmp_path / "other.png")]) == split_photos(photos, 0.3, 0)
