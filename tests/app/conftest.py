import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from app.browsing import CHROMIUM, QUIET, Visitor
from app.matched import matched_pair
from helpers import random_pair
from PIL import Image
from skimage import data

from pyg_match.app import Exploration, PairChoice, Setting, explore
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import KNNGraph
from pyg_match.visualization import record_attention


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> tuple[str, str]:
    """Two overlapping parts of a photo."""
    folder = tmp_path_factory.mktemp("photos")
    photo = data.astronaut()[:300, :400]
    paths = str(folder / "left.png"), str(folder / "right.png")
    Image.fromarray(photo).save(paths[0])
    Image.fromarray(photo[20:, 30:]).save(paths[1])
    return paths


@pytest.fixture(scope="session")
def exploration() -> Exploration:
    return Exploration(resize=400)


@pytest.fixture(scope="session")
def choice(photos) -> PairChoice:
    return PairChoice(photos, "xfeat-lighterglue", 128)


@pytest.fixture(scope="session")
def compared(exploration, choice):
    """An explorer of two settings."""
    return exploration.explorer(choice, Setting(), Setting("sparse", 8))


@pytest.fixture(scope="session")
def bad_images(tmp_path_factory) -> dict[str, str]:
    """Images to be refused: a text, a cut-off file, 100 megapixels, a TIFF of numbers above 1; and a single colour."""
    folder = tmp_path_factory.mktemp("bad")
    paths = {name: folder / f"{name}.png" for name in ("broken", "cut", "grey", "huge")}
    paths["broken"].write_text("not an image")
    Image.fromarray(data.astronaut()).save(paths["cut"])
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:5000])
    Image.new("RGB", (320, 240), (128, 128, 128)).save(paths["grey"])
    Image.new("1", (10_000, 10_000)).save(paths["huge"])
    paths["bright"] = folder / "bright.tif"
    Image.fromarray(data.astronaut()[..., 0].astype("float32")).save(paths["bright"])
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory) -> Iterator[Path]:
    """Where screenshots go: the folder that PYG_MATCH_ARTIFACTS names, or a temporary one."""
    named = os.environ.get("PYG_MATCH_ARTIFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    print(f"screenshots: {folder}")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def launch(chromium):
    """The system's browser, or the one that playwright installs. A browser that does not start is an error."""
    path = str(CHROMIUM) if CHROMIUM.exists() else chromium.executable_path
    if not Path(path).exists() and not os.environ.get("GITHUB_ACTIONS"):
        pytest.skip(f"no browser at {CHROMIUM} or {path}")
    return chromium.launch(executable_path=path, args=QUIET)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    with sync_api.sync_playwright() as driver:
        chromium = launch(driver.chromium)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Files: one setting, two settings, and pairs with nothing to see."""
    folder = tmp_path_factory.mktemp("pages")
    pair, matches, scores = matched_pair()
    images = [torch.rand(3, 48, 64), torch.rand(3, 60, 32)]
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3).eval()

    def explored(pair, transform=lambda pair: pair, **options):
        with torch.no_grad(), record_attention(matcher, top=8) as record:
            matcher(transform(pair.clone()))
        return explore(pair, record, names=("one.png", "two, or <b>.png"), weights="none", **options)

    known = {"images": images, "matches": matches, "scores": scores}
    one = explored(pair, setting="complete", **known)
    one.save(folder / "one.html")
    # What a notebook shows of a cell.
    (folder / "notebook.html").write_text(f"<!DOCTYPE html><meta charset='utf-8'>{one._repr_html_()}")
    one.compare(explored(pair, KNNGraph(4, loop=True), setting="knn k=4", **known)).save(folder / "two.html")
    explored(random_pair(0, 5)).save(folder / "empty.html")
    explored(random_pair(9, 5)).save(folder / "unmatched.html")
    return folder


@pytest.fixture
def visit(browser, pages, artifacts, request):
    """Opens pages, and at the end looks whether anything went wrong or left the machine."""
    visitors = []

    def visit(name, hash="", **options):
        visitors.append(Visitor(browser, f"{(pages / name).as_uri()}{hash}", **options))
        return visitors[-1].ready()

    yield visit
    for number, visitor in enumerate(visitors):
        picture = artifacts / f"{request.node.name.replace('/', '_')}_{number}.png"
        visitor.page.screenshot(path=picture, full_page=True)
        assert visitor.errors == []
        outside = [url for url in visitor.requests if not url.startswith(("file:", "data:", "blob:"))]
        assert outside == []
        visitor.close()
