"""Many images: features, pairs and matches in files of hloc and COLMAP, from a folder of photos to a reconstruction."""

from typing import TYPE_CHECKING, Any

from pyg_match.collections.extraction import ExtractSummary, extract_features
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.collections.feature_formats import open_features
from pyg_match.collections.hloc_matches import HlocMatches
from pyg_match.collections.match_job import MatchJob
from pyg_match.collections.pair_lists import (
    exhaustive_pairs,
    listed_pairs,
    read_pairs,
    sequential_pairs,
    write_pairs,
)
from pyg_match.collections.pair_matching import MatchSummary, match_pairs
from pyg_match.collections.plan import PairPlan, Shard
from pyg_match.collections.retrieval import retrieval_pairs
from pyg_match.collections.shard_files import ShardFolder

if TYPE_CHECKING:
    from pyg_match.collections.colmap_database import ColmapSummary, write_colmap

__all__ = [
    "ColmapSummary",
    "ExtractSummary",
    "FeatureFile",
    "HlocMatches",
    "MatchJob",
    "MatchSummary",
    "PairPlan",
    "Shard",
    "ShardFolder",
    "exhaustive_pairs",
    "extract_features",
    "listed_pairs",
    "match_pairs",
    "open_features",
    "read_pairs",
    "retrieval_pairs",
    "sequential_pairs",
    "write_colmap",
    "write_pairs",
]


def __getattr__(name: str) -> Any:
    # Everything else needs no pycolmap.
    if name in ("ColmapSummary", "write_colmap"):
        from pyg_match.collections import colmap_database

        return getattr(colmap_database, name)
    raise AttributeError(f"module 'pyg_match.collections' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
