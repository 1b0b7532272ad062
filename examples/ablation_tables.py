"""Tables, plots and verdicts from the records of ablation.py."""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def difference(runs: Runs, reference: Runs, place: str, metric: str) -> tuple[float, float]:
    """Mean and standard error of what an option is better by than the reference with the same seed, in per cent."""
    pairs = [
        (runs[s]["metrics"].get(place, {}), reference[s]["metrics"].get(place, {}))
        for s in runs
        if s in reference
    ]
    return mean_error([100 * (a[metric] - b[metric]) for a, b in pairs if metric in a and metric in b])


def sign(mean: float, error: float) -> int:
    """1 for better, -1 for worse, 0 for a difference within two standard errors of none."""
    return 0 if not abs(mean) > 2 * error else 1 if mean > 0 else -1


def cell(runs: Runs, reference: Runs, place: str, metric: str) -> str:
    numbers = [100 * run["metrics"][place][metric] for run in runs.values() if place in run["metrics"]]
    if not numbers:
        return "–"
    mean, error = mean_error(numbers)
    mark = ("", " ▲", " ▼")[sign(*difference(runs, reference, place, metric))]
    return f"{mean:.1f}" + (f" ± {error:.1f}" if len(numbers) > 1 else "") + mark


def measured(options: Mapping[str, Runs]) -> dict[str, str]:
    """The places that any run has figures of, and their titles."""
    found = {place for runs in options.values() for run in runs.values() for place in run["metrics"]}
    return {place: title for place, title in PLACES.items() if place in found}


def table(options: Mapping[str, Runs]) -> list[str]:
    """A line for each option."""
    reference = next(iter(options.values()))
    places = measured(options)
    heads = [
        f"{PLACES[place]}: {name}" if name == "R" else name for place in places for name in COLUMNS.values()
    ]
    lines = ["| | seeds | " + " | ".join(heads) + " |", "|---|" + "---|" * (1 + len(heads))]
    for option, runs in options.items():
        cells = [cell(runs, reference, place, metric) for place in places for metric in COLUMNS]
        lines.append(f"| {option} | {len(runs)} | " + " | ".join(cells) + " |")
    return lines


def verdict(options: Mapping[str, Runs]) -> str:
    """The answer in words, from the paired differences in recall."""
    (name, reference), *others = options.items()
    lines = [f"**Verdict**, in points of recall against *{name}*:", ""]
    for place, title in measured(options).items():
        better, worse, same, unknown = "Better", "Worse", "No difference measured", "Too few seeds to tell"
        groups: dict[str, list[str]] = {kind: [] for kind in (better, worse, same, unknown)}
        for option, runs in others:
            mean, error = difference(runs, reference, place, "recall")
            if error == float("inf"):
                groups[unknown].append(option)
            else:
                kind = {1: better, -1: worse, 0: same}[sign(mean, error)]
                groups[kind].append(f"{option} ({mean:+.1f} ± {error:.1f})")
        found = [f"{kind}: {'; '.join(members)}." for kind, members in groups.items() if members]
        lines.append(f"- {title.capitalize()}. {' '.join(found)}")
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
    lines = [summary(list({id(record): record for record in every}.values())), ""] if every else []
    for question, options in questions.items():
        file = plots / f"ablation_{question}.svg"
        draw(options, file)
        place = Path(os.path.relpath(file, page.parent)).as_posix()
        lines += [f"## {titles[question]}", "", *table(options), "", f"![{titles[question]}]({place})", ""]
        lines += [verdict(options), ""]
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
