"""Features of image files, computed once and kept on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyg_match.data import KeypointSet
from pyg_match.digest import tensor_digest
from pyg_match.files import readable_folder, replace_file, shown_path, sweep, user_path

_LONGEST_STEM = 80  # bytes of the name of an image in that of its features


class FeatureCache:
    r"""Features of image files, read from disk if they were found before.

    There is one file per image. It is found again only for the same path, size and modification time of the
    image and the same settings, is written under another name first and then renamed, so that an interrupted
    run leaves no half-written features behind. It carries a digest of its numbers, and is replaced if these are not
    what was written, or no features.

    Args:
        folder: Where the features are kept; made if it does not exist.
        extract: Computes the features of an image file.
        settings: Everything besides the file that the features depend on, as JSON values. Other settings do
            not see these features.

    Raises:
        TypeError: If the settings are not JSON values.
        ValueError: If the name of the folder is not UTF-8.

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     cache = FeatureCache(folder, lambda path: KeypointSet(pos=torch.rand(4, 2)), {"version": 1})
        ...     bool((cache(__file__).pos == cache(__file__).pos).all())
        True
    """

    def __init__(
        self, folder: str | Path, extract: Callable[[Path], KeypointSet], settings: Mapping[str, Any]
    ) -> None:
        self.folder = readable_folder(folder)
        self.extract = extract
        self.settings = json.dumps(dict(settings), sort_keys=True)
        sweep(self.folder)

    def __call__(self, path: str | Path) -> KeypointSet:
        """Features of the image file ``path``."""
        path = user_path(path)
        target = self.file(path)
        features = _load(target)
        if features is None:
            _save(target, self.extract(path))
            features = _load(target)  # the same on the first call as on all others
        if features is None:
            raise OSError(
                f"the features of {path} were written to {target}, but cannot be read from there; do they lack 'pos'?"
            )
        return features

    def file(self, path: str | Path) -> Path:
        """The file that keeps the features of the image file ``path``.

        Raises:
            FileNotFoundError: If the image does not exist.
        """
        path = user_path(path)
        status = os.stat(path)
        key = [os.path.abspath(path), status.st_size, status.st_mtime_ns, self.settings]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        stem = shown_path(path.stem).encode()[:_LONGEST_STEM].decode(errors="ignore")
        return self.folder / f"{stem}-{digest[:32]}.safetensors"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"


def _load(file: Path) -> KeypointSet | None:
    try:
        with safe_open(str(file), framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            digest = (stored.metadata() or {}).get("digest")
        features = KeypointSet(**tensors)
    except (OSError, SafetensorError, TypeError, ValueError):
        return None
    return features if digest == tensor_digest(tensors) and "pos" in tensors else None


def _save(file: Path, features: KeypointSet) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous()
        for name, value in features.to_dict().items()
        if isinstance(value, Tensor)
    }
    replace_file(file, save(tensors, {"digest": tensor_digest(tensors)}))
