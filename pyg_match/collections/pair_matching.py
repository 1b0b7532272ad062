"""Matching all pairs of a list."""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pyg_match.checks import shown
from pyg_match.collections.feature_formats import open_features
from pyg_match.collections.hloc_features import new_hdf5
from pyg_match.collections.hloc_matches import HlocMatches, HlocMatchesWriter
from pyg_match.collections.match_job import MatchJob, ShardMatcher, check_detector
from pyg_match.collections.matching import one_core_each
from pyg_match.collections.plan import PairPlan, Shard
from pyg_match.collections.progress import ProgressReport
from pyg_match.collections.shard_files import ShardFolder, check_settings
from pyg_match.files import real_path, sweep, user_path, whole_path
from pyg_match.spinner import spinner

_AHEAD = 2  # shards that are read before they are matched


@dataclass
class MatchSummary:
    """Summary of what :func:`match_pairs` did.

    Attributes:
        output: The file or folder of matches.
        num_pairs: Number of pairs in it.
        repeated: Number of pairs that the list has more than once.
        left_out: Number of pairs that name an image without features, or one image twice.
        missing: Images without features, and the first line of the list that names each.
        seconds: Time spent in matching and in writing the file; empty if the file was there already.
        matched: Number of pairs that were matched this time.
    """

    output: Path
    num_pairs: int
    repeated: int = 0
    left_out: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    matched: int = 0


def match_pairs(
    features: str | Path,
    pairs: str | Path,
    output: str | Path,
    weights: str = "aliked-sparse",
    device: str = "cpu",
    batch_keypoints: int | None = None,
    block: int = 32,
    part: tuple[int, int] = (1, 1),
    keep_shards: bool = False,
    ray: str | None = None,
    progress: bool = False,
    **options: Any,
) -> MatchSummary:
    """Match the pairs of a list, in packed batches, and write the matches in hloc's layout.

    Pairs are matched in shards, each of which is a file in the folder ``<output>.shards`` as soon as it is finished. If
    the work is interrupted, the same call goes on, and the file of matches is the same byte by byte. Memory does not
    grow with the number of pairs.

    Args:
        features: See :func:`~pyg_match.collections.open_features`.
        pairs: The list of pairs, a line ``name0 name1`` for each.
        output: The file of matches.
        weights: See :class:`~pyg_match.collections.MatchJob`.
        device: See :class:`~pyg_match.collections.MatchJob`; of no effect once all pairs have been matched.
        batch_keypoints: The same.
        block: Images of a block; a shard has at most its square of pairs.
        part: ``(i, n)`` matches only the ``i``-th of ``n`` equal shares of the shards, as for arrays of jobs, and does
            not put them together. Calls for all shares may run at the same time; another call without ``part`` then
            puts all together, on a machine with or without their device.
        keep_shards: Whether to leave the matches in shards, which :class:`~pyg_match.collections.ShardFolder` reads.
        ray: Address of a Ray cluster that does the work, ``"local"`` for one on this machine.
        progress: Whether to report progress on standard error.
        **options: Fields of :class:`~pyg_match.nn.MatcherConfig` to override, such as ``filter_threshold``.

    Raises:
        FileNotFoundError: If there are no such features, pairs or weights.
        TypeError: If ``pairs`` is no path, or there is no such field.
        ValueError: If one of them cannot be used, the features are of another detector than the weights, or the output
            was made of others.
        OSError: If matches cannot be written. What is finished stays, and the same call goes on from there.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from pyg_match.collections import HlocMatches
        >>> draw = np.random.default_rng(0)
        >>> arrays = {"keypoints": 99 * draw.random((64, 2)), "image_size": np.array([100, 100])}
        >>> arrays["descriptors"] = np.linalg.qr(draw.normal(size=(128, 64)))[0].T
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.jpg", "b.jpg"):
        ...         np.savez(f"{folder}/{name}.npz", **arrays)
        ...     pairs, matches = Path(folder, "pairs.txt"), Path(folder, "m.h5")
        ...     _ = pairs.write_text("a.jpg b.jpg")
        ...     summary = match_pairs(folder, pairs, matches)
        ...     with HlocMatches(matches) as found:
        ...         summary.num_pairs, len(found.find("a.jpg", "b.jpg")[0])
        (1, 64)
    """
    if not isinstance(pairs, (str, os.PathLike)):
        raise TypeError(f"'pairs' must be the path of a list, which write_pairs writes, got {shown(pairs)}")
    output = real_path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder '{output.parent}' to write {output.name} to")
    number, count = part
    if not 1 <= number <= count:
        raise ValueError(f"the part must be a number from 1 to {count}, got {number}")
    shards = _shards_of(output)
    job = MatchJob(user_path(features), shards.folder, str(weights), device, batch_keypoints, options)
    with open_features(job.features) as collection:
        check_detector(collection, job.weights)
        with spinner("planning pairs", shown=progress):
            plan = PairPlan(user_path(pairs), collection, block)
        settings = {
            "features": collection.digest(),
            "pairs": plan.digest,
            "block": block,
            "shards": plan.num_shards,
            **job.settings(),
        }
        summary = MatchSummary(output, plan.num_pairs, plan.repeated, plan.left_out, plan.missing)
        if output.exists() and not keep_shards:
            _check_written(output, settings)
            return summary
        with suppress(FileNotFoundError):  # there are no shards
            if len(shards.numbers()) == plan.num_shards:
                settings = _matched_at(shards.settings(), settings)
        job = replace(job, made_with=shards.prepare(settings))
        finished = set(shards.numbers())
        mine = (shard for shard in plan if shard.number % count == number - 1)
        with ProgressReport("pairs", -(-plan.num_pairs // count), shown=progress) as report:
            todo = _unfinished(mine, finished, report)
            try:
                with closing(_run(job, todo, ray)) as run:
                    for done in run:
                        report.advance(done)
                        summary.matched += done
            except FileNotFoundError:
                if keep_shards or not output.exists():  # else another process has put all together meanwhile
                    raise
                _check_written(output, settings)
                return summary
            summary.seconds["match"] = report.seconds
        if count > 1 or keep_shards:
            summary.output = shards.folder
            return summary
        with ProgressReport("pairs written", plan.num_pairs, shown=progress) as report:
            _merge(shards, plan, output, settings, report)
            summary.seconds["write"] = report.seconds
    return summary


def _check_written(output: Path, settings: Mapping[str, Any]) -> None:
    """See that a file of matches is the one to write, and delete shards of it that a killed process has left."""
    with HlocMatches(output) as written:
        settings = _matched_at(written.settings, settings)
        check_settings(output, written.settings, settings)
    shards = _shards_of(output)
    with suppress(FileNotFoundError, ValueError):
        check_settings(shards.folder, shards.settings(), settings)
        shards.delete()


def _matched_at(written: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the device on which all was matched, which need not be here to put shards together."""
    return {**settings, **{name: written[name] for name in ("device", "batch_keypoints") if name in written}}


def _shards_of(output: Path) -> ShardFolder:
    return ShardFolder(output.with_name(f"{output.name}.shards"))


def _unfinished(shards: Iterable[Shard], finished: set[int], report: ProgressReport) -> Iterator[Shard]:
    for shard in shards:
        if shard.number in finished:
            report.skip(len(shard.pairs))
        else:
            yield shard


def _run(job: MatchJob, shards: Iterator[Shard], ray: str | None) -> Generator[int, None, None]:
    """Match shards, and give the number of pairs of each that is finished."""
    if ray is not None:
        from pyg_match.collections.ray_backend import match_on_ray

        return match_on_ray(job, shards, ray)
    return match_here(job, shards)


def match_here(job: MatchJob, shards: Iterator[Shard]) -> Generator[int, None, None]:
    """Match shards in this process, while the next are read and the one before is written.

    Args:
        job: The job.
        shards: The shards.

    Yields:
        The number of pairs of each shard that is finished.
    """
    first = next(shards, None)
    if first is None:  # no matcher is loaded for nothing
        return
    with ExitStack() as stack:
        threads = stack.enter_context(one_core_each()) if job.on_cpu else 1
        matcher = stack.enter_context(closing(ShardMatcher(job, threads)))
        reader, writer = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        ahead = [
            (shard, reader.submit(matcher.read, shard)) for shard in (first, *islice(shards, _AHEAD - 1))
        ]
        written: Future[None] | None = None
        pairs = 0
        while ahead:
            shard, sets = ahead.pop(0)
            read = sets.result()
            ahead += [(more, reader.submit(matcher.read, more)) for more in islice(shards, 1)]
            matches = matcher.match(shard, read)
            if written is not None:
                written.result()
                yield pairs
            written, pairs = writer.submit(matcher.write, shard, matches), len(shard.pairs)
        if written is not None:
            written.result()
            yield pairs


def _merge(
    shards: ShardFolder, plan: PairPlan, output: Path, settings: Mapping[str, Any], report: ProgressReport
) -> None:
    """Put all shards into one file, and delete them, unless another process has done so meanwhile."""
    with shards.locked() as present:
        if not present or output.exists():
            _check_written(output, settings)
            return
        sweep(output.parent, name=output.name)
        with whole_path(output) as temporary, new_hdf5(temporary) as file:
            writer = HlocMatchesWriter(file, settings)
            for number in range(plan.num_shards):
                report.advance(writer.write(*shards.read(number)))
        shards.delete()
    if os.name == "nt":  # where open files cannot be deleted
        shards.delete()
