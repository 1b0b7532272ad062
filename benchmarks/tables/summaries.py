"""Short tables of README and of the page on choices, each from several records."""

from collections.abc import Callable
from pathlib import Path

from common import Row, find

from tables import gpu
from tables.accuracy import interval
from tables.layout import Results, read, table
from tables.matchers import early_exit

SETS = {  # records of accuracy, and how the first column calls them
    "hpatches": "{pairs} real pairs, {max_keypoints:,} keypoints",
    "hpatches_2048": "{pairs} real pairs, {max_keypoints:,} keypoints",
    "synthetic": "{pairs} warped photos, {max_keypoints:,} keypoints",
    "synthetic_2048": "{pairs} warped photos, {max_keypoints:,} keypoints",
    "disk_hpatches": "{pairs} real pairs, {max_keypoints:,} keypoints, DISK",
}
MATCHERS = {  # of the whole way from two photos, alone, and alone on a GPU, where the fastest of several counts
    "aliked-sparse": ("aliked-sparse", "trained", (gpu.RECORDED,)),
    "aliked-lightglue, complete graphs": ("aliked-lightglue", "complete", ("complete fp32",)),
    "kornia's ALIKED and LightGlue": ("kornia", "kornia", ("kornia fp16", "kornia fp16, compiled")),
    "kornia's ALIKED, the authors' LightGlue": (
        "official",
        "official",
        ("official fp16", "official fp16, compiled"),
    ),
}
DETECTORS = {  # the detector, its matcher here, and the method and record of its accuracy
    "ALIKED": ("aliked", "aliked-sparse", "trained", "hpatches"),
    "DISK": ("disk", "disk-sparse", "trained", "disk_hpatches"),
    "XFeat": ("xfeat", "xfeat-lighterglue", "kornia", "xfeat_hpatches"),
    "RootSIFT": ("rootsift", None, "ratio-0.8", "rootsift_hpatches"),
}
GRAPHS = {  # of the method in records of accuracy: the name, and the peer in the record of the matcher
    "kornia": ("complete graphs with LightGlue's weights", "complete"),
    "candidates-32": ("self complete, cross 32, untrained", None),
    "candidates-16": ("self complete, cross 16, untrained", "candidates-16"),
    "anchors-48": ("self 16 and 48 weighted anchors, cross complete, untrained", None),
    "knn-64": ("self 64, cross complete, untrained", None),
    "trained": ("`aliked-sparse`: self 24 and 288 weighted anchors, cross 32, trained", "trained"),
}


def _of_all(results: Results, method: str) -> Row | None:
    return next((row for row in results["results"]["sets"]["all"] if row["method"] == method), None)


def accuracy(folder: Path) -> tuple[str, list[Results]] | None:
    """Dense against sparse, with intervals of the difference."""
    lines, used = [], []
    for name, first in SETS.items():
        results = read(folder, name)
        if results is None:
            continue
        dense, sparse = _of_all(results, "kornia"), _of_all(results, "trained")
        if dense is None or sparse is None:
            continue
        known = results["results"].get("differences", [])
        spread = next((row for row in known if row["method"] == "trained"), {})
        cells = [first.format(pairs=sparse["pairs"], **results["settings"])]
        for measure in ("precision", "recall", "PoseLib"):
            values = [row[measure][-1] if measure == "PoseLib" else row[measure] for row in (dense, sparse)]
            cells.append(f"{values[0]:.1f} → {values[1]:.1f}{interval(spread.get(measure))}")
        wrong = [results.get("false_matches", {}).get(method) for method in ("kornia", "trained")]
        cells.append("–" if None in wrong else f"{wrong[0]:.0f} → {wrong[1]:.0f}")
        lines.append(cells)
        used.append(results)
    if not lines:
        return None
    return table(["pairs", "P@3", "R@3", "AUC@5", "false matches"], lines), used


def speed(folder: Path) -> tuple[str, list[Results]] | None:
    """Two photos to matches, and the matcher alone."""
    whole, alone = read(folder, "end_to_end"), read(folder, "matcher")
    if whole is None or alone is None:
        return None
    at: Row = {"what": "match", "features": "aliked", "side": 1024, "threads": 2}
    totals = {row["peer"]: row["total"] for row in alone["summary"] if row["n"] == 2048}
    first = (find(whole["rows"], "aliked-sparse", **at), totals.get("trained"))
    on_gpu, of_gpu = read(folder, "gpu"), gpu.alone(folder, gpu.RECORDED)
    lines = []
    for name, (peer, matcher, there) in MATCHERS.items():
        seconds = (
            find(whole["rows"], peer, **at),
            totals.get(matcher) or find(alone["rows"], matcher, n=2048),
        )
        cells = [_against(value, own) for value, own in zip(seconds, first, strict=True)]
        last = "not measured yet" if on_gpu is None else _against(gpu.alone(folder, *there), of_gpu)
        lines.append([name, *cells, last])
    early = [
        (find(whole["rows"], f"{peer}, early exit", **at), early_exit(alone["rows"], matcher, 2048))
        for peer, matcher, _ in MATCHERS.values()
        if matcher != "complete"
    ]
    if all(early[0]):
        names = [name for name in MATCHERS if not name.endswith("graphs")]
        for name, seconds in zip(names, early, strict=True):
            cells = [_against(value, own) for value, own in zip(seconds, early[0], strict=True)]
            lines.append([f"{name}, early exit", *cells, "–"])
    # Columns may be of different machines, and are compared within themselves.
    cpus = [
        str(results["machine"]["cpu"]).replace("(R)", "").removesuffix(" Processor")
        for results in (whole, alone)
    ]
    card = (
        "GPU"
        if on_gpu is None
        else f"matcher alone, {on_gpu['machine'].get('gpu', on_gpu['machine']['cpu'])}"
    )
    header = ["", f"two photos, {cpus[0]}", f"matcher alone, {cpus[1]}", card]
    return table(header, lines), [results for results in (whole, alone, on_gpu) if results is not None]


def _against(value: float | None, own: float | None) -> str:
    if not value or not own:
        return "–"
    ratio = f", {value / own:.1f}×" if value != own else ""
    return f"{1e3 * value:,.{0 if value >= 0.01 else 2}f} ms{ratio}"


def detectors(folder: Path) -> tuple[str, list[Results]] | None:
    """What each detector costs and gives."""
    whole = read(folder, "end_to_end")
    if whole is None:
        return None
    lines, used = [], [whole]
    for name, (features, matcher, method, record) in DETECTORS.items():
        at: Row = {"side": 1024, "threads": 2}
        detection = find(whole["rows"], features, what="detect", **at)
        total = find(whole["rows"], matcher, what="match", features=features, **at) if matcher else None
        results = read(folder, record)
        row = None if results is None else _of_all(results, method)
        if row is None or results is None:
            figures = ["–"] * 3
        else:
            figures = [f"{row['precision']:.1f}", f"{row['recall']:.1f}", f"{row['PoseLib'][-1]:.1f}"]
            used.append(results)
        what = f"`{matcher}`" if matcher else "ratio test 0.8"
        times = [f"{1e3 * seconds:,.0f}" if seconds else "–" for seconds in (detection, total)]
        lines.append([name, what, *times, *figures])
    header = ["detector", "matcher", "one photo, ms", "two photos to matches, ms", "P@3", "R@3", "AUC@5"]
    return table(header, lines), used


def graphs(folder: Path) -> tuple[str, list[Results]] | None:
    """What each graph costs and gives."""
    results, alone = read(folder, "hpatches"), read(folder, "matcher")
    if results is None or alone is None:
        return None
    totals = {row["peer"]: row["total"] for row in alone["summary"] if row["n"] == 2048}
    lines = []
    for method, (name, peer) in GRAPHS.items():
        row = _of_all(results, method)
        if row is None:
            continue
        seconds = totals.get(peer) if peer else None
        figures = [f"{row['precision']:.1f}", f"{row['recall']:.1f}", f"{row['PoseLib'][-1]:.1f}"]
        lines.append([name, *figures, f"{1e3 * seconds:,.0f}" if seconds else "–"])
    header = ["edges for each keypoint", "P@3", "R@3", "AUC@5", "matcher at 2,048 keypoints, ms"]
    return table(header, lines), [results, alone]


def trained_graphs(folder: Path) -> tuple[str, list[Results]] | None:
    """The same matcher trained on several graphs for a short time."""
    results = read(folder, "graph_choice")
    if results is None:
        return None
    rows: list[Row] = results["rows"]
    shown = ("precision", "recall", "auc@5_poselib", "false_matches")
    lines = []
    for name in dict.fromkeys(row["peer"] for row in rows):
        runs = [row for row in rows if row["peer"] == name and row["section"] == "accuracy"]
        values = [[row[key] * (1 if key == "false_matches" else 100) for row in runs] for key in shown]
        cells = [" → ".join(f"{value:.1f}" for value in found) or "–" for found in values]
        seconds = find(rows, name, section="times", part="graph and matcher", n=2048)
        lines.append([name, *cells, f"{1e3 * seconds:,.0f}" if seconds else "–"])
    header = ["edges within images", "P", "R", "AUC@5", "false matches", "graph and matcher, ms"]
    return table(header, lines), [results]


SUMMARIES: dict[str, Callable[[Path], tuple[str, list[Results]] | None]] = {
    "accuracy summary": accuracy,
    "speed summary": speed,
    "detectors": detectors,
    "graph choices": graphs,
    "trained graphs": trained_graphs,
}
