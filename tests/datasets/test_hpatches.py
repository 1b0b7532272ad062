from pathlib import Path

import pytest
import torch
from helpers import has_links

from pyg_match.datasets import HPatches, read_homography, rescale_homography
from pyg_match.datasets.hpatches import LARGE_SEQUENCES

IDENTITY = "1 0 0\n0 1 0\n0 0 1\n"


def make_sequence(folder: Path, count: int = 2, suffix: str = ".ppm") -> Path:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number}{suffix}").touch()
        if number > 1:
            (folder / f"H_1_{number}").write_text(IDENTITY)
    return folder


def test_release_layout(tmp_path):
    root = tmp_path / "hpatches-sequences-release"
    for name in ("v_b", "i_a", *LARGE_SEQUENCES):
        make_sequence(root / name, count=6)
    dataset = HPatches(root)
    assert len(dataset) == 10
    assert [(p.sequence, p.k) for p in dataset] == [(s, k) for s in ("i_a", "v_b") for k in range(2, 7)]
    assert {p.kind for p in dataset} == {"illumination", "viewpoint"}
    assert {p.set_name for p in dataset} == {"hpatches-sequences-release"}
    assert dataset[0].path0 == root / "i_a" / "1.ppm" and dataset[0].pathk == root / "i_a" / "2.ppm"
    assert torch.equal(dataset[0].homography, torch.eye(3, dtype=torch.float64))
    assert repr(dataset) == f"HPatches({str(root)!r}, sequences=2, pairs=10)"
    assert len(HPatches(root, ignore_large=False)) == 50


def test_root_may_be_sequence_set_or_folder_of_sets(tmp_path):
    make_sequence(tmp_path / "oxford" / "boat", count=3, suffix=".png")
    make_sequence(tmp_path / "evd" / "face", suffix=".jpg")
    (tmp_path / "evd" / "face" / "README").write_text("more files do not matter")
    assert [(p.set_name, p.sequence, p.k, p.kind) for p in HPatches(tmp_path)] == [
        ("evd", "face", 2, "evd"),
        ("oxford", "boat", 2, "oxford"),
        ("oxford", "boat", 3, "oxford"),
    ]
    assert len(HPatches(tmp_path / "oxford")) == 2
    assert len(HPatches(tmp_path / "oxford" / "boat")) == 2


def test_more_than_nine_images_are_sorted_by_number(tmp_path):
    make_sequence(tmp_path / "s", count=11)
    assert [p.k for p in HPatches(tmp_path)] == list(range(2, 12))


def test_a_root_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_sequence(tmp_path / "sets" / "s")
    assert len(HPatches("~/sets")) == 1


def test_bad_roots(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        HPatches(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no sequence under"):
        HPatches(tmp_path)
    make_sequence(tmp_path / "i_dc")
    with pytest.raises(ValueError, match="left out by ignore_large"):
        HPatches(tmp_path)


def test_incomplete_sequences(tmp_path):
    folder = make_sequence(tmp_path / "s", count=3)
    (folder / "H_1_3").unlink()
    with pytest.raises(FileNotFoundError, match="no homography H_1_3"):
        HPatches(tmp_path)
    (folder / "3.ppm").unlink()
    (folder / "H_1_4").write_text(IDENTITY)
    with pytest.raises(FileNotFoundError, match="no image 4"):
        HPatches(tmp_path)
    (folder / "H_1_4").unlink()
    (folder / "2.png").touch()
    with pytest.raises(ValueError, match="image 2 exists more than once"):
        HPatches(tmp_path)
    for path in folder.glob("*2*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no image 2 and no H_1_2"):
        HPatches(tmp_path)


@has_links
def test_an_image_that_is_a_broken_link(tmp_path):
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/1.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "scene/2.png").touch()
    with pytest.raises(FileNotFoundError, match="link in the place of image 1"):
        HPatches(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0 0 1 0 0 0", "got 8"),
        ("1 0 0\n0 1 0\n0 0 1 0", "got 10"),
        ("", "got 0"),
        ("1 0 0\n0 one 0\n0 0 1", "one"),
        ("1 0 0\n0 nan 0\n0 0 1", "finite"),
        ("1 0 0\n0 inf 0\n0 0 1", "finite"),
        ("1 2 3\n2 4 6\n0 0 1", "singular"),
    ],
)
def test_garbled_homographies(tmp_path, text, message):
    folder = make_sequence(tmp_path / "s")
    (folder / "H_1_2").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        HPatches(tmp_path)
    assert "H_1_2" in str(error.value)


def test_binary_homography(tmp_path):
    (tmp_path / "H").write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(ValueError, match="nine numbers"):
        read_homography(tmp_path / "H")


def test_homography_spacing(tmp_path):
    (tmp_path / "H").write_text("  1.5\t0   -2e1 \r\n\n0 1 0 \n 0 0 1")
    assert read_homography(tmp_path / "H").tolist() == [[1.5, 0, -20], [0, 1, 0], [0, 0, 1]]
    with pytest.raises(FileNotFoundError, match="missing"):
        read_homography(tmp_path / "H2")


def test_real_folders(shared_data):
    pairs = list(HPatches(shared_data / "homography"))
    counts = {name: sum(p.set_name == name for p in pairs) for name in {p.set_name for p in pairs}}
    assert counts == {"hpatches": 10, "oxford_affine": 20, "homogr": 6, "evd": 5}
    assert {p.kind for p in pairs} == {"viewpoint", "oxford_affine", "homogr", "evd"}


def test_rescaled_homography_maps_the_resized_points():
    homography = torch.tensor([[1.1, 0.1, 5.0], [-0.2, 0.9, 3.0], [1e-4, 2e-4, 1.0]], dtype=torch.float64)
    scale0, scale1 = torch.tensor([0.5, 0.25]), torch.tensor([2.0, 3.0])

    def transfer(matrix, points):
        projected = torch.cat([points, torch.ones(len(points), 1, dtype=torch.float64)], 1) @ matrix.T
        return projected[:, :2] / projected[:, 2:]

    points = torch.rand(20, 2, dtype=torch.float64) * 100
    resized0 = (points + 0.5) * scale0 - 0.5
    expected = (transfer(homography, points) + 0.5) * scale1 - 0.5
    assert torch.allclose(transfer(rescale_homography(homography, scale0, scale1), resized0), expected)
    with pytest.raises(ValueError, match="two positive factors"):
        rescale_homography(homography, torch.tensor([0.0, 1.0]), scale1)
    with pytest.raises(ValueError, match=r"of shape \[3, 3\], got \[1, 3, 3\]"):
        rescale_homography(homography[None], scale0, scale1)
    with pytest.raises(TypeError, match="expected an array of real numbers, got 'half'"):
        rescale_homography(homography, "half", scale1)
