"""COLMAP databases, read back with COLMAP."""

import itertools

import h5py
import numpy as np
import pycolmap
import pytest
from hloc_files import COUNTS, write_hloc_features
from PIL import Image, ImageOps

from pyg_match.collections import (
    HlocMatches,
    ShardFolder,
    exhaustive_pairs,
    match_pairs,
    open_features,
    write_pairs,
)
from pyg_match.collections.colmap_database import write_colmap


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in COUNTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((480, 640), np.uint8)).save(folder / name)
    return folder


def read_database(path):
    with pycolmap.Database.open(path) as database:
        images = {image.name: image for image in database.read_all_images()}
        keypoints = {name: database.read_keypoints(image.image_id) for name, image in images.items()}
        matches = {
            (a, b): database.read_matches(images[a].image_id, images[b].image_id)
            for a in images
            for b in images
            if a != b and database.exists_matches(images[a].image_id, images[b].image_id)
        }
        cameras = {name: database.read_camera(image.camera_id) for name, image in images.items()}
        return images, keypoints, matches, cameras


def test_a_database_holds_what_the_files_hold(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    summary = write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images, camera_mode="single")
    assert (summary.num_images, summary.num_pairs, summary.present, summary.missing) == (7, 21, 0, [])
    stored, keypoints, matches, cameras = read_database(tmp_path / "c.db")
    assert set(stored) == set(COUNTS) and len({camera.camera_id for camera in cameras.values()}) == 1
    with open_features(features) as opened:
        for name in COUNTS:
            # The centre of the first pixel is (0.5, 0.5) in COLMAP.
            assert np.allclose(keypoints[name], opened.read(name).pos.numpy() + 0.5)
    with HlocMatches(tmp_path / "m.h5") as file:
        for a, b in exhaustive_pairs(sorted(COUNTS)):
            expected = file.find(a, b)[0]
            assert np.array_equal(matches.get((a, b), np.empty((0, 2))), expected)
            assert np.array_equal(matches.get((b, a), np.empty((0, 2))), expected[:, ::-1])
    # The same call goes on where it was.
    again = write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images, camera_mode="single")
    assert (again.num_pairs, again.present) == (0, 21)


def test_shards_and_chosen_pairs(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights, block=2, keep_shards=True)
    shards = tmp_path / "m.h5.shards"
    summary = write_colmap(features, shards, tmp_path / "shards.db", images, verify=False)
    assert (summary.num_pairs, summary.verified) == (21, 0)
    match_pairs(features, pairs, tmp_path / "m.h5", weights, block=2)
    summary = write_colmap(features, tmp_path / "m.h5", tmp_path / "file.db", images, verify=False)
    one, other = (read_database(tmp_path / name)[2] for name in ("shards.db", "file.db"))
    assert set(one) == set(other) and all(np.array_equal(one[pair], other[pair]) for pair in one)
    few = tmp_path / "few.txt"
    few.write_text("b.jpg a.jpg\nleft/0001.png right/0001.png\na.jpg gone.jpg\n")
    summary = write_colmap(features, tmp_path / "m.h5", tmp_path / "few.db", images, pairs=few)
    assert (summary.num_images, summary.num_pairs, summary.missing) == (4, 2, [("a.jpg", "gone.jpg")])
    assert {frozenset(pair) for pair in read_database(tmp_path / "few.db")[2]} == {
        frozenset(("a.jpg", "b.jpg")),
        frozenset(("left/0001.png", "right/0001.png")),
    }


def test_two_views_are_verified(tmp_path):
    """Points of two known cameras: the matches of those are inliers, the others are not."""
    generator = np.random.default_rng(0)
    points = generator.uniform([-2, -2, 4], [2, 2, 8], (200, 3))
    focal, middle = 1.2 * 640, np.array([319.5, 239.5])
    views = [points, points @ np.array([[0.98, 0, -0.199], [0, 1, 0], [0.199, 0, 0.98]]).T + [0.7, 0, 0.1]]
    pixels = [view[:, :2] / view[:, 2:] * focal + middle for view in views]
    seen = np.all([(p > 0).all(1) & (p < [639, 479]).all(1) for p in pixels], axis=0)
    count = int(seen.sum())
    wrong = 10
    (tmp_path / "images").mkdir()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, position in zip(("a.png", "b.png"), pixels, strict=True):
            Image.fromarray(np.zeros((480, 640), np.uint8)).save(tmp_path / "images" / name)
            group = file.create_group(name)
            group["keypoints"] = position[seen].astype(np.float32)
            group["descriptors"] = np.ones((4, count), np.float32)
            group["image_size"] = [640, 480]
    matches0 = np.arange(count, dtype=np.int16)
    matches0[:wrong] = np.roll(matches0[:wrong], 1)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a.png/b.png/matches0"] = matches0
        file["a.png/b.png/matching_scores0"] = np.ones(count, np.float16)
    summary = write_colmap(
        tmp_path / "f.h5",
        tmp_path / "m.h5",
        tmp_path / "c.db",
        tmp_path / "images",
        max_error=1.0,
        camera_mode="single",
    )
    assert (summary.num_pairs, summary.verified) == (1, 1)
    with pycolmap.Database.open(tmp_path / "c.db") as database:
        ids = [database.read_image_with_name(name).image_id for name in ("a.png", "b.png")]
        geometry = database.read_two_view_geometry(*ids)
    assert geometry.config == pycolmap.TwoViewGeometryConfiguration.CALIBRATED.value or geometry.config in (
        pycolmap.TwoViewGeometryConfiguration.CALIBRATED,
        pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED,
    )
    inliers = {tuple(match) for match in geometry.inlier_matches.tolist()}
    right = {(i, i) for i in range(wrong, count)}
    assert right <= inliers and len(inliers - right) <= 3


def test_what_does_not_fit_is_refused(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    arguments = (features, tmp_path / "m.h5", tmp_path / "c.db", images)
    with pytest.raises(ValueError, match="'camera_mode' must be 'auto', 'single'"):
        write_colmap(*arguments, camera_mode="one")
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        write_colmap(*arguments[:3], tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no shards"):
        write_colmap(features, images, *arguments[2:])
    with pytest.raises(ValueError, match="chooses from a file of matches, got the folder"):
        write_colmap(features, images, *arguments[2:], pairs=pairs)
    Image.fromarray(np.zeros((640, 480), np.uint8)).save(images / "b.jpg")
    with pytest.raises(ValueError, match=r"'b.jpg' has 480 x 640 pixels as COLMAP reads it, .* of 640 x 480"):
        write_colmap(*arguments)
    assert not list(tmp_path.glob("c.db*"))
    with pytest.raises(
        ValueError, match=r"COLMAP left out \d of 7 images, .* must have one size; use 'auto'"
    ):
        write_colmap(*arguments, camera_mode="single")
    assert not list(tmp_path.glob("c.db*"))
    (images / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image 'b.jpg' in .* \(1 of 7 are missing\)"):
        write_colmap(*arguments)
    with h5py.File(features, "a") as file, h5py.File(tmp_path / "m.h5", "a") as matches:
        file.copy("a.jpg", "x" * 300)
        matches.copy("a.jpg/one.jpg", f"{'x' * 300}/one.jpg")
        matches.attrs["pyg_match"] = "{}"
    with pytest.raises(FileNotFoundError, match=r"no image 'b.jpg' in .* \(2 of 8 are missing\)"):
        write_colmap(*arguments)


def test_names_that_matches_do_not_tell_apart(tmp_path, images):
    features = write_hloc_features(tmp_path / "f.h5", {"left/0001.png": 3, "left-0001.png": 3, "a.jpg": 3})
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["left-0001.png/a.jpg/matches0"] = np.array([0, 1, 2], np.int16)
    with pytest.raises(
        ValueError, match=r"'left-0001.png' and 'left/0001.png' share a name in .* give a list"
    ):
        write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images)
    write_pairs(tmp_path / "pairs.txt", [("left/0001.png", "a.jpg")])
    summary = write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images, tmp_path / "pairs.txt")
    assert summary.num_pairs == 1


def test_other_features_than_those_that_were_matched_are_refused(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images)
    other = write_hloc_features(tmp_path / "other.h5", {name: count // 2 for name, count in COUNTS.items()})
    with pytest.raises(
        ValueError, match=r"matches in .*m\.h5 were made of other features than those in .*other\.h5"
    ):
        write_colmap(other, tmp_path / "m.h5", tmp_path / "d.db", images)
    with h5py.File(tmp_path / "m.h5", "a") as file:  # as hloc writes it, which does not tell
        del file.attrs["pyg_match"]
    with pytest.raises(
        ValueError, match=r"the matches of .* name keypoint \d+ of .*, which has \d+ in .*other\.h5"
    ):
        write_colmap(other, tmp_path / "m.h5", tmp_path / "d.db", images, verify=False)
    with pytest.raises(ValueError, match=r"the database has other keypoints of 'a.jpg' than .*other\.h5"):
        write_colmap(other, tmp_path / "m.h5", tmp_path / "c.db", images)
    assert len(read_database(tmp_path / "c.db")[1]["a.jpg"]) == COUNTS["a.jpg"]


def test_pairs_that_are_listed_twice_are_written_once(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    few = tmp_path / "few.txt"
    few.write_text("a.jpg b.jpg\nb.jpg a.jpg\na.jpg b.jpg\n")
    assert write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images, pairs=few).num_pairs == 1


def test_other_matches_than_those_of_the_database_are_refused(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    match_pairs(features, pairs, tmp_path / "n.h5", weights, filter_threshold=0.5)
    few, turned = tmp_path / "few.txt", tmp_path / "turned.txt"
    few.write_text("a.jpg b.jpg\n")
    turned.write_text("b.jpg a.jpg\n")
    write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images, few)
    summary = write_colmap(features, tmp_path / "m.h5", tmp_path / "c.db", images, turned)
    assert (summary.num_pairs, summary.present) == (0, 1)
    before = read_database(tmp_path / "c.db")[2]
    for verify in (True, False):
        with pytest.raises(
            ValueError, match=r"the database has other matches of 'a.jpg' and 'b.jpg'; write to another"
        ):
            write_colmap(features, tmp_path / "n.h5", tmp_path / "c.db", images, verify=verify)
    after = read_database(tmp_path / "c.db")[2]
    assert set(before) == set(after) and all(np.array_equal(before[pair], after[pair]) for pair in before)


def test_unfinished_shards_are_refused(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights, block=2, part=(1, 2))
    shards = tmp_path / "m.h5.shards"
    count = len(ShardFolder(shards).numbers())
    with pytest.raises(ValueError, match=rf"only {count} of \d+ shards in .*m\.h5\.shards are finished"):
        write_colmap(features, shards, tmp_path / "c.db", images)
    assert not list(tmp_path.glob("c.db*"))
    match_pairs(features, pairs, tmp_path / "m.h5", weights, block=2, part=(2, 2))
    assert write_colmap(features, shards, tmp_path / "c.db", images).num_pairs == 21


def test_geometries_are_added_to_matches(features, pairs, weights, images, tmp_path):
    match_pairs(features, pairs, tmp_path / "m.h5", weights)
    arguments = (features, tmp_path / "m.h5", tmp_path / "c.db", images)
    assert write_colmap(*arguments, verify=False).num_pairs == 21
    with pycolmap.Database.open(tmp_path / "c.db") as database:
        assert database.num_verified_image_pairs() == 0
    assert write_colmap(*arguments).num_pairs == 21
    with pycolmap.Database.open(tmp_path / "c.db") as database:
        numbers = [image.image_id for image in database.read_all_images()]
        assert all(database.exists_two_view_geometry(i, j) for i, j in itertools.combinations(numbers, 2))
    assert write_colmap(*arguments).num_pairs == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_keypoints_of_turned_photos_lie_where_colmap_sees_them(orientation, tmp_path):
    """A bright spot is where the keypoint is, in the file as in the photo that was turned upright."""
    stored = np.zeros((40, 60), np.uint8)
    stored[7, 11] = 255
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("a.png", "b.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(stored).save(tmp_path / "images" / name, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "images/a.png")))
    y, x = np.unravel_index(upright.argmax(), upright.shape)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("a.png", "b.png"):
            file[f"{name}/keypoints"] = np.array([[x, y]], np.float32)
            file[f"{name}/descriptors"] = np.ones((4, 1), np.float32)
            file[f"{name}/image_size"] = upright.shape[::-1]
        file.attrs["pyg_match"] = "{}"
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a.png/b.png/matches0"] = np.array([0], np.int16)
    write_colmap(tmp_path / "f.h5", tmp_path / "m.h5", tmp_path / "c.db", tmp_path / "images")
    assert read_database(tmp_path / "c.db")[1]["a.png"].tolist() == [[11.5, 7.5]]


def test_images_without_features_and_scales(tmp_path):
    """COLMAP's scales are standard deviations, half of OpenCV's diameters."""
    found = read_sift_of_colmap(tmp_path, [10.5, 20.5, 3.0, 0.5])
    assert (
        found.pos.tolist() == [[10, 20]]
        and found.scale.tolist() == [6]
        and found.orientation.tolist() == [0.5]
    )


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_affine_shapes_of_colmap(tmp_path, stretch):
    """The columns of the matrix are what the axes of a keypoint become; the scale is the mean of their lengths."""
    angle = 0.5
    x_axis = 3.0 * np.array([np.cos(angle), np.sin(angle)])
    y_axis = 3.0 * stretch * np.array([-np.sin(angle), np.cos(angle)])
    found = read_sift_of_colmap(tmp_path, [10.5, 20.5, x_axis[0], y_axis[0], x_axis[1], y_axis[1]])
    assert found.scale.item() == pytest.approx(3.0 + 3.0 * stretch, rel=1e-6)
    assert found.orientation.item() == pytest.approx(angle, rel=1e-6)


def read_sift_of_colmap(tmp_path, keypoint):
    """The features of an image with one keypoint in a database, which has another image without any."""
    keypoints = np.array([keypoint], np.float32)
    with pycolmap.Database.open(tmp_path / "colmap.db") as database:
        camera = database.write_camera(pycolmap.Camera.create_from_model_name(1, "PINHOLE", 100.0, 64, 48))
        for name in ("a.jpg", "empty.jpg"):
            number = database.write_image(pycolmap.Image(name=name, camera_id=camera))
            if name == "a.jpg":
                database.write_keypoints(number, keypoints)
                descriptors = pycolmap.FeatureDescriptors(
                    type=pycolmap.FeatureExtractorType.SIFT, data=np.full((1, 128), 9, np.uint8)
                )
                database.write_descriptors(number, descriptors)
    with open_features(tmp_path / "colmap.db") as features:
        assert features.names() == ["a.jpg"] and features.num_keypoints("empty.jpg") is None
        return features.read("a.jpg")
