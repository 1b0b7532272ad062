"""A small folder of photos."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    for name, size in (("astronaut", (256, 256)), ("coffee", (300, 200)), ("deeper/rocket", (200, 300))):
        image = Image.fromarray(getattr(data, Path(name).name)()).resize(size)
        image.save(folder / f"{name}.png")
    return folder
