"""Matchers on a GPU: one pair, batches and training, beside LightGlue of kornia and of its authors."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from common import Call
from gpu_clock import GPUBench
from gpu_targets import RECORDED
from lightglue_peers import LightGlues
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import read_metadata
from pyg_match.training import LossConfig, Objective
from pyg_match.transforms import graph_from_recipe

SPARSE = "aliked-sparse"
# Parts that are seen whole in the place of neighbours; the weights were not trained on them, which takes no time.
WINDOWS = [
    {"HilbertPartition": {"size": 128, "shift": True}},
    {"AnchorEdges": {"num_anchors": 256, "loop": True, "weighted": True, "listed": False}},
    {"CandidateEdges": {"k": 32}},
]


def pairs_of(counts: Sequence[tuple[int, int]], seed: int = 0) -> list[KeypointPair]:
    """Pairs of random keypoints, of which half match each other by label."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for pair in counts:
        sets, labels = [], []
        for count in pair:
            x = F.normalize(torch.randn(count, 128, generator=generator), dim=1)
            pos = torch.rand(count, 2, generator=generator) * torch.tensor([1024.0, 768.0])
            sets.append(KeypointSet(pos=pos, x=x, image_size=(1024, 768)))
            place = torch.arange(count)
            labels.append(place.masked_fill(place >= min(pair) // 2, -1))
        made.append(KeypointPair.from_sets(*sets, y=torch.cat(labels)))
    return made


@functools.cache
def models_on(device: torch.device) -> "Models":
    """The matchers on a device, made once."""
    return Models(device)


class Models:
    """Our matchers, and LightGlue. What complete graphs cost does not depend on weights, which are random there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graph = graph_from_recipe(read_metadata(SPARSE)["graph"])
        self.windows = graph_from_recipe(WINDOWS)
        load = GraphMatcher.from_pretrained
        self.sparse = {
            name: load(SPARSE, bfloat16=name != "fp32").to(device).freeze(cuda_graphs=name == RECORDED)
            for name in ("fp32", "bf16", RECORDED)
        }
        self.complete = GraphMatcher().eval().to(device).freeze()
        self.lightglues = LightGlues(device)

    def calls(self, pairs: list[KeypointPair]) -> dict[str, Callable[[], Call]]:
        """What is timed on these pairs."""
        batch = (Batch.from_data_list(pairs) if len(pairs) > 1 else pairs[0]).to(self.device)
        drawn = self.graph(batch)
        found: dict[str, Callable[[], Call]] = {
            "edges of sparse": lambda: inference(self.graph, batch),
            "edges of windows": lambda: inference(self.windows, batch),
        }
        in_windows = self.sparse["bf16"].prepare(self.windows(batch))
        found["windows bf16, prepared"] = lambda: inference(self.sparse["bf16"], in_windows)
        for name, model in self.sparse.items():
            if name == RECORDED and len(pairs) > 1:
                continue
            prepared = model.prepare(drawn)
            found[f"sparse {name}, prepared"] = functools.partial(inference, model, prepared)
            found[f"sparse {name}, edges included"] = functools.partial(
                inference, lambda pair, model=model: model(self.graph(pair)), batch
            )
        found["complete fp32"] = lambda: inference(self.complete, batch)
        return found | self.lightglues.calls(pairs)


def inference(function: Callable[[Any], object], argument: Any) -> Call:
    """A call without gradients."""

    def call() -> object:
        with torch.inference_mode():
            return function(argument)

    return call


def matcher(bench: GPUBench) -> None:
    """One pair."""
    models = models_on(bench.device)
    for count in bench.args.keypoints:
        bench.measure(
            {"section": "matcher", "n": count, "pairs": 1}, models.calls(pairs_of([(count, count)]))
        )


def compiled_matchers(bench: GPUBench) -> None:
    """LightGlue compiled, on one pair."""
    lightglues = models_on(bench.device).lightglues
    for count in bench.args.keypoints:
        calls = lightglues.compiled_calls(pairs_of([(count, count)]))
        if calls:
            bench.measure({"section": "matcher", "n": count, "pairs": 1}, calls)


def batches(bench: GPUBench) -> None:
    """Many pairs at once."""
    models = models_on(bench.device)
    for count, pairs in ((512, 64), (2048, 16)):
        if count in bench.args.keypoints:
            labels = {"section": "batches", "n": count, "pairs": pairs}
            bench.measure(labels, models.calls(pairs_of([(count, count)] * pairs)))
    low, high = min(bench.args.keypoints), min(2048, max(bench.args.keypoints))
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(low, high + 1, (bench.args.pairs, 2), generator=generator).tolist()
    labels = {"section": "batches", "n": high, "from": low, "pairs": len(counts)}
    bench.measure(labels, models.calls(pairs_of([(a, b) for a, b in counts])))


def training(bench: GPUBench) -> None:
    """A step: losses after three layers, their gradients, and the optimizer."""
    models = models_on(bench.device)
    most = max(bench.args.keypoints)
    for count, pairs in ((512, bench.args.pairs), (1024, 2)) if most >= 1024 else ((most, bench.args.pairs),):
        batch = Batch.from_data_list(pairs_of([(count, count)] * pairs)).to(bench.device)
        drawn = {"sparse": models.graph(batch), "windows": models.windows(batch)}
        for name in ("fp32", "bf16"):
            labels = {"section": "training", "n": count, "pairs": pairs}
            steps: dict[str, Callable[[], Call]] = {
                f"{graph} {name}": functools.partial(
                    step, bench.device, name == "bf16", lambda pair=pair: pair
                )
                for graph, pair in drawn.items()
            }
            bench.measure(labels, steps)


def step(device: torch.device, bfloat16: bool, batch: Callable[[], KeypointPair]) -> Call:
    """A step of training on what ``batch`` gives; assigned all to all, as the weights were trained."""
    model = GraphMatcher.from_pretrained(SPARSE, bfloat16=bfloat16, assign_on_edges=False)
    objective = Objective(model.to(device).train(), LossConfig())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-6, foreach=True)
    last = model.config.num_layers - 1

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(batch(), (last - 4, last - 2, last))["total"].backward()
        optimizer.step()

    return call
