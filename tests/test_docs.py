"""The Python code of the pages runs, and gives what its comments say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGES = ("how-it-works.md",)


@pytest.mark.parametrize("page", PAGES)
def test_code_of_pages(page):
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, page, "exec"), names)
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert blocks and printed.getvalue().splitlines() == expected


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages(page):
    folder = Path(__file__).parents[1] / "docs"
    links = re.findall(r"\]\(([^)#]+)", (folder / page).read_text())
    assert links and all((folder / link).exists() for link in links if not link.startswith("http"))
