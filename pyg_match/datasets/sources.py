"""Photos, and the detector that finds their keypoints."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyg_match.checks import shown
from pyg_match.features.by_name import extractor as by_name
from pyg_match.features.extractor import Extractor
from pyg_match.files import user_path, walk

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
_SAMPLE = 4096  # bytes at the start and at the end of a file that tell it from others
_SILENT = ("training", "checkpointed")  # attributes of modules that change no result


def find_images(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> tuple[list[Path], list[str]]:
    """Absolute paths of the images, and the names that they have wherever their folder is."""
    if not isinstance(images, str | os.PathLike):
        paths = [Path(os.path.abspath(user_path(path))) for path in images]
        if not paths:
            raise ValueError("the list of images is empty, expected at least one path")
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"no image at '{missing[0]}' ({len(missing)} of {len(paths)} are missing)"
            )
        return paths, [path.name for path in paths]
    root = Path(os.path.abspath(user_path(images)))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{shown(str(images))} is not a folder, expected a folder of images")
    found = []
    for folder, subfolders, files in walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [
            folder / name
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES)
            and not name.startswith(".")
            and not _is_special(folder / name)
        ]
    if not found:
        raise ValueError(f"no images under '{images}', expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    relative = sorted(path.relative_to(root).as_posix() for path in found)
    return [root / name for name in relative], relative


def _is_special(path: Path) -> bool:
    """Whether it is there and no file, such as a pipe, which would be waited for. Links that lead nowhere are told."""
    return os.path.exists(path) and not os.path.isfile(path)


def describe_images(paths: Sequence[Path], names: Sequence[str]) -> str:
    """A digest of names, file sizes and samples of the content, the same for a copy of the folder."""
    digest = hashlib.sha256()
    for path, name in zip(paths, names, strict=True):
        size = os.stat(path).st_size
        with open(path, "rb") as stream:
            start = stream.read(_SAMPLE)
            stream.seek(max(0, size - _SAMPLE))
            digest.update(repr((name, size, start, stream.read(_SAMPLE))).encode())
    return digest.hexdigest()


def make_extractor(
    extractor: Extractor | str, max_num_keypoints: int | None, options: Mapping[str, Any]
) -> Extractor:
    if isinstance(extractor, str):
        # A quarter more than wanted, as those outside of the photo do not count.
        limit = None if max_num_keypoints is None else max_num_keypoints + -(-max_num_keypoints // 4)
        with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are loaded
            try:
                return by_name(extractor, max_num_keypoints=limit, **options)
            except TypeError as error:
                raise ValueError(f"'extractor_options' do not fit {extractor!r}: {error}") from None
    if not isinstance(extractor, Extractor):
        raise TypeError(f"'extractor' must be a name or an Extractor, got {type(extractor).__name__}")
    if options:
        raise ValueError(f"'extractor_options' are for an extractor given by name, got them with {extractor}")
    return extractor


def describe_module(module: nn.Module) -> dict[str, Any]:
    """Class, plain attributes of all its modules, and a digest of its weights."""
    weights = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        weights.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    plain = (bool, int, float, str)
    attributes = {
        f"{prefix}.{name}": value
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, plain) and not name.startswith("_") and name not in _SILENT
    }
    return {"class": type(module).__qualname__, "attributes": attributes, "weights": weights.hexdigest()}
