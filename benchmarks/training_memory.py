"""Memory and time of a step of training, with and without computing again what is quick to compute.

    python benchmarks/training_memory.py

A step of `aliked-sparse` in its own graph with gradients of all weights, of pairs of random keypoints. Memory is the
peak of a new process beyond what it has before the step.
"""

from collections.abc import Callable, Sequence

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both in turn, then measure the memory of each."""
    options = parser(__doc__, sizes=(1024,))
    options.add_argument("--pairs", type=int, default=2, help="of a step (%(default)s)")
    args = options.parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    modes = {"plain": False, "checkpointed": True}
    for count in args.sizes:
        labels = {"n": count, "pairs": args.pairs}
        peers: dict[str, Callable[[], Call | str]] = {
            name: lambda count=count, again=again: step(args.pairs, count, again)
            for name, again in modes.items()
        }
        bench.time(labels, peers)
        for name, again in modes.items():
            bytes_ = peak_memory(prepared, args.threads, args.pairs, count, again)
            row = next(row for row in bench.rows if row["peer"] == name and row["n"] == count)
            row["memory"] = bytes_
            print(f"  {name:34}{bytes_ / 2**20:10.0f} MiB", flush=True)
    bench.finish([])


if __name__ == "__main__":
    main()
