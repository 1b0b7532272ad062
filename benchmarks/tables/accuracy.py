"""Accuracy on pairs with known truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from common import Row

from tables.layout import Results, number, read, table

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
SEEDS = {  # how names of records begin, and the weights; those of seed 0 are the ones of the package
    "": "seed 0",
    "seed1_": "seed 1",
    "seed2_": "seed 2",
}
POSES = ("pose_1024", "pose")  # records of examples/pose_eval.py
DEGREES = (5, 10, 20)
ACCURACY_FILES = {  # of a dense and a sparse matcher, with the first column of their table
    "hpatches": "{pairs} real pairs, at most {max_keypoints} keypoints",
    "hpatches_2048": "the same, at most {max_keypoints} keypoints",
    "synthetic": "{pairs} synthetic pairs of photos that training did not see, at most {max_keypoints} keypoints",
    "synthetic_2048": "the same, at most {max_keypoints} keypoints",
}


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


def trained(folder: Path, features: str = "aliked") -> tuple[str, list[Results]] | None:
    """What the trained sparse matcher loses or gains against the dense one."""
    names = {name: accuracy_file(name, features) for name in ACCURACY_FILES}
    found = {name: results for name, file in names.items() if (results := read(folder, file)) is not None}
    shown = {"kornia": "dense", "trained": f"{features}-sparse"}
    lines = []
    for name, results in found.items():
        if not _has_both(results):
            return None
        rows = {row["method"]: row for row in results["results"]["sets"]["all"]}
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


def seeds(folder: Path) -> tuple[str, list[Results]] | None:
    """Weights of one recipe with different seeds beside the dense matcher, with intervals of the difference."""
    lines, used = [], []
    for name, first in ACCURACY_FILES.items():
        found = {called: read(folder, f"{start}{name}") for start, called in SEEDS.items()}
        compared = {called: results for called, results in found.items() if _has_both(results)}
        for place, (called, results) in enumerate(compared.items()):
            rows = {row["method"]: row for row in results["results"]["sets"]["all"]}
            known = results["results"].get("differences", [])
            spread = next((row for row in known if row["method"] == "trained"), {})
            wrong = results.get("false_matches", {})
            if place == 0:
                start = first.format(pairs=rows["trained"]["pairs"], **results["settings"])
                figures = [f"{value:.1f}" for value in _figures(rows["kornia"])]
                lines.append([start, "dense", *figures, number(wrong.get("kornia"))])
            pairs = zip(_figures(rows["trained"]), ("precision", "recall", "DLT", "PoseLib"), strict=True)
            cells = [f"{value:.1f}{interval(spread.get(measure))}" for value, measure in pairs]
            lines.append(["", called, *cells, number(wrong.get("trained"))])
            used.append(results)
    if not lines:
        return None
    return table(["pairs", "matcher", "P@3", "R@3", "AUC@5 DLT", "AUC@5 PoseLib", "false"], lines), used


def _has_both(results: Results | None) -> TypeGuard[Results]:
    """Whether there are figures of the dense and of a trained matcher."""
    rows = [] if results is None else results["results"]["sets"]["all"]
    return {"kornia", "trained"} <= {row["method"] for row in rows}


def pose(folder: Path) -> tuple[str, list[Results]] | None:
    """Relative poses by matches of the dense and of the sparse matcher."""
    found = [results for name in POSES if (results := read(folder, name)) is not None]
    lines = []
    for results in found:
        known = {row["method"]: row for row in results["results"]["differences"]}
        for scene, rows in results["results"]["sets"].items():
            dense, *others = rows
            for row in others:
                name = f"{scene}, {row['pairs']} pairs, {results['settings']['max_keypoints']:,} keypoints"
                cells = [row["method"], f"{dense['matches']:.0f} → {row['matches']:.0f}"]
                values = {"precision": (dense["precision"], row["precision"])}
                columns = (f"AUC@{degrees}" for degrees in DEGREES)
                values |= dict(zip(columns, zip(dense["PoseLib"], row["PoseLib"], strict=True), strict=True))
                for column, (before, after) in values.items():
                    spread = known[row["method"]][column] if scene == "all" else None
                    cells.append(f"{before:.1f} → {after:.1f}{interval(spread)}")
                lines.append([name, *cells])
    if not lines:
        return None
    return table(
        ["scene", "matcher", "matches", "P", *(f"AUC@{degrees}" for degrees in DEGREES)], lines
    ), found


def interval(spread: Sequence[float] | None) -> str:
    """The ends of an interval of a difference, whose middle comes first."""
    if not spread:
        return ""
    return f" ({spread[1]:+.1f} to {spread[2]:+.1f})".replace("-0.0", "+0.0").replace("-", "−")


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


def accuracy_file(name: str, features: str) -> str:
    """The name of results with keypoints of another detector than ALIKED."""
    return name if features == "aliked" else f"{features}_{name}"
