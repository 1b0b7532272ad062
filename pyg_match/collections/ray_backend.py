"""Shards on a Ray cluster: an actor for each device, a task for each shard."""

import socket
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from pyg_match.collections.match_job import MatchJob, ShardMatcher
from pyg_match.collections.plan import Shard
from pyg_match.files import is_file, user_path
from pyg_match.nn import GraphMatcher

_AHEAD = 2  # shards that an actor is given at once, so that it never waits for the next
_RESTARTS = 10  # of an actor whose node or process ends
_PATIENCE = 10.0  # seconds until an address does not answer
_WAIT = 5.0  # seconds without a finished shard until idle actors repeat those of others


def match_on_ray(
    job: MatchJob, shards: Iterator[Shard], address: str = "local"
) -> Generator[int, None, None]:
    """Match shards on a cluster. Features and shards must be on paths that all machines share.

    There is an actor for each GPU, or for each core if the job is one for the CPU. An actor that ends with its node is
    started again where there is room. Towards the end idle actors repeat shards that others have not finished, so that
    the end does not wait for a machine that is slow or gone; as a shard is a whole file, it does no harm that two
    write it.

    Args:
        job: The job.
        shards: The shards.
        address: Address of the cluster; ``"local"`` starts one on this machine, ``"auto"`` takes the running one.

    Yields:
        The number of pairs of each shard that is finished.

    Raises:
        ConnectionError: If there is no cluster at that address.
        ValueError: If a shard cannot be matched.
    """
    first = next(shards, None)
    if first is None:
        return
    GraphMatcher.from_pretrained(job.weights, **job.options)  # what is wrong with them is said here
    started, actors = not ray.is_initialized(), list[Any]()
    if started:
        _connect(address)
    try:
        weights = str(user_path(job.weights).resolve()) if is_file(job.weights) else job.weights
        here = replace(job, features=job.features.resolve(), folder=job.folder.resolve(), weights=weights)
        actors = _start_actors(here)
        yield from _schedule(actors, chain([first], shards))
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


def _connect(address: str) -> None:
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:  # Ray itself tries for many minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster can be had at {address!r}: {error}") from error


class _Worker:
    """An actor: a matcher on a device of a machine."""

    def __init__(self, job: MatchJob) -> None:
        if job.on_cpu:
            torch.set_num_threads(1)
        self._matcher = ShardMatcher(job)

    def run(self, shard: Shard) -> int:
        matcher = self._matcher
        matcher.write(shard, matcher.match(shard, matcher.read(shard)))
        return len(shard.pairs)


def _start_actors(job: MatchJob) -> list[Any]:
    """An actor for each device of the cluster."""
    resource = "CPU" if job.on_cpu else "GPU"
    count = int(ray.cluster_resources().get(resource, 0))
    if count == 0:
        raise ValueError(f"the Ray cluster has no {resource} to match on")
    needs = {"num_cpus": 1, "num_gpus": 0} if job.on_cpu else {"num_cpus": 0, "num_gpus": 1}
    actor: Any = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **needs)(_Worker)
    return [actor.remote(job) for _ in range(count)]


def _schedule(actors: list[Any], shards: Iterator[Shard]) -> Iterator[int]:
    """Give shards to actors, a few at a time, until all are finished."""
    given: dict[Any, tuple[int, Shard]] = {}  # the actor and the shard of each task
    unfinished: dict[int, Shard] = {}
    again: list[Shard] = []  # shards that failed with their actor
    alive = set(range(len(actors)))
    copies = Counter[int]()  # how often each shard has been given
    stalled = False
    while True:
        for number in sorted(alive):
            own = [shard.number for actor, shard in given.values() if actor == number]
            while len(own) < _AHEAD:
                shard = again.pop() if again else next(shards, None)
                if shard is None and stalled and not own:  # the one that fewest have been given
                    shard = min(unfinished.values(), key=lambda one: copies[one.number], default=None)
                if shard is None:
                    break
                own.append(shard.number)
                unfinished[shard.number] = shard
                copies[shard.number] += 1
                given[actors[number].run.remote(shard)] = (number, shard)
        if not unfinished:
            return
        ready, _ = ray.wait(list(given), num_returns=1, timeout=_WAIT)
        stalled = not ready
        for task in ready:
            number, shard = given.pop(task)
            try:
                pairs = ray.get(task)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, ValueError | OSError) else error) from None
            except RayError as error:
                alive.discard(number)
                if not alive:
                    raise RuntimeError(f"no machine of the Ray cluster is left: {error}") from error
                again += [shard] if shard.number in unfinished else []
                continue
            if unfinished.pop(shard.number, None) is not None:
                yield pairs
