"""The page as it is served, in a real headless Chromium."""

from http.client import HTTPConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

pytest.importorskip("bokeh", reason="the page needs the extra 'app'")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

from app.browsing import Visitor  # noqa: E402

from pyg_match.app import Limits, PairChoice  # noqa: E402
from pyg_match.app.server import launch  # noqa: E402

LIMIT = 2**20


@pytest.fixture(scope="module")
def server():
    served = launch(
        PairChoice(None, "xfeat-lighterglue", 256), Limits(max_bytes=LIMIT), block=False, resize=400
    )
    yield served.url
    served.close()


@pytest.fixture
def visit(browser, server, artifacts):
    visitors = []

    def visit(query=""):
        visitors.append(Visitor(browser, server + query))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.page.screenshot(path=artifacts / "served.png", full_page=True)
        assert visitor.errors == []
        hosts = {url.split("/")[2] for url in visitor.requests if url.startswith(("http", "ws"))}
        assert hosts == {server.split("/")[2]}
        visitor.close()


def message(visitor, text, role="status"):
    found = visitor.page.locator("#message")
    sync_api.expect(found).to_contain_text(text, timeout=60_000)
    assert found.get_attribute("role") == role


def submit(visitor):
    visitor.page.get_by_role("button", name="Match", exact=True).click()


def test_settings_are_compared(visit):
    visitor = visit()
    message(visitor, "256 keypoints in image A")
    visitor.ready().click(20)
    visitor.wait_for("explorer.state.pinned === 20")
    visitor.page.get_by_label("Compare with a second setting").check()
    visitor.page.locator("select[name=graph2]").select_option("knn")
    visitor.page.locator("select[name=k2]").select_option("8")
    submit(visitor)
    message(visitor, "(knn k=8)")
    assert visitor.state("view") == "both" and visitor.state("pinned") == 20
    assert "compare=knn%3A8%3Atrained" in visitor.page.url
    # The address leads back to the settings, too.
    again = visit("?" + visitor.page.url.split("?")[1])
    message(again, "(knn k=8)")
    assert again.page.get_by_label("Compare with a second setting").is_checked()
    again.ready()
    assert again.state("pinned") == 20 and again.state("view") == "both"


def test_own_images_and_refused_ones(visit, photos, bad_images, tmp_path):
    visitor = visit()
    message(visitor, "256 keypoints in image A")
    assert not visitor.page.locator("#uploads").is_visible()
    visitor.page.get_by_label("your own").check()
    submit(visitor)
    message(visitor, "Choose image A and image B. The picture below is still the one before.", "alert")
    upload_a, upload_b = (visitor.page.locator(f"input[name=file_{name}]") for name in "ab")
    upload_a.set_input_files(photos[0])
    large = tmp_path / "large.png"
    large.write_bytes(bytes(LIMIT + 1))
    for path, text in (
        (bad_images["broken"], "Image B cannot be read: broken.png is not an image, or damaged"),
        (bad_images["cut"], "cannot be decoded; it is damaged, cut off"),
        (
            bad_images["huge"],
            "Image B is too large: 10000 x 10000 pixels are 100 megapixels, at most 40 are read",
        ),
        (str(large), "Image B is too large: 1 MiB, at most 1 MiB are read"),
    ):
        upload_b.set_input_files(path)
        submit(visitor)
        message(visitor, text, "alert")
        assert "Traceback" not in visitor.page.content()
    upload_b.set_input_files(photos[1])
    submit(visitor)
    message(visitor, "Judged by: homography of the matches")
    assert visitor.page.evaluate("explorer.pair.names") == ["left.png", "right.png"]
    assert "images=" not in visitor.page.url
    # A picture of a single colour has no keypoints, and the page is empty.
    upload_b.set_input_files(bad_images["grey"])
    submit(visitor)
    message(visitor, "0 in image B; 0 matches")


@pytest.mark.parametrize("query", ["?setting=ring:3", "?weights=/etc/passwd", "?max_keypoints=99999999"])
def test_wrong_words_in_the_address(visit, query):
    visitor = visit(query)
    expected = {
        "setting": "'graph' must be one of",
        "weights": "Unknown weights",
        "max_keypoints": "'max_keypoints'",
    }
    message(visitor, expected[query[1:].split("=")[0]], "alert")
    submit(visitor)
    message(visitor, "256 keypoints in image A")


def test_nothing_else_is_served(server):
    assert server.startswith("http://127.0.0.1:")
    for path in (
        "etc/passwd",
        str(Path(__file__).resolve()),
        "static/../../setup.cfg",
        "static/%2e%2e/%2e%2e/setup.cfg",
    ):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{server}{path}", timeout=60)
        assert refused.value.code in (400, 403, 404)


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("", "", 101),
        ("", "http://example.org", 403),
        # A name of another place may lead here.
        ("example.org:{port}", "http://example.org:{port}", 403),
        ("example.org", "http://example.org", 403),
    ],
)
def test_pages_of_other_places_may_not_talk_to_it(server, host, origin, code):
    address = server.split("/")[2]
    host, origin = (text.format(port=address.split(":")[1]) for text in (host, origin))
    for path, upgrades in (("/ws", True), ("/", False), ("/autoload.js?bokeh-autoload-element=1", False)):
        connection = HTTPConnection(address, timeout=60)
        headers = {"Host": host or address}
        if upgrades:
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            headers |= {
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Origin": origin or f"http://{address}",
            }
        connection.request("GET", path, headers=headers)
        if upgrades or host:
            assert connection.getresponse().status == code
        connection.close()


def test_what_a_visitor_leaves_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    served = launch(PairChoice(None, "xfeat-lighterglue", 64), block=False, resize=200)
    urlopen(served.url, timeout=60).read()
    assert len(list(tmp_path.glob("pyg_match_*"))) == 1
    served.close()
    assert not list(tmp_path.glob("pyg_match_*"))


def test_a_taken_port_is_told(server):
    port = int(server.rstrip("/").split(":")[-1])
    with pytest.raises(OSError, match=f"port {port} is taken, choose another one"):
        launch(port=port, block=False)
