"""What several tests need."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.ops import sparse_attention

not_text = pytest.mark.skipif(sys.platform != "linux", reason="names of files are text on this system")
has_links = pytest.mark.skipif(os.name == "nt", reason="the system lets only few make links")
has_locks = pytest.mark.skipif(os.name == "nt", reason="the system has no such locks")


def _reads_numbers() -> bool:
    try:
        torch.func.jvp(lambda x: x * torch.ones(1).tolist()[0], (torch.ones(1),), (torch.ones(1),))
    except RuntimeError:
        return False
    return True


reads_numbers = pytest.mark.skipif(
    not _reads_numbers(), reason="this torch reads no numbers of tensors under torch.func"
)


@contextmanager
def loaded_example(name: str) -> Iterator[ModuleType]:
    """A script of the examples, with the files beside it in reach as they are of a script; they are forgotten then."""
    folder, before = Path(__file__).parents[1] / "examples", set(sys.modules)
    spec = spec_from_file_location(name, folder / f"{name}.py")
    module = module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(folder))
        for other in set(sys.modules) - before:
            if folder in Path(getattr(sys.modules[other], "__file__", None) or "").parents:
                del sys.modules[other]


def random_set(
    num_keypoints: int, channels: int = 16, size: tuple[int, int] = (640, 480), **kwargs
) -> KeypointSet:
    dtype = kwargs.pop("dtype", torch.float)
    pos = torch.rand(num_keypoints, 2, dtype=dtype) * torch.tensor(size, dtype=dtype)
    x = torch.nn.functional.normalize(torch.randn(num_keypoints, channels, dtype=dtype), dim=1)
    return KeypointSet(pos=pos, x=x, score=torch.rand(num_keypoints, dtype=dtype), image_size=size, **kwargs)


def random_pair(count0: int, count1: int, channels: int = 16, **kwargs) -> KeypointPair:
    return KeypointPair.from_sets(
        random_set(count0, channels, **kwargs), random_set(count1, channels, (320, 600), **kwargs)
    )


def write_images(folder: Path, images: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Write arrays and PIL's images as PNG files of one size, under their names."""
    from PIL import Image

    for name, image in images.items():
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).resize(size).save(file)


class AttentionDataset(Dataset):
    """Runs attention in a worker, on more threads than a worker has by itself."""

    def __init__(self, case: tuple) -> None:
        self.case = case

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.set_num_threads(2)
        out = sparse_attention(*self.case)
        torch.set_num_threads(1)  # torch's own threads do not survive a fork
        return out


def compiles(test):
    """Mark a test that compiles: it needs a compiler that follows what an edge set is made of."""
    old = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)
    # Counting lines makes torch's tracer, which is written in Python, half as fast.
    return pytest.mark.no_cover(pytest.mark.skipif(old, reason="torch.compile needs torch 2.13 here")(test))


# Operators whose result has a size that depends on numbers, or that bring numbers to the host or from there.
WAITING = (
    "local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "unique",
    "bincount",
    "lift_fresh",
)


class NeverWaits(TorchDispatchMode):
    """Raises where a GPU would wait for the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = name.startswith("index") and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool
            for t in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        counts = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        assert not (masks or counts or name.lstrip("_").startswith(WAITING)), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))
