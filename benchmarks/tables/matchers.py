"""Speed of matchers, alone and from two photos."""

from pathlib import Path
from typing import Any

from common import Row, find

from tables.accuracy import MATCHER_NAMES, accuracy, quality
from tables.layout import Results, ms, read, spread, table, times


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
        "of each, all layers, ms; for the others how many times longer they take. The detector alone takes one photo.",
        table(
            ["matcher, longer side, threads", "detector", "two photos", "kornia's detector, our matcher",
             "kornia's detector and LightGlue", "kornia's detector, the authors' LightGlue"],
            lines,
        ),
    ]  # fmt: skip
    lines = _early_exit(rows)
    if lines:
        parts += [
            "The same with early exit and pruning, as LightGlue has them by default. Times depend on the pair then; "
            "this one is easy.",
            table(
                [
                    "matcher, longer side, threads",
                    "two photos",
                    "kornia's detector and LightGlue",
                    "kornia's detector, the authors' LightGlue",
                ],
                lines,
            ),
        ]
    used = {row["peer"]: f"{row['mib']:.0f} MiB" for row in results.get("memory", [])}
    if used:
        pairs = [f"{name} {used[name]}, kornia's {used[f'{name}, kornia']}" for name in ("aliked", "disk")]
        parts.append(f"What detection adds to memory at its peak: {'; '.join(pairs)}.")
    return "\n\n".join([*parts, spread(results)]), [results]


def _early_exit(rows: list[Row]) -> list[list[str]]:
    """Two photos to matches with early exit, for each detector, size and number of threads."""
    lines = []
    for features, side, threads in _kinds(rows, "features", "side", "threads"):
        at: Row = {"what": "match", "features": features, "side": side, "threads": threads}
        name = f"{features}-sparse"
        total, *theirs = (find(rows, f"{peer}, early exit", **at) for peer in (name, "kornia", "official"))
        if total:
            lines.append(
                [
                    f"{name}, {side} px, {threads}",
                    ms(total),
                    *(times(t / total if t else None) for t in theirs),
                ]
            )
    return lines


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
    for size in _sizes(rows):
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
    early = {
        n: [early_exit(rows, peer, n) for peer in ("trained", "kornia", "official")] for n in _sizes(rows)
    }
    if all(early[_sizes(rows)[0]]):
        parts += [
            "With early exit and pruning as LightGlue has them by default, on this pair:",
            table(
                ["N", MATCHER_NAMES["trained"], "LightGlue, kornia", "LightGlue, official"],
                [[str(n), *map(ms, seconds)] for n, seconds in early.items()],
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


def early_exit(rows: list[Row], peer: str, n: int) -> float | None:
    """Seconds of a matcher with early exit, drawing its edges included."""
    own = find(rows, f"{peer}, early exit", n=n)
    drawing = find(rows, f"edges of {peer}", n=n) if peer == "trained" else 0.0
    return None if own is None or drawing is None else own + drawing


def _sizes(rows: list[Row]) -> list[int]:
    return sorted({row["n"] for row in rows})


def by_size(summary: list[dict[str, Any]], peer: str, key: str, form: str) -> str:
    """A figure of one matcher at every size at which it is known."""
    rows = [row for row in summary if row["peer"] == peer and row.get(key)]
    return ", ".join(f"{form.format(row[key])} at N={row['n']}" for row in rows)


def training_memory(folder: Path) -> tuple[str, list[Results]] | None:
    """Time and memory of a step of training in each way, as the columns of a table."""
    results = read(folder, "training_memory")
    if results is None:
        return None
    rows: list[Row] = results["rows"]
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    lines = []
    for n, pairs in dict.fromkeys((row["n"], row["pairs"]) for row in rows):
        cells = []
        for peer in peers:
            row = next(row for row in rows if (row["n"], row["pairs"], row["peer"]) == (n, pairs, peer))
            cells.append(f"{row['seconds']:.2f} s, {row['memory'] / 2**20:,.0f} MiB")
        lines.append([f"{pairs} pairs of {n:,} keypoints", *cells])
    return table(["a step", *peers], lines), [results]
