"""Backends of what detectors need."""

import pytest

from pyg_match.ops import convolution, detection
from pyg_match.ops.native import library


@pytest.fixture(params=["c", "torch", *library.INSTRUCTION_SETS])
def backend(request, monkeypatch):
    """The kernels, also of each instruction set, and what stands in for them elsewhere."""
    name = request.param
    if name == "torch":
        for module in (convolution, detection):
            monkeypatch.setattr(module, "has_kernels", lambda *_: False)
    elif library.library() is None:
        pytest.skip("the library is missing")
    elif name != "c":
        names = list(library.INSTRUCTION_SETS)
        if names.index(name) > names.index(library.instruction_set()):
            pytest.skip(f"this machine or library has no {name}")
        library.kernel.cache_clear()
        monkeypatch.setattr(library, "instruction_set", lambda: name)
    yield name
    library.kernel.cache_clear()
