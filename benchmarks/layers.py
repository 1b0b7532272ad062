"""Attention layers of PyG against each other, projections included, forward and forward with backward.

    python benchmarks/layers.py

All have 4 heads of 64 channels, 256 features in and out, and a random graph of k = 32 sources for each node. The
peers, each with its edges as a plain tensor (`coo`, sorted by target) and as an `EdgeIndex` with its pointer (`csr`):

    ours               MaskedAttentionConv
    TransformerConv    without a root weight: the same function, started from the same weights
    GATv2Conv          without self-loops: another score, the same graph

Backward means gradients of the input and of all weights.
"""

import argparse
import functools
from collections.abc import Sequence

import torch
from attention_ops import draw_graph
from common import Bench, Call, Target, parser, plot
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, TransformerConv

from pyg_match.data.edges import sorted_edges
from pyg_match.nn import MaskedAttentionConv

FORMATS = ("csr", "coo")


def make_layers(heads: int, channels: int) -> dict[str, nn.Module]:
    """The layers by name; ours and TransformerConv hold the same weights."""
    width = heads * channels
    ours = MaskedAttentionConv(width, channels, heads)
    transformer = TransformerConv(width, channels, heads, root_weight=False)
    transformer.load_state_dict(ours.state_dict(), strict=False)  # it has an idle root weight
    gat = GATv2Conv(width, channels, heads, add_self_loops=False)
    return {"ours": ours, "TransformerConv": transformer, "GATv2Conv": gat}


def step(layer: nn.Module, x: Tensor, edge_index: Tensor, backward: bool) -> Call:
    """What is timed."""
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                out: Tensor = layer(x, edge_index)
                return out

        return forward
    inputs = [x.clone().requires_grad_(), *layer.parameters()]
    grad = torch.randn_like(x)
    return lambda: torch.autograd.grad(layer(inputs[0], edge_index), inputs, grad, allow_unused=True)


@torch.no_grad()
def check(layers: dict[str, nn.Module], x: Tensor, edges: dict[str, Tensor]) -> None:
    """Ours has to compute what TransformerConv computes."""
    expected = layers["TransformerConv"](x, edges["coo"])
    for kind, edge_index in edges.items():
        error = float((layers["ours"](x, edge_index) - expected).abs().max())
        if not error < 1e-4:
            raise RuntimeError(f"ours on {kind} edges differs from TransformerConv by {error:.1e}")


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [2**i for i in range(9, 14)])
    made.add_argument("--k", type=int, default=32, help="sources of a node (%(default)s)")
    made.add_argument("--heads", type=int, default=4)
    made.add_argument("--channels", type=int, default=64, help="of a head (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    layers = make_layers(args.heads, args.channels)
    for kind in ("forward", "backward"):
        bench.slow.clear()
        for size in sorted(args.sizes):
            graph = draw_graph(size, args.k, "random", "equal", args.seed)
            edges = {"csr": sorted_edges(graph, size, is_sorted=True), "coo": graph}
            x = torch.randn(size, args.heads * args.channels)
            if size == min(args.sizes):
                check(layers, x, edges)
            peers = {
                f"{name} {form}": functools.partial(step, layer, x, edges[form], kind == "backward")
                for name, layer in layers.items()
                for form in FORMATS
            }
            bench.time({"pass": kind, "n": size, "k": args.k}, peers)
    rivals = [f"TransformerConv {form}" for form in FORMATS]
    found = [
        Target(
            f"{kind} against TransformerConv, N=2048, k=32",
            bench.ratio(rivals, "ours csr", n=2048, k=32, **{"pass": kind}),
            wanted,
        )
        for kind, wanted in (("forward", 6), ("backward", 4))
    ]
    bench.finish(found)
    if args.plot:
        title = f"Layers, forward, k={args.k}, {args.heads} heads x {args.channels}, {args.threads} threads"
        plot(args.plot, bench.rows, title, **{"pass": "forward"})


if __name__ == "__main__":
    main()
