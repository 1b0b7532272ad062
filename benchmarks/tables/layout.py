"""Reading records, and laying out tables and captions."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import BUSY

Results = dict[str, Any]


def read(folder: Path, name: str) -> Results | None:
    file = folder / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table, its first column to the left, the others to the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])


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
    named = ("gpu", "driver", "cpu", "simd", "system", "platform")
    where = [str(surroundings[key]) for key in named if key in surroundings]
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
