"""The page as a file, opened from disk in a real headless Chromium: links, keys, files, and other surroundings."""

import csv
import json
import re

import pytest
from app.browsing import Visitor
from PIL import Image

pytest.importorskip("bokeh", reason="the page needs the extra 'app'")


def test_a_link_leads_back(visit):
    first = visit("two.html")
    first.page.locator("#layer").fill("2")
    first.page.locator("#head").select_option("max")
    first.page.locator("#filter_missed").check()
    first.page.locator("#filter_wrong").uncheck()
    first.page.locator("#filter_hard").check()
    first.page.locator("#low").fill("0.25")
    first.page.locator("#show_candidates").check()
    first.page.locator("#goto_name").fill("b 7")
    first.page.locator("#goto_name").press("Enter")
    first.page.locator("#view").select_option("1")
    first.page.locator("#least").fill("0.2")
    hash = "#" + first.page.url.split("#")[1]
    second = visit("two.html", hash)
    for name in ("pinned", "layer", "head", "view", "least", "show", "filter"):
        assert second.state(name) == first.state(name), name
    assert second.state("pinned") == 67 and second.text("count") == first.text("count")
    assert second.page.url.split("#")[1] == hash[1:]
    second.page.evaluate("location.hash = '#at=A1&layer=0'")
    second.wait_for("explorer.state.pinned === 1 && explorer.state.layer === 0")


def test_bad_links_and_names_are_harmless(visit):
    visitor = visit("one.html", "#at=Z9&layer=99&head=7&view=both&score=3-x&show=nothing&least=")
    assert visitor.state("pinned") == -1 and visitor.state("view") == "0"
    assert visitor.state("head") == "mean" and visitor.state("filter.low") == 0
    visitor.page.locator("#goto_name").fill("A 60")
    visitor.page.locator("#goto button").click()
    assert "no such keypoint; A has 60, B has 50" in visitor.text("goto_problem")


def test_keyboard(visit):
    visitor = visit("one.html", "#at=A3&layer=0")
    visitor.page.locator("#zoom_fit").focus()
    visitor.page.keyboard.press("Tab")
    assert visitor.page.evaluate("document.activeElement.id") == "box0"
    outline = visitor.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    before = visitor.page.evaluate("explorer.layout.x[3]")
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.state("pinned") != 3
    assert visitor.page.evaluate("explorer.layout.x[explorer.state.pinned]") > before
    for keys, condition in (
        ("..", "layer === 2"),
        (".", "layer === 2"),
        (",", "layer === 1"),
        ("h", "head === 'max'"),
        ("h", "head === 0"),
        ("H", "head === 'max'"),
    ):
        for key in keys:
            visitor.page.keyboard.press(key)
        visitor.wait_for(f"explorer.state.{condition}")
    visitor.page.keyboard.press("n")
    first = visitor.state("pinned")
    visitor.page.keyboard.press("n")
    assert visitor.state("pinned") != first
    visitor.page.keyboard.press("N")
    assert visitor.state("pinned") == first
    visitor.page.keyboard.press("m")
    assert visitor.state("pinned") >= 60
    zoom = visitor.zoom()
    visitor.page.keyboard.press("+")
    assert visitor.zoom() > zoom
    visitor.page.keyboard.press("0")
    assert visitor.zoom() == pytest.approx(zoom)
    # Keys that are typed into a field are none of the page.
    visitor.page.locator("#goto_name").fill("")
    visitor.page.locator("#goto_name").press_sequentially("A.h")
    assert visitor.state("layer") == 1
    visitor.page.keyboard.press("Escape")
    assert visitor.state("pinned") == -1


def test_figures_and_numbers(visit, tmp_path):
    visitor = visit("two.html", "#at=A3&layer=1&head=2")
    files = {name: visitor.download(f"save_{name}", tmp_path) for name in ("svg", "png", "csv", "json")}
    stem = "one_two-or-b_A3_layer1_head2_none-complete_vs_none-knn-k-4"
    assert {path.name for path in files.values()} == {f"{stem}.{ending}" for ending in files}
    figure = files["svg"].read_text()
    texts = [
        "complete",
        "knn k=4",
        "self-attention",
        "A: one.png",
        "two, or &#60;b&#62;.png",
        "weights: none",
        "pyg_match",
    ]
    assert all(text in figure for text in texts)
    assert figure.count("<image") == 4 and figure.count("<line") > 8
    with Image.open(files["png"]) as picture:
        assert picture.width == 2400 and len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    saved = json.loads(files["json"].read_text())
    assert [one["setting"] for one in saved["settings"]] == ["complete", "knn k=4"]
    first = saved["settings"][0]
    assert (first["keypoint"]["keypoint"], first["layer"], first["head"], first["verdict"]) == (
        3,
        1,
        2,
        "right",
    )
    weights = [source["weight"] for source in first["attention"]["self"]]
    assert weights == sorted(weights, reverse=True)
    assert all(s["weight"] == s["weight_by_head"][2] for s in first["attention"]["self"])
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == sum(len(one["attention"][k]) for one in saved["settings"] for k in ("self", "cross"))
    assert rows[0]["image_b"] == "two, or <b>.png" and float(rows[0]["weight"]) == pytest.approx(weights[0])
    # Without a keypoint it is the matches.
    visitor.page.locator("#unpin").click()
    rows = list(csv.DictReader(visitor.download("save_csv", tmp_path).open()))
    assert len(rows) == 2 * 29 and {row["verdict"] for row in rows} == {"right", "wrong", "not judged"}
    assert "match: right" in visitor.download("save_svg", tmp_path).read_text()


def test_a_cell_of_a_notebook(browser, pages):
    visitor = Visitor(browser, (pages / "notebook.html").as_uri())
    (frame,) = (frame for frame in visitor.page.frames if frame != visitor.page.main_frame)
    frame.wait_for_function("document.body.dataset.ready === 'true'")
    frame.locator("#layer").fill("2")
    frame.locator("#box0").press("n")
    assert frame.evaluate("explorer.models('lines0').data.x0.length") > 0
    assert "layer 2" in frame.locator("#where").inner_text()
    assert visitor.errors == []
    visitor.close()


@pytest.mark.parametrize(("width", "scheme"), [(420, "light"), (420, "dark"), (1440, "dark")])
def test_narrow_and_dark(visit, width, scheme):
    visitor = visit("two.html", width=width, height=800, color_scheme=scheme)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    ground = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
    visitor.page.locator("summary").click()
    # Nothing that can be used lies outside of the window, or has no size.
    hidden = visitor.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, .box")]
          .filter((e) => e.checkVisibility() && !e.closest(".scroll"))
          .map((e) => [e.id || e.outerHTML, e.getBoundingClientRect()])
          .filter(([, box]) => box.width < 5 || box.height < 5 || box.left < 0 || box.right > innerWidth)
          .map(([name]) => name)"""
    )
    assert hidden == []
    visitor.click(20)
    visitor.wait_for("explorer.state.pinned === 20")


@pytest.mark.parametrize("name", ["empty.html", "unmatched.html"])
def test_nothing_to_see(visit, name, tmp_path):
    visitor = visit(name)
    assert "0 matches" in visitor.text("message")
    assert visitor.text("count") == "0 of 0" and visitor.state("pinned") == -1
    visitor.page.keyboard.press("n")
    visitor.page.locator("#box0").focus()
    visitor.page.keyboard.press("ArrowDown")
    assert visitor.download("save_svg", tmp_path).read_text().startswith("<svg")
    assert len(visitor.download("save_csv", tmp_path).read_text().splitlines()) >= 1
