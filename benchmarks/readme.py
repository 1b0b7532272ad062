"""Write the tables of README.md, of the documentation and of the model cards from the JSON files of the benchmarks.

    python benchmarks/readme.py                                  # rewrite what stands between the markers
    python benchmarks/readme.py --check                          # only tell whether the pages are up to date
    python benchmarks/readme.py --hpatches outputs/hpatches/results.json

A section NAME stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Sections without results stay as they
are. `--hpatches` takes over results of examples/hpatches_eval.py, without the folders of whoever ran it; those of one
named "synthetic", of other keypoints than ALIKED's, and of another limit than 1024 of them, get files of their own.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from common import BUSY, Row, find, write_json
from summaries import SUMMARIES, Results, read, table

SLOT = "<!-- to be filled -->"  # contents may hold backslashes, which a replacement of re would read
OPERATOR_NAMES = {
    "sdpa": "SDPA, dense",
    "sdpa-mask": "SDPA + mask",
    "naive-mask": "softmax + mask",
    "flex": "FlexAttention",
    "gather-einsum": "gather + einsum",
    "messages": "edge messages",
    "messages-csr": "edge messages, CSR",
    "torch-scatter": "torch-scatter",
}
EDGEWISE = ("gather-einsum", "messages", "messages-csr", "torch-scatter")
LAYER_NAMES = {
    "ours coo": "ours, plain tensor",
    "TransformerConv csr": "TransformerConv, EdgeIndex",
    "TransformerConv coo": "TransformerConv",
    "GATv2Conv csr": "GATv2Conv, EdgeIndex",
    "GATv2Conv coo": "GATv2Conv",
}
ESTIMATORS = ("DLT", "OpenCV", "PoseLib")
REAL = ("P@3", "R@3", "PoseLib AUC@5")
MATCHER_NAMES = {
    "complete": "complete",
    "candidates-16": "self complete, cross 16",
    "sparse": "self 64, cross 16",
    "sparse-edges": "self 64, cross 16, assigned on edges",
    "trained": "aliked-sparse",
    "trained-bfloat16": "aliked-sparse, bfloat16",
    "trained-listed": "aliked-sparse, anchors listed",
}


def ms(seconds: float | None) -> str:
    """Milliseconds with three digits."""
    if seconds is None:
        return "–"
    value = 1e3 * seconds
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def times(ratio: float | None) -> str:
    """How many times longer than ours; bold where it is faster than ours."""
    if ratio is None:
        return "–"
    if ratio < 1:
        return f"**{ratio:.2f}×**"
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def caption(*results: Results) -> str:
    """When, where and how the results came about; ValueError if that was not the same for all of them."""
    first = results[0]
    for result in results:
        if (result["machine"], result["versions"]) != (first["machine"], first["versions"]):
            raise ValueError(f"`{result['command']}` ran on another machine or other versions: run it again")
    surroundings = first["machine"]
    settings = first.get("settings", {})
    threads = settings.get("threads", surroundings.get("threads"))
    if "thread_counts" in settings:
        threads = " or ".join(map(str, settings["thread_counts"]))
    cores = surroundings.get("cores", surroundings.get("cpus"))
    where = [str(surroundings[key]) for key in ("cpu", "simd", "system", "platform") if key in surroundings]
    where += [f"{cores} cores"] + ([f"{threads} threads"] if threads else [])
    where += [f"{surroundings['memory_gib']} GiB"] if "memory_gib" in surroundings else []
    others = first.get("cores_used_by_others")
    where += [f"others used {others:.2f} cores"] if others and others > BUSY else []
    packages = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    commands = ", ".join(f"`{result['command']}`" for result in results)
    days = sorted({result["date"][:10] for result in results})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"<sub>{when}; {', '.join(where)}; {packages}. Made by {commands}.</sub>"


def captions(results: list[Results], apart: bool) -> str:
    """The caption of a table; one for each machine and set of versions if records of several may stand together."""
    groups: dict[str, list[Results]] = {}
    for result in results:
        key = json.dumps([result["machine"], result["versions"]]) if apart else ""
        groups.setdefault(key, []).append(result)
    return "\n\n".join(caption(*group) for group in groups.values())


def short_caption(results: list[Results]) -> str:
    """When and on what the results came about."""
    days = sorted({result["date"][:10] for result in results})
    machines = dict.fromkeys(
        result["machine"].get("cpu", result["machine"].get("platform")) for result in results
    )
    versions = dict.fromkeys(f"pyg-match {result['versions']['pyg-match']}" for result in results)
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"<sub>{when}; {', '.join(machines)}; {', '.join(versions)}.</sub>"


def spread(results: Results) -> str:
    """How far the samples of a median lie apart."""
    rows = [row for row in results["rows"] if row["seconds"]]
    shares = sorted((row["high"] - row["low"]) / row["seconds"] for row in rows)
    fewest = min((row["samples"] for row in rows if row["samples"] > 1), default=1)
    rare = ", one of what takes more than 20 s" if any(row["samples"] == 1 for row in rows) else ""
    return (
        f"Medians of at least {fewest} interleaved samples{rare}; interquartile range "
        f"{shares[len(shares) // 2]:.0%} of the median for half of them, {shares[-1]:.0%} at most."
    )


def ratios(rows: list[Row], names: dict[str, str], ours: str, **labels: Any) -> str:
    """A line for each N: the time of ours, and the times of the others in units of it."""
    chosen = [row for row in rows if all(row.get(k) == v for k, v in labels.items())]
    used = [peer for peer in names if any(r["peer"] == peer and r["seconds"] for r in chosen)]
    lines = []
    for size in sorted({row["n"] for row in chosen}):
        own = find(chosen, ours, n=size)
        theirs = [find(chosen, peer, n=size) for peer in used]
        lines.append([str(size), ms(own), *(times(t / own if t and own else None) for t in theirs)])
    return table(["N", "ours, ms", *(names[peer] for peer in used)], lines)


def operator(folder: Path) -> tuple[str, list[Results]] | None:
    forward, backward = read(folder, "attention_forward"), read(folder, "attention_backward")
    if forward is None:
        return None
    main = {"k": 32, "edges": "random", "degrees": "equal"}
    reached = {row["n"]: row for row in forward["bounds"] if main.items() <= row.items()}
    shares = ", ".join(f"{row['reached']:.0%} at N={n} ({row['name']})" for n, row in reached.items())
    memory = ", ".join(f"{row['peer']} {row['outputs']:.1f}" for row in forward["memory"])
    slope = [row for row in forward["exponents"] if row["peer"] in ("ours", "sdpa")]
    parts = [
        "Forward of `sparse_attention`, 4 heads × 64 channels, 32 random sources for each of N targets. For the "
        "others how many times longer they take; bold where they are faster than ours.",
        ratios(forward["rows"], OPERATOR_NAMES, "ours", **main),
    ]
    if backward is not None:
        parts += ["Forward and backward:", ratios(backward["rows"], OPERATOR_NAMES, "ours", **main)]
    graphs = [read(folder, name) for name in ("attention_graphs", "attention_graphs_backward")]
    others = [result for result in graphs if result is not None]
    if others:
        parts += [
            "Other graphs, against dense SDPA and against the fastest way to use the edges without fusing:",
            other_graphs(others),
        ]
    notes = []
    if slope:
        growth = ", ".join(f"N^{row['exponent']:.2f} ({row['peer']})" for row in slope)
        notes.append(f"Time grows from N=1024 on with {growth}.")
    if memory:
        size = forward["memory"][0]["n"]
        notes.append(f"Extra memory of a forward at N={size}, in sizes of its output: {memory}.")
    if forward["first_calls"]:
        first = forward["first_calls"]
        notes.append(
            f"First use: {1e3 * first['loaded']:.1f} ms."
            if "loaded" in first
            else f"First use: {first['compiled']:.1f} s to compile, {first['cached']:.1f} s in later processes."
        )
    if shares:
        notes.append(
            f"Of an estimate by the read rate of a plain loop and the rate of a matrix product: {shares}."
        )
    parts.append(" ".join([*notes, spread(forward)]))
    return "\n\n".join(parts), [r for r in (forward, backward, *others) if r is not None]


def other_graphs(results: list[Results]) -> str:
    """A line for each kind of graph."""
    rows = [row for result in results for row in result["rows"]]
    sizes = sorted({row["n"] for row in rows})
    kinds = list(dict.fromkeys((r["pass"], r["edges"], r["degrees"], r["k"]) for r in rows))
    lines = []
    for kind in kinds:
        labels = dict(zip(("pass", "edges", "degrees", "k"), kind, strict=True))
        cells = []
        for size in sizes:
            own = find(rows, "ours", n=size, **labels)
            dense = find(rows, "sdpa", n=size, **labels)
            edgewise = [s for s in (find(rows, peer, n=size, **labels) for peer in EDGEWISE) if s]
            pair = (dense, min(edgewise, default=None))
            cells.append(" / ".join(times(s / own if s and own else None) for s in pair))
        lines.append([f"{kind[0]}, {kind[1]}, {kind[2]} degrees, k={kind[3]}", *cells])
    return table(["graph", *(f"N={size}" for size in sizes)], lines)


def layers(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "layers")
    if results is None:
        return None
    parts = [
        "`MaskedAttentionConv` in PyG, projections 256 → 4 × 64 included, k = 32. Ours runs on an `EdgeIndex`; for the "
        "others how many times longer they take. Forward:"
    ]
    parts.append(ratios(results["rows"], LAYER_NAMES, "ours csr", **{"pass": "forward"}))
    parts += [
        "Forward and backward:",
        ratios(results["rows"], LAYER_NAMES, "ours csr", **{"pass": "backward"}),
    ]
    return "\n\n".join([*parts, spread(results)]), [results]


def knn(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "knn")
    if results is None:
        return None
    rows = results["rows"]
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    middle = 32 if any(row["k"] == 32 for row in rows) else max(row["k"] for row in rows)
    lines = [
        [f"{size}, {points}", *(ms(find(rows, peer, n=size, points=points, k=middle)) for peer in peers)]
        for points in dict.fromkeys(row["points"] for row in rows)
        for size in sorted({row["n"] for row in rows})
    ]
    start = (
        f"Drawing a kNN graph of points of the plane, k = {middle}, ms; "
        "all but the last give the same edges, ties included."
    )
    return "\n\n".join([start, table(["N, points", *peers], lines), spread(results)]), [results]


def end_to_end(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "end_to_end")
    if results is None:
        return None
    rows = results["rows"]
    lines = []
    for features, side, threads in _kinds(rows, "features", "side", "threads"):
        at: Row = {"side": side, "threads": threads}
        detection = find(rows, features, what="detect", **at)
        own: Row = {"what": "match", "features": features, **at}
        here = [row for row in rows if all(row.get(key) == value for key, value in own.items())]
        for name in [
            row["peer"] for row in here if row["peer"].startswith(f"{features}-") and "," not in row["peer"]
        ]:
            total = find(rows, name, **own)
            theirs = [
                find(rows, peer, **own) for peer in (f"{name}, kornia's detector", "kornia", "official")
            ]
            ratios = [times(t / total if t and total else None) for t in theirs]
            lines.append([f"{name}, {side} px, {threads}", ms(detection), ms(total), *ratios])
    parts = [
        f"Two photos to matches, all but reading files, the strongest {results['settings']['max_keypoints']} keypoints "
        "of each, ms; for the others how many times longer they take. The detector alone takes one photo.",
        table(
            ["matcher, longer side, threads", "detector", "two photos", "with kornia's detector",
             "kornia's LightGlue", "official LightGlue"],
            lines,
        ),
    ]  # fmt: skip
    used = {row["peer"]: f"{row['mib']:.0f} MiB" for row in results.get("memory", [])}
    if used:
        pairs = [f"{name} {used[name]}, kornia's {used[f'{name}, kornia']}" for name in ("aliked", "disk")]
        parts.append(f"What detection adds to memory at its peak: {'; '.join(pairs)}.")
    return "\n\n".join([*parts, spread(results)]), [results]


def _kinds(rows: list[Row], *names: str) -> list[tuple[Any, ...]]:
    """The different values of some labels, in their order."""
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows if set(names) <= row.keys()))


def matcher(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "matcher")
    if results is None:
        return None
    rows = results["rows"]
    names = [name for name in MATCHER_NAMES if any(row["peer"] == name for row in results["summary"])]
    lines = []
    for size in sorted({row["n"] for row in rows}):
        cells = [ms(find(rows, peer, n=size)) for peer in ("GEMMs alone", "kornia", "official")]
        for name in names:
            own = next(row for row in results["summary"] if (row["n"], row["peer"]) == (size, name))
            cells.append(f"{ms(own['total'])} ({times(own['ratio'])})")
        lines.append([str(size), *cells])
    parts = [
        "The whole matcher, ALIKED + LightGlue weights, N real keypoints in each image, all layers, ms. "
        "Ours includes drawing the edges; in brackets how many times faster than the faster LightGlue (bold: slower). "
        "“GEMMs alone” are the linear layers and nothing else.",
        table(
            ["N", "GEMMs alone", "LightGlue, kornia", "LightGlue, official", *map(MATCHER_NAMES.get, names)],
            lines,
        ),
    ]
    floors = by_size(results["summary"], "sparse-edges", "of_gemms", "{:.2f}")
    parts.append(
        f"“{MATCHER_NAMES['sparse-edges']}” takes so many times as long as the GEMMs alone: {floors}."
    )
    short = next((row["peer"] for row in rows if row["peer"].startswith("official-")), None)
    if short is not None:
        known = by_size(results["summary"], "trained", "ratio_short", "{:.1f}×")
        parts.append(
            f"“{MATCHER_NAMES['trained']}” has {short.removeprefix('official-')} layers, LightGlue nine. "
            f"Against the same first layers of the official LightGlue alone: {known}."
        )
    elif "trained" in names:
        parts.append(f"“{MATCHER_NAMES['trained']}” had as many layers as LightGlue then, nine.")
    halved = by_size(results["summary"], "trained-bfloat16", "ratio_bf16", "{:.1f}×")
    if halved:
        parts.append(
            f"“{MATCHER_NAMES['trained-bfloat16']}” against LightGlue in bfloat16 (autocast): {halved}."
        )
    sequences = read(folder, "hpatches")
    if sequences is not None:
        results = {**results, "accuracy": accuracy(sequences)}
    parts += [
        "What the sparser graphs cost: the first ones without any training (the same weights as on complete graphs), "
        "aliked-sparse after training on its graph:",
        quality(results),
    ]
    return "\n\n".join([*parts, spread(results)]), [results]


def by_size(summary: list[dict[str, Any]], peer: str, key: str, form: str) -> str:
    """A figure of one matcher at every size at which it is known."""
    rows = [row for row in summary if row["peer"] == peer and row.get(key)]
    return ", ".join(f"{form.format(row[key])} at N={row['n']}" for row in rows)


def accuracy(sequences: Results) -> list[dict[str, Any]]:
    """Precision, recall and AUC of all methods on all sequences."""
    return [
        {
            "method": row["method"],
            "P@3": row["precision"],
            "R@3": row["recall"],
            "PoseLib AUC@5": row["PoseLib"][-1],
        }
        for row in sequences["results"]["sets"]["all"]
    ]


def quality(results: Results) -> str:
    """Precision and recall of our matchers at the size nearest to 2048, and on the sequences where known."""
    size = min({row["n"] for row in results["answers"]}, key=lambda n: abs(n - 2048))
    accuracy = {row["method"]: row for row in results["accuracy"]}
    lines = []
    for row in (row for row in results["answers"] if row["n"] == size):
        real = accuracy.get(row["peer"])
        cells = [f"{100 * row['precision']:.1f}", f"{100 * row['recall']:.1f}"]
        lines.append(
            [MATCHER_NAMES[row["peer"]], *cells, *(number(real[key] if real else None) for key in REAL)]
        )
    if "knn-64" in accuracy:
        real = accuracy["knn-64"]
        lines.append(["self 64, cross complete", "–", "–", *(number(real[key]) for key in REAL)])
    header = [f"graph, N={size}", "P@3, warped photo", "R@3, warped photo"]
    return table([*header, "P@3, real sequences, N≤1024", "R@3", "AUC@5 PoseLib"], lines)


def hpatches(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "hpatches")
    if results is None:
        return None
    sets, settings = results["results"]["sets"], results["settings"]
    caption = (
        f"{settings['features']}, at most {settings['max_keypoints']} keypoints, short side {settings['short_side']} "
        "px. P and R: mean precision and recall at so many px; AUC of the corner error at so many px, with PoseLib's "
        f"best of six thresholds and at least {settings['poselib_iterations']:,} iterations; per cent."
    )
    single = set_table({name: rows for name, rows in sets.items() if name != "all"}, 3, "1/3/5")
    coarse = results["results"].get("coarse_sets")
    if coarse:
        single += f"\n\nSets whose truth is good to 5 px at best:\n\n{set_table(coarse, 5, '5/10')}"
    folded = f"<details><summary>Each set on its own</summary>\n\n{single}\n\n</details>"
    return "\n\n".join([set_table({"all": sets["all"]}, 3, "1/3/5"), caption, folded]), [results]


ACCURACY_FILES = {  # of a dense and a sparse matcher, with the first column of their table
    "hpatches": "{pairs} real pairs, at most {max_keypoints} keypoints",
    "hpatches_2048": "the same, at most {max_keypoints} keypoints",
    "synthetic": "{pairs} synthetic pairs of photos that training did not see, at most {max_keypoints} keypoints",
    "synthetic_2048": "the same, at most {max_keypoints} keypoints",
}


def trained(folder: Path, features: str = "aliked") -> tuple[str, list[Results]] | None:
    """What the trained sparse matcher loses or gains against the dense one."""
    names = {name: accuracy_file(name, features) for name in ACCURACY_FILES}
    found = {name: results for name, file in names.items() if (results := read(folder, file)) is not None}
    shown = {"kornia": "dense", "trained": f"{features}-sparse"}
    lines = []
    for name, results in found.items():
        rows = {row["method"]: row for row in results["results"]["sets"]["all"]}
        if not {"kornia", "trained"} <= rows.keys():
            return None
        dense = _figures(rows["kornia"])
        for method in (method for method in shown if method in rows):
            first = ACCURACY_FILES[name].format(pairs=rows[method]["pairs"], **results["settings"])
            cells = [f"{value:.1f}" for value in _figures(rows[method])]
            if method != "kornia":
                pairs = zip(cells, _figures(rows[method]), dense, strict=True)
                cells = [f"{cell} ({value - other:+.1f})" for cell, value, other in pairs]
            cells.append(number(results.get("false_matches", {}).get(method)))
            lines.append([first if method == "kornia" else "", shown[method], *cells])
    if not lines:
        return None
    header = ["pairs", "matcher", "P@3", "R@3", "AUC@5 DLT", "AUC@5 PoseLib", "false"]
    start = (
        "Dense LightGlue with the official weights, and the sparse matcher on the same keypoints; per cent. "
        "False: matches between images of different scenes, mean number."
    )
    return "\n\n".join([start, table(header, lines)]), list(found.values())


def _figures(row: Row) -> list[float]:
    return [row["precision"], row["recall"], row["DLT"][-1], row["PoseLib"][-1]]


def set_table(sets: dict[str, list[Row]], pixels: int, thresholds: str) -> str:
    """A line for each method on each set."""
    header = ["set (pairs)", "method", "matches", f"P@{pixels}", f"R@{pixels}"]
    header += [f"AUC@{thresholds} {name}" for name in ESTIMATORS]
    lines = []
    for name, rows in sets.items():
        for row in rows:
            areas = [" / ".join(f"{area:.1f}" for area in row[estimator]) for estimator in ESTIMATORS]
            figures = [f"{row['matches']:.0f}", number(row["precision"]), number(row["recall"])]
            lines.append([f"{name} ({row['pairs']})", row["method"], *figures, *areas])
    return table(header, lines)


def graphs(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "graphs")
    if results is None:
        return None
    rows = results["summary"]
    whole = find(results["rows"], "matcher", n=rows[0]["n"])
    lines = [
        [
            row["peer"],
            ms(row["seconds"]),
            "–" if row["share"] is None else f"{row['share']:.1f}%",
            "–" if row["exponent"] is None else f"N^{row['exponent']:.2f}",
        ]
        for row in rows
    ]
    weights = [
        [f"{row['weight']:g}", f"{row['cosine']:.3f}", f"{row['distance']:.1f}"]
        for row in results["diversity"]
    ]
    return "\n\n".join(
        [
            f"Drawing the edges of a pair with {rows[0]['n']} keypoints in each image, on its own and against the "
            f"{ms(whole)} ms that a sparse matcher takes in the same run; how the time grows from N=1024 on.",
            table(["construction", "ms", "of the matcher", "growth"], lines),
            "What the orthogonality weight of `DiverseKNN` does to the neighbours of the keypoints of a photo:",
            table(["weight", "mean \\|cosine\\|", "mean distance, px"], weights),
            spread(results),
        ]
    ), [results]


def many_pairs(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "many_pairs")
    if results is None:
        return None
    rates = {(row["n"], row["peer"]): row["pairs_per_second"] for row in results["rates"]}
    lines = [
        [str(size), f"{rates[size, 'packed']:.1f}", f"{rates[size, 'one by one']:.1f}",
         times(rates[size, "packed"] / rates[size, "one by one"])]
        for size in results["settings"]["sizes"]
    ]  # fmt: skip
    written = [(peer.removeprefix("write: "), rate) for (_, peer), rate in rates.items() if "write" in peer]
    parts = [
        f"Pairs in a second with {results['settings']['weights']}, N random keypoints in each image, from features on "
        "disk to matches on disk:",
        table(["N", "packed", "one by one", "packed is faster by"], lines),
        "Matches of 256 keypoints written to HDF5, pairs in a second: "
        + ", ".join(f"{peer} {rate:,.0f}" for peer, rate in written)
        + ".",
    ]
    return "\n\n".join([*parts, spread(results)]), [results]


def costs(folder: Path) -> tuple[str, list[Results]] | None:
    results, run = read(folder, "many_pairs"), read(folder, "interrupted")
    if results is None or run is None:
        return None
    rates = {row["n"]: row["pairs_per_second"] for row in results["rates"] if row["peer"] == "packed"}
    cores = results["settings"]["threads"]
    row = run["rows"][0]
    overhead = row["bytes"] / row["pairs"] - 4 * run["settings"]["max_keypoints"]
    lines = []
    for size, rate in rates.items():
        hours = 1e6 / rate * cores / 3600
        features = size * (8 + 2 * 128 + 2) / 1e6
        lines.append(
            [str(size), f"{hours:,.0f}", f"{hours * CORE_HOUR:,.2f}", f"{features * 1e3:,.0f}",
             f"{(4 * size + overhead) / 1e3:,.1f}", f"{(6 * size + 16) / 1e3:,.1f}",
             f"{hours * 1e3 / 24 / 365:,.1f}"]
        )  # fmt: skip
    parts = [
        f"A core costs {CORE_HOUR:.2f} dollars an hour here, an assumption to replace by your own. Descriptors have "
        "128 numbers. All else follows from the records.",
        table(
            ["N", "core hours for 10⁶ pairs", "dollars for 10⁶ pairs", "features of 10³ images, MB",
             "one file of 10⁶ pairs, GB", "shards of 10⁶ pairs, GB at most", "core years for 10⁹ pairs"],
            lines,
        ),
    ]  # fmt: skip
    size = max(rates)
    read_bytes = 64 / 1024 * size * (8 + 2 * 128 + 2) / 1e3
    writer = next(row["pairs_per_second"] for row in results["rates"] if row["peer"] == "write: ours")
    parts.append(
        f"A shard of 64 images and 1,024 pairs of {size} keypoints reads {read_bytes * 1024 / 1e3:.0f} MB. A thousand "
        f"such pairs a second would read {read_bytes:.0f} MB and write {(4 * size + overhead) / 1e3:.0f} MB a second. "
        f"One process writes {writer:,.0f} pairs of 256 keypoints a second into one file. A billion pairs in one file "
        f"are {(4 * size + overhead) / 1e3:.0f} TB."
    )
    return "\n\n".join(parts), [results]


def interrupted(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "interrupted")
    if results is None:
        return None
    row, settings = results["rows"][0], results["settings"]
    same = "the same file byte by byte" if row["same_file"] else "another file"
    text = (
        f"{row['n']} photos, each with every other one: {row['pairs']:,} pairs of {settings['max_keypoints']} "
        f"keypoints in {row['seconds'] / 60:.0f} minutes, with at most {row['gib']:.2f} GiB of memory, of which one "
        f"pair takes {row['gib_of_one_pair']:.2f}. Killed {len(row['killed_after'])} times at random moments and "
        f"called again each time, the command wrote {same}."
    )
    return text, [results]


def scenes(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "reconstruction")
    if results is None:
        return None
    lines = []
    for row in results["rows"]:
        stages = row["stages"]
        lines.append(
            [f"{row['scene']}, {row['peer']}", f"{row['registered']} of {row['images']}", f"{row['points']:,}",
             f"{row['reprojection_error']:.2f}", f"{row['pose_error']:.3f}", f"{row['pairs_within_5_degrees']:.0%}",
             f"{stages['match']:.0f} / {stages['verify']:.0f} / {stages['map']:.0f}"]
        )  # fmt: skip
    header = ["scene, matcher", "photos registered", "points", "reprojection, px", "pose error, degrees"]
    header += ["pairs within 5 degrees"]
    header += ["seconds: matching / verification / mapping"]
    return table(header, lines), [results]


SECTIONS: dict[str, Callable[[Path], tuple[str, list[Results]] | None]] = {
    "end to end": end_to_end,
    "operator": operator,
    "layers": layers,
    "knn": knn,
    "matcher": matcher,
    "hpatches": hpatches,
    "trained": trained,
    "trained disk": partial(trained, features="disk"),
    "graphs": graphs,
    "many pairs": many_pairs,
    "costs": costs,
    "interrupted": interrupted,
    "scenes": scenes,
    **SUMMARIES,
}
CORE_HOUR = 0.04  # dollars, an assumption
CARDS = [Path(f"pyg_match/weights/{name}-sparse.md") for name in ("aliked", "disk")]
DOCS = [Path(f"docs/{name}.md") for name in ("accuracy", "benchmarks", "choosing", "many-images")]
PAGES = [Path("README.md"), *DOCS, *CARDS]
PLOTS = {"operator": ("attention_forward", "attention_backward"), "matcher": ("matcher",)}


def rewritten(text: str, folder: Path, images: Path, short: bool = False) -> str:
    """A page with all its sections that have results.

    Args:
        text: The page.
        folder: The results.
        images: Where pictures of results lie.
        short: Whether captions leave out what the documentation says.
    """
    for name, make in SECTIONS.items():
        marked = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        made = make(folder) if marked.search(text) else None
        if made is None:
            continue
        body, results = made
        told = short_caption(results) if short else captions(results, name in SUMMARIES)
        content = "\n\n".join([body, *_pictures(name, images), told])
        text = marked.sub(rf"\1{SLOT}\n\2", text).replace(SLOT, content)
    return text


def _pictures(section: str, images: Path) -> list[str]:
    names = [name for name in PLOTS.get(section, ()) if (images / f"{name}.svg").exists()]
    if not names:
        return []
    return [" ".join(f"![{name.replace('_', ' ')}](images/{name}.svg)" for name in names)]


def file_name(results: Results) -> str:
    """Where results of hpatches_eval are kept."""
    settings = results["settings"]
    name = "synthetic" if settings["roots"] == ["synthetic"] else "hpatches"
    limit = settings["max_keypoints"]
    return accuracy_file(name if limit <= 1024 else f"{name}_{limit}", settings["features"])


def accuracy_file(name: str, features: str) -> str:
    """The name of results with keypoints of another detector than ALIKED."""
    return name if features == "aliked" else f"{features}_{name}"


def without_folders(results: Results) -> Results:
    """Results of hpatches_eval in which folders are only named by their last part."""
    roots = [PurePath(root).name for root in results["settings"]["roots"]]
    words = [
        PurePath(word).name if PurePath(word).is_absolute() or word.startswith("../") else word
        for word in results["command"].split()
    ]
    words[1:2] = ["examples/hpatches_eval.py"] if len(words) > 1 else []
    return {**results, "command": " ".join(words), "settings": {**results["settings"], "roots": roots}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a page is out of date"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--readme", type=Path, nargs="+", default=PAGES, help="pages to rewrite")
    parser.add_argument(
        "--hpatches", type=Path, nargs="+", default=[], help="results.json to take over first"
    )
    args = parser.parse_args(arguments)
    for file in args.hpatches:
        results = without_folders(json.loads(file.read_text()))
        write_json(args.results / f"{file_name(results)}.json", results)
    outdated = False
    for page in args.readme:
        old = page.read_text()
        new = rewritten(old, args.results, page.parent / "images", short=page == Path("README.md"))
        if old == new:
            print(f"{page} is up to date")
        elif args.check:
            print(f"{page} is out of date: run python benchmarks/readme.py", file=sys.stderr)
            outdated = True
        else:
            page.write_text(new)
            print(f"written: {page}")
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main())
