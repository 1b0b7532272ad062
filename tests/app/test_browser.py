"""The page in a real headless Chromium."""

import json
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra 'app'")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

from pyg_match.app import PairChoice  # noqa: E402
from pyg_match.app.server import launch  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
# Without these, Chromium calls home by itself.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")


@pytest.fixture(scope="module")
def server():
    page = launch(PairChoice(None, "aliked-lightglue", 512), block=False, resize=512)
    yield page.local_url.rstrip("/")
    page.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield chromium
        chromium.close()


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, browser, url, folder):
        self.page = browser.new_page(viewport={"width": 1366, "height": 900})
        self.page.set_default_timeout(30_000)
        self.hosts, self.errors, self.folder = set(), [], folder
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def picture(self, name="picture"):
        return self.page.locator(f"#{name} img")

    def source(self):
        return self.picture().evaluate("image => image.src")

    def wait_for_new_picture(self, old):
        self.page.wait_for_function(
            "old => { const i = document.querySelector('#picture img'); return i && i.src !== old && i.complete }",
            arg=old,
        )

    def title(self):
        return self.page.locator("#details h3").inner_text()

    def facts(self):
        return self.page.locator("#details .facts").inner_text()

    def message(self, text):
        found = self.page.locator("#message .message")
        sync_api.expect(found).to_contain_text(text, timeout=30_000)
        return found

    def go_to(self, number):
        """Type the number of a keypoint, as often as the page writes into the field that has just been laid out."""
        field = self.page.get_by_role("spinbutton", name="Keypoint", exact=True)
        for _ in range(5):
            field.fill(number)
            self.page.wait_for_timeout(500)
            if field.input_value() == number:
                break
        self.page.get_by_role("button", name="Show it").click()

    def click_picture(self, x, y):
        box = self.picture().bounding_box()
        self.picture().click(position={"x": box["width"] * x, "y": box["height"] * y})

    def upload(self, name, path):
        box = self.page.locator(f"#upload{name}")
        if box.locator("button[aria-label='Clear'], button[aria-label='Remove this file']").count():
            box.locator("button[aria-label='Clear'], button[aria-label='Remove this file']").first.click()
        box.locator("input[type=file]").set_input_files(path)

    def screenshot(self, name):
        self.page.screenshot(path=self.folder / f"{name}.png", full_page=True)


@pytest.fixture
def visitor(browser, server, artifacts):
    visitor = Visitor(browser, server, artifacts)
    yield visitor
    visitor.page.close()


def test_explore_the_sample_pair(visitor):
    visitor.picture().wait_for()
    visitor.page.locator("#details table").first.wait_for()
    visitor.screenshot("1_first_screen")
    assert "Click a keypoint" in visitor.page.locator("body").inner_text()
    visitor.message("matches")

    # A click selects the nearest keypoint, and its attention appears.
    for x, y in ((0.3, 0.45), (0.75, 0.4), (0.26, 0.15)):
        old, before = visitor.source(), visitor.title()
        visitor.click_picture(x, y)
        visitor.wait_for_new_picture(old)
        visitor.page.wait_for_function(
            "old => document.querySelector('#details h3').innerText !== old", arg=before
        )
        assert ("image A" if x < 0.5 else "image B") in visitor.title()
    where = visitor.title()
    position = [float(part) for part in where.split("(")[1].split(")")[0].split(",")]
    width, height = visitor.picture().evaluate("image => [image.naturalWidth, image.naturalHeight]")
    scale = height / 600  # the sample is 600 pixels high
    assert abs(position[0] - 0.26 * width / scale) < 30
    assert abs(position[1] - 0.15 * height / scale) < 30
    for fact in ("Match", "Difficulty", "Looks like", "Candidates", "Self-attention spread"):
        assert fact in visitor.facts()
    weights = visitor.page.locator("#details .weights table")
    assert weights.count() == 2
    assert weights.nth(0).locator("tbody tr").count() == 8
    visitor.screenshot("2_clicked")

    # Layer, head and what is drawn.
    old, before = visitor.source(), weights.nth(1).inner_text()
    visitor.page.locator("#layer input[type=number]").fill("1")
    visitor.page.locator("#layer input[type=number]").press("Enter")
    visitor.wait_for_new_picture(old)
    visitor.page.wait_for_function(
        "old => document.querySelectorAll('#details .weights table')[1].innerText !== old", arg=before
    )
    old = visitor.source()
    visitor.page.locator("#parts").get_by_label("candidates").check()
    visitor.wait_for_new_picture(old)
    old = visitor.source()
    visitor.page.locator("#head").get_by_label("max").check()
    visitor.wait_for_new_picture(old)
    visitor.screenshot("3_first_layer_candidates")

    # By number, for those who cannot point.
    visitor.page.get_by_text("Go to a keypoint by number").click()
    number = visitor.page.get_by_role("spinbutton", name="Keypoint", exact=True)
    sync_api.expect(number).to_have_value(where.split()[1])
    visitor.go_to("999999")
    visitor.message("there is no keypoint 999999")
    visitor.go_to("3")
    visitor.page.locator("#details h3", has_text="Keypoint 3 of image A").wait_for()
    where = visitor.title()

    # Compare, and take the files away.
    visitor.page.locator("#compare").get_by_role("checkbox").check()
    visitor.picture("picture2").wait_for()
    visitor.page.wait_for_function("document.querySelectorAll('#details .weights table').length === 4")
    assert visitor.title() == where
    visitor.screenshot("4_compared")
    visitor.page.locator("#make").click()
    links = visitor.page.locator("#files a[download]")
    links.first.wait_for()
    names = {}
    for link in links.all():
        with visitor.page.expect_download() as download:
            link.click()
        target = visitor.folder / download.value.suggested_filename
        download.value.save_as(target)
        names[target.suffix] = target
    assert set(names) == {".svg", ".csv", ".json"}
    assert names[".svg"].read_text().startswith("<?xml")
    saved = json.loads(names[".json"].read_text())
    assert [one["setting"]["graph"] for one in saved] == ["complete", "anchors"]
    assert f"Keypoint {saved[0]['keypoint']['keypoint']} of" in where
    assert len(names[".csv"].read_text().splitlines()) > 100
    visitor.screenshot("5_files")

    assert visitor.errors == []
    assert visitor.hosts == {visitor.page.url.split("/")[2]}


def test_click_among_many_keypoints(visitor, capsys):
    """Reports how long a click takes with 2,048 keypoints an image."""
    visitor.picture().wait_for()
    for name, option in (("detector", "XFeat"), ("max_keypoints", "2048")):
        visitor.page.locator(f"#{name} input").click()
        visitor.page.get_by_role("option", name=option, exact=True).click()
    visitor.message("2048 keypoints in image A, 2048 in image B")
    visitor.page.wait_for_function("document.querySelectorAll('#head input').length === 3")  # it has one head
    visitor.page.wait_for_timeout(500)
    seconds = []
    for x, y in ((0.2, 0.2), (0.3, 0.45), (0.75, 0.4), (0.22, 0.25)):
        old = visitor.source()
        start = time.perf_counter()
        visitor.click_picture(x, y)
        visitor.wait_for_new_picture(old)
        seconds.append(time.perf_counter() - start)
    with capsys.disabled():
        print("\nclick to overlay, 2 x 2,048 keypoints: " + ", ".join(f"{s:.2f}" for s in seconds) + " s")


def test_own_images_and_refused_ones(visitor, photos, bad_images):
    visitor.picture().wait_for()
    visitor.page.locator("#pair").get_by_label("your images").check()
    visitor.message("Choose image A and image B")
    visitor.upload("A", photos[0])
    visitor.message("Choose image B")
    for name, text in (
        ("broken", "Image B cannot be read: broken.png is not an image, or damaged"),
        ("cut", "cannot be decoded; it is damaged, cut off"),
        ("grey", "Image B has no keypoints"),
        ("huge", "Image B is too large: 10000 x 10000 pixels are 100 megapixels, at most 40 are read"),
    ):
        visitor.upload("B", bad_images[name])
        assert visitor.message(text).get_attribute("role") == "alert"
        visitor.screenshot(f"6_{name}")
        assert "Traceback" not in visitor.page.content()
    old = visitor.source()
    visitor.upload("B", photos[1])
    visitor.message("matches")
    visitor.wait_for_new_picture(old)
    visitor.screenshot("7_own_images")
    assert visitor.errors == []


def test_nothing_else_is_served(server, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    for path in ("/etc/passwd", str(Path(__file__).resolve()), "setup.cfg", str(secret), "../../etc/passwd"):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{server}/gradio_api/file={path}", timeout=10)
        assert refused.value.code in (403, 404)
    config = json.loads(urlopen(f"{server}/config", timeout=10).read())
    assert config["analytics_enabled"] is False
    assert server.startswith("http://127.0.0.1:")


def test_a_path_in_place_of_an_upload_is_refused(server, monkeypatch, photos):
    """Asks for the match that the page would ask for, but names a file of the server."""
    read = []
    monkeypatch.setattr("pyg_match.app.exploration.read_upload", lambda path, *_: read.append(path))
    config = json.loads(urlopen(f"{server}/config", timeout=10).read())
    labels = {part["id"]: part["props"].get("label") for part in config["components"]}
    match = next(d for d in config["dependencies"] if "Image A" in [labels[i] for i in d["inputs"]])
    file = {"path": photos[0], "meta": {"_type": "gradio.FileData"}}
    values = {"Image A": file, "Image B": file, "Images": "your images", "Detector": "xfeat-lighterglue"}
    initial = {part["id"]: part["props"].get("value") for part in config["components"]}
    data = [values.get(labels[i], initial[i]) for i in match["inputs"]]
    body = json.dumps({"data": data, "fn_index": match["id"], "session_hash": "stranger"}).encode()
    request = Request(f"{server}/gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urlopen(request, timeout=10).close()
    with urlopen(f"{server}/gradio_api/queue/data?session_hash=stranger", timeout=10) as events:
        answer = next(line for line in events if b"process_completed" in line)
    assert json.loads(answer.split(b":", 1)[1])["success"] is False
    assert read == []
