import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyg_match.app import PairChoice, Setting
from pyg_match.cli import app

pytest.importorskip("bokeh", reason="the page needs the extra 'app'")


def run(*args):
    return CliRunner().invoke(app, ["explore", *map(str, args)])


def test_what_the_page_starts_with(photos, monkeypatch):
    seen = []
    monkeypatch.setattr("pyg_match.app.server.launch", lambda *args, **kwargs: seen.append((args, kwargs)))
    words = ("--weights", "disk-lightglue", "--port", "7999", "--max-megapixels", "2", "--device", "cpu")
    result = run(*photos, *words, "--compare", "knn:8")
    assert result.exit_code == 0, result.output
    (choice, limits, port, browser), kwargs = seen[0]
    assert choice == PairChoice(photos, "disk-lightglue", 1024)
    assert (limits.max_pixels, port, browser, kwargs["resize"]) == (2_000_000, 7999, False, 768)
    assert str(kwargs["device"]) == "cpu"
    assert (kwargs["setting"], kwargs["compare"]) == (Setting("trained"), Setting("knn", 8))
    assert run().exit_code == 0
    assert seen[1][0][0] == PairChoice()


def test_export(photos, tmp_path):
    page = tmp_path / "page.html"
    words = ("--weights", "xfeat-lighterglue", "--max-keypoints", 64, "--resize", 256, "--device", "cpu")
    result = run(*photos, "--export", page, *words, "--setting", "knn:8", "--compare", "complete")
    assert result.exit_code == 0, result.output
    assert result.output == f"saved      {page} ({page.stat().st_size / 1e6:.1f} MB)\n"
    assert page.read_text().endswith("</html>") or "</html>" in page.read_text()[-20:]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


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
        (["--setting", "ring:3"], "'graph' must be one of"),
        (["--compare", "knn:x"], "must be GRAPH:K:VALUES"),
        (["--device", "cuda:99"], "cuda"),
        (["--export", "page.png"], "a page is saved as .html, got 'page.png'"),
        (["--export", "nothing/page.html"], "no folder 'nothing' to write page.html to"),
    ],
)
def test_bad_arguments_are_told_in_one_line(photos, args, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyg_match.app.server.launch", lambda *_, **__: None)
    result = run(*[arg.format(*photos) for arg in args])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_not_written_over(photos, tmp_path):
    image = tmp_path / "image.html"
    content = Path(photos[0]).read_bytes()
    image.write_bytes(content)
    result = run(image, photos[1], "--export", image)
    assert result.exit_code == 1 and "--export would overwrite the input" in result.stderr
    assert image.read_bytes() == content


def test_missing_bokeh_is_told():
    script = (
        "import sys; sys.modules['bokeh'] = None\n"
        "from pyg_match.cli import app; app(['explore'], standalone_mode=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'pyg-match[app]'" in done.stderr
    assert "Traceback" not in done.stderr
