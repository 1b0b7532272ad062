import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pyg_match.app import PairChoice
from pyg_match.cli import app


def run(*args):
    return CliRunner().invoke(app, ["explore", *args])


def test_what_the_page_starts_with(photos, monkeypatch):
    seen = []
    monkeypatch.setattr("pyg_match.app.server.launch", lambda *args, **kwargs: seen.append((args, kwargs)))
    result = run(*photos, "--weights", "disk-lightglue", "--port", "7999", "--max-megapixels", "2")
    assert result.exit_code == 0, result.output
    (choice, limits, port, browser), kwargs = seen[0]
    assert choice == PairChoice(photos, "disk-lightglue", 1024)
    assert (limits.max_pixels, port, browser, kwargs) == (2_000_000, 7999, False, {"resize": 768})
    assert run().exit_code == 0
    assert seen[1][0][0] == PairChoice()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{0}"], "give two images or none, got one"),
        (["{0}", "nothing.png"], "there is no file nothing.png"),
        (["{0}", "{1}", "--weights", "superglue"], "unknown matcher 'superglue', expected one of"),
        (
            ["{0}", "{1}", "--max-megapixels", "0.1"],
            "400 x 300 pixels are 0.12 megapixels, at most 0.1 are read",
        ),
    ],
)
def test_bad_arguments_are_told_in_one_line(photos, args, message):
    result = run(*[arg.format(*photos) for arg in args])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_missing_gradio_is_told():
    script = (
        "import sys; sys.modules['gradio'] = None\n"
        "from pyg_match.cli import app; app(['explore'], standalone_mode=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'pyg-match[app]'" in done.stderr
    assert "Traceback" not in done.stderr
