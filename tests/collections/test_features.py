"""Reading and writing features in the layouts of hloc, COLMAP and plain arrays."""

import errno
import os
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import cv2
import h5py
import numpy as np
import pycolmap
import pytest
import torch
from helpers import has_locks, not_text
from hloc_files import COUNTS, imports_write, limit_files, write_hloc_features
from PIL import Image
from skimage import data

from pyg_match.collections import extract_features, open_features
from pyg_match.collections.exif import exif_orientation
from pyg_match.collections.file_lock import locked
from pyg_match.features import SIFT, extractor, load_image


def test_hloc_layout_is_read(features):
    with open_features(features) as opened, h5py.File(features) as plain:
        assert opened.names() == sorted(COUNTS)
        for name, count in COUNTS.items():
            keypoints = opened.read(name)
            assert opened.num_keypoints(name) == keypoints.num_keypoints == count
            assert np.array_equal(keypoints.pos, plain[name]["keypoints"])
            assert np.array_equal(keypoints.x, plain[name]["descriptors"][()].T)
            assert np.array_equal(keypoints.score, plain[name]["keypoint_scores"])
            assert keypoints.image_size.tolist() == [[640, 480]]
        aliases = ("./a.jpg", "/a.jpg", "left//0001.png", "left/./0001.png", "a.jpg/")
        for absent in ("left", "c.jpg", "", "/", ".", "a.jpg/keypoints", "a.jpg\0", "x" * 300, *aliases):
            assert opened.num_keypoints(absent) is None
            with pytest.raises(KeyError, match="no features of"):
                opened.read(absent)


def test_half_precision_and_names_of_sift_are_read(tmp_path):
    path = write_hloc_features(tmp_path / "f.h5", {"a.jpg": 5}, dtype=np.float16)
    with h5py.File(path, "a") as file:
        file["a.jpg"].move("keypoint_scores", "scores")
        file["a.jpg"]["scales"] = np.arange(1, 6, dtype=np.float16)
        file["a.jpg"]["oris"] = np.linspace(0, 3, 5).astype(np.float16)
    with open_features(path) as opened:
        keypoints = opened.read("a.jpg")
    assert keypoints.pos.dtype == keypoints.x.dtype == torch.float
    assert keypoints.scale.tolist() == [2, 4, 6, 8, 10] and {"score", "orientation"} <= set(keypoints.keys())


def test_angles_are_in_degrees_as_hloc_has_them(tmp_path):
    """Those of COLMAP are radians; hloc writes them in degrees, from -180 to 180."""
    degrees = np.array([-180, -90, 0, 45, 180], np.float16)
    path = write_hloc_features(tmp_path / "f.h5", {"a.jpg": 5})
    with h5py.File(path, "a") as file:
        file["a.jpg"]["oris"] = degrees
        arrays = {key: item[()] for key, item in file["a.jpg"].items()}
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "folder/a.jpg.npz", **arrays)
    for source in (path, tmp_path / "folder"):
        with open_features(source) as opened:
            assert np.allclose(opened.read("a.jpg").orientation, np.deg2rad(degrees.astype(np.float32)))
    with h5py.File(path, "a") as file:  # as version 0.2.0 of this package wrote it
        file.attrs["pyg_match"] = '{"version": "0.2.0"}'
        file["a.jpg"]["oris"][...] = np.array([-3, -1, 0, 1, 3])
    with open_features(path) as opened:
        assert np.allclose(opened.read("a.jpg").orientation, [-3, -1, 0, 1, 3], atol=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos(orientation, tmp_path):
    """The file has positions and angles of the photo as it lies there; the matcher sees the upright one."""
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(data.camera()[100:200, 150:270]).save(tmp_path / "photos/a.png", exif=exif)
    Image.fromarray(data.camera()[100:200, 150:270]).save(tmp_path / "plain.png")
    extract_features(tmp_path / "photos", tmp_path / "f.h5", SIFT(60), resize=None)
    expected = SIFT(60).extract(tmp_path / "photos/a.png", resize=None)
    with open_features(tmp_path / "f.h5") as opened:
        upright = opened.read("a.png")
        assert opened.orientation("a.png") == orientation
    assert torch.allclose(upright.pos, expected.pos, atol=1e-4)
    assert upright.image_size.tolist() == expected.image_size.tolist()
    turn = (upright.orientation - expected.orientation).sin()  # half precision of degrees
    assert turn.abs().max() < 3e-3 and (upright.orientation - expected.orientation).cos().min() > 0.99
    with h5py.File(tmp_path / "f.h5") as file:
        group = {key: item[()] for key, item in file["a.png"].items()}
    assert group["image_size"].tolist() == [120, 100]
    # In the file they are where the detector finds them in the file, whose angles turn with it.
    plain = SIFT(None).extract(tmp_path / "plain.png", resize=None)
    distance = torch.cdist(torch.from_numpy(group["keypoints"]), plain.pos)
    angle = torch.from_numpy(np.deg2rad(group["oris"].astype(np.float32)))[:, None] - plain.orientation
    near = (distance < 0.5) & (angle.cos() > 0.95)
    assert near.any(dim=1).float().mean() > 0.8


def test_orientations_that_are_none(features):
    with h5py.File(features, "a") as file:
        file["a.jpg"]["keypoints"].attrs["orientation"] = 9
    with (
        open_features(features) as opened,
        pytest.raises(ValueError, match=r"'a.jpg' in .*'orientation' must be from 1 to 8, got .*9"),
    ):
        opened.read("a.jpg")


def test_files_without_pixels_that_pillow_knows_lie_as_they_are(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\x00")
    assert exif_orientation(tmp_path / "a.tif") == 1


@not_text
def test_names_that_are_no_text_and_photos_that_are_too_large(photos, tmp_path, monkeypatch):
    name = os.fsdecode(b"left/\xff.png")
    (photos / "a.png").rename(photos / name)
    (photos / "left/b c.png").rename(photos / "b.png")
    Image.fromarray(data.coffee()[:60, :120]).save(photos / "huge.png")
    detect = SIFT.detect

    def too_large(self, image):
        if image.size(1) == 80:
            raise failures[0]
        return detect(self, image)

    monkeypatch.setattr(SIFT, "detect", too_large)
    for failure in (
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        cv2.error("insufficient memory"),
    ):
        failures = [failure]
        target = tmp_path / f"{type(failure).__name__}.h5"
        summary = extract_features(photos, target, SIFT(50), resize=160)
        assert summary.num_images == 1 and list(summary.failed) == [
            "left/\ufffd.png",
            "broken.jpg",
            "huge.png",
        ]
        assert "memory" in summary.failed["huge.png"] and "not UTF-8" in summary.failed["left/\ufffd.png"]
        with open_features(target) as opened:
            assert opened.names() == ["b.png"]


@has_locks
def test_two_extractions_to_one_file(photos, tmp_path):
    """The second is refused while the first is at it, and does nothing to its parts."""
    target, refused = tmp_path / "f.h5", []

    class Slow(SIFT):
        def detect(self, image):
            if not refused:
                with pytest.raises(
                    ValueError, match=r"another process extracts features to .*f\.h5; wait"
                ) as info:
                    extract_features(photos, target, SIFT(50), resize=160)
                refused.append(info)
            return super().detect(image)

    assert extract_features(photos, target, Slow(50), resize=160).num_images == 2
    assert refused and not (tmp_path / "f.h5.parts").exists()


@has_locks
def test_locks_where_the_file_system_has_none(tmp_path, monkeypatch):
    file = tmp_path / "lock"
    with locked(file) as held:
        assert not held
    file.touch()
    for number, outcome in ((errno.ENOLCK, True), (errno.ENOSYS, True), (errno.EIO, None)):

        def flock(*_, number=number):
            raise OSError(number, "no lock")

        monkeypatch.setattr("fcntl.flock", flock)
        if outcome is None:
            with pytest.raises(OSError, match="no lock"), locked(file):
                pass
        else:
            with locked(file) as held:
                assert held
    monkeypatch.undo()
    with locked(file) as held, locked(file, wait=False) as other:
        assert held and not other
    with locked(file) as held:
        assert held
        file.unlink()


def test_an_image_inside_the_group_of_another(tmp_path):
    path = write_hloc_features(tmp_path / "f.h5", {"a": 3, "a/b": 4})
    with open_features(path) as opened:
        assert opened.names() == ["a", "a/b"]
        assert [opened.read(name).num_keypoints for name in opened.names()] == [3, 4]


def test_damaged_features_are_refused(features, tmp_path):
    whole = features.read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5 is not a whole HDF5 file"):
        open_features(cut)
    (tmp_path / "text.h5").write_text("keypoints")
    with pytest.raises(ValueError, match="begins with b'keypoints', expected an HDF5 file"):
        open_features(tmp_path / "text.h5")
    with pytest.raises(FileNotFoundError, match=r"no features at .*absent\.h5"):
        open_features(tmp_path / "absent.h5")
    with h5py.File(features, "a") as file:
        del file["a.jpg"]["image_size"]
        file["b.jpg"]["keypoints"][3, 1] = np.nan
        del file["one.jpg"]["descriptors"]
        file["one.jpg"]["descriptors"] = np.zeros((16, 2), np.float32)
    with open_features(features) as opened:
        with pytest.raises(
            ValueError, match=r"'a.jpg' in .*: it lacks 'image_size', got descriptors, keypoint_scores"
        ):
            opened.read("a.jpg")
        with pytest.raises(ValueError, match=r"'b.jpg' in .* NaN"):
            opened.read("b.jpg")
        with pytest.raises(ValueError, match=r"'one.jpg' in "):
            opened.read("one.jpg")


def test_damage_that_a_thread_meets_locks_no_other_out(tmp_path):
    """An error that is kept keeps the frames of its thread, and with them what these hold."""
    path = write_hloc_features(tmp_path / "f.h5", {"a.jpg": 5})
    with h5py.File(path, "a") as file:
        values = file["a.jpg/descriptors"][()]
        del file["a.jpg/descriptors"]
        stored = file["a.jpg"].create_dataset(
            "descriptors", data=values, chunks=values.shape, compression="gzip"
        )
        start = stored.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 32)
    opened = open_features(path)
    with ThreadPoolExecutor(1) as pool:
        kept = pool.submit(opened.read, "a.jpg").exception()
    assert isinstance(kept, ValueError) and "the features of 'a.jpg'" in str(kept)
    closing = threading.Thread(target=opened.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


@pytest.mark.parametrize("value", [np.float32(3), h5py.Empty("f4")])
def test_keypoints_without_rows_are_refused(value, features):
    with h5py.File(features, "a") as file:
        del file["a.jpg/keypoints"]
        file["a.jpg"].create_dataset("keypoints", data=value)
    with (
        open_features(features) as opened,
        pytest.raises(ValueError, match=r"'a.jpg' in .* \[N, 2\], got \[\]"),
    ):
        opened.num_keypoints("a.jpg")


def test_arrays_that_no_memory_holds_are_named(features):
    with h5py.File(features, "a") as file:
        del file["a.jpg/descriptors"]
        file["a.jpg"].create_dataset("descriptors", (16, 1 << 50), np.float32, chunks=(16, 64))
    with (
        open_features(features) as opened,
        pytest.raises(ValueError, match=r"'a.jpg' in .* Unable to allocate"),
    ):
        opened.read("a.jpg")


@pytest.mark.parametrize("text", [5, "[1]", '"text"', "{", "[" * 100_000, [1, 2]])
def test_settings_that_are_none_are_refused(text, features):
    with h5py.File(features, "a") as file:
        file.attrs["pyg_match"] = text
    with (
        open_features(features) as opened,
        pytest.raises(ValueError, match=r"features.h5 is damaged: its attr"),
    ):
        opened.settings()


def test_names_lead_out_of_no_folder(tmp_path):
    """Those of a list of pairs that somebody else wrote, and of files that are named like folders."""
    arrays = {"keypoints": np.zeros((3, 2)), "descriptors": np.ones((3, 8)), "image_size": np.array([64, 48])}
    (tmp_path / "f/left").mkdir(parents=True)
    for file in ("f/left/a.jpg", "f/.", "f/..", "secret"):
        np.savez(tmp_path / f"{file}.npz", **arrays)
    np.savez(tmp_path / "f/scalar.npz", keypoints=np.float32(3))
    with open_features(tmp_path / "f") as opened:
        assert opened.names() == ["left/a.jpg", "scalar"]
        outside = ["../secret", str(tmp_path / "secret"), "left/../../secret", ".", ".."]
        for name in (*outside, "./left/a.jpg", "left/../left/a.jpg", "left//a.jpg", "", "x" * 300, "a\0b"):
            assert opened.num_keypoints(name) is None
            with pytest.raises(KeyError, match="no features of"):
                opened.read(name)
        with pytest.raises(
            ValueError, match=r"'keypoints' in .*scalar.npz must have shape \[N, 2\], got \[\]"
        ):
            opened.num_keypoints("scalar")


def test_arrays_in_a_folder(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "f/left").mkdir(parents=True)
    arrays = {
        "keypoints": generator.random((7, 2)) * 100,
        "descriptors": generator.random((7, 16)),
        "scores": generator.random(7),
        "image_size": np.array([100, 80]),
    }
    np.savez(tmp_path / "f/left/a.jpg.npz", **arrays)
    np.savez(tmp_path / "f/b.jpg.npz", **{**arrays, "descriptors": arrays["descriptors"].T})
    with open_features(tmp_path / "f") as opened:
        assert opened.names() == ["b.jpg", "left/a.jpg"] and opened.num_keypoints("left/a.jpg") == 7
        assert opened.num_keypoints("a.jpg") is None
        one, other = opened.read("left/a.jpg"), opened.read("b.jpg")
        assert torch.equal(one.x, other.x) and torch.equal(
            one.score, torch.from_numpy(arrays["scores"]).float()
        )
        before = opened.digest()
        (tmp_path / "f/b.jpg.npz").write_bytes(b"PK")
        assert opened.digest() != before
        square = np.eye(7) + 0.1
        by_keypoint = square / np.linalg.norm(square, axis=1, keepdims=True)
        by_keypoint[0] = by_keypoint[1]  # columns are not of length 1
        for name, descriptors in (("rows", by_keypoint), ("columns", by_keypoint.T), ("either", np.eye(7))):
            np.savez(tmp_path / f"f/{name}.npz", **{**arrays, "descriptors": descriptors})
        for name in ("rows", "columns"):
            assert torch.equal(opened.read(name).x, torch.from_numpy(by_keypoint).float())
        with pytest.raises(
            ValueError, match=r"'either' in .* do not tell whether they are in rows or columns"
        ):
            opened.read("either")
        with pytest.raises(ValueError, match=r"b\.jpg\.npz is not a readable \.npz file"):
            opened.num_keypoints("b.jpg")


def write_sift_database(path, folder):
    pycolmap.extract_features(path, folder, device=pycolmap.Device.cpu)
    return path


def test_sift_in_a_colmap_database(tmp_path):
    photo = data.camera()[::2, ::2]
    Image.fromarray(photo).save(tmp_path / "camera.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "camera.png").rename(tmp_path / "images/camera.png")
    path = write_sift_database(tmp_path / "colmap.db", tmp_path / "images")
    with open_features(path) as opened:
        assert opened.names() == ["camera.png"] and opened.num_keypoints("absent.png") is None
        keypoints = opened.read("camera.png")
        digest = opened.digest()
    with open_features(path) as opened:  # whose bytes COLMAP changes
        assert opened.digest() == digest
    assert keypoints.num_keypoints > 100 and keypoints.image_size.tolist() == [[256, 256]]
    assert torch.allclose(keypoints.x.norm(dim=1), torch.ones(len(keypoints.x)))
    # OpenCV's detector, whose pixels count from the centre of the first one, finds the same places.
    ours = SIFT(max_num_keypoints=None).extract(photo, resize=None)
    nearest = torch.cdist(keypoints.pos, ours.pos).min(dim=1)
    close = nearest.values < 0.5
    assert close.float().mean() > 0.4
    offset = (keypoints.pos - ours.pos[nearest.indices])[close].median(dim=0).values
    assert offset.abs().max() < 0.1
    similarity = (
        keypoints.x * (ours.x.abs() / ours.x.abs().sum(1, keepdim=True)).sqrt()[nearest.indices]
    ).sum(1)
    assert similarity[close].median() > 0.8


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "left").mkdir(parents=True)
    Image.fromarray(data.astronaut()[:200, :240]).save(folder / "a.png")
    Image.fromarray(data.camera()[100:200, 150:270]).save(folder / "left/b c.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    return folder


def test_extracted_features_have_hlocs_layout(photos, tmp_path):
    summary = extract_features(photos, tmp_path / "f.h5", extractor("sift", 50), resize=160)
    assert (summary.num_images, summary.extracted) == (2, 2) and list(summary.failed) == ["broken.jpg"]
    assert not (tmp_path / "f.h5.parts").exists()
    with h5py.File(tmp_path / "f.h5") as file:
        group = file["left/b c.png"]
        kinds = {key: (item.dtype.str[1:], item.shape) for key, item in group.items()}
        count = len(group["keypoints"])
        assert 10 < count <= 50
        assert kinds == {
            "keypoints": ("f4", (count, 2)),
            "descriptors": ("f2", (128, count)),
            "scores": ("f2", (count,)),
            "scales": ("f2", (count,)),
            "oris": ("f2", (count,)),
            "image_size": ("i8", (2,)),
        }
        assert group["image_size"][()].tolist() == [120, 100]
        assert group["keypoints"].attrs["uncertainty"] == 120 / 160
    expected = extractor("sift", 50).extract(photos / "left/b c.png", resize=160)
    with open_features(tmp_path / "f.h5") as opened:
        assert torch.equal(opened.read("left/b c.png").pos, expected.pos)
        # A diameter here, half of it in the file.
        torch.testing.assert_close(opened.read("left/b c.png").scale, expected.scale, rtol=1e-3, atol=0)
    with h5py.File(tmp_path / "f.h5") as file:
        stored = torch.from_numpy(file["left/b c.png"]["scales"][()].astype(np.float32))
    torch.testing.assert_close(2 * stored, expected.scale, rtol=1e-3, atol=0)
    extract_features(photos, tmp_path / "half.h5", extractor("aliked", 20), half=True)
    with h5py.File(tmp_path / "half.h5") as file:
        assert file["a.png"]["keypoints"].dtype == np.float16
        assert set(file["a.png"]) == {"keypoints", "descriptors", "keypoint_scores", "image_size"}


def test_extraction_goes_on_where_it_was_interrupted(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_match.collections.extraction._PART", 1)
    target = tmp_path / "f.h5"

    seen, detect = [], SIFT.detect

    def interrupted(self, image):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return detect(self, image)

    monkeypatch.setattr(SIFT, "detect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(photos, target, SIFT(50), resize=160)
    monkeypatch.setattr(SIFT, "detect", detect)
    assert not target.exists() and len(list((tmp_path / "f.h5.parts").glob("*.h5"))) == 1
    summary = extract_features(photos, target, SIFT(50), resize=160)
    assert (summary.num_images, summary.extracted) == (2, 1)
    # A new photo is added, the others stay as they are.
    with h5py.File(target) as file:
        before = file["a.png"]["descriptors"][()]
    Image.fromarray(data.coffee()[:100, :120]).save(photos / "new.png")
    summary = extract_features(photos, target, SIFT(50), resize=160)
    assert (summary.num_images, summary.extracted) == (3, 1)
    with h5py.File(target) as file:
        assert np.array_equal(file["a.png"]["descriptors"], before)
        assert file["a.png"]["keypoints"].attrs["uncertainty"] == 240 / 160
    assert extract_features(photos, target, SIFT(50), resize=160).extracted == 0
    with pytest.raises(ValueError, match=r"f\.h5 was made with resize=160, now it is 200; delete it"):
        extract_features(photos, target, SIFT(50), resize=200)
    with pytest.raises(ValueError, match=r"f\.h5 was made with extractor='SIFT.*, now it is 'SIFT"):
        extract_features(photos, target, SIFT(50, detection_threshold=0.05), resize=160)
    # A run that ended between the last step and the one before.
    parts = tmp_path / "f.h5.parts"
    parts.mkdir()
    (parts / "00000000-1.h5").write_bytes(target.read_bytes())
    assert extract_features(photos, target, SIFT(50), resize=160).num_images == 3
    assert not parts.exists()


def test_foreign_files_and_folders_without_photos_are_refused(photos, features, tmp_path):
    before = features.read_bytes()
    with pytest.raises(ValueError, match="was not written by this command"):
        extract_features(photos, features, SIFT(50))
    assert features.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="no folder"):
        extract_features(photos, tmp_path / "absent/f.h5", SIFT(50))
    for name in ("a.png", "left/b c.png"):
        (photos / name).unlink()
    with pytest.raises(ValueError, match=r"none of the 1 images can be used; 'broken\.jpg'"):
        extract_features(photos, tmp_path / "f.h5", SIFT(50))
    assert not (tmp_path / "f.h5").exists()


def test_pixels_of_large_photos_keep_their_fractions(tmp_path):
    photo = np.asarray(Image.fromarray(data.astronaut()).resize((2400, 1600)))
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/a.png")
    extract_features(tmp_path / "photos", tmp_path / "f.h5", SIFT(100), resize=640)
    expected = SIFT(100).extract(tmp_path / "photos/a.png", resize=640)
    with open_features(tmp_path / "f.h5") as opened:
        assert torch.equal(opened.read("a.png").pos, expected.pos)
    assert load_image(tmp_path / "photos/a.png").shape == (3, 1600, 2400)


@pytest.mark.parametrize(
    "size", [*(pytest.param(size, marks=imports_write) for size in (0, 2_000)), 20_000, 50_000]
)
def test_nothing_is_lost_on_a_full_disk(size, photos, tmp_path):
    """HDF5 itself would end the process; a call with room goes on."""
    target = tmp_path / "f.h5"
    command = [
        sys.executable,
        "-c",
        "from pyg_match.cli import main; main()",
        "extract",
        photos,
        "-o",
        target,
    ]
    process = subprocess.run(
        [*map(str, command), "--detector", "sift", "--resize", "160", "--device", "cpu"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: limit_files(size),
        check=False,
    )
    assert process.returncode == 1 and "(File too large); there is none from before" in process.stderr
    assert not target.exists() and not list(tmp_path.rglob("*.tmp"))
    assert extract_features(photos, target, SIFT(2048), resize=160).num_images == 2


def test_two_extractions_where_the_file_system_has_no_locks(photos, tmp_path, monkeypatch):
    """Both do all of the work, and neither takes the folder from the other."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(
        "pyg_match.collections.file_lock.fcntl", types.SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4)
    )
    target, others = tmp_path / "f.h5", []

    class Slow(SIFT):
        def detect(self, image):
            if not others:
                others.append(extract_features(photos, target, SIFT(50), resize=160))
                target.unlink()
            return super().detect(image)

    summary = extract_features(photos, target, Slow(50), resize=160)
    assert summary.num_images == others[0].num_images == 2 and not (tmp_path / "f.h5.parts").exists()
