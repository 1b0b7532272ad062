"""Local feature matching with graph networks whose attention runs on the edges of a graph."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyg_match._version import __version__

if TYPE_CHECKING:
    from pyg_match.data import KeypointPair, KeypointSet
    from pyg_match.match_result import MatchResult
    from pyg_match.matcher import Matcher
    from pyg_match.ops.knn import knn_graph

# Loaded when first used, so that a layer does not cost the import of a detector.
_HOMES = {
    "KeypointPair": "pyg_match.data",
    "KeypointSet": "pyg_match.data",
    "MatchResult": "pyg_match.match_result",
    "Matcher": "pyg_match.matcher",
    "knn_graph": "pyg_match.ops.knn",
}
_SUBPACKAGES = (
    "app",
    "collections",
    "data",
    "datasets",
    "features",
    "geometry",
    "metrics",
    "model_selection",
    "nn",
    "ops",
    "pretrained",
    "retrieval",
    "training",
    "transforms",
    "visualization",
)

__all__ = ["KeypointPair", "KeypointSet", "MatchResult", "Matcher", "__version__", "knn_graph"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return import_module(f"pyg_match.{name}")
    raise AttributeError(f"module 'pyg_match' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])
