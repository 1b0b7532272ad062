from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pyg_match.app import Exploration, PairChoice, Setting
from pyg_match.app.settings import GRAPHS
from pyg_match.nn import GraphMatcher


@pytest.mark.parametrize("graph", GRAPHS)
def test_attention_follows_the_graph(exploration, choice, graph):
    found = exploration.explorer(choice, Setting(graph, 8, "every:2"))
    (view,) = found._views
    assert view.record.num_layers == 6
    sparse_self = graph in ("knn", "diverse", "anchors", "sparse")
    sources, weights = view.record.of(130, 5, "self")
    assert bool((sources >= 128).all()) and float(weights.sum()) <= 1 + 1e-5
    if sparse_self:
        # With few enough edges, all of them are recorded.
        assert float(weights.sum()) > 0.5
    content, _ = found.content()
    assert content["settings"][0]["name"] == str(Setting(graph, 8, "every:2"))
    assert content["settings"][0]["weights"] == "xfeat-lighterglue"
    similarity = found._pair.x[130] @ found._pair.x[:128].t()
    assert content["candidates"][130] == similarity.topk(5).indices.tolist()


def test_settings_are_remembered_and_compared(exploration, choice, compared):
    assert exploration.explorer(choice, Setting()) is exploration.explorer(choice, Setting())
    content, attention = compared.content()
    assert len(content["settings"]) == len(attention) == 2
    assert content["truth"]["right"] == "inlier"
    assert sum(match >= 0 for match in content["settings"][0]["match"]) > 80
    node = content["start"]["node"]
    assert content["settings"][0]["match"][node] >= 0


def test_another_graph_than_the_trained_one_is_not_drawn_once_more(exploration, choice, monkeypatch):
    whole, config = exploration._matcher(choice.weights, choice.max_keypoints)
    redrawing = replace(config, redraw_after=1, redraw_k=3)
    monkeypatch.setattr(exploration, "_matcher", lambda *_: (whole, redrawing))
    found = {
        graph: exploration._match(choice, Setting(graph, 8))._views[0].found.scores
        for graph in ("candidates", "complete", "trained")
    }
    monkeypatch.undo()
    plain = exploration.explorer(choice, Setting("candidates", 8))._views[0].found.scores
    assert torch.equal(found["candidates"], plain)
    assert not torch.equal(found["trained"], found["complete"])


def test_values_of_early_layers_change_the_result(exploration, choice):
    one, other = (
        exploration.explorer(choice, Setting(value_source=v))._views[0].found.scores
        for v in ("current", "initial")
    )
    assert not torch.equal(one, other)


def test_large_images_are_drawn_small(exploration, photos, tmp_path):
    large = np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    choice = PairChoice((str(tmp_path / "large.png"), photos[0]), "xfeat-lighterglue", 128)
    content, _ = exploration.explorer(choice, Setting()).content()
    assert content["sizes"][0] == [3000, 1500] and content["names"] == ["large.png", "left.png"]
    assert len(content["images"][0]["large"]) < 1_000_000 and len(content["images"][0]["small"]) < 20_000


def test_an_image_without_keypoints(exploration, photos, bad_images):
    choice = PairChoice((photos[0], bad_images["grey"]), "xfeat-lighterglue", 128)
    content, _ = exploration.explorer(choice, Setting("sparse", 4)).content()
    assert content["counts"] == [128, 0] and content["start"]["node"] == -1


def test_the_sample_pair_has_a_truth(exploration):
    explorer = exploration.explorer(PairChoice(None, "xfeat-lighterglue", 128), Setting())
    content, _ = explorer.content()
    assert content["truth"]["name"] == "ground truth (homography)" and content["truth"]["right"] == "right"


def test_trained_is_what_was_trained(photos, tmp_path):
    """Values are those of the weights' own policy, whatever the graph, unless others are named."""
    file = tmp_path / "initial.safetensors"
    matcher = GraphMatcher(in_channels=128, hidden_channels=16, num_layers=3, heads=2, value_source="initial")
    matcher.save(file, metadata={"graph": [{"CandidateEdges": {"k": 4}}], "extractor": "rootsift"})
    exploration = Exploration(resize=300)
    choice = PairChoice(photos, str(file), 64)

    def scores(setting):
        return exploration.explorer(choice, setting)._views[0].found.scores

    for graph in ("trained", "complete"):
        assert torch.equal(scores(Setting(graph)), scores(Setting(graph, value_source="initial")))
        assert not torch.equal(scores(Setting(graph)), scores(Setting(graph, value_source="current")))
