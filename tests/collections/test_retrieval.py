"""Pairs by retrieval, against scenes that are known."""

import pytest
from hloc_files import write_hloc_features

from pyg_match.collections import open_features
from pyg_match.collections.retrieval import retrieval_pairs


@pytest.fixture
def scenes(tmp_path):
    """Three scenes of four images each."""
    import h5py

    path = tmp_path / "scenes.h5"
    with h5py.File(path, "w") as target:
        for scene in range(3):
            names = {f"{scene}/{i}.jpg": 60 for i in range(4)}
            write_hloc_features(tmp_path / f"{scene}.h5", names, seed=scene)
            with h5py.File(tmp_path / f"{scene}.h5") as source:
                for name in names:
                    source.copy(name, target, name)
    return path


def test_images_of_a_scene_are_found(scenes):
    with open_features(scenes) as opened:
        pairs = list(retrieval_pairs(opened, top_k=3, num_words=8))
        assert len(pairs) == len(set(pairs)) == 18  # all pairs of each scene, and no others
        assert all(a.partition("/")[0] == b.partition("/")[0] and a < b for a, b in pairs)
        assert pairs == sorted(pairs) == list(retrieval_pairs(opened, top_k=3, num_words=8))
        everything = list(retrieval_pairs(opened, top_k=100, num_words=8))
        assert len(everything) == 12 * 11 // 2
        with pytest.raises(ValueError, match="at most the 720 descriptors, got 1000"):
            list(retrieval_pairs(opened, num_words=1000))
        with pytest.raises(ValueError, match="top_k"):
            list(retrieval_pairs(opened, top_k=0))


def test_few_keypoints_make_few_words(tmp_path):
    path = write_hloc_features(tmp_path / "f.h5", {"a.jpg": 9, "b.jpg": 9, "c.jpg": 9})
    with open_features(path) as opened:
        assert len(list(retrieval_pairs(opened))) >= 2
    path = write_hloc_features(tmp_path / "none.h5", {"a.jpg": 0, "b.jpg": 0})
    with open_features(path) as opened:
        assert list(retrieval_pairs(opened)) == []


def test_one_image_has_no_pair(tmp_path):
    path = write_hloc_features(tmp_path / "f.h5", {"a.jpg": 10})
    with open_features(path) as opened, pytest.raises(ValueError, match=r"at least two images, .* has 1"):
        list(retrieval_pairs(opened))
