"""The questions of ablation.py and the options of each, as changes to the settings of training."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pyg_match.training import TrainingConfig, config_from_dict

Settings = dict[str, Any]

CANDIDATES = {"CandidateEdges": {"k": 16}}


def knn(k: int, anchors: int = 0, **diverse: Any) -> list[Settings]:
    """The k nearest keypoints (or diverse ones), anchors, and candidates between the images."""
    nearest = {"DiverseKNN" if diverse else "KNNGraph": {"k": k, "loop": True, **diverse}}
    return [nearest, *([{"AnchorEdges": {"num_anchors": anchors}}] if anchors else []), CANDIDATES]


def scales(partition: str, **arguments: Any) -> Settings:
    """Layers attend along one scale after the other; nothing but the scales within an image."""
    return {
        "graph": [{partition: arguments}, CANDIDATES],
        "matcher": {"layer_scales": [0, 1, 0, 1, 0, 1, 0, 1, 0]},
    }


def branch(partition: str, count: int = 2, kind: str = "attention", **arguments: Any) -> Settings:
    """Beside the self step on the reference graph, each layer convolves on the scales."""
    return {
        "graph": [{partition: arguments}, *knn(16, anchors=16)],
        "matcher": {"branch": kind, "num_scales": count},
    }


def orthogonality(project: bool, penalty: float) -> Settings:
    """The nested branch, in which the scales overlap most."""
    settings = branch("NestedPartition", ks=[8, 32], loop=True)
    settings["matcher"]["orthogonal"] = project
    return {**settings, "loss": {"orthogonality": penalty}}


def values(source: str, steps: str = "both") -> Settings:
    return {"matcher": {"value_source": source, "value_steps": steps}}


def near(mode: str, mask_mode: str) -> Settings:
    """The complete graph, of which pairs that are farther apart than 80 pixels are forbidden."""
    forbid = {"RemovePairs": {"max_distance": 80.0, "mode": mode}}
    return {
        "graph": [{"CompleteGraph": {"cross": False}}, forbid, CANDIDATES],
        "matcher": {"mask_mode": mask_mode},
    }


# Settings of training that all options share; an option changes some of them.
BASE: Settings = {
    "weights": "aliked-lightglue",
    "graph": knn(16, anchors=16),
    "data": {
        "extractor": "aliked",
        "max_num_keypoints": 1024,
        "num_pairs": 256,
        "validation_pairs": 32,
        "repeats": 0.1,
        "warps": {"rotation": 30, "scale": 1.6, "min_overlap": 0.4},
    },
    "loss": {"layers": 3, "confidence": 0.0, "orthogonality": 0.1},
    "steps": 30,
    "batch_size": 2,
    "learning_rate": 1e-4,
    "warmup": 5,
    "validate_every": 0,
    "checkpoint_every": 0,
    "checkpoint_minutes": 0,
}

# Question: options, the first of which the others are compared with.
QUESTIONS: dict[str, dict[str, Settings]] = {
    "partition": {
        "one scale: 16 nearest": {"graph": knn(16)},
        "rings: ranks 1-16, 17-32": scales("RingPartition", ks=[16, 32], loop=True),
        "nested: 8 and 24 nearest": scales("NestedPartition", ks=[8, 24], loop=True),
        "equal, by neighbours: 32 dealt to 2": scales("EqualPartition", parts=2, by="edges", k=32, loop=True),
        "equal, by nodes: parts of 16": {
            "graph": [{"EqualPartition": {"parts": 16, "loop": True}}, CANDIDATES]
        },
    },
    "branch": {
        "no branch": {},
        "one scale: 16 nearest": branch("NestedPartition", count=1, ks=[16], loop=True),
        "rings: ranks 1-8, 9-32": branch("RingPartition", ks=[8, 32], loop=True),
        "nested: 8 and 32 nearest": branch("NestedPartition", ks=[8, 32], loop=True),
        "equal, by neighbours: 32 dealt to 2": branch("EqualPartition", parts=2, by="edges", k=32, loop=True),
    },
    "orthogonality": {
        "off": orthogonality(False, 0.0),
        "penalty": orthogonality(False, 0.1),
        "projection and concatenation": orthogonality(True, 0.0),
        "both": orthogonality(True, 0.1),
    },
    "convolution": {
        "attention": branch("NestedPartition", ks=[8, 32], loop=True),
        "GCN": branch("NestedPartition", kind="gcn", ks=[8, 32], loop=True),
    },
    "values": {
        "current": {},
        "initial": values("initial"),
        "every 2": values("every:2"),
        "every 3": values("every:3"),
        "initial, self steps only": values("initial", "self"),
        "every 3, self steps only": values("every:3", "self"),
    },
    "masks": {
        "remove: farther than 80 px": near("drop", "remove"),
        "zero: farther than 80 px": near("mask", "zero"),
        "computed beforehand from K = 32": {"graph": knn(32)},
    },
    "diversity": {
        "nearest 16": {"graph": knn(16)},
        **{
            f"descriptors, weight {weight:g}": {"graph": knn(16, orthogonality_weight=weight)}
            for weight in (0.25, 0.5, 1.0, 2.0)
        },
        "directions, weight 1": {"graph": knn(16, orthogonality_weight=1.0, space="direction")},
    },
    "neighbours": {
        "k = 16": {"graph": knn(16)},
        **{f"k = {k}": {"graph": knn(k)} for k in (4, 8, 32, 64)},
        "complete within images": {"graph": [CANDIDATES]},
    },
    "anchors": {
        "k = 16, no anchors": {"graph": knn(16)},
        **{f"k = 16, {anchors} anchors": {"graph": knn(16, anchors)} for anchors in (8, 16, 32, 48)},
        "k = 32, no anchors": {"graph": knn(32)},
    },
}
TITLES = {
    "partition": "One scale, rings, nested scales or equal division",
    "branch": "Several scales in a branch beside the self step",
    "orthogonality": "Orthogonal scales",
    "convolution": "Graph convolution or attention on the scales",
    "values": "Which values attention passes on",
    "masks": "What becomes of pairs that shall not attend",
    "diversity": "Nearest or diverse neighbours",
    "neighbours": "How many neighbours",
    "anchors": "Anchors that every keypoint sees",
}

# The tiny version: two options of two questions with a small matcher on SIFT keypoints.
SMOKE: Settings = {
    "weights": None,
    "matcher": {"hidden_channels": 32, "num_layers": 2, "heads": 2, "filter_threshold": 0.0},
    "data": {"extractor": "sift", "size": (320, 240), "num_pairs": 4, "validation_pairs": 2},
    "steps": 2,
    "warmup": 0,
}
SMOKE_QUESTIONS = {name: dict(list(QUESTIONS[name].items())[:2]) for name in ("values", "neighbours")}


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """``settings`` with ``changes``, section by section."""
    out = dict(settings)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def plain(config: TrainingConfig) -> Settings:
    """The settings of a run that its result depends on, as JSON gives them back."""
    settings: Settings = json.loads(json.dumps(asdict(config)))
    for key in ("cache", "num_workers"):
        del settings["data"][key]
    return {key: value for key, value in settings.items() if not key.startswith(("log_", "checkpoint_"))}


def completed(settings: Settings) -> Settings:
    """The settings in a record, with those that came after it as they stand by default."""
    return plain(config_from_dict(settings))
