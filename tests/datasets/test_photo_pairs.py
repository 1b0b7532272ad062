import numpy as np
import pytest
import torch
from helpers import write_images
from torch_geometric.data import Batch

from pyg_match.datasets import CorruptShardError, HomographyWarps, PhotoPairs
from pyg_match.datasets.photo_pairs import read_pairs
from pyg_match.features import SIFT
from pyg_match.geometry import estimate_fundamental
from pyg_match.nn import GraphMatcher
from pyg_match.training import config_from_dict
from pyg_match.training.data import make_datasets
from pyg_match.transforms import KNNGraph

SIZE = (450, 300)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A stereo pair with its disparity, a photo of something else, and a file that names them."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("scene")
    left, right, disparity = data.stereo_motorcycle()
    write_images(folder, {"left": left, "right": right, "cat": data.chelsea()}, SIZE)
    (folder / "pairs.txt").write_text("left.png right.png 0 0 more numbers\n\nleft.png cat.png\n")
    return folder, disparity


def make(folder, **kwargs):
    kwargs = {"extractor": "aliked", "max_num_keypoints": 256, "resize": SIZE[0], **kwargs}
    return PhotoPairs(folder / "pairs.txt", **kwargs)


def equal(pair, other):
    names = sorted(pair.keys())
    return names == sorted(other.keys()) and all(torch.equal(pair[name], other[name]) for name in names)


def test_labels_agree_with_the_disparity(scene):
    folder, disparity = scene
    pair, unrelated = make(folder)
    assert pair.validate() and unrelated.validate()
    count0 = int(pair.num_keypoints[0, 0])
    y0, y1 = pair.y[:count0], pair.y[count0:]
    first = (y0 >= 0).nonzero().flatten()
    assert len(first) > 80 and torch.equal(y1[y0[first]], first)
    assert set(pair.y[pair.y < 0].tolist()) == {-2}  # nothing is known about the others
    pos0, pos1 = pair.pos[:count0][first], pair.pos[count0:][y0[first]]
    # Corners lie on the edges of objects, so that any disparity within 3 pixels may be meant.
    scale = disparity.shape[1] / SIZE[0]
    row, column = np.round(pos0.numpy() * scale).astype(int).T[::-1]
    offsets = [(i, j) for i in (-3, 0, 3) for j in (-3, 0, 3)]
    places = [
        ((row + i).clip(0, disparity.shape[0] - 1), (column + j).clip(0, disparity.shape[1] - 1))
        for i, j in offsets
    ]
    near = torch.from_numpy(np.stack([disparity[place] for place in places])) / scale
    error = ((pos0 - pos1)[:, 0] - near).abs().nan_to_num(posinf=1e9).amin(0)
    assert float((error < 2).float().mean()) > 0.85  # the rest lies where one object hides another
    assert set(unrelated.y.tolist()) == {-2}


def test_the_cache_changes_nothing_and_knows_what_it_holds(scene, tmp_path):
    folder, _ = scene
    plain = list(make(folder))
    dataset = make(folder, cache=tmp_path, shard_size=1)
    assert dataset.prepare() == 2 and dataset.prepare() == 0
    assert all(equal(*pairs) for pairs in zip(plain, dataset, strict=True))
    assert make(folder, cache=tmp_path, shard_size=1, threshold=1.0).prepare() == 2
    frugal = GraphMatcher.from_pretrained("aliked-lightglue", assign_on_edges=False, checkpointed=True)
    assert make(folder, cache=tmp_path, shard_size=1, teacher=frugal).prepare() == 0
    with torch.no_grad():
        dataset.teacher.lin_in.bias += 1
    other = make(folder, cache=tmp_path, shard_size=1, teacher=dataset.teacher)
    assert other.shards.fingerprint != dataset.shards.fingerprint
    file = dataset.shards.file(0)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptShardError, match="delete it, or pass repair=True"):
        make(folder, cache=tmp_path, shard_size=1)[0]
    assert equal(make(folder, cache=tmp_path, shard_size=1, repair=True)[0], plain[0])


WARPS = HomographyWarps(perspective=0.1, rotation=20, scale=1.3, tilt=1.5, min_overlap=0.5)


def labelled_places(pair):
    """Where the keypoints of the labels lie in both images."""
    count0 = int(pair.num_keypoints[0, 0])
    first = (pair.y[:count0] >= 0).nonzero().flatten()
    return pair.pos[first].numpy(), pair.pos[count0:][pair.y[first]].numpy()


def test_views_of_one_photo_are_related_by_a_homography(scene):
    cv2 = pytest.importorskip("cv2")
    folder, _ = scene
    photo = folder / "cat.png"
    dataset = PhotoPairs([(photo, photo)], resize=SIZE[0], max_num_keypoints=512, warps=WARPS, num_pairs=3)
    shown = []
    for pair in dataset:
        assert pair.validate()
        places0, places1 = labelled_places(pair)
        homography, _ = cv2.findHomography(places0, places1, cv2.USAC_MAGSAC, 2.0)
        error = np.linalg.norm(cv2.perspectiveTransform(places0[None], homography)[0] - places1, axis=1)
        assert (
            len(places0) > 40 and float((error < 4.5).mean()) > 0.99
        )  # 1.5 pixels in each view, and the scale
        assert np.linalg.norm(places0 - places1, axis=1).max() > 20  # it moved
        shown.append(homography)
    assert not np.allclose(shown[0], shown[1], atol=0.01)  # each round has warps of its own


def test_views_of_two_photos_keep_their_epipolar_geometry(scene, tmp_path):
    folder, _ = scene
    settings = {"warps": WARPS, "num_pairs": 3, "max_num_keypoints": 512}
    dataset = make(folder, cache=tmp_path, **settings)
    assert len(dataset) == 3 and dataset.prepare() == 3
    assert all(equal(*pairs) for pairs in zip(make(folder, **settings), dataset, strict=True))
    assert equal(make(folder, **settings)[2], dataset[2])  # whatever was made before
    for index in (0, 2):
        places0, places1 = labelled_places(dataset[index])
        _, inliers = estimate_fundamental(torch.from_numpy(places0), torch.from_numpy(places1), threshold=3.0)
        assert len(places0) > 40 and inliers.mean() > 0.95
    assert set(dataset[1].y.tolist()) == {-2}
    assert make(folder, cache=tmp_path, seed=1, **settings).prepare() == 3


def test_fewer_keypoints_keep_the_labels_between_them(scene):
    folder, _ = scene
    whole = make(folder)[0]
    pair = make(folder, min_num_keypoints=64, transform=KNNGraph(4))[0]
    count0 = int(pair.num_keypoints[0, 0])
    assert 64 <= count0 < 256 and pair.edge_index.size(1) == 4 * int(pair.num_keypoints.sum())
    split = int(whole.num_keypoints[0, 0])
    partner = {}
    for index in (whole.y[:split] >= 0).nonzero().flatten().tolist():
        ends = whole.pos[index], whole.pos[split + int(whole.y[index])]
        partner[tuple(ends[0].tolist())] = tuple(ends[1].tolist())
    kept = {tuple(p.tolist()) for p in pair.pos[count0:]}
    for index in range(count0):
        expected = partner.get(tuple(pair.pos[index].tolist()))
        if expected not in kept:
            assert int(pair.y[index]) == -2
        else:
            assert tuple(pair.pos[count0 + int(pair.y[index])].tolist()) == expected


def test_wrong_input_is_named(scene, tmp_path):
    folder, _ = scene
    for text, error, message in (
        ("left.png\n", ValueError, "line 1 of .* must begin with the names of two photos, got 'left.png'"),
        ("\n", ValueError, "there are no pairs of photos"),
        ("left.png none.png\n", FileNotFoundError, "no photo at .*none.png"),
    ):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(error, match=message):
            PhotoPairs(tmp_path / "pairs.txt", folder)
    with pytest.raises(FileNotFoundError, match="no file of pairs"):
        PhotoPairs(tmp_path / "none.txt")
    for wrong, message in (
        ({"threshold": 0.0}, "'threshold' must be a positive number, got 0.0"),
        ({"min_matches": 3}, "'min_matches' must be at least 8"),
        ({"min_inliers": 2.0}, r"'min_inliers' must be in \[0, 1\], got 2.0"),
        ({"num_pairs": 0}, "'num_pairs' must be a whole number of at least 1, got 0"),
        ({"shard_size": 0}, "'shard_size' must be a whole number of at least 1, got 0"),
        ({"num_pairs": 3}, "without 'warps' there are 2 pairs, got num_pairs=3"),
        ({"min_num_keypoints": 999}, "'min_num_keypoints' must be None or between 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(folder, **wrong)
    with pytest.raises(ValueError, match="width 128, but the teacher expects 64"):
        PhotoPairs([("left.png", "right.png")], folder, SIFT(64), GraphMatcher(in_channels=64))
    for options in ({"width_confidence": 0.9}, {"assign_on_edges": True}):
        with pytest.raises(ValueError, match="'teacher' must assign all keypoints"):
            PhotoPairs(
                [("left.png", "right.png")], folder, SIFT(64), GraphMatcher(in_channels=128, **options)
            )


def test_a_teacher_by_name_labels_without_its_stops(scene, tmp_path):
    folder, _ = scene
    file = tmp_path / "teacher.safetensors"
    options = {"depth_confidence": 0.9, "width_confidence": 0.9, "assign_on_edges": True}
    GraphMatcher(in_channels=128, num_layers=2, **options).save(file)
    config = PhotoPairs([("left.png", "right.png")], folder, SIFT(64), str(file)).teacher.config
    assert (config.depth_confidence, config.width_confidence, config.assign_on_edges) == (None, None, False)


def test_a_tab_stands_between_names_with_spaces(tmp_path):
    for name in ("a 1.jpg", "b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "pairs.txt").write_text("a 1.jpg\tb.jpg\t0 0\n\n  \t\n")
    assert read_pairs(tmp_path / "pairs.txt") == [(tmp_path / "a 1.jpg", tmp_path / "b.jpg")]


def test_training_joins_them_with_warped_photos(scene, tmp_path):
    folder, _ = scene
    config = {
        "teacher": "aliked-lightglue",
        "graph": [{"KNNGraph": {"k": 4, "loop": True}}],
        "data": {
            "size": list(SIZE),
            "max_num_keypoints": 128,
            "num_pairs": 2,
            "validation_pairs": 1,
            "validation_photos": 0.3,
            "photo_pairs": str(folder / "pairs.txt"),
            "num_photo_pairs": 3,
            "photo_warps": {"tilt": 2.0},
        },
    }
    train, valid = make_datasets(config_from_dict(config), folder, tmp_path)
    # All photos are of one scene here. One of them is held out, and with it the pairs that contain it.
    assert len(valid.paths) == 1 and not set(valid.paths) & set(train.paths)
    assert train.prepare() == len(train) == 5
    batch = Batch.from_data_list([train[0], train[len(train) - 1]])
    homographies = batch.homography.view(2, 9)
    assert not homographies[0].isnan().any() and homographies[1].isnan().all()
    assert batch.num_keypoints.shape == (2, 2)
    with pytest.raises(ValueError, match="labelled by a 'teacher'"):
        config_from_dict({**config, "teacher": None})
