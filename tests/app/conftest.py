import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from pyg_match.app import Exploration, PairChoice

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


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
def bad_images(tmp_path_factory) -> dict[str, str]:
    """Images to be refused: a text, a cut-off file, a single colour, 100 megapixels, a TIFF of numbers above 1."""
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
