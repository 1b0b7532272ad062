"""The page as a file, opened from disk in a real headless Chromium: what is seen."""

import re

import pytest
from app.matched import MISSED, RIGHT, UNJUDGED, WRONG

pytest.importorskip("bokeh", reason="the page needs the extra 'app'")


def test_hover_click_and_release(visit):
    visitor = visit("one.html")
    start = visitor.state("pinned")
    assert start >= 0 and visitor.rows("lines0") > 1
    visitor.hover(41)
    visitor.wait_for("explorer.state.hovered === 41")
    # Complete graphs: self-attention and cross-attention, of which weak weights are left out.
    colours = set(visitor.column("lines0", "color"))
    assert colours == {visitor.page.evaluate(f"explorer.colours.{kind}") for kind in ("self", "cross")}
    alphas = visitor.column("lines0", "alpha")
    assert max(alphas) == 1 and min(alphas) >= 0.05
    assert "hovered: A 41" in visitor.text("where")
    assert f"Keypoint {'A' if start < 60 else 'B'}" in visitor.text("keypoint_title")
    visitor.page.mouse.move(5, 5)
    visitor.wait_for("explorer.state.hovered === -1")
    visitor.click(70)
    visitor.wait_for("explorer.state.pinned === 70")
    assert "Keypoint B 10 at" in visitor.text("keypoint_title")
    assert "B 10, probability" not in visitor.text("facts") and "A 10, probability" in visitor.text("facts")
    visitor.page.keyboard.press("Escape")
    visitor.wait_for("explorer.state.pinned === -1")
    visitor.page.mouse.move(5, 5)
    visitor.wait_for("explorer.models('lines0').data.x0.length === 0")
    assert visitor.page.locator("#unpin").is_disabled()
    visitor.click(5)
    visitor.page.locator("#unpin").click()
    visitor.wait_for("explorer.state.pinned === -1")


def test_layers_heads_and_what_is_shown(visit):
    visitor = visit("one.html", "#at=A3&layer=0&head=mean")
    assert visitor.text("layer_number") == "0 of 0–2"
    before = visitor.column("lines0", "alpha")
    visitor.page.locator("#layer").fill("2")
    assert "layer 2" in visitor.text("where")
    after = visitor.column("lines0", "alpha")
    visitor.page.locator("#head").select_option("3")
    assert before != after != visitor.column("lines0", "alpha")
    assert visitor.page.locator("#head option").all_inner_texts() == ["mean", "max", "0", "1", "2", "3"]
    assert visitor.column("marks0", "marker").count("diamond") == 3
    visitor.page.locator("#show_candidates").check()
    assert visitor.column("marks0", "marker").count("square") == 5
    assert visitor.column("texts0", "text") == ["1", "2", "3", "4", "5"]
    for name in ("self", "cross", "match"):
        visitor.page.locator(f"#show_{name}").uncheck()
    assert visitor.rows("lines0") == 0
    assert visitor.rows("keypoints0") == 110
    visitor.page.locator("#show_dots").uncheck()
    assert visitor.rows("keypoints0") == 0


def test_matches_are_filtered(visit):
    visitor = visit("one.html")
    total = len(RIGHT) + len(WRONG) + len(MISSED) + len(UNJUDGED)

    def count():
        shown, of = re.fullmatch(r"(\d+) of (\d+)", visitor.text("count")).groups()
        assert int(of) == total and visitor.rows("matches0") == int(shown)
        return int(shown)

    assert count() == total - len(MISSED)
    visitor.page.locator("#filter_missed").check()
    assert count() == total
    labels = {"right": RIGHT, "wrong": WRONG, "missed": MISSED, "unjudged": UNJUDGED}
    for name, nodes in labels.items():
        assert f"({len(nodes)})" in visitor.text(f"filter_{name}_text")
        visitor.page.locator(f"#filter_{name}").uncheck()
        assert count() == total - len(nodes)
        visitor.page.locator(f"#filter_{name}").check()
    visitor.page.locator("#filter_repeated").check()
    # Four keypoints of image A look the same, and all of them are matched.
    assert count() == 4
    visitor.page.locator("#filter_repeated").uncheck()
    visitor.page.locator("#filter_hard").check()
    assert 0 < count() < total
    visitor.page.locator("#filter_hard").uncheck()
    visitor.page.locator("#low").fill("0.9")
    assert count() == sum(1 - 0.7 * node / 59 >= 0.9 for node in range(36)) + len(MISSED)
    visitor.page.locator("#high").fill("0.5")
    assert visitor.state("filter.low") == 0.5 and count() == len(MISSED)


def test_zoom_and_pan(visit):
    visitor = visit("one.html", "#at=none")
    whole = visitor.zoom()
    x, y = visitor.place(10)
    visitor.page.mouse.move(x, y)
    for _ in range(3):
        visitor.page.mouse.wheel(0, -300)
    visitor.wait_for(f"explorer.pictures[0].zoom > {1.2 * whole}")
    # What is under the mouse stays there.
    moved = visitor.place(10)
    assert moved == pytest.approx([x, y], abs=6)
    visitor.page.mouse.move(x, y)
    visitor.page.mouse.down()
    visitor.page.mouse.move(x + 60, y + 40, steps=4)
    visitor.page.mouse.up()
    assert visitor.place(10) == pytest.approx([moved[0] + 60, moved[1] + 40], abs=2)
    visitor.click(10)
    visitor.wait_for("explorer.state.pinned === 10")
    visitor.page.locator("#zoom_fit").click()
    assert visitor.zoom() == pytest.approx(whole)
    visitor.page.locator("#zoom_in").click()
    assert visitor.zoom() == pytest.approx(1.5 * whole)
    visitor.page.locator("#zoom_out").click()
    assert visitor.zoom() == pytest.approx(whole)


def test_pixels_are_square_and_images_lie_under_their_keypoints(visit):
    for width in (1440, 420):
        visitor = visit("one.html", width=width)
        plot = visitor.page.evaluate(
            "(({ inner_width: w, inner_height: h, x_range: x, y_range: y }) => "
            "[w / (x.end - x.start), h / (y.end - y.start)])(explorer.pictures[0].plot)"
        )
        assert plot[0] == pytest.approx(plot[1], rel=1e-3)
        boxes = visitor.page.evaluate("explorer.layout.boxes")
        xs, ys = (visitor.page.evaluate(f"[...explorer.layout.{axis}]") for axis in "xy")
        for image, nodes in enumerate((range(60), range(60, 110))):
            box = boxes[image]
            assert all(box["x"] <= xs[node] <= box["x"] + box["w"] for node in nodes)
            assert all(box["y"] - box["h"] <= ys[node] <= box["y"] for node in nodes)
        assert (boxes[1]["x"] > 0) == (width == 1440)


def test_two_settings(visit):
    visitor = visit("two.html", "#at=A3&layer=1")
    visitor.page.screenshot()
    assert visitor.state("view") == "both"
    assert [visitor.text(f"title{side}") for side in (0, 1)] == ["complete", "knn k=4"]
    counts = [visitor.column(f"lines{side}", "color") for side in (0, 1)]
    assert len(counts[0]) > len(counts[1]) > 0
    visitor.click(20, side=1)
    visitor.wait_for("explorer.state.pinned === 20")
    # The ring around the keypoint is in both pictures.
    for side in (0, 1):
        assert visitor.column(f"marks{side}", "x")[-1] == visitor.page.evaluate("explorer.layout.x[20]")
    head = visitor.page.locator("#self_table thead th").all_inner_texts()
    assert head == ["keypoint", "x, y", "complete", "knn k=4", "is"]
    assert visitor.page.locator("#facts thead th").all_inner_texts() == ["complete", "knn k=4"]
    visitor.page.locator("#view").select_option("1")
    assert not visitor.page.locator("#side0").is_visible() and visitor.page.locator("#side1").is_visible()
    assert visitor.page.locator("#self_table thead th").count() == 4
    assert "view=1" in visitor.page.url
    visitor.page.wait_for_timeout(300)
    visitor.hover(30, side=1)
    visitor.wait_for("explorer.state.hovered === 30")


def test_rows_highlight_the_keypoint(visit):
    visitor = visit("one.html", "#at=A3")
    row = visitor.page.locator("#cross_table tbody tr").nth(1)
    node = int(row.get_attribute("data-node"))
    row.locator("td").nth(1).click()
    assert visitor.state("marked") == node
    pressed = visitor.page.locator("#cross_table button[aria-pressed=true]")
    assert pressed.count() == 1 and visitor.page.evaluate("document.activeElement.ariaPressed") == "true"
    assert visitor.column("marks0", "size")[-1] == 28
    assert visitor.column("marks0", "x")[-1] == visitor.page.evaluate(f"explorer.layout.x[{node}]")
    visitor.page.keyboard.press("Enter")
    assert visitor.state("marked") == -1
    marks = visitor.page.locator("#self_table tbody").inner_text() + visitor.text("alike_table")
    assert "looks alike" in marks and "candidate 1" in marks


def test_all_layers_and_heads_in_a_grid(visit):
    visitor = visit("one.html", "#at=A3&layer=0&head=0")
    assert visitor.rows("grid_image0") == 2 * 3 * 4 and visitor.rows("grid_texts0") == 3 + 4
    assert visitor.rows("grid_frame0") == 1 and visitor.rows("grid_lines0") > 3 * 4
    box = visitor.page.locator("#grid_box0")
    box.scroll_into_view_if_needed()
    visitor.page.wait_for_timeout(200)
    size = box.bounding_box()
    # The last cell is layer 2 and head 3.
    visitor.page.mouse.click(size["x"] + 0.95 * size["width"], size["y"] + 0.95 * size["height"])
    visitor.wait_for("explorer.state.layer === 2 && explorer.state.head === 3")
    assert visitor.page.locator("#head").input_value() == "3"
