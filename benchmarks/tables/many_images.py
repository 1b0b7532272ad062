"""Throughput, costs and reconstructions of many images."""

from pathlib import Path

from tables.layout import Results, read, spread, table, times

CORE_HOUR = 0.04  # dollars, an assumption


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
    repeats = results["settings"].get("repeats", 1)
    lines = []
    for row in results["rows"]:
        stages, errors = row["stages"], row.get("pose_errors", [row["pose_error"]])
        spread = [f"{min(errors):.3f} to {max(errors):.3f}"] if repeats > 1 else []
        lines.append(
            [f"{row['scene']}, {row['peer']}", f"{row['registered']} of {row['images']}", f"{row['points']:,}",
             f"{row['reprojection_error']:.2f}", f"{row['pose_error']:.3f}", *spread,
             f"{row['pairs_within_5_degrees']:.0%}",
             f"{stages['match']:.0f} / {stages['verify']:.0f} / {stages['map']:.0f}"]
        )  # fmt: skip
    header = ["scene, matcher", "photos registered", "points", "reprojection, px", "pose error, degrees"]
    header += [*([f"of {repeats} models"] if repeats > 1 else []), "pairs within 5 degrees"]
    header += ["seconds: matching / verification / mapping"]
    return table(header, lines), [results]
