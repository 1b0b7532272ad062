"""What attention does at easy, medium and hard keypoints, above all at those that repeat: figures and numbers.

    python examples/attention_figures.py                 # on photos of scikit-image, warped
    python examples/attention_figures.py --data FOLDER   # on real pairs

FOLDER/homography holds sequences in HPatches' layout, FOLDER/pose/strecha scenes with pairs_with_gt.txt as
pose_eval.py reads it.

Writes figures to --out and the numbers behind them to --json. Three questions are answered, each for keypoints that
repeat within their image and for those that do not:

1. How much self-attention goes to the other copies of the same structure, compared with their share of the keypoints?
2. How much cross-attention goes to the right match, and how much to its look-alikes, layer by layer?
3. After which layer is the match right for good?
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from attention_study import Studied, average, measure, real_pairs, study, warped_photos
from surroundings import surroundings
from torch_geometric.transforms import Compose

from pyg_match import Matcher
from pyg_match.transforms import AnchorEdges, KNNGraph
from pyg_match.visualization import (
    EASY,
    HARD,
    MEDIUM,
    AttentionPanel,
    attention_mass,
    plot_attention_comparison,
    plot_attention_grid,
    plot_attention_panels,
    plot_difficulty,
    plot_layer_curves,
    plot_repeated_groups,
    record_attention,
)

PHOTOS = ("brick", "coffee", "chelsea", "astronaut")  # of scikit-image; the first one repeats
PACKAGES = (
    "torch",
    "torch-geometric",
    "kornia",
    "numpy",
    "scipy",
    "matplotlib",
    "scikit-image",
    "pyg-match",
)  # whose versions are recorded


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
        **surroundings(PACKAGES),
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
