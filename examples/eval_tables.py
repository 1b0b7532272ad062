"""Tables, intervals and curves of homography errors, of the rows that hpatches_eval.py writes."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from surroundings import versions

from pyg_match.files import write_whole
from pyg_match.metrics import error_auc, recall_curve

Row = dict[str, Any]

POSELIB = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
POSELIB_ITERATIONS = 20_000  # at least
# The ground truth of EVD comes from labelled inliers: too coarse for small thresholds, and never tuned on.
COARSE_SETS = ("evd",)
AUC, COARSE_AUC = (1, 3, 5), (5, 10)
PIXELS, COARSE_PIXELS = 3, 5  # largest error of a correct match


def write_record(file: Path, settings: Row, **content: Any) -> None:
    """Write results with the time, the command, the versions and the machine that they come from."""
    packages = ("pyg-match", "torch", "torch-geometric", "kornia", "numpy", "scipy", "poselib")
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "settings": settings,
        "versions": versions(packages),
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        **content,
    }
    write_whole(file, json.dumps(record, indent=2).encode())


def best_threshold(rows: list[Row]) -> float:
    """PoseLib's threshold with the largest mean of AUC@1/3/5 over all pairs, never chosen on coarse sets."""
    rows = [row for row in rows if row["set"] not in COARSE_SETS]
    areas = {t: sum(error_auc([row[f"error_poselib_{t}"] for row in rows], AUC)) for t in POSELIB}
    return max(areas, key=lambda t: areas[t]) if rows else POSELIB[-1]


def error_columns(threshold: float) -> dict[str, str]:
    """The column of errors behind each estimator of the tables."""
    return {"DLT": "error_dlt", "OpenCV": "error_opencv", "PoseLib": f"error_poselib_{threshold}"}


def summarise(rows: list[Row], poselib: dict[str, float], thresholds: tuple[int, ...]) -> list[Row]:
    """For each method means over pairs, and AUCs, in per cent."""
    table = []
    for method, threshold in poselib.items():
        own = [row for row in rows if row["method"] == method]
        recalls = [row["recall"] for row in own if row["recall"] == row["recall"]]  # NaN: nothing to be found
        line = {
            "method": method,
            "pairs": len(own),
            "matches": np.mean([row["matches"] for row in own]).item(),
        }
        line["precision"] = 100 * np.mean([row["precision"] for row in own]).item()
        line["recall"] = 100 * np.mean(recalls).item() if recalls else None
        for estimator, column in error_columns(threshold).items():
            line[estimator] = [100 * area for area in error_auc([row[column] for row in own], thresholds)]
        table.append(
            line | {"threshold": threshold, "ms": 1000 * np.median([row["seconds"] for row in own]).item()}
        )
    return table


def differences(rows: list[Row], names: Iterable[str], reference: str, draws: int = 2_000) -> list[Row]:
    """What each method gains over the reference, in per cent, with percentile intervals of 95 % over choices of scenes.

    Pairs of one sequence share a photo, so sequences are drawn, with all their pairs, and for both methods alike.
    PoseLib's threshold is chosen in each draw anew. Intervals of a dozen scenes come out too narrow.
    """
    scenes = list(dict.fromkeys((row["set"], row["sequence"]) for row in rows))
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(scenes), size=(draws, len(scenes)))
    # The first row is all pairs as they are.
    counts = np.stack([(chosen == scene).sum(1) for scene in range(len(scenes))], axis=1)
    counts = np.concatenate([np.ones_like(counts[:1]), counts])
    figures = {
        name: _resampled([row for row in rows if row["method"] == name], scenes, counts) for name in names
    }
    table = []
    for name, measures in figures.items():
        line: Row = {"method": name, "reference": reference, "scenes": len(scenes)}
        for measure, values in measures.items():
            gain = values - figures[reference][measure]
            low, high = np.nanpercentile(gain[1:], [2.5, 97.5])
            line[measure] = [100 * gain[0].item(), 100 * low.item(), 100 * high.item()]
        table.append(line)
    return table


def _resampled(rows: list[Row], scenes: list[tuple[str, str]], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and AUC over each choice of scenes with these numbers of each."""
    weights = counts[:, [scenes.index((row["set"], row["sequence"])) for row in rows]]
    found = {}
    for measure in ("precision", "recall"):
        values = np.array([row[measure] for row in rows])
        known = values == values
        total = weights[:, known].sum(1)
        found[measure] = np.where(total > 0, weights[:, known] @ values[known] / np.maximum(total, 1), np.nan)

    def areas(column: str, thresholds: Sequence[int]) -> np.ndarray:
        errors = np.array([row[column] for row in rows])
        return np.array([error_auc(np.repeat(errors, weight), thresholds) for weight in weights])

    found |= {name: areas(f"error_{name.lower()}", AUC[-1:])[:, 0] for name in ("DLT", "OpenCV")}
    poselib = np.stack([areas(f"error_poselib_{threshold}", AUC) for threshold in POSELIB])
    best = poselib.sum(2).argmax(0)
    found["PoseLib"] = poselib[best, np.arange(len(weights)), -1]
    return found


def markdown(sections: dict[str, list[Row]], thresholds: tuple[int, ...], pixels: int) -> str:
    """A table with a line for each section and method."""
    aucs = [f"{estimator} @{'/'.join(map(str, thresholds))}" for estimator in error_columns(0)]
    header = ["", "pairs", "method", "matches", f"P@{pixels}", f"R@{pixels}", *aucs, "th", "ms"]
    lines = [header, ["---"] * 3 + ["--:"] * (len(header) - 3)]
    for section, table in sections.items():
        for row in table:
            recall = "–" if row["recall"] is None else f"{row['recall']:.1f}"
            cells = [
                section,
                str(row["pairs"]),
                row["method"],
                f"{row['matches']:.0f}",
                f"{row['precision']:.1f}",
                recall,
            ]
            cells += [" / ".join(f"{area:.1f}" for area in row[estimator]) for estimator in error_columns(0)]
            lines.append([*cells, str(row["threshold"]), f"{row['ms']:.0f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot(rows: list[Row], poselib: dict[str, float], title: str, out: Path, limit: float = 10.0) -> None:
    """The share of pairs below each corner error, for each method and estimator."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, estimator in zip(axes, error_columns(0), strict=True):
        for i, (method, threshold) in enumerate(poselib.items()):
            column = error_columns(threshold)[estimator]
            error, recall = recall_curve([row[column] for row in rows if row["method"] == method])
            x, y = np.append(error, max(limit, error[-1])), np.append(recall, recall[-1])
            # Every other method dashed and on top, so that methods that agree are all visible.
            axis.plot(x, y, "--" if i % 2 else "-", zorder=2 + i % 2, label=method)
        axis.set(title=estimator, xlabel="corner error (px)", xlim=(0, limit), ylim=(0, 1))
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    axes[0].set_ylabel("share of pairs")
    axes[-1].legend(loc="lower right", fontsize="small")
    for suffix in ("png", "pdf"):
        figure.savefig(out / f"auc.{suffix}", dpi=150)


def report(rows: list[Row], wrong: dict[str, float | None], settings: Row, out: Path) -> str:
    """Write the tables, results.json and the plot; return the tables.

    ``wrong`` holds for each method what :func:`false_matches` says of it.
    """
    poselib = {name: best_threshold([row for row in rows if row["method"] == name]) for name in wrong}
    fine = [row for row in rows if row["set"] not in COARSE_SETS]
    coarse = [row for row in rows if row["set"] in COARSE_SETS]

    def by(column: str, rows: list[Row], thresholds: tuple[int, ...]) -> dict[str, list[Row]]:
        parts = {
            name: [row for row in rows if row[column] == name]
            for name in dict.fromkeys(r[column] for r in rows)
        }
        return {name: summarise(part, poselib, thresholds) for name, part in parts.items()}

    caption = (
        f"{settings['features']}, at most {settings['max_keypoints']} keypoints, "
        f"short side {settings['short_side']} px. P, R: mean precision and recall at so many px; AUC of the "
        "corner error; per cent. th: PoseLib's "
        f"threshold in px, the best of {', '.join(map(str, POSELIB))} over all pairs of the method; it makes "
        f"at least {POSELIB_ITERATIONS:,} iterations. "
        "ms: median time of matching alone."
    )
    results: dict[str, Any] = {}
    tables = []
    if fine:
        results["sets"] = {**by("set", fine, AUC), "all": summarise(fine, poselib, AUC)}
        results["kinds"] = by("kind", [row for row in fine if row["kind"] != row["set"]], AUC)
        if "kornia" in poselib:
            results["differences"] = differences(fine, poselib, "kornia")
        tables += [markdown(results[name], AUC, PIXELS) for name in ("sets", "kinds") if results[name]]
    if coarse:
        results["coarse_sets"] = by("set", coarse, COARSE_AUC)
        tables.append(markdown(results["coarse_sets"], COARSE_AUC, COARSE_PIXELS))
        caption += (
            f" The truth of {', '.join(results['coarse_sets'])} is good to 5 px at best: "
            "scored at 5 and 10 px, not part of 'all', without a say in th."
        )
    known = {name: count for name, count in wrong.items() if count is not None}
    if known:
        counts = ", ".join(f"{name} {count:.1f}" for name, count in known.items())
        tables.append(f"Matches of images of different scenes, where none is right, mean: {counts}.")
    text = "\n\n".join([*tables, caption])
    (out / "table.md").write_text(text + "\n")
    write_record(out / "results.json", settings, caption=caption, results=results, false_matches=known)
    shown = fine or coarse
    sets, pairs = ", ".join(dict.fromkeys(row["set"] for row in shown)), len(shown) // len(poselib)
    title = f"{settings['features']}, {settings['max_keypoints']} keypoints: {sets} ({pairs} pairs)"
    plot(shown, poselib, title, out)
    return text
