"""What attention does at easy, medium and hard keypoints, above all at those that repeat: figures and numbers.

    python examples/attention_figures.py                 # on photos of scikit-image, warped
    python examples/attention_figures.py --data FOLDER   # on real pairs: FOLDER/homography and FOLDER/pose/strecha

Writes figures to --out and the numbers behind them to --json. Three questions are answered, each for keypoints that
repeat within their image and for those that do not:

1. How much self-attention goes to the other copies of the same structure, compared with their share of the keypoints?
2. How much cross-attention goes to the right match, and how much to its look-alikes, layer by layer?
3. After which layer is the match right for good?
"""

import argparse
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from skimage import data
from torch import Tensor
from torch_geometric.transforms import Compose

from pyg_match import KeypointPair, Matcher
from pyg_match.datasets import HPatches, warped_pair
from pyg_match.features import load_image
from pyg_match.metrics import homography_ground_truth
from pyg_match.transforms import AnchorEdges, KNNGraph
from pyg_match.visualization import (
    EASY,
    HARD,
    MEDIUM,
    AttentionPanel,
    Difficulty,
    attention_entropy,
    attention_mass,
    attention_span,
    difficulty,
    layer_matches,
    plot_attention_comparison,
    plot_attention_grid,
    plot_attention_panels,
    plot_difficulty,
    plot_layer_curves,
    plot_repeated_groups,
    record_attention,
    repeated_groups,
)

PHOTOS = ("brick", "coffee", "chelsea", "astronaut")  # of scikit-image; the first one repeats
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


def draw(matcher: Matcher, it: Studied, results: dict[str, Any], out: Path, suffix: str) -> list[Path]:
    """All figures; those of single keypoints are of the pair ``it``."""
    pair = it.pair
    images = (it.example.image0, it.example.image1)
    count0 = int(pair.num_keypoints[0, 0])
    files = {name: out / f"attention_{name}" for name in FIGURES}
    photos = {name: file.with_suffix(suffix) for name, file in files.items()}
    curves = {name: file.with_suffix(".svg") for name, file in files.items()}

    plot_difficulty(*images, pair, it.difficulty, path=photos["difficulty"])
    chosen = {name: pick(it, value) for name, value in (("easy", EASY), ("medium", MEDIUM), ("hard", HARD))}
    chosen = {name: node for name, node in chosen.items() if node is not None}
    with record_attention(matcher, nodes=[*chosen.values(), *members(it)]) as record, torch.inference_mode():
        matcher.matcher(pair)
    middle, last = record.num_layers // 2, record.num_layers - 1
    steps = [("self", 0), ("self", middle), ("cross", 0), ("cross", middle), ("cross", last)]
    rows = [
        [
            AttentionPanel(
                pair,
                record,
                node,
                i,
                kind,
                "mean",
                int(pair.y[node]),
                f"{kind} {i + 1}" if row == 0 else None,
            )
            for kind, i in steps
        ]
        for row, node in enumerate(chosen.values())
    ]
    plot_attention_panels(*images, rows, list(chosen), photos["examples"])
    node = chosen.get("hard", next(iter(chosen.values())))
    plot_attention_grid(
        *images, pair, record, node, "cross", [0, middle, last], int(pair.y[node]), photos["heads"]
    )
    mass = results["sets"][it.example.set_name]["self_group_mass"]
    if members(it) and mass is not None:
        layer = int(np.argmax(mass))
        by_head = attention_mass(record, it.groups, it.groups)[layer, members(it)].mean(0)
        plot_repeated_groups(
            images[0],
            pair.pos[:count0],
            it.groups[:count0],
            record,
            layer=layer,
            head=int(by_head.argmax()),
            path=photos["groups"],
        )
    sparse = Compose([KNNGraph(32), AnchorEdges(16)])(pair.clone())
    with record_attention(matcher, nodes=[node]) as other, torch.inference_mode():
        matcher.matcher(sparse)
    records = {"complete graph": (pair, record), "32 nearest and 16 anchors": (sparse, other)}
    plot_attention_comparison(
        *images, records, node, [0, last], "both", partner=int(pair.y[node]), path=photos["graphs"]
    )

    sets = results["sets"]
    spans = {name: torch.tensor(row["span"]) for name, row in sets.items()}
    plot_layer_curves(spans, "attended distance (pixels)", path=curves["span"])
    entropy = {name: torch.tensor(row["cross_entropy"]) for name, row in sets.items()}
    plot_layer_curves(entropy, "entropy of cross-attention (nats)", path=curves["entropy"])
    mass, group = {}, {}
    for name, row in sets.items():
        for kind in ("repeated", "unique"):
            if row[f"cross_match_mass_{kind}"]:
                mass[f"{name}, {kind}"] = torch.tensor(row[f"cross_match_mass_{kind}"])
        if row["self_group_mass"]:
            group[name] = torch.tensor(row["self_group_mass"]) / row["self_group_share"]
    plot_layer_curves(mass, "cross-attention to the right match", path=curves["match"])
    plot_layer_curves(group, "self-attention to copies / their share", path=curves["copies"])
    return [file for file in (*photos.values(), *curves.values()) if file.is_file()]


FIGURES = ("difficulty", "examples", "heads", "groups", "graphs", "span", "entropy", "match", "copies")


def pick(it: Studied, label: int) -> Optional[int]:
    """A query keypoint of a difficulty: for easy ones a unique one, else a repeated one, found as late as possible."""
    fits = it.queries[it.difficulty.labels[it.queries] == label]
    preferred = fits[(it.groups[fits] >= 0) == (label != EASY)]
    fits = preferred if len(preferred) > 0 else fits
    return None if len(fits) == 0 else int(fits[it.difficulty.layer[fits].argmax()])


def members(it: Studied) -> list[int]:
    """The keypoints of the largest group of image 0."""
    count0 = int(it.pair.num_keypoints[0, 0])
    return (it.groups[:count0] == 0).nonzero().squeeze(1).tolist()


def report(results: dict[str, Any]) -> str:
    """The numbers as text."""
    lines = []
    for name, row in results["sets"].items():
        lines += [f"\n{name}: {len(row['pairs'])} pairs, {row['keypoints'][0]} keypoints in image 0, of which "
                  f"{row['repeated']} repeat in {row['groups']} groups"]  # fmt: skip
        for kind in ("repeated", "unique"):
            if row[f"settled_{kind}"] is None:
                continue
            easy, medium, hard = row[f"difficulty_{kind}"]
            lines += [
                f"  {kind}: {row['queries'][kind]} query points: {easy} easy, {medium} medium, {hard} hard; "
                f"match right for good after {row[f'settled_{kind}']:.1f} layers on average",
                f"    cross-attention to the right match, by layer:  {percent(row[f'cross_match_mass_{kind}'])}",
                f"    the same in the best head:                     "
                f"{percent(row[f'cross_match_mass_best_head_{kind}'])}",
                f"    the right match is attended to most:           {percent(row[f'cross_match_first_{kind}'])}",
            ]
        if row["cross_alike_mass"] is not None:
            lines += [
                f"    cross-attention to look-alikes of the match:   {percent(row['cross_alike_mass'])}",
            ]
        if row["self_group_mass"] is not None:
            lines += [
                f"    self-attention to other copies:                {percent(row['self_group_mass'])}",
                f"    the same in the best head:                     {percent(row['self_group_mass_best_head'])}",
                f"    share of the other copies in all keypoints:    {100 * row['self_group_share']:.2f} %",
            ]
        span = torch.tensor(row["span"])
        lines += [
            f"  attended distance in pixels, mean over heads:     {' '.join(f'{v:5.0f}' for v in span.mean(1))}",
            f"  the same of the nearest head:                     {' '.join(f'{v:5.0f}' for v in span.amin(1))}",
        ]
    return "\n".join(lines)


def percent(values: Sequence[float]) -> str:
    return " ".join(f"{100 * value:5.1f}" for value in values) + " %"


def surroundings() -> dict[str, Any]:
    packages = (
        "torch",
        "torch-geometric",
        "kornia",
        "numpy",
        "scipy",
        "matplotlib",
        "scikit-image",
        "pyg-match",
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with homography/ and pose/strecha/")
    parser.add_argument(
        "--out", type=Path, default=Path("attention"), help="folder of the figures (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file of the numbers (OUT/attention.json)")
    parser.add_argument("--limit", type=int, default=8, help="pairs of each kind (%(default)s)")
    parser.add_argument("--max-keypoints", type=int, default=1024, help="in an image (%(default)s)")
    parser.add_argument(
        "--max-queries", type=int, default=128, help="repeated, and unique, in a pair (%(default)s)"
    )
    parser.add_argument("--suffix", default=".jpg", help="of figures that hold photos (%(default)s)")
    args = parser.parse_args(arguments)
    if args.data is not None and not args.data.is_dir():
        raise SystemExit(f"error: '{args.data}' is not a folder")
    examples = list(
        warped_photos(PHOTOS[: args.limit]) if args.data is None else real_pairs(args.data, args.limit)
    )
    if not examples:
        raise SystemExit(f"error: neither homography/ nor pose/strecha/castle-P19 under '{args.data}'")
    args.out.mkdir(parents=True, exist_ok=True)
    matcher = Matcher.from_pretrained("aliked-lightglue", max_num_keypoints=args.max_keypoints)

    rows = defaultdict(list)
    shown: Optional[Studied] = None
    for example in examples:
        it = study(matcher, example, args.max_queries)
        print(f"{example.set_name}: {example.name}, {len(it.queries)} query points", flush=True)
        if len(it.queries) == 0:
            continue
        rows[example.set_name].append(measure(matcher, it))
        if shown is None or repeats(it) > repeats(shown):
            shown = it
    if shown is None:
        raise SystemExit("error: no keypoint of these pairs has a known match")
    results: dict[str, Any] = {
        **surroundings(),
        "matcher": "aliked-lightglue",
        "settings": {
            "max_keypoints": args.max_keypoints,
            "max_queries": args.max_queries,
            "shown": shown.example.name,
        },
        "sets": {name: average(part) for name, part in rows.items()},
        "pairs": [row for part in rows.values() for row in part],
    }
    print(report(results))
    for file in draw(matcher, shown, results, args.out, args.suffix):
        print(f"{file}: {file.stat().st_size / 1024:.0f} KB")
    path = args.json or args.out / "attention.json"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(rounded(results), indent=1) + "\n")
    temporary.replace(path)
    print(path)


def repeats(it: Studied) -> int:
    """How many of the query points repeat."""
    return int((it.groups[it.queries] >= 0).sum())


def rounded(value: Any) -> Any:
    """Five significant digits of every number, and null for those that do not exist."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
