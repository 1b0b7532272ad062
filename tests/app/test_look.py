import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pyg_match.app import Exploration, PairChoice, Setting
from pyg_match.app import look as looks
from pyg_match.app.drawing import COLOURS, PARTS, Layout
from pyg_match.app.report import describe, table
from pyg_match.app.settings import GRAPHS


@pytest.fixture(scope="module")
def look(exploration, choice):
    return looks.begin(exploration, choice, (Setting(),))


def test_starts_at_a_matched_keypoint(exploration, choice, look):
    matching = exploration.matching(choice, Setting())
    assert matching.num_matches > 40
    assert matching.found.matches[-1, look.node] >= 0
    assert looks.shape(exploration, look) == (6, 1)
    text = looks.summary(exploration, look)
    assert f"128 keypoints in image A, 128 in image B; {matching.num_matches} matches (complete" in text
    assert exploration.matching(choice, Setting()) is matching  # remembered


@pytest.mark.parametrize("graph", GRAPHS)
def test_reports_follow_the_graph(exploration, choice, graph):
    features = exploration.features(choice)
    matching = exploration.matching(choice, Setting(graph, 8, "every:2"))
    assert matching.pair is not features.pair
    report = describe(features, matching, 130, 5, "mean")
    for kind, attended in report.attended.items():
        weights = attended.weights
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
        assert bool((weights[1:] <= weights[:-1]).all())
        assert 1 - 1e-4 <= attended.spread <= len(weights) + 1e-3
        assert torch.equal(attended.nodes >= 128, torch.full_like(attended.nodes >= 128, kind == "self"))
    sparse_self = graph in ("knn", "diverse", "anchors", "sparse")
    assert (len(report.attended["self"].nodes) < 128) == sparse_self
    assert (len(report.attended["cross"].nodes) < 128) == (graph in ("candidates", "sparse"))
    pair = features.pair
    similarity = pair.x[130] @ pair.x[:128].t()
    assert report.candidates.tolist() == similarity.topk(5).indices.tolist()


def test_another_graph_than_the_trained_one_is_not_drawn_once_more(exploration, choice, monkeypatch):
    whole, config = exploration._matcher(choice.weights, choice.max_keypoints)
    redrawing = replace(config, redraw_after=1, redraw_k=3)
    monkeypatch.setattr(exploration, "_matcher", lambda *_: (whole, redrawing))
    found = {
        graph: exploration._match(choice, Setting(graph, 8))
        for graph in ("candidates", "complete", "trained")
    }
    monkeypatch.undo()
    plain = exploration.matching(choice, Setting("candidates", 8))
    assert torch.equal(found["candidates"].found.scores, plain.found.scores)
    assert not torch.equal(found["trained"].found.scores, found["complete"].found.scores)


def test_pixels_of_small_images_are_where_they_are_drawn():
    layout = Layout.side_by_side(((64, 64), (32, 64)))
    assert layout.scales[0] > 8
    for image, size in enumerate(((64, 64), (32, 64))):
        left, top = layout.offsets[image]
        width, height = layout.image_sizes[image]
        assert layout.locate(left, top) == (
            image,
            *(pytest.approx(0.5 / layout.scales[0] - 0.5) for _ in range(2)),
        )
        _, x, y = layout.locate(left + width - 1, top + height - 1)
        assert (x, y) == pytest.approx((size[0] - 0.5, size[1] - 0.5), abs=0.1)


def test_large_images_are_not_kept(photos, tmp_path):
    large = np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    paths = (str(tmp_path / "large.png"), photos[0])
    features = Exploration(resize=128).features(PairChoice(paths, "xfeat-lighterglue", 32))
    assert features.images[0].shape == (650, 1300) and features.images[0].dtype == np.uint8
    assert features.sizes[0] == (3000, 1500)


def test_values_of_early_layers_change_the_result(exploration, choice):
    one, other = (exploration.matching(choice, Setting(value_source=v)) for v in ("current", "initial"))
    assert not torch.equal(one.found.scores, other.found.scores)


def test_a_click_goes_to_the_nearest_keypoint(exploration, choice, look):
    features = exploration.features(choice)
    layout = Layout.side_by_side(features.sizes)
    points = layout.points(features)
    for node in (3, 127, 128, 255):
        assert looks.click(exploration, look, *(points[node] + 0.01)).node == node
    assert looks.click(exploration, look, layout.offsets[1][0] - 3, 5) == look  # between the images
    assert features.place(features.node(1, 5)) == (1, 5)
    with pytest.raises(ValueError, match="image B has keypoints 0 to 127, there is no keypoint 128"):
        features.node(1, 128)


def test_pictures_show_what_is_asked_for(exploration, look):
    def colours(parts, **changes):
        (picture,) = looks.pictures(exploration, replace(look, parts=parts, **changes))
        return {
            name
            for name, code in COLOURS.items()
            if (np.abs(picture.astype(int) - [int(code[i : i + 2], 16) for i in (1, 3, 5)]).max(2) < 3).any()
        }

    assert colours(()) == {"keypoint"}
    assert colours(("self",)) == {"keypoint", "self"}
    assert colours(("cross",), layer=5) == {"keypoint", "cross"}
    assert colours(("match",)) == {"keypoint", "match"}
    (few,) = looks.pictures(exploration, replace(look, parts=("self",), threshold=0.9))
    (many,) = looks.pictures(exploration, replace(look, parts=("self",), threshold=0.0))
    (none,) = looks.pictures(exploration, replace(look, parts=()))
    assert (many != none).sum() > (few != none).sum() > 0
    (everything,) = looks.pictures(exploration, replace(look, parts=tuple(PARTS)))
    assert (everything != many).any()


def test_details_compare_settings_and_are_escaped(exploration, look):
    two = replace(look, settings=(Setting(), Setting("sparse", 4)), layer=99, head=7)  # cut to what there is
    html = looks.details(exploration, two)
    assert html.count("<caption>") == 4
    assert "sparse k=4, values: current" in html
    assert "Self-attention spread" in html and "probability" in html
    assert len(looks.pictures(exploration, two)) == 2
    with pytest.raises(ValueError, match="'head' must be mean, max or a number, got '-1'"):
        looks.head_of("-1")


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_files_hold_what_is_shown(exploration, choice, look, tmp_path, form):
    two = replace(look, settings=(Setting(), Setting("knn", 4)), parts=tuple(PARTS))
    figure, table_file, numbers_file = looks.write_files(exploration, two, tmp_path, form)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (figure, table_file, numbers_file)
    )
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form]
    assert figure.read_bytes().startswith(start)
    if form == "png":
        assert Image.open(figure).width == 1400
    saved = json.loads(numbers_file.read_text())
    assert [one["setting"] for one in saved] == [
        {"graph": "complete", "k": None, "value_source": "current"},
        {"graph": "knn", "k": 4, "value_source": "current"},
    ]
    rows = list(csv.DictReader(table_file.open()))
    assert len(rows) == 2 * 128 + len(saved[1]["attention"]["self"]["sources"]) + 128
    features = exploration.features(choice)
    report = describe(features, exploration.matching(choice, Setting()), look.node, look.layer, "mean")
    assert float(rows[0]["weight"]) == pytest.approx(float(report.attended["self"].weights[0]))
    assert table(features, report, "self")[0][1] == f"{rows[0]['source_image']} {rows[0]['source']}"


def test_image_without_keypoints_is_named(exploration, photos, bad_images):
    choice = PairChoice((photos[0], bad_images["grey"]), "xfeat-lighterglue", 64)
    with pytest.raises(ValueError, match="image B has no keypoints"):
        exploration.features(choice)


def test_sample_pair_has_a_truth():
    exploration = Exploration(resize=320)
    choice = PairChoice(None, "xfeat-lighterglue", 128)
    matching = exploration.matching(choice, Setting())
    report = describe(exploration.features(choice), matching, 0, 0, "max")
    assert matching.pair.y is not None and report.right in (True, False, None)
    assert "right (complete" in looks.summary(exploration, looks.begin(exploration, choice, (Setting(),)))


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"'graph' must be one of complete, .* got 'ring'"):
        Setting("ring")
    with pytest.raises(ValueError, match="'k' must be positive, got 0"):
        Setting("knn", 0)
