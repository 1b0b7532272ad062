"""Folders that leave a choice, and caches that are not what was written."""

import os
import random

import pytest
import torch
from PIL import Image

from pyg_match.data import KeypointSet
from pyg_match.datasets import FeatureCache, HPatches
from pyg_match.datasets.photo_pairs import read_pairs
from pyg_match.datasets.sources import find_images

IDENTITY = "1 0 0\n0 1 0\n0 0 1\n"


@pytest.fixture
def sequence(tmp_path):
    folder = tmp_path / "v_one"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    (folder / "H_1_2").write_text(IDENTITY)
    assert len(HPatches(folder)) == 1
    return folder


def test_two_images_of_one_number(sequence):
    Image.new("RGB", (9, 9)).save(sequence / "02.png")
    with pytest.raises(ValueError, match=r"image 2 exists more than once in .*, as 02\.png and 2\.png"):
        HPatches(sequence)


def test_two_homographies_of_one_number(sequence):
    (sequence / "H_1_02").write_text(IDENTITY)
    with pytest.raises(
        ValueError, match=r"homography H_1 2 exists more than once in .*, as H_1_02 and H_1_2"
    ):
        HPatches(sequence)


def test_a_folder_is_no_image(sequence):
    (sequence / "3.png").mkdir()
    (sequence / "H_1_4").mkdir()
    assert [pair.k for pair in HPatches(sequence)] == [2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_pipes_are_no_photos(tmp_path):
    """Whoever opens one waits until somebody writes to it."""
    (tmp_path / "a.png").touch()
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    (tmp_path / "d.png").symlink_to(tmp_path / "absent.png")
    assert find_images(tmp_path)[1] == ["a.png", "d.png"]


def test_a_photo_and_itself(tmp_path):
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.txt").write_text("a.png b.png\nb.png ./b.png\n")
    with pytest.raises(ValueError, match=r"line 2 of .*pairs\.txt' pairs b\.png with itself"):
        read_pairs(tmp_path / "pairs.txt")


def test_single_bits_of_cached_features(tmp_path):
    image = tmp_path / "1.png"
    image.write_bytes(b"the image")
    expected, calls = torch.rand(20, 2), []

    def extract(path):
        calls.append(path)
        return KeypointSet(pos=expected.clone(), x=torch.ones(20, 3))

    cache, generator = FeatureCache(tmp_path / "cache", extract, {}), random.Random(0)
    cache(image)
    file = cache.file(image)
    content = file.read_bytes()
    for _ in range(120):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        found = cache(image)
        assert torch.equal(found.pos, expected) and bool((found.x == 1).all())
    assert len(calls) > 100


def test_cached_features_without_positions_or_digest(tmp_path):
    from safetensors.torch import save_file

    image = tmp_path / "1.png"
    image.write_bytes(b"the image")
    cache = FeatureCache(
        tmp_path / "cache", lambda path: KeypointSet(pos=torch.ones(2, 2), x=torch.ones(2, 3)), {}
    )
    cache(image)
    for tensors in ({"x": torch.zeros(2, 3)}, {"pos": torch.zeros(2, 2), "x": torch.zeros(2, 3)}):
        save_file(tensors, cache.file(image))
        assert bool((cache(image).pos == 1).all())


def test_a_cache_removes_what_a_killed_writer_left(tmp_path):
    from pyg_match import files

    left = tmp_path / f"1.safetensors.{files._HOST}.999999999.tmp"
    left.write_text("half of the features")
    FeatureCache(tmp_path, lambda path: KeypointSet(), {})
    assert not left.exists()
