"""Fixtures that hypothesis may use for many cases."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def monkeypatch_session() -> Iterator[pytest.MonkeyPatch]:
    patch = pytest.MonkeyPatch()
    yield patch
    patch.undo()
