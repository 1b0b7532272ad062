"""Tables, plots and verdicts from the records of ablation.py."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Record = dict[str, Any]
Runs = Mapping[int, Record]  # of one option, by seed

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"

COLUMNS = {"recall": "R", "precision": "P", "auc@5_dlt": "AUC DLT", "auc@5_poselib": "AUC PoseLib"}
PLACES = {"synthetic": "held-out pairs", "real": "real pairs"}


def mean_error(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; the latter is infinite for less than two numbers."""
    if len(numbers) < 2:
        return (numbers[0] if numbers else float("nan")), float("inf")
    return statistics.mean(numbers), statistics.stdev(numbers) / len(numbers) ** 0.5


class Interval(NamedTuple):
    """A difference in per cent, and the limits of its interval, NaN for one that nobody knows."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 for better, -1 for worse, 0 for a difference whose interval holds none."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def __str__(self) -> str:
        return f"{self.mean:+.1f}, {self.low:+.1f} to {self.high:+.1f}"


def difference(runs: Runs, reference: Runs, place: str, metric: str, comparisons: int = 1) -> Interval:
    """What an option is better by than the reference with the same seeds.

    Records that tell of every pair give an interval over seeds and over pairs, with 95 % of confidence in all
    comparisons together (Bonferroni). Older ones give two standard errors over seeds.
    """
    seeds = [seed for seed in runs if seed in reference]
    both = [(runs[seed], reference[seed]) for seed in seeds]
    told = [[each.get("pairs", {}).get(place, {}).get(metric) for each in two] for two in both]
    if len(seeds) > 1 and all(one is not None and other is not None for one, other in told):
        options, references = (np.array([two[side] for two in told], dtype=float) for side in (0, 1))
        return crossed(100 * (options - references), 0.05 / comparisons)
    means = [(a["metrics"].get(place, {}), b["metrics"].get(place, {})) for a, b in both]
    mean, error = mean_error([100 * (a[metric] - b[metric]) for a, b in means if metric in a and metric in b])
    return Interval(mean, mean - 2 * error, mean + 2 * error)


def crossed(differences: Array, level: float) -> Interval:
    """The mean of differences and its t interval over the choice of rows, the seeds, and of columns, the pairs.

    The variances of both means add up; degrees of freedom are Satterthwaite's. What seeds and pairs have in common is
    in both variances, so that the interval is rather too wide.

    Args:
        differences: One number for each seed and pair, NaN where nobody knows.
        level: Probability that the true mean lies outside.
    """
    from scipy.stats import t

    known = differences[:, ~np.isnan(differences).all(0)]
    of_seeds, of_pairs = np.nanmean(known, axis=1), np.nanmean(known, axis=0)
    variances = [each.var(ddof=1) / len(each) for each in (of_seeds, of_pairs)]
    total = sum(variances)
    freedom = [v**2 / (len(each) - 1) for v, each in zip(variances, (of_seeds, of_pairs), strict=True)]
    half = t.ppf(1 - level / 2, total**2 / sum(freedom)) * total**0.5 if total > 0 else 0.0
    mean = float(np.nanmean(known))
    return Interval(mean, mean - half, mean + half)


def cell(runs: Runs, reference: Runs, place: str, metric: str, comparisons: int = 1) -> str:
    numbers = [100 * run["metrics"][place][metric] for run in runs.values() if place in run["metrics"]]
    if not numbers:
        return "–"
    mean, error = mean_error(numbers)
    mark = ("", " ▲", " ▼")[difference(runs, reference, place, metric, comparisons).sign]
    return f"{mean:.1f}" + (f" ± {error:.1f}" if len(numbers) > 1 else "") + mark


def measured(options: Mapping[str, Runs]) -> dict[str, str]:
    """The places that any run has figures of, and their titles."""
    found = {place for runs in options.values() for run in runs.values() for place in run["metrics"]}
    return {place: title for place, title in PLACES.items() if place in found}


def table(options: Mapping[str, Runs], comparisons: int = 1) -> list[str]:
    """A line for each option."""
    reference = next(iter(options.values()))
    places = measured(options)
    heads = [
        f"{PLACES[place]}: {name}" if name == "R" else name for place in places for name in COLUMNS.values()
    ]
    lines = ["| | seeds | " + " | ".join(heads) + " |", "|---|" + "---|" * (1 + len(heads))]
    for option, runs in options.items():
        cells = [cell(runs, reference, place, metric, comparisons) for place in places for metric in COLUMNS]
        lines.append(f"| {option} | {len(runs)} | " + " | ".join(cells) + " |")
    return lines


def verdict(options: Mapping[str, Runs], comparisons: int = 1) -> str:
    """The answer in words, from the paired differences in recall."""
    (name, reference), *others = options.items()
    lines = [f"**Verdict**, in points of recall against *{name}*:", ""]
    for place, title in measured(options).items():
        better, worse, same, unknown = "Better", "Worse", "No difference measured", "Too few seeds to tell"
        groups: dict[str, list[str]] = {kind: [] for kind in (better, worse, same, unknown)}
        for option, runs in others:
            found = difference(runs, reference, place, "recall", comparisons)
            if not math.isfinite(found.high - found.low):
                groups[unknown].append(option)
            else:
                groups[{1: better, -1: worse, 0: same}[found.sign]].append(f"{option} ({found})")
        parts = [f"{kind}: {'; '.join(members)}." for kind, members in groups.items() if members]
        lines.append(f"- {title.capitalize()}. {' '.join(parts)}")
    return "\n".join(lines)


def draw(options: Mapping[str, Runs], file: Path) -> None:
    """Recall of each option with two standard errors, and the single runs."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "pyg_match"  # the same records give the same file
    figure = Figure(figsize=(9, 0.9 + 0.3 * len(options)), layout="constrained")
    places = measured(options) or PLACES  # empty axes if no run is done yet
    axes = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axis, (place, title) in zip(axes, places.items(), strict=True):
        for row, runs in enumerate(options.values()):
            numbers = [
                100 * run["metrics"][place]["recall"] for run in runs.values() if place in run["metrics"]
            ]
            if not numbers:
                continue
            mean, error = mean_error(numbers)
            axis.plot(numbers, [row] * len(numbers), "o", color="0.7", markersize=3)
            axis.errorbar(
                mean, row, xerr=2 * error if len(numbers) > 1 else None, fmt="s", color="C0", capsize=3
            )
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("recall (%)")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(options)), list(options))
    axes[0].set_ylim(len(options) - 0.5, -0.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def report(
    questions: Mapping[str, Mapping[str, Runs]], titles: Mapping[str, str], plots: Path, page: Path
) -> str:
    """Tables, plots and verdicts of all questions; ``questions`` holds the records of each option by seed."""
    every = [
        record for options in questions.values() for runs in options.values() for record in runs.values()
    ]
    others = sum(len(options) - 1 for options in questions.values())
    comparisons = max(others, 1) * len(COLUMNS) * len(PLACES)  # numbers that may be marked
    lines = [summary(list({id(record): record for record in every}.values())), ""] if every else []
    for question, options in questions.items():
        file = plots / f"ablation_{question}.svg"
        draw(options, file)
        place = Path(os.path.relpath(file, page.parent)).as_posix()
        lines += [
            f"## {titles[question]}",
            "",
            *table(options, comparisons),
            "",
            f"![{titles[question]}]({place})",
            "",
        ]
        lines += [verdict(options, comparisons), ""]
    return "\n".join(lines)


def summary(records: Sequence[Record]) -> str:
    """What the records are of."""
    newest = max(records, key=lambda record: record["date"])
    training, data = newest["settings"]["training"], newest["settings"]["data"]
    real = ", ".join(f"{count} of *{name}*" for name, count in data["real"].items()) or "none"
    minutes = sum(record["seconds"]["all"] for record in records) / 60
    return (
        f"{len(records)} runs of {training['steps']} steps with {training['batch_size']} pairs each and "
        f"{data['keypoints']} keypoints an image; {minutes:.0f} minutes in all on one thread each (last on "
        f"{newest['date'][:10]}, {newest['machine']['system']}, torch {newest['versions']['torch']}). Training pairs: "
        f"{training['data']['num_pairs']} of {data['photos'][0]} photos. Held-out pairs: "
        f"{training['data']['validation_pairs']} of {data['photos'][1]} other photos. Real pairs: {real}."
    )


def filled(page: Path, text: str) -> str:
    """The page with the tables between its markers."""
    old = page.read_text() if page.is_file() else f"{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise SystemExit(f"error: {page} lacks the lines '{BEGIN}' and '{END}'")
    head, _, rest = old.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}"
