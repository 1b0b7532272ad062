"""What tests of commands share."""

import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from pyg_match.cli import app


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    photo = data.astronaut()[:360, :360]
    Image.fromarray(photo).save(folder / "0.png")
    Image.fromarray(photo[20:, 10:]).save(folder / "1.png")
    return [str(folder / name) for name in ("0.png", "1.png")]


@pytest.fixture(scope="session")
def run():
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])
