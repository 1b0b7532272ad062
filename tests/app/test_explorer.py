import json
import re

import numpy as np
import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch

from pyg_match.app import explore
from pyg_match.nn import GraphMatcher
from pyg_match.visualization import layer_matches, record_attention

pytest.importorskip("bokeh", reason="the page needs the extra 'app'")


def explored(pair, matched=True, **options):
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, filter_threshold=0.0).eval()
    with torch.no_grad(), record_attention(matcher, top=4) as record:
        found = layer_matches(matcher, pair)
    if matched:
        options |= {"matches": found.matches, "scores": found.scores}
    return explore(pair, record, **options)


def test_what_the_page_gets():
    pair = random_pair(9, 7)
    content, attention = explored(
        pair, setting="k = 8, µ", weights="none", names=("a.png", "b.png")
    ).content()
    assert (content["counts"], content["names"]) == ([9, 7], ["a.png", "b.png"])
    assert np.allclose(np.stack([content["x"], content["y"]], 1), pair.pos, atol=0.01)
    (setting,) = content["settings"]
    assert (setting["name"], setting["slug"], setting["layers"], setting["heads"]) == (
        "k = 8, µ",
        "k-8",
        3,
        4,
    )
    assert setting["top"] <= 4 and len(attention) == 1
    assert len(setting["match"]) == len(setting["difficulty"]) == len(content["candidates"]) == 16
    assert len(setting["judged"]) == 9
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("kind", [torch.double, torch.half])
def test_another_default_type(kind):
    pair = random_pair(9, 7)
    page = explored(pair)
    torch.set_default_dtype(kind)
    try:
        assert page.content()[1]
    finally:
        torch.set_default_dtype(torch.float)


def test_pages_are_whole_and_ask_for_nothing(tmp_path):
    found = explored(random_pair(9, 7), images=(torch.rand(3, 64, 64), torch.rand(1, 64, 48)))
    found.save(tmp_path / "page.HTML")
    page = (tmp_path / "page.HTML").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.HTML"]
    assert "</html>" in page[-20:] and "data:image/jpeg;base64," in page
    assert re.search(r"<(script|link|img|iframe)[^>]*(src|href)=.http", page) is None
    assert found._repr_html_().startswith('<iframe srcdoc="')
    assert repr(found) == "Explorer([9, 7], settings=[''])"


def test_names_are_no_markup():
    name = "<script>alert(1)</script>.png"
    page = explored(random_pair(3, 3), names=(name, name), setting=name).html()
    assert "<script>alert(1)" not in page


def test_where_pages_are_not_written(tmp_path):
    found = explored(random_pair(3, 3))
    with pytest.raises(ValueError, match=r"a page is saved as \.html, got 'page.png'"):
        found.save(tmp_path / "page.png")
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nothing' to write page.html to"):
        found.save(tmp_path / "nothing" / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_without_keypoints(sizes):
    pair = random_pair(*sizes)
    for matched in (True, False):
        content, _ = explored(pair, matched).content()
        assert content["counts"] == list(sizes)
        assert content["start"]["node"] >= -1
        assert len(content["candidates"]) == sum(sizes)


@pytest.mark.parametrize("options", [{"depth_confidence": 1e-6}, {"width_confidence": 0.99}], ids=str)
def test_pairs_that_stop_early_and_keypoints_that_are_pruned(options):
    pair = random_pair(40, 30)
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, **options).eval()
    with torch.no_grad(), record_attention(matcher, top=4) as record:
        found = layer_matches(matcher, pair)
    content, _ = explore(pair, record, matches=found.matches, scores=found.scores).content()
    assert content["settings"][0]["layers"] == record.num_layers
    assert 0 <= content["start"]["layer"] < max(record.num_layers, 1)


def test_both_settings_are_judged_by_the_first():
    pair = random_pair(9, 7)
    one, other = explored(pair, setting="one"), explored(pair, setting="other", truth=torch.full((16,), -1))
    content, attention = one.compare(other).content()
    assert [setting["name"] for setting in content["settings"]] == ["one", "other"]
    assert content["truth"]["name"] == one.content()[0]["truth"]["name"] and len(attention) == 2
    with pytest.raises(ValueError, match="two settings can be compared, got more"):
        one.compare(other).compare(one)
    with pytest.raises(ValueError, match="both settings must have the same keypoints"):
        one.compare(explored(random_pair(9, 7)))


def test_a_pair_with_a_homography():
    pair = random_pair(9, 7)
    pair.homography = torch.eye(3).unsqueeze(0)
    assert explored(pair).content()[0]["truth"]["name"] == "ground truth (homography)"
    pair.homography = torch.full((1, 3, 3), torch.nan)
    assert "ground truth" not in explored(pair).content()[0]["truth"]["name"]


def test_wrong_arguments():
    pair = random_pair(9, 7)
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=1)
    with record_attention(matcher) as record:
        matcher(pair)
    with pytest.raises(TypeError, match="'record' must be an AttentionRecord, got str"):
        explore(pair, "record")
    with pytest.raises(ValueError, match="expected one pair, got a batch of 2"):
        explore(Batch.from_data_list([pair, pair]), record)
    with pytest.raises(ValueError, match=r"the record is of pairs with \[\[9, 7\]\] keypoints, the pair has"):
        explore(random_pair(3, 3), record)
    with pytest.raises(ValueError, match=r"'matches' must have shape \[16\] or \[L, 16\], got \[9\]"):
        explore(pair, record, matches=torch.zeros(9))
    with pytest.raises(ValueError, match=r"'scores' must have shape \[16\], got \[1, 16\]"):
        explore(pair, record, matches=torch.zeros(16), scores=torch.zeros(1, 16))
    with pytest.raises(ValueError, match="expected two images and two names, got 1 and 2"):
        explore(pair, record, images=[torch.rand(3, 8, 8)])
