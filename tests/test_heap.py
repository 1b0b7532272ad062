"""Memory that goes back to the system."""

import pytest
import torch

from pyg_match import heap


@pytest.mark.skipif(not hasattr(heap._LIBRARY, "malloc_trim"), reason="the C library is not glibc")
def test_gaps_between_tensors_are_given_back():
    heap.release_memory(growth=0)
    blocks = [torch.ones(1 << 14) for _ in range(2000)]  # too small to be mapped on their own
    before = heap._resident()
    del blocks[::2]
    heap.release_memory(growth=1 << 40)
    assert heap._resident() > before - (1 << 24)
    heap.release_memory(growth=0)
    assert heap._resident() < before - (1 << 25)
    assert all(bool((block == 1).all()) for block in blocks)


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_LIBRARY", None)
    monkeypatch.setattr(heap, "_resident", lambda: pytest.fail("nothing is to be done"))
    heap.release_memory(growth=0)
