import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import loaded_example
from PIL import Image
from skimage import data, transform

from pyg_match.data import KeypointSet
from pyg_match.datasets import random_homography
from pyg_match.metrics import error_auc
from pyg_match.nn import GraphMatcher


@pytest.fixture
def example(monkeypatch):
    with loaded_example("hpatches_eval") as module:
        monkeypatch.setattr(module, "SHORT_SIDE", 160)  # a ninth of the pixels
        yield module


@pytest.fixture
def methods(example):
    """The file of the matchers, beside the example."""
    return sys.modules["eval_methods"]


@pytest.fixture
def tables(example):
    """The file of the tables, beside the example."""
    return sys.modules["eval_tables"]


def write_sequence(folder: Path, photo: np.ndarray, seed: int) -> None:
    """Image 1, a warped image 2, and the homography between them."""
    folder.mkdir(parents=True)
    height, width = photo.shape[:2]
    homography = random_homography(width, height, torch.Generator().manual_seed(seed)).numpy()
    warped = transform.warp(photo, transform.ProjectiveTransform(np.linalg.inv(homography)), order=1)
    Image.fromarray(photo).save(folder / "1.png")
    Image.fromarray((255 * warped).astype(np.uint8)).save(folder / "2.png")
    np.savetxt(folder / "H_1_2", homography)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    write_sequence(folder / "v_cat", data.chelsea()[:240, :320], seed=0)
    write_sequence(folder / "i_coffee", data.coffee()[:280, :360], seed=1)
    return folder


def run(example, root: Path, out: Path, *arguments: str) -> str:
    if "--features" not in arguments:
        arguments = ("--features", "sift", *arguments)
    example.main([str(root), "--out", str(out), "--max-keypoints", "200", *arguments])
    return (out / "per_pair.csv").read_text()


def test_outputs(example, root, tmp_path, capsys):
    text = run(example, root, tmp_path / "out")
    header, *lines = text.splitlines()
    assert header.split(",") == example.COLUMNS and len(lines) == 2 * 3
    table = capsys.readouterr().out
    assert "| tiny | 2 | mnn |" in table and "| all | 2 | ratio-0.8 |" in table
    assert "| viewpoint | 1 | mnn |" in table and "| illumination | 1 | mnn |" in table
    assert table.strip().endswith((tmp_path / "out" / "table.md").read_text().strip())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["features"] == "sift" and results["versions"]["torch"] == torch.__version__
    line = next(row for row in results["results"]["sets"]["all"] if row["method"] == "ratio-0.8")
    # An easy warp: nearly all matches are right, and PoseLib finds the homography to within a pixel or two.
    assert line["precision"] > 90 and line["pairs"] == 2 and line["PoseLib"][2] > 50
    assert len(line["DLT"]) == 3 and line["threshold"] in example.POSELIB
    wrong = results["false_matches"]
    assert 0 <= wrong["ratio-0.8"] < wrong["mnn"] < 100 and list(wrong) == ["mnn", "ratio-0.8", "ratio-0.9"]
    for name in ("auc.png", "auc.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    assert len(list((tmp_path / "out" / "features").iterdir())) == 4


def test_restart_continues(example, root, tmp_path, monkeypatch):
    jobs = []
    evaluate = example.evaluate

    def counted(pair, name, *rest):
        jobs.append((pair.sequence, name))
        return evaluate(pair, name, *rest)

    monkeypatch.setattr(example, "evaluate", counted)
    first = run(example, root, tmp_path, "--methods", "mnn", "--limit", "1")
    assert jobs == [("i_coffee", "mnn")]
    second = run(example, root, tmp_path, "--methods", "mnn", "ratio-0.7")
    assert jobs[1:] == [("i_coffee", "ratio-0.7"), ("v_cat", "mnn"), ("v_cat", "ratio-0.7")]
    assert second.startswith(first) and second.count("precision") == 1

    # Cut the last line as an interruption in the middle of a write would.
    (tmp_path / "per_pair.csv").write_text(second[:-20])
    third = run(example, root, tmp_path, "--methods", "mnn", "ratio-0.7")
    assert jobs[4:] == [("v_cat", "ratio-0.7")]

    def without_time(text):
        return [line.rpartition(",")[0] for line in text.splitlines()]

    assert without_time(third) == without_time(second)
    run(example, root, tmp_path, "--methods", "mnn", "ratio-0.7")
    assert len(jobs) == 5
    # A file that was cut in its header holds nothing.
    (tmp_path / "per_pair.csv").write_text(second[:10])
    assert without_time(run(example, root, tmp_path, "--methods", "mnn", "ratio-0.7")) == without_time(second)


def test_other_settings_are_refused(example, root, tmp_path):
    before = run(example, root, tmp_path, "--methods", "mnn", "--limit", "1")
    with pytest.raises(SystemExit, match=r"features sift there, rootsift now.*another --out"):
        run(example, root, tmp_path, "--methods", "mnn", "--features", "rootsift")
    assert (tmp_path / "per_pair.csv").read_text() == before


def test_damaged_features_are_made_again(example, root, tmp_path):
    before = run(example, root, tmp_path, "--methods", "mnn")
    for file in (tmp_path / "features").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "per_pair.csv").unlink()
    after = run(example, root, tmp_path, "--methods", "mnn")
    assert [line.rpartition(",")[0] for line in after.splitlines()] == [
        line.rpartition(",")[0] for line in before.splitlines()
    ]
    assert all(file.stat().st_size > 1000 for file in (tmp_path / "features").iterdir())


def test_clear_messages(example, root, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere' is not a folder"):
        run(example, tmp_path / "nowhere", tmp_path)
    with pytest.raises(SystemExit, match="no sequence under"):
        run(example, tmp_path, tmp_path)
    for method in ("best", "mnn-3", "knn", "kornia-1", "candidates"):
        with pytest.raises(SystemExit, match="unknown method"):
            run(example, root, tmp_path, "--methods", method)
    with pytest.raises(SystemExit, match="no official matcher weights for 'sift'"):
        run(example, root, tmp_path, "--methods", "complete")
    with pytest.raises(SystemExit, match="unknown extractor"):
        run(example, root, tmp_path, "--features", "orb", "--methods", "mnn")
    with pytest.raises(SystemExit, match="same set and sequence"):
        copy = tmp_path / "copy" / "tiny"
        write_sequence(copy / "v_cat", data.chelsea()[:200, :200], seed=0)
        example.main([str(root), str(copy), "--features", "sift", "--out", str(tmp_path)])
    assert not (tmp_path / "per_pair.csv").exists()


def test_all_methods(example, root, tmp_path):
    run(example, root, tmp_path, "--features", "aliked", "--limit", "1")
    table = json.loads((tmp_path / "results.json").read_text())["results"]["sets"]["all"]
    assert [row["method"] for row in table] == example.METHODS
    rows = {row["method"]: row for row in table}
    for row in example.read_rows(tmp_path / "per_pair.csv"):
        assert row["n0"] == row["n1"] == 200
    for column in ("matches", "precision", "recall", "DLT", "OpenCV", "PoseLib"):
        assert rows["complete"][column] == pytest.approx(rows["kornia"][column], abs=1e-3), column
    assert rows["complete"]["precision"] > 80 and rows["complete"]["recall"] > 70
    assert rows["candidates-32"]["recall"] > rows["knn-32"]["recall"]


def test_first_layers(example, root, tmp_path):
    run(example, root, tmp_path, "--features", "aliked", "--limit", "1", "--methods", "complete", "layers-7")
    table = json.loads((tmp_path / "results.json").read_text())["results"]["sets"]["all"]
    complete, first = (row["recall"] for row in table)
    assert 70 < first != complete


def test_all_methods_fit_the_matcher_of_every_detector(example):
    names = [name for name in example.METHODS if not name.startswith("trained")]
    for features in example.WEIGHTS:
        assert list(example.build_methods(names, features)) == names
    with pytest.raises(ValueError, match="have 6 layers, got num_layers=7"):
        example.build_methods(["layers-7"], "xfeat")


def fake_row(name, pair, **errors):
    keys = {"set": pair[0], "kind": pair[0], "sequence": pair[1], "method": name, "k": 2.0}
    row = {**keys, "matches": 10.0, "precision": 0.5, "recall": 0.25, "seconds": 0.01, **errors}
    return row


def test_coarse_sets_stand_apart(example, tmp_path):
    thresholds = {f"error_poselib_{t}": 2.0 for t in example.POSELIB}
    fine = fake_row(
        "mnn", ("a", "x"), **{**thresholds, "error_poselib_1.5": 0.0}, error_dlt=0.0, error_opencv=math.inf
    )
    coarse = fake_row(
        "mnn", ("evd", "y"), **{**thresholds, "error_poselib_3.0": 0.0}, error_dlt=6.0, error_opencv=0.0
    )
    settings = {"features": "sift", "max_keypoints": 9, "short_side": 480}
    text = example.report([fine, coarse], {"mnn": 7.25}, settings, tmp_path)
    # The threshold is the best one of set a, although evd would prefer another.
    start = "| 1 | mnn | 10 | 50.0 | 25.0"
    ones, zeros = "100.0 / 100.0 / 100.0", "0.0 / 0.0 / 0.0"
    assert f"| all {start} | {ones} | {zeros} | {ones} | 1.5 |" in text
    # Of DLT, 6 px: nothing at 5; at 10 a triangle up to 6 and then 1: (3 + 4) / 10.
    # Of PoseLib, 2 px: (1 + 3) / 5 and (1 + 8) / 10.
    assert f"| evd {start} | 0.0 / 70.0 | 100.0 / 100.0 | 80.0 / 90.0 | 1.5 |" in text
    assert "evd is good to 5 px at best" in text and text.count("| P@3 |") == 1 and text.count("| P@5 |") == 1
    only = example.report([coarse], {"mnn": None}, settings, tmp_path)
    assert "different scenes, where none is right, mean: mnn 7.2." in text and "different" not in only
    assert "all |" not in only and "| evd | 1 | mnn |" in only and "| 3.0 |" in only


def test_false_matches_are_of_different_scenes(example, root, tmp_path):
    """A scene that two sets show under one name is there once."""
    shutil.copytree(root, tmp_path / "other")
    pairs = example.read_pairs([root, tmp_path / "other"], None)
    seen = []

    def method(set0, set1):
        seen.append((set0, set1))
        return torch.zeros(len(seen), 2), None

    assert example.false_matches(pairs, method, lambda path: path.parent.name) == 1.5
    assert seen == [("i_coffee", "v_cat"), ("v_cat", "i_coffee")]
    assert example.false_matches(pairs[:1], method, lambda path: path) is None


def test_pairs_without_true_matches_have_no_say_in_recall(tables):
    rows = [
        fake_row("mnn", ("a", s), error_dlt=1.0, error_opencv=1.0, **{"error_poselib_1.0": 1.0}) for s in "xy"
    ]
    rows[0]["recall"] = math.nan
    assert tables.summarise(rows, {"mnn": 1.0}, (1, 3))[0]["recall"] == pytest.approx(25.0)
    rows[1]["recall"] = math.nan
    table = tables.summarise(rows, {"mnn": 1.0}, (1, 3))
    assert table[0]["recall"] is None and "| – |" in tables.markdown({"a": table}, (1, 3), 3)


def features(*descriptors: tuple[float, float]) -> KeypointSet:
    x = torch.tensor(descriptors).view(-1, 2)
    return KeypointSet(pos=torch.zeros(len(x), 2), x=x, image_size=(10, 10))


def test_differences_with_intervals(example, tables):
    """An equal gain in every scene has an interval of no width, a gain in a single one a wide interval."""
    rows = []
    for method, gains in (("kornia", (0, 0, 0)), ("same", (0.1, 0.1, 0.1)), ("once", (0, 0, 0.3))):
        for scene, gain in enumerate(gains):
            for k, level in ((2, 0.2), (3, 0.4)):
                errors = {f"error_{name}": 2.0 for name in example.ESTIMATORS}
                # One threshold is better than others, and is the one that counts.
                errors["error_poselib_1.5"] = 1.0 if method == "same" else 2.0
                recall = math.nan if k == 3 else level + gain
                rows.append({"set": "s", "sequence": f"{scene}", "k": k, "method": method, **errors,
                             "precision": level + gain, "recall": recall})  # fmt: skip
    found = tables.differences(rows, ("kornia", "same", "once"), "kornia", draws=500)
    table = {row["method"]: row for row in found}
    assert table["kornia"]["precision"] == [0, 0, 0] and table["kornia"]["scenes"] == 3
    np.testing.assert_allclose(table["same"]["precision"], [10, 10, 10])
    np.testing.assert_allclose(table["same"]["recall"], [10, 10, 10])
    np.testing.assert_allclose(table["once"]["precision"], [10, 0, 30], atol=1e-9)
    assert table["once"]["PoseLib"] == [0, 0, 0]
    gain = 100 * (error_auc([1.0] * 6, [5.0])[0] - error_auc([2.0] * 6, [5.0])[0])
    np.testing.assert_allclose(table["same"]["PoseLib"], [gain, gain, gain])
    assert table["same"]["DLT"] == [0, 0, 0]


def test_nearest_neighbours(methods):
    angles0, angles1 = 6.28 * torch.rand(40), 6.28 * torch.rand(30)
    set0, set1 = (features(*zip(a.cos().tolist(), a.sin().tolist(), strict=True)) for a in (angles0, angles1))
    distance = torch.cdist(set0.x, set1.x)
    expected = []
    for i in range(40):
        j = int(distance[i].argmin())
        if int(distance[:, j].argmin()) == i:
            row, column = distance[i].sort().values, distance[:, j].sort().values
            expected.append((i, j, bool(max(row[0] / row[1], column[0] / column[1]) < 0.8)))
    matches, scores = methods.nearest_neighbours(set0, set1)
    assert matches.tolist() == [[i, j] for i, j, _ in expected]
    assert torch.allclose(scores, (set0.x[matches[:, 0]] * set1.x[matches[:, 1]]).sum(1))
    tested, _ = methods.nearest_neighbours(set0, set1, ratio=0.8)
    assert tested.tolist() == [[i, j] for i, j, passed in expected if passed]
    assert 0 < len(tested) < len(matches)


def test_nearest_neighbours_of_few_keypoints(methods):
    one = features((1.0, 0.0))
    matches, scores = methods.nearest_neighbours(one, one)
    assert matches.tolist() == [[0, 0]] and scores.tolist() == [1.0]
    for pair in ((features(), one), (one, features()), (features(), features())):
        matches, scores = methods.nearest_neighbours(*pair)
        assert matches.shape == (0, 2) and scores.shape == (0,)


def test_blank_images_score_nothing(example, tmp_path):
    folder = tmp_path / "data" / "v_blank"
    folder.mkdir(parents=True)
    for k in (1, 2):
        Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(folder / f"{k}.png")
    np.savetxt(folder / "H_1_2", np.eye(3))
    run(example, tmp_path / "data", tmp_path / "out", "--methods", "mnn", "ratio-0.8")
    (row, _) = example.read_rows(tmp_path / "out" / "per_pair.csv")
    assert row["n0"] == row["matches"] == row["precision"] == 0 and math.isnan(row["recall"])
    assert all(row[f"error_{name}"] == math.inf for name in example.ESTIMATORS)


def test_other_weights_under_the_same_name_are_refused(example, root, tmp_path):
    weights = tmp_path / "mine.safetensors"

    def make(seed: int) -> None:
        torch.manual_seed(seed)
        matcher = GraphMatcher(in_channels=128, hidden_channels=16, num_layers=1, heads=2)
        matcher.save(weights, metadata={"graph": [{"CandidateEdges": {"k": 4}}], "extractor": "sift"})

    make(0)
    chosen = ("--methods", "mnn", "trained", "--limit", "1")
    run(example, root, tmp_path / "out", *chosen, "--weights", str(weights))
    for arguments in ((), ("--weights", str(weights))):
        make(1)
        with pytest.raises(SystemExit, match=r"trained .* there, .*another --out"):
            run(example, root, tmp_path / "out", "--methods", "mnn", "--limit", "1", *arguments)
