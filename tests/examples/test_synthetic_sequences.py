import numpy as np
import pytest
import torch
from helpers import loaded_example
from PIL import Image

from pyg_match.datasets import HPatches


@pytest.fixture(scope="module")
def synthetic_sequences():
    with loaded_example("synthetic_sequences") as module:
        yield module


def test_sequences_can_be_read_and_fit_their_homographies(synthetic_sequences, tmp_path, capsys):
    from skimage import data

    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(data.astronaut()).save(photos / "a.png")
    Image.fromarray(data.coffee()).save(photos / "b.png")
    out = tmp_path / "sequences"
    synthetic_sequences.main([str(photos), str(out), "--sequences", "3", "--repeats", "0"])
    assert "3 sequences" in capsys.readouterr().out
    pairs = list(HPatches(out))
    assert len(pairs) == 3
    for pair in pairs:
        image0, image1 = (
            np.asarray(Image.open(path).convert("L"), dtype=float) for path in (pair.path0, pair.pathk)
        )
        H = torch.as_tensor(pair.homography, dtype=torch.float64).numpy()
        rows, columns = np.mgrid[20 : image0.shape[0] - 20 : 16, 20 : image0.shape[1] - 20 : 16]
        points = np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
        moved = H @ points
        moved = np.rint(moved[:2] / moved[2]).astype(int)
        inside = ((moved >= 0) & (moved < [[image1.shape[1]], [image1.shape[0]]])).all(0)
        seen = image1[moved[1, inside], moved[0, inside]]
        source = image0[rows.ravel()[inside], columns.ravel()[inside]]
        assert inside.sum() > 50 and np.corrcoef(seen, source)[0, 1] > 0.4


def test_photos_of_pairs_are_left_out(synthetic_sequences, tmp_path, capsys, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("a.png", (255, 0, 0)), ("b.png", (0, 255, 0)), ("c.png", (0, 0, 255))):
        Image.new("RGB", (160, 120), colour).save(photos / name)
    (tmp_path / "pairs.txt").write_text("a.png c.png\n")
    monkeypatch.chdir(tmp_path)  # whether paths are relative or not
    options = ["--sequences", "2", "--repeats", "0", "--without", "pairs.txt"]
    synthetic_sequences.main(["photos", "sequences", *options])
    assert "2 sequences" in capsys.readouterr().out
    for sequence in sorted((tmp_path / "sequences").iterdir()):
        assert np.asarray(Image.open(sequence / "1.png")).mean((0, 1)).argmax() == 1
    (tmp_path / "pairs.txt").write_text("a.png b.png\nb.png c.png\n")
    with pytest.raises(SystemExit, match="error"):
        synthetic_sequences.main(["photos", "none", *options])


def test_held_out_photos_alone(synthetic_sequences, tmp_path, capsys):
    photos = tmp_path / "photos"
    (photos / "blue").mkdir(parents=True)
    for name, colour in (("a.png", (255, 0, 0)), ("b.png", (0, 255, 0)), ("blue/c d.png", (0, 0, 255))):
        Image.new("RGB", (160, 120), colour).save(photos / name)
    (tmp_path / "held_out.txt").write_text("blue/c d.png\n")
    options = ["--sequences", "2", "--repeats", "0", "--held-out"]
    synthetic_sequences.main([str(photos), str(tmp_path / "out"), *options, str(tmp_path / "held_out.txt")])
    assert "2 sequences" in capsys.readouterr().out
    for sequence in sorted((tmp_path / "out").iterdir()):
        assert np.asarray(Image.open(sequence / "1.png")).mean((0, 1)).argmax() == 2
    synthetic_sequences.main([str(photos), str(tmp_path / "by default"), *options])
    assert "2 sequences" in capsys.readouterr().out
    (tmp_path / "others.txt").write_text("elsewhere.png\n")
    with pytest.raises(SystemExit, match=r"error: no name in .*others\.txt' is that of a photo in"):
        synthetic_sequences.main([str(photos), str(tmp_path / "no"), *options, str(tmp_path / "others.txt")])
    with pytest.raises(SystemExit, match=r"error: .*none"):
        synthetic_sequences.main([str(photos), str(tmp_path / "no"), *options, str(tmp_path / "none")])


def test_existing_folder_is_not_overwritten(synthetic_sequences, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match="error"):
        synthetic_sequences.main([str(tmp_path), str(tmp_path)])
