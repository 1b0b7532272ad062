"""Which Triton there is, and whether it can launch; a GPU is pretended."""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch

from pyg_match.ops import attention_operators as operators


@pytest.fixture
def fresh():
    """Answers of this test are not kept for others, nor those of others for it."""
    cached = operators.has_triton, operators._runs_triton
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def pretend(monkeypatch, triton):
    monkeypatch.setattr(operators, "find_spec", lambda _: object())
    monkeypatch.setattr(operators, "import_module", lambda _: triton)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.parametrize(("number", "serves"), [("3.1.0", False), ("3.2.0+git1", True), ("3.10.0", True)])
def test_builds_of_other_names_count(number, serves, fresh, monkeypatch):
    def unknown(_):
        raise PackageNotFoundError("triton")

    monkeypatch.setattr(operators, "version", unknown)
    pretend(monkeypatch, SimpleNamespace(__version__=number))
    assert operators.has_triton() == serves


def test_without_a_compiler_plain_torch_serves_after_one_warning(fresh, monkeypatch):
    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(operators, "version", lambda _: "3.6.0")
    pretend(monkeypatch, SimpleNamespace(runtime=SimpleNamespace(driver=Driver())))
    with pytest.warns(UserWarning, match="plain torch does their work, which takes longer: Failed to find C"):
        assert not operators.has_kernels("cuda")
    assert not operators.has_kernels("cuda")
    pretend(monkeypatch, SimpleNamespace(runtime=SimpleNamespace(driver=SimpleNamespace(active=object()))))
    operators._runs_triton.cache_clear()
    assert operators.has_kernels("cuda")
