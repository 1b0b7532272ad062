"""What is measured on a pair for attention_figures.py: difficulty, repeated keypoints, and where attention goes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from skimage import data
from torch import Tensor

from pyg_match import KeypointPair, Matcher
from pyg_match.datasets import HPatches, warped_pair
from pyg_match.features import load_image
from pyg_match.metrics import homography_ground_truth
from pyg_match.visualization import (
    EASY,
    HARD,
    MEDIUM,
    Difficulty,
    attention_entropy,
    attention_mass,
    attention_span,
    difficulty,
    layer_matches,
    record_attention,
    repeated_groups,
)

PIXELS = 2.0  # largest distance to the epipolar line of a match that agrees with the poses


@dataclass
class Example:
    """A pair of images and how it is known which matches are right."""

    name: str
    set_name: str
    image0: Any
    image1: Any
    homography: Optional[Tensor] = None
    fundamental: Optional[Tensor] = None


def warped_photos(names: Sequence[str]) -> Iterator[Example]:
    """Photos of scikit-image and their warped copies."""
    for seed, name in enumerate(names):
        pair = warped_pair(load_image(getattr(data, name)()), seed=seed)
        kind = "warped, repetitive" if name == "brick" else "warped"
        yield Example(name, kind, pair.image0, pair.image1, homography=pair.homography)


def real_pairs(root: Path, limit: int) -> Iterator[Example]:
    """Neighbouring photos of a castle, and planar scenes with a homography, ``limit`` pairs of each."""
    folder = root / "pose" / "strecha" / "castle-P19"
    if folder.is_dir():
        lines = [line.split() for line in (folder / "pairs_with_gt.txt").read_text().splitlines()]
        near = [w for w in lines if int(Path(w[1]).stem) - int(Path(w[0]).stem) == 1]
        for words in spread(near, limit):
            K0, K1, T = (np.array(words[a:b], float) for a, b in ((4, 13), (13, 22), (22, 38)))
            F = fundamental(K0.reshape(3, 3), K1.reshape(3, 3), T.reshape(4, 4))
            name = f"castle-P19 {Path(words[0]).stem}-{Path(words[1]).stem}"
            yield Example(name, "façades", folder / words[0], folder / words[1], fundamental=F)
    folder = root / "homography"
    if folder.is_dir():
        wanted = {("hpatches", k) for k in (2, 3)} | {("oxford_affine", 3), ("homogr", 2)}
        pairs = [pair for pair in HPatches(folder) if (pair.set_name, pair.k) in wanted]
        for pair in spread(pairs, limit):
            name = f"{pair.set_name}/{pair.sequence} 1-{pair.k}"
            yield Example(name, "planar", pair.path0, pair.pathk, homography=pair.homography)


def fundamental(K0: np.ndarray, K1: np.ndarray, T: np.ndarray) -> Tensor:
    """The fundamental matrix from cameras and the pose of camera 0 in camera 1."""
    x, y, z = T[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.from_numpy(np.linalg.inv(K1).T @ cross @ T[:3, :3] @ np.linalg.inv(K0))


def epipolar_distance(pos0: Tensor, pos1: Tensor, F: Tensor) -> Tensor:
    """The larger distance, in pixels, of two matched points to each other's epipolar line."""
    one = pos0.new_ones(len(pos0), 1, dtype=torch.double)
    points0, points1 = torch.cat([pos0.double(), one], 1), torch.cat([pos1.double(), one], 1)
    lines1, lines0 = points0 @ F.T, points1 @ F
    error = (points1 * lines1).sum(1).abs()
    return error / torch.minimum(lines0[:, :2].norm(dim=1), lines1[:, :2].norm(dim=1))


def truth(example: Example, pair: KeypointPair, matches: Tensor) -> Tensor:
    """The right match of each keypoint.

    With a homography, the true partner. With poses only, the matcher's final answer where it agrees with them to
    PIXELS; whether other keypoints have a match is not known then, and a match along the epipolar line may be wrong.
    """
    count0 = int(pair.num_keypoints[0, 0])
    if example.homography is not None:
        return torch.cat(
            homography_ground_truth(
                pair.pos[:count0], pair.pos[count0:], example.homography, *pair.image_size.tolist()
            )
        )
    own = matches[:count0]
    found = (own >= 0).nonzero().squeeze(1)
    distance = epipolar_distance(pair.pos[found], pair.pos[count0 + own[found]], example.fundamental)
    agreed = found[distance < PIXELS]
    y = torch.full_like(matches, -2)
    y[agreed], y[count0 + own[agreed]] = own[agreed], agreed
    return y


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of the items, evenly chosen."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(limit, len(items))).astype(int)]


@dataclass
class Studied:
    """A pair with all that was found out about it."""

    example: Example
    pair: KeypointPair
    groups: Tensor  # numbers of the repeated groups of both images
    partner: Tensor  # node of the right match, -1 if unknown
    difficulty: Difficulty
    queries: Tensor  # nodes of image 0 whose attention was recorded


def study(matcher: Matcher, example: Example, limit: int) -> Studied:
    """Detect, match and label a pair."""
    sets = [
        matcher.extractor.extract(image, resize=matcher.resize) for image in (example.image0, example.image1)
    ]
    pair = KeypointPair.from_sets(*sets)
    found = layer_matches(matcher.matcher, pair)
    pair.y = truth(example, pair, found.matches[-1])
    count0 = int(pair.num_keypoints[0, 0])
    groups = repeated_groups(pair)
    start = torch.where(torch.arange(len(pair.y)) < count0, count0, 0)
    partner = torch.where(pair.y >= 0, pair.y + start, -1)
    known, repeated = partner[:count0] >= 0, groups[:count0] >= 0
    parts = [
        spread((known & chosen).nonzero().squeeze(1).tolist(), limit) for chosen in (repeated, ~repeated)
    ]
    return Studied(
        example,
        pair,
        groups,
        partner,
        difficulty(pair, found),
        torch.tensor(sorted(parts[0] + parts[1]), dtype=torch.long),
    )


def measure(matcher: Matcher, it: Studied) -> dict[str, Any]:
    """The numbers of one pair."""
    pair, groups, partner, nodes = it.pair, it.groups, it.partner, it.queries
    count0 = int(pair.num_keypoints[0, 0])
    with record_attention(matcher, nodes=nodes) as record, torch.inference_mode():
        matcher.matcher(pair)
    every = torch.arange(len(groups))
    repeated = nodes[groups[nodes] >= 0]
    unique = nodes[groups[nodes] < 0]
    size = torch.bincount(groups[:count0][groups[:count0] >= 0], minlength=1)[groups[repeated]]
    # Self-attention to the other copies, without what a keypoint pays to itself.
    own = (
        attention_mass(record, groups, groups)[:, repeated]
        - attention_mass(record, every, every)[:, repeated]
    )
    right = attention_mass(record, every, partner, "cross")
    alike = torch.where(partner >= 0, groups[partner], -1)
    elsewhere = attention_mass(record, groups, alike, "cross") - right
    span, entropy = attention_span(record, pair.pos), attention_entropy(record, "cross")
    kinds = {"repeated": repeated, "unique": unique}
    result: dict[str, Any] = {
        "pair": it.example.name,
        "set": it.example.set_name,
        "keypoints": pair.num_keypoints[0].tolist(),
        "repeated": int((groups[:count0] >= 0).sum()),
        "groups": len(groups[:count0][groups[:count0] >= 0].unique()),
        # The last ones are repeated keypoints whose right match repeats as well.
        "queries": {name: len(chosen) for name, chosen in kinds.items()}
        | {"alike": int((alike[repeated] >= 0).sum())},
        "self_group_mass": own.mean((1, 2)).tolist(),
        "self_group_mass_best_head": own.mean(1).amax(1).tolist(),
        "self_group_share": float(((size - 1) / (count0 - 1)).mean()),
        "cross_alike_mass": elsewhere[:, repeated].nanmean((1, 2)).tolist(),
        "span": span.tolist(),
        "cross_entropy": entropy.tolist(),
    }
    top = first_choice(record, len(groups))
    for name, chosen in kinds.items():
        labels, layer = it.difficulty.labels[chosen], it.difficulty.layer[chosen]
        result[f"cross_match_mass_{name}"] = right[:, chosen].mean((1, 2)).tolist()
        result[f"cross_match_mass_best_head_{name}"] = right[:, chosen].mean(1).amax(1).tolist()
        result[f"cross_match_first_{name}"] = (top[:, chosen] == partner[chosen]).double().mean(1).tolist()
        result[f"difficulty_{name}"] = [int((labels == label).sum()) for label in (EASY, MEDIUM, HARD)]
        result[f"settled_{name}"] = float(layer[layer > 0].double().mean())
    return result


def first_choice(record: Any, num_nodes: int) -> Tensor:
    """The node that each target attends to most in each cross step, by the mean over heads; -1 for none."""
    choices = []
    for (source, target), alpha in record.cross_attention:
        mean = alpha.mean(1)
        best = mean.new_zeros(num_nodes).scatter_reduce(0, target, mean, "amax")
        hit = mean == best[target]
        choices.append(torch.full((num_nodes,), -1).index_put((target[hit],), source[hit]))
    return torch.stack(choices)


def average(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the pairs, weighted by the number of query keypoints that each number is about."""
    result: dict[str, Any] = {"pairs": [row["pair"] for row in rows]}
    for key in rows[0]:
        if key in ("pair", "set"):
            continue
        if key in ("keypoints", "repeated", "groups", "queries") or key.startswith("difficulty"):
            parts = [list(row[key].values()) if isinstance(row[key], dict) else row[key] for row in rows]
            total = np.sum(parts, axis=0)
            result[key] = (
                dict(zip(rows[0][key], total.tolist(), strict=True)) if key == "queries" else total.tolist()
            )
            continue
        name = "unique" if key.endswith("unique") else "alike" if "alike" in key else "repeated"
        names = ("repeated", "unique") if key in ("span", "cross_entropy") else (name,)
        weights = [float(sum(row["queries"][name] for name in names)) for row in rows]
        kept = [
            (np.array(row[key]), w)
            for row, w in zip(rows, weights, strict=True)
            if w > 0 and np.isfinite(row[key]).all()
        ]
        result[key] = (sum(v * w for v, w in kept) / sum(w for _, w in kept)).tolist() if kept else None
    return result
