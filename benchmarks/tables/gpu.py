"""Operators, matchers and training on a GPU."""

from collections.abc import Callable
from pathlib import Path

from common import Row

from tables.layout import Results, ms, read, table

WHOLE = "sparse bf16, edges included"
RECORDED = "sparse bf16 recorded, edges included"
OPERATOR = {
    "ours bf16": "ours, bf16",
    "sdpa bf16": "SDPA, bf16",
    "flex bf16": "FlexAttention, bf16",
    "ours fp32": "ours, fp32",
    "sdpa fp32": "SDPA, fp32",
    "our layer fp32": "our layer, fp32, with projections",
    "TransformerConv fp32": "TransformerConv",
    "compiled TransformerConv fp32": "compiled",
}
WINDOWS = {
    "ours bf16": "ours",
    "ours bf16, any order of nodes": "any order of nodes",
    "sdpa bf16, parts alone": "SDPA, parts alone",
    "sdpa bf16, parts and anchors": "SDPA, laid side by side",
}
MATCHERS = {
    RECORDED: "aliked-sparse, recorded",
    WHOLE: "aliked-sparse",
    "complete fp32": "complete graphs, fp32",
    "kornia fp16": "kornia's LightGlue, fp16",
    "official fp16": "official, fp16",
    "kornia fp16, compiled": "kornia's, compiled",
    "official fp16, compiled": "official, compiled",
}
BATCHES = {
    WHOLE: "aliked-sparse",
    "complete fp32": "complete graphs, fp32",
    "kornia fp16": "kornia's LightGlue one by one, fp16",
    "official fp16": "official one by one, fp16",
    "kornia fp16, padded": "kornia's, padded",
    "official fp16, padded": "official, padded",
}
STEPS = {"sparse bf16": "aliked-sparse, bf16", "sparse fp32": "fp32", "windows bf16": "parts of 128, bf16"}


def gpu(folder: Path) -> tuple[str, list[Results]] | None:
    results = read(folder, "gpu")
    if results is None:
        return None
    rows = results["rows"]
    parts = [
        *_part(
            rows,
            "operator",
            OPERATOR,
            _milliseconds,
            "Attention along the edges of kNN graphs, ms; layers include their projections and are not captured:",
        ),
        *_part(rows, "windows", WINDOWS, _milliseconds, "Parts of 128 nodes and 256 anchors, bf16, ms:"),
        *_part(rows, "matcher", MATCHERS, _milliseconds, "One pair, drawing its edges included, ms:"),
        *_part(rows, "batches", BATCHES, _pairs, "Many pairs at once, pairs a second:"),
        *_part(rows, "training", STEPS, _step, "A step of training, ms and GB:"),
    ]
    made = next((row for row in rows if row["section"] == "live" and row["peer"] == "all of it"), None)
    if made is not None:
        parts.append(f"From photos that are read as they are needed: {_pairs(made)} pairs a second.")
    missed = [
        f"{target['name']} {target['found']:.3g}{target['unit']} instead of {target['wanted']:g}{target['unit']}"
        for target in results["targets"]
        if target["met"] is False
    ]
    measured = sum(target["met"] is not None for target in results["targets"])
    parts.append(
        f"{measured - len(missed)} of {measured} targets are met"
        + (f"; not {', '.join(missed)}." if missed else ".")
    )
    return "\n\n".join(parts), [results]


def alone(folder: Path, *peers: str) -> float | None:
    """Seconds of one pair of 2,048 keypoints, of the fastest of some peers."""
    results = read(folder, "gpu")
    wanted = {"section": "matcher", "n": 2048, "pairs": 1}
    rows = [] if results is None else results["rows"]
    seconds = [row["seconds"] for row in rows if wanted.items() <= row.items() and row["peer"] in peers]
    return min((value for value in seconds if value is not None), default=None)


def _part(
    rows: list[Row], section: str, names: dict[str, str], cell: Callable[[Row], str], title: str
) -> list[str]:
    """A title, and a table with a line for each size and a column for each peer that was measured."""
    chosen = [row for row in rows if row["section"] == section and row["peer"] in names and row["seconds"]]
    peers = [peer for peer in names if any(row["peer"] == peer for row in chosen)]
    lines: dict[str, dict[str, str]] = {}
    for row in chosen:
        lines.setdefault(_size(row), {})[row["peer"]] = cell(row)
    if not lines:
        return []
    cells = [[size, *(found.get(peer, "–") for peer in peers)] for size, found in lines.items()]
    return [title, table(["N", *(names[peer] for peer in peers)], cells)]


def _size(row: Row) -> str:
    count = f"{row['from']:,} to {row['n']:,}" if "from" in row else f"{row['n']:,}"
    if "pass" in row:
        return f"{count}, forward" + (" and backward" if row["pass"] == "backward" else "")
    return count if row["pairs"] == 1 else f"{row['pairs']} × {count}"


def _milliseconds(row: Row) -> str:
    return ms(row["seconds"])


def _pairs(row: Row) -> str:
    return f"{row['pairs'] / row['seconds']:,.0f}"


def _step(row: Row) -> str:
    memory = "" if row.get("peak") is None else f", {row['peak'] / 1e9:.1f}"
    return ms(row["seconds"]) + memory
