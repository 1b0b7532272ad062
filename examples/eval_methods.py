"""Matchers to evaluate, by name; how they are called is said in hpatches_eval.py."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher, MatcherOutput
from pyg_match.pretrained import load_weights, read_metadata
from pyg_match.transforms import AnchorEdges, CandidateEdges, KNNGraph, graph_from_recipe

Matching = tuple[Tensor, Tensor]  # index pairs [M, 2] and scores [M]
Method = Callable[[KeypointSet, KeypointSet], Matching]

METHODS = [
    *("mnn", "ratio-0.8", "ratio-0.9", "kornia", "complete"),
    *("candidates-16", "candidates-32", "knn-32", "knn-64", "anchors-48", "unweighted-48"),
    *("trained", "trained-bfloat16"),
]
TRAINED = {"aliked": "aliked-sparse", "disk": "disk-sparse"}  # weights of the method "trained"
WEIGHTS = {"aliked": "aliked-lightglue", "disk": "disk-lightglue", "xfeat": "xfeat-lighterglue"}
KORNIA = {  # shapes of kornia's LightGlue that fit the weights
    "aliked": {"input_dim": 128},
    "disk": {"input_dim": 128},
    "xfeat": {"input_dim": 64, "descriptor_dim": 96, "n_layers": 6, "num_heads": 1},
}
# As many keypoints as allowed in every image, however weak, as in glue-factory.
EXTRACTOR_OPTIONS = {"aliked": {"detection_threshold": 0.0}, "disk": {"detection_threshold": 0.0}}


def nearest_neighbours(set0: KeypointSet, set1: KeypointSet, ratio: float = 1.0) -> Matching:
    """Mutual nearest neighbours, scored by cosine; with `ratio`, both pass Lowe's test on distances."""
    if min(set0.num_keypoints, set1.num_keypoints) == 0:
        return torch.empty(0, 2, dtype=torch.long), torch.empty(0)
    similarity = torch.nn.functional.normalize(set0.x, dim=1) @ torch.nn.functional.normalize(set1.x, dim=1).T
    best0, best1 = (s.topk(min(2, s.size(1)), dim=1) for s in (similarity, similarity.T))
    distance0, distance1 = ((2 - 2 * best.values).clamp(min=0).sqrt() for best in (best0, best1))
    passed0, passed1 = (distance[:, 0] <= ratio * distance[:, -1] for distance in (distance0, distance1))
    index0, index1 = torch.arange(set0.num_keypoints), best0.indices[:, 0]
    keep = (best1.indices[index1, 0] == index0) & passed0 & passed1[index1]
    return torch.stack([index0, index1], 1)[keep], best0.values[keep, 0].clamp(min=0)


def kornia_lightglue(features: str) -> Method:
    """The LightGlue of kornia with the official weights, adaptive depth and width off."""
    from kornia.feature import LightGlue

    model = LightGlue(features=None, depth_confidence=-1, width_confidence=-1, **KORNIA[features]).eval()
    state = {name.removeprefix("matcher."): value for name, value in load_weights(WEIGHTS[features]).items()}
    for step in ("self_attn", "cross_attn"):
        for i in range(model.conf.n_layers):
            old, new = f"{step}.{i}.", f"transformers.{i}.{step}."
            state = {name.replace(old, new): value for name, value in state.items()}
    lacking = (
        set(model.load_state_dict(state, strict=False).missing_keys) & dict(model.named_parameters()).keys()
    )
    if lacking:
        raise ValueError(
            f"the weights '{WEIGHTS[features]}' do not fit kornia's LightGlue, they lack {lacking}"
        )

    def match(*sets: KeypointSet) -> Matching:
        images = [
            {"keypoints": s.pos[None], "descriptors": s.x[None], "image_size": s.image_size} for s in sets
        ]
        out = model({f"image{i}": image for i, image in enumerate(images)})
        return out["matches"][0], out["scores"][0]

    return match


def graph_matcher(
    model: GraphMatcher, transform: Callable[[KeypointPair], KeypointPair] | None = None
) -> Method:
    """Our matcher on the graph that `transform` draws; without one, on complete graphs."""

    def match(set0: KeypointSet, set1: KeypointSet) -> Matching:
        pair = KeypointPair.from_sets(set0, set1)
        output: MatcherOutput = model(pair if transform is None else transform(pair))
        return output.pair_matches(0)

    return match


def anchors(number: int, weighted: bool) -> Callable[[KeypointPair], KeypointPair]:
    """Edges within images from the 16 nearest keypoints and from anchors."""
    graph: Callable[[KeypointPair], KeypointPair] = Compose(
        [KNNGraph(16, loop=True), AnchorEdges(number, weighted=weighted)]
    )
    return graph


def trained_matcher(weights: str | None, features: str, precision: str = "") -> Method:
    """Weights that bring the graph on which they were trained."""
    if precision not in ("", "bfloat16"):
        raise ValueError(f"unknown method 'trained-{precision}', expected 'trained' or 'trained-bfloat16'")
    if weights is None:
        raise ValueError(
            f"there are no weights trained on a sparse graph for '{features}'; name some with --weights"
        )
    found = read_metadata(weights)
    if found.get("extractor") != features:
        raise ValueError(
            f"'{weights}' was trained on '{found.get('extractor')}' keypoints, not on '{features}'"
        )
    model = GraphMatcher.from_pretrained(weights, bfloat16=precision == "bfloat16").freeze()
    return graph_matcher(model, graph_from_recipe(found.get("graph", [])))


def build_methods(names: Iterable[str], features: str, trained: str | None = None) -> dict[str, Method]:
    """The methods of these names; ValueError for an unknown one or one without weights for the features."""
    model = functools.cache(lambda: GraphMatcher.from_pretrained(WEIGHTS[features]).freeze())
    builders: dict[str, Callable[[str], Method]] = {
        "mnn": lambda _: nearest_neighbours,
        "ratio": lambda number: functools.partial(nearest_neighbours, ratio=float(number)),
        "kornia": lambda _: kornia_lightglue(features),
        "complete": lambda _: graph_matcher(model()),
        "layers": lambda number: graph_matcher(
            GraphMatcher.from_pretrained(WEIGHTS[features], num_layers=int(number)).freeze()
        ),
        "candidates": lambda number: graph_matcher(model(), CandidateEdges(int(number))),
        "knn": lambda number: graph_matcher(model(), KNNGraph(int(number), loop=True)),
        "anchors": lambda number: graph_matcher(model(), anchors(int(number), weighted=True)),
        "unweighted": lambda number: graph_matcher(model(), anchors(int(number), weighted=False)),
        "trained": lambda precision: trained_matcher(trained, features, precision),
    }
    methods = {}
    for name in names:
        kind, _, number = name.partition("-")
        plain = kind in ("mnn", "kornia", "complete")
        if kind not in builders or (bool(number) == plain and kind != "trained"):
            raise ValueError(
                f"unknown method '{name}', expected 'all', some like {', '.join(METHODS)}, or layers-N"
            )
        if kind not in ("mnn", "ratio", "trained") and features not in WEIGHTS:
            raise ValueError(
                f"there are no official matcher weights for '{features}', only mnn and ratio-R work, and trained "
                "with --weights"
            )
        methods[name] = builders[kind](number)
    return methods


def fingerprint(weights: str) -> str:
    """SHA-256 of trained weights and of what their file says about them."""
    digest = hashlib.sha256(json.dumps(read_metadata(weights), sort_keys=True).encode())
    for name, value in sorted(load_weights(weights).items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
