"""The layers and transforms of pyg_match in models that match nothing, beside layers of PyG.

    python examples/custom_layer_in_pyg.py

Three tasks that PyG or this file makes up, without downloads: the members of Zachary's karate club, four of which are
labelled; random graphs whose class shows in their features; and noisy point clouds of four turned shapes. Every
model is the same stack of two blocks around another layer. The budget is equal: the same number of epochs, and as
many channels as fit into the same number of parameters. Nothing is tuned; the tables show that the layers drop in and
what they cost, not which is best.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric import seed_everything
from torch_geometric.data import Data
from torch_geometric.datasets import FakeDataset, KarateClub
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, GPSConv, TransformerConv, global_max_pool, global_mean_pool
from torch_geometric.transforms import BaseTransform

from pyg_match.data.edges import sorted_edges
from pyg_match.nn import MaskedAttentionConv, MultiScaleConv, OrthogonalFusion, PartitionGCNConv
from pyg_match.transforms import DiverseKNN, KNNGraph, RingPartition, scales

HEADS = 4
Batches = list[tuple[Data, Tensor]]


class HopPartition(BaseTransform):
    """Neighbours as scale 0 and the neighbours' other neighbours as scale 1: a new construction in ten lines."""

    def forward(self, data: Data) -> Data:
        num_nodes = data.num_nodes
        near = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)  # the graphs are small
        near[data.edge_index[1], data.edge_index[0]] = True
        next_nearest = (near.float() @ near.float() > 0) & ~near & ~torch.eye(num_nodes, dtype=torch.bool)
        for scale, seen in enumerate((near, next_nearest)):
            data[f"edge_index_{scale}"] = sorted_edges(seen.nonzero().t().flip(0), num_nodes, is_sorted=True)
        return data


class Shapes(torch.utils.data.Dataset):
    """Noisy points on the surface of a sphere, cube, torus or cylinder, turned and of random size."""

    names = ("sphere", "cube", "torus", "cylinder")

    def __init__(
        self, num_clouds: int, num_points: int, transform: BaseTransform, seed: int, noise: float = 0.05
    ):
        generator = torch.Generator().manual_seed(seed)
        self.clouds = []
        for number in range(num_clouds):
            label = number % len(self.names)
            pos = getattr(self, self.names[label])(num_points, generator)
            pos = pos / pos.norm(dim=1).mean() + noise * torch.randn(num_points, 3, generator=generator)
            turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
            pos = pos @ turn * (0.8 + 0.4 * torch.rand(1, generator=generator))
            self.clouds.append(transform(Data(x=pos, pos=pos, y=torch.tensor([label]))))

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index: int) -> Data:
        return self.clouds[index]

    @staticmethod
    def sphere(n: int, generator: torch.Generator) -> Tensor:
        return nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)

    @staticmethod
    def cube(n: int, generator: torch.Generator) -> Tensor:
        pos = 2 * torch.rand(n, 3, generator=generator) - 1
        face = torch.randint(3, (n, 1), generator=generator)
        return pos.scatter(1, face, pos.gather(1, face).sign())

    @staticmethod
    def torus(n: int, generator: torch.Generator) -> Tensor:
        around, across = 2 * torch.pi * torch.rand(2, n, generator=generator)
        radius = 1 + 0.4 * across.cos()
        return torch.stack([radius * around.cos(), radius * around.sin(), 0.4 * across.sin()], dim=1)

    @staticmethod
    def cylinder(n: int, generator: torch.Generator) -> Tensor:
        around = 2 * torch.pi * torch.rand(n, generator=generator)
        height = 2 * torch.rand(n, generator=generator) - 1
        return torch.stack([around.cos(), around.sin(), height], dim=1)


class Net(nn.Module):
    """Two blocks of a layer with a residual connection, for nodes or for whole graphs."""

    def __init__(
        self, make: Callable[[int], nn.Module], multi: bool, ins: int, hidden: int, outs: int, graphs: bool
    ):
        super().__init__()
        self.multi = multi
        self.graphs = graphs
        self.lin_in = nn.Linear(ins, hidden)
        self.convs = nn.ModuleList(make(hidden) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
        self.lin_out = nn.Linear(2 * hidden if graphs else hidden, outs)

    def forward(self, data: Data) -> Tensor:
        batch = data.batch if self.graphs else None
        x = self.lin_in(data.x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            edges = scales(data) if self.multi else data.edge_index
            h = conv(x, edges, batch) if isinstance(conv, GPSConv) else conv(x, edges)
            x = x + norm(h).relu()
        if self.graphs:
            x = torch.cat([global_mean_pool(x, batch), global_max_pool(x, batch)], dim=1)
        return self.lin_out(x)


def attention(channels: int) -> nn.Module:
    return MaskedAttentionConv(channels, channels // HEADS, HEADS)


def two_scales(branch: Callable[[int], nn.Module], channels: int) -> nn.Module:
    return MultiScaleConv([branch(channels), branch(channels)], OrthogonalFusion(channels, residual=True))


@dataclass(frozen=True)
class Entry:
    """A layer, and whether it runs on several scales."""

    name: str
    make: Callable[[int], nn.Module]
    multi: bool = False


ENTRIES = (
    Entry("GCNConv", lambda c: GCNConv(c, c)),
    Entry("TransformerConv", lambda c: TransformerConv(c, c // HEADS, HEADS)),
    Entry("GPSConv(GCNConv)", lambda c: GPSConv(c, GCNConv(c, c), heads=HEADS)),
    Entry("MaskedAttentionConv", attention),
    Entry(
        "MultiScaleConv(PartitionGCNConv)",
        lambda c: two_scales(lambda b: PartitionGCNConv(b, b), c),
        multi=True,
    ),
    Entry("MultiScaleConv(MaskedAttentionConv)", lambda c: two_scales(attention, c), multi=True),
    Entry("GPSConv(MultiScaleConv)", lambda c: GPSConv(c, two_scales(attention, c), heads=HEADS), multi=True),
)


def widest(entry: Entry, ins: int, outs: int, graphs: bool, budget: int) -> Callable[[], Net]:
    """The model with as many channels as the budget of parameters allows."""
    hidden = HEADS
    while count(Net(entry.make, entry.multi, ins, hidden + HEADS, outs, graphs)) <= budget:
        hidden += HEADS
    return lambda: Net(entry.make, entry.multi, ins, hidden, outs, graphs)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def train(model: Net, batches: Batches, epochs: int, lr: float) -> None:
    """Minimise the cross-entropy; a batch comes with the mask of what is labelled in it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=5e-4)
    model.train()
    for _ in range(epochs):
        for i in torch.randperm(len(batches)).tolist():
            data, labelled = batches[i]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data)[labelled], data.y[labelled]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: Net, batches: Batches) -> float:
    model.eval()
    right = torch.cat([(model(data).argmax(1) == data.y)[asked] for data, asked in batches])
    return float(right.double().mean())


def karate(entry: Entry, args: argparse.Namespace) -> "Result":
    """One graph of 34 nodes in four communities, one labelled member each."""
    data = HopPartition()(KarateClub()[0])
    make = widest(entry, data.x.size(1), 4, False, args.parameters)
    return repeat(make, args, 100, [(data, data.train_mask)], [(data, ~data.train_mask)])


def fake(entry: Entry, args: argparse.Namespace) -> "Result":
    """Small random graphs whose nodes scatter around the number of their class."""
    make = widest(entry, 3, 6, True, args.parameters)
    return repeat(make, args, 20, *fake_graphs())


@functools.cache
def fake_graphs() -> tuple[Batches, Batches]:
    seed_everything(0)
    dataset = FakeDataset(400, avg_num_nodes=8, avg_degree=3, num_channels=3, num_classes=6, task="graph")
    graphs = [HopPartition()(data) for data in dataset]
    return batches(graphs[:240]), batches(graphs[240:])


def shapes(entry: Entry, args: argparse.Namespace) -> "Result":
    """Point clouds: 12 neighbours, in two rings for several scales, in different directions for masked attention."""
    graph = "rings" if entry.multi else "diverse" if entry.name == "MaskedAttentionConv" else "nearest"
    make = widest(entry, 3, 4, True, args.parameters)
    return repeat(make, args, 15, *clouds(graph))


@functools.cache
def clouds(graph: str) -> tuple[Batches, Batches]:
    transform = {
        "nearest": KNNGraph(12),
        "rings": RingPartition([4, 12]),
        "diverse": DiverseKNN(12, orthogonality_weight=0.3, pool=24, space="direction"),
    }[graph]
    return batches(Shapes(192, 48, transform, seed=1)), batches(Shapes(128, 48, transform, seed=2))


@dataclass(frozen=True)
class Result:
    """What a row of the table shows."""

    hidden: int
    parameters: int
    accuracies: list[float]
    seconds: float


def batches(graphs: Sequence[Data]) -> Batches:
    """Batches of graphs, all of which are labelled."""
    return [
        (batch, torch.ones(batch.num_graphs, dtype=torch.bool)) for batch in DataLoader(graphs, batch_size=32)
    ]


def repeat(
    make: Callable[[], Net], args: argparse.Namespace, epochs: int, train_set: Batches, test_set: Batches
) -> Result:
    """Train with several seeds."""
    start = time.perf_counter()
    accuracies = []
    for seed in range(args.seeds):
        seed_everything(seed)
        model = make()
        train(model, train_set, args.epochs or epochs, lr=0.005)
        accuracies.append(accuracy(model, test_set))
    seconds = (time.perf_counter() - start) / args.seeds
    return Result(model.lin_in.out_features, count(model), accuracies, seconds)


TASKS = {"karate club": karate, "fake graphs": fake, "shapes": shapes}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each model (%(default)s)")
    parser.add_argument("--epochs", type=int, help="of each training, by default what the task needs")
    parser.add_argument("--parameters", type=int, default=20000, help="of each model at most (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="more do not help graphs this small")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    print(f"at most {args.parameters} parameters and the same epochs for all; {args.seeds} seeds")
    for name in args.tasks:
        print(
            f"\n{name}\n{'layer':38}{'channels':>10}{'parameters':>12}{'test accuracy':>20}{'s/training':>12}"
        )
        for entry in ENTRIES:
            result = TASKS[name](entry, args)
            mean, spread = statistics.mean(result.accuracies), statistics.pstdev(result.accuracies)
            print(
                f"{entry.name:38}{result.hidden:>10}{result.parameters:>12}"
                f"{f'{mean:.3f} ± {spread:.3f}':>20}{result.seconds:>12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
