import os
from pathlib import Path

import pytest
import torch
from helpers import not_text

from pyg_match.data import KeypointSet
from pyg_match.datasets import FeatureCache
from pyg_match.datasets.shards import PairShards


class Extract:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> KeypointSet:
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        size = int(path.read_text())
        pos, x = torch.rand(size, 2, generator=generator), torch.rand(8, size, generator=generator).T
        return KeypointSet(pos=pos, x=x, image_size=(64, 48), resize=torch.tensor([[0.5, 0.25]]))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "1.png"
    path.write_text("5")
    return path


def equal(first: KeypointSet, second: KeypointSet) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first.keys())  # noqa: SIM118


def test_extracts_once(tmp_path, image):
    extract = Extract()
    cache = FeatureCache(tmp_path / "cache", extract, {"size": 480})
    first = cache(image)
    assert equal(first, cache(str(image)))
    assert equal(first, FeatureCache(tmp_path / "cache", extract, {"size": 480})(image))
    assert extract.calls == 1
    assert first.image_size.tolist() == [[64, 48]] and first.x.shape == (5, 8)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [cache.file(image).name]


def test_zero_keypoints(tmp_path, image):
    image.write_text("0")
    extract = Extract()
    cache = FeatureCache(tmp_path, extract, {})
    assert equal(cache(image), cache(image)) and extract.calls == 1
    assert cache(image).num_keypoints == 0


def test_settings_and_files_are_told_apart(tmp_path, image):
    extract = Extract()
    cache = FeatureCache(tmp_path, extract, {"size": 480})
    cache(image)
    FeatureCache(tmp_path, extract, {"size": 640})(image)
    assert extract.calls == 2
    other = tmp_path / "2.png"
    other.write_text("5")
    cache(other)
    assert extract.calls == 3
    os.utime(image, ns=(1, 1))
    cache(image)
    assert extract.calls == 4
    image.write_text("12")
    assert cache(image).num_keypoints == 12 and extract.calls == 5


@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_damaged_file_is_replaced(tmp_path, image, damage):
    extract = Extract()
    cache = FeatureCache(tmp_path, extract, {})
    cache(image)
    file = cache.file(image)
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"\x80" * 300}[damage])
    again = cache(image)
    assert extract.calls == 2
    assert equal(again, cache(image)) and extract.calls == 2


def test_failures_leave_nothing_behind(tmp_path, image):
    def fail(path: Path) -> KeypointSet:
        raise ValueError("not an image")

    cache = FeatureCache(tmp_path / "cache", fail, {})
    with pytest.raises(ValueError, match="not an image"):
        cache(image)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError):
        cache(tmp_path / "3.png")
    with pytest.raises(TypeError, match="JSON"):
        FeatureCache(tmp_path, fail, {"path": tmp_path})


def test_interrupted_write_leaves_nothing_behind(tmp_path, image, monkeypatch):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    cache = FeatureCache(tmp_path / "cache", Extract(), {})
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache(image)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_at_home(tmp_path, image, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = FeatureCache("~/cache", Extract(), {})
    cache(image)
    (tmp_path / "photo.png").write_bytes(Path(image).read_bytes())
    assert torch.equal(cache("~/photo.png").pos, cache(tmp_path / "photo.png").pos)
    cache.file("~/photo.png").unlink()
    assert PairShards("~/cache", {}, 1, 1).folder.parent == cache.folder == tmp_path / "cache"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_first_call_gives_what_all_others_give(tmp_path, image):
    def extract(path):
        return KeypointSet(pos=torch.rand(2, 2), camera="left")

    cache = FeatureCache(tmp_path / "cache", extract, {})
    first, second = cache(image), cache(image)
    assert set(first.keys()) == set(second.keys()) and "camera" not in first


@pytest.mark.parametrize(
    "name", [pytest.param(b"caf\xe9", marks=not_text), b"a" * 240, b"caf\xc3\xa9", b"a b"]
)
def test_names_of_images(name, tmp_path):
    extract, image = Extract(), tmp_path / f"{os.fsdecode(name)}.png"
    image.write_text("5")
    cache = FeatureCache(tmp_path / "cache", extract, {})
    assert equal(cache(image), cache(image)) and extract.calls == 1


@not_text
def test_folders_whose_files_cannot_be_read_are_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for make in (lambda: FeatureCache(folder, Extract(), {}), lambda: PairShards(folder / "sub", {}, 1, 1)):
        with pytest.raises(ValueError, match=r"cannot be read from .*, whose name is not UTF-8"):
            make()
