"""Memory and time of a step of training, with and without computing again what is quick to compute.

    python benchmarks/training_memory.py

A step of `aliked-sparse` in its own graph with gradients of all weights, of pairs of random keypoints. Each way runs in
a process of its own, as PyTorch looks only once whether it is to use huge pages. Memory is the peak of a new process
beyond what it has before the step.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from common import Bench, Call, parser, peak_memory
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.training import LossConfig, Objective
from pyg_match.transforms import graph_from_recipe

WEIGHTS = "aliked-sparse"
# Whether a step computes again what is quick to compute, and the environment of its process.
WAYS: dict[str, tuple[bool, Mapping[str, str]]] = {
    "plain": (False, {}),
    "checkpointed": (True, {}),
    "checkpointed, huge pages": (True, {"THP_MEM_ALLOC_ENABLE": "1"}),
}


def batch_of(pairs: int, count: int) -> KeypointPair:
    """Pairs of random keypoints, half of which have a partner."""
    generator = torch.Generator().manual_seed(0)
    sets = []
    for _ in range(2 * pairs):
        x = F.normalize(torch.randn(count, 128, generator=generator), dim=1)
        pos = torch.rand(count, 2, generator=generator) * torch.tensor([640.0, 480.0])
        sets.append(KeypointSet(pos=pos, x=x, image_size=(640, 480)))
    partner = torch.arange(count).masked_fill(torch.arange(count) >= count // 2, -1)
    y = torch.cat([partner, partner])
    graph = graph_from_recipe(read_metadata(WEIGHTS)["graph"])
    made = [KeypointPair.from_sets(*two, y=y) for two in zip(sets[::2], sets[1::2], strict=True)]
    return graph(Batch.from_data_list(made))


def step(pairs: int, count: int, checkpointed: bool) -> Call:
    """A step as a call."""
    model = GraphMatcher.from_pretrained(WEIGHTS, assign_on_edges=False, checkpointed=checkpointed).train()
    objective, batch = Objective(model, LossConfig()), batch_of(pairs, count)

    def call() -> None:
        model.zero_grad(set_to_none=True)
        objective(batch, (2, 5, model.config.num_layers - 1))["total"].backward()

    return call


def prepared(pairs: int, count: int, checkpointed: bool) -> tuple[Call, Call]:
    """A small step to load what there is to load, and the one to measure."""
    return step(1, 16, checkpointed), step(pairs, count, checkpointed)


_call: Call


def prepare_step(threads: int, *arguments: int) -> None:
    """Keep a step in this process, which :func:`run_step` runs."""
    global _call
    torch.set_num_threads(threads)
    _call = step(*arguments)


def run_step() -> None:
    """Run the step of this process."""
    _call()


def remote_step(stack: ExitStack, environment: Mapping[str, str], *arguments: int) -> Call:
    """A step in a new process, as a call of this one."""
    context = multiprocessing.get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
    with patch.dict(os.environ, environment):
        pool.submit(prepare_step, *arguments).result()
    return lambda: pool.submit(run_step).result()


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all ways in turn, then measure the memory of each."""
    options = parser(__doc__, sizes=(1024,))
    options.add_argument("--pairs", type=int, default=2, help="of a step (%(default)s)")
    args = options.parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    for count in args.sizes:
        with ExitStack() as stack:
            peers: dict[str, Callable[[], Call | str]] = {
                name: partial(remote_step, stack, environment, args.threads, args.pairs, count, again)
                for name, (again, environment) in WAYS.items()
            }
            bench.time({"n": count, "pairs": args.pairs}, peers)
        for name, (again, environment) in WAYS.items():
            with patch.dict(os.environ, environment):
                bytes_ = peak_memory(prepared, args.threads, args.pairs, count, again)
            row = next(row for row in bench.rows if row["peer"] == name and row["n"] == count)
            row["memory"] = bytes_
            print(f"  {name:34}{bytes_ / 2**20:10.0f} MiB", flush=True)
    bench.finish([])


if __name__ == "__main__":
    main()
