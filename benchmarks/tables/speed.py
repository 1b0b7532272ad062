"""Speed of the operator, the layer, graphs, detectors and matchers."""

from pathlib import Path
from typing import Any

from common import Row, find

from tables.layout import Results, ms, read, spread, table, times

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


def explorer(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "explorer")
    if results is None:
        return None
    lines = [
        [f"{row['n']:,}, {row['peer']}", ms(row["seconds"]), ms(row["most"]), f"{row['megabytes']:.1f}"]
        for row in results["rows"]
    ]
    header = ["keypoints an image", "hover, ms", "slowest, ms", "file, MB"]
    return table(header, lines), [results]
