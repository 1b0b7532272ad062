"""Attention on a GPU: along edges and in dense groups, beside SDPA, FlexAttention and TransformerConv."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import Call, Row
from gpu_clock import GPUBench
from torch import Tensor

from pyg_match import knn_graph
from pyg_match.data.edges import sorted_edges
from pyg_match.nn import MaskedAttentionConv
from pyg_match.ops import Blocks, EdgeSet, sparse_attention

HEADS, CHANNELS, DEGREE = 4, 64, 32
PART, ANCHORS, GROUP = 128, 256, 2048
MOST_COMPILED = 8192  # nodes up to which peers that compile for each size, and PyG's layer, are run

Attention = Callable[..., Tensor]


def nodes(count: int, dtype: torch.dtype, device: torch.device, grad: bool = False) -> list[Tensor]:
    """Queries, keys and values."""
    x = torch.randn(3, count, HEADS, CHANNELS, device=device).to(dtype)
    return [t.contiguous().requires_grad_(grad) for t in x.unbind()]


def nodes_beside_anchors(
    count: int, dtype: torch.dtype, device: torch.device, grad: bool = False
) -> list[Tensor]:
    """Queries, and for each part of them the keys and values of part and anchors, laid side by side."""
    sources = count // PART * (PART + ANCHORS)
    query = torch.randn(count, HEADS, CHANNELS, device=device).to(dtype)
    key, value = torch.randn(2, sources, HEADS, CHANNELS, device=device).to(dtype).unbind()
    return [t.contiguous().requires_grad_(grad) for t in (query, key, value)]


def knn_edges(count: int, device: torch.device) -> EdgeSet:
    """The nearest of random points, in random order."""
    edge_index = knn_graph(torch.rand(count, 2), DEGREE, loop=True).to(device)
    return EdgeSet.of(edge_index, count, count).with_transpose()


def windows(count: int, device: torch.device, shuffled: bool = False) -> EdgeSet:
    """Parts of nodes that see each other, and anchors of larger groups; nodes follow each other there, or do not."""
    groups, source, place = [], [torch.arange(count)], count
    for start in range(0, count, PART):
        stop = min(start + PART, count)
        groups.append((start, stop, start, stop))
    for start in range(0, count, GROUP):
        stop = min(start + GROUP, count)
        anchors = torch.linspace(start, stop - 1, min(ANCHORS, stop - start)).long()
        groups.append((start, stop, place, place + len(anchors)))
        source.append(anchors)
        place += len(anchors)
    blocks = EdgeSet.of(Blocks((0, count), (0,), (0,)), count, count, device)
    if not shuffled:
        return blocks.with_groups(groups, torch.cat(source).to(device))
    order = torch.cat([torch.randperm(len(part)) + int(part[0]) for part in torch.arange(count).split(GROUP)])
    source[0] = order
    return blocks.with_groups(groups, torch.cat(source).to(device), target=order.to(device))


def passes(make: Callable[[], Attention], tensors: Callable[[], list[Tensor]], backward: bool) -> Call:
    """The forward, or forward and backward, as one call."""
    function, inputs = make(), tensors()
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*inputs)

        return forward
    grad = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad, allow_unused=True)


def along(edges: EdgeSet) -> Attention:
    """Ours."""
    return lambda query, key, value: sparse_attention(query, key, value, edges)


def dense(function: Attention, targets: int | None = None, sources: int | None = None) -> Attention:
    """Attention of all pairs of nodes, or of groups of so many targets to so many sources, that lie as ours do."""

    def attend(*tensors: Tensor) -> Tensor:
        sizes = (targets or tensors[0].size(0), *[sources or targets or tensors[0].size(0)] * 2)
        split = (
            t.view(-1, size, HEADS, CHANNELS).transpose(1, 2) for t, size in zip(tensors, sizes, strict=True)
        )
        return function(*split).transpose(1, 2).reshape(-1, HEADS, CHANNELS)

    return attend


def flex(edges: EdgeSet) -> Attention:
    """FlexAttention with the mask of the edges."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    count, device = edges.num_targets, edges.col.device
    allowed = torch.zeros(count, count, dtype=torch.bool, device=device)
    allowed[edges.csr().target(), edges.col.long()] = True
    mask = create_block_mask(lambda b, h, q, k: allowed[q, k], None, None, count, count, device=str(device))
    return dense(functools.partial(freshly_compiled(flex_attention), block_mask=mask))


def transformer_conv(edges: EdgeSet, device: torch.device, compiles: bool = False) -> Attention:
    """PyG's layer, its projections included, on edges that PyG knows to be sorted."""
    from torch_geometric.nn import TransformerConv

    conv: Any = TransformerConv(HEADS * CHANNELS, CHANNELS, HEADS, root_weight=False).to(device)
    conv = freshly_compiled(conv) if compiles else conv
    edge_index = sorted_edges(edges.csr().listed(), edges.num_targets, is_sorted=True)
    return lambda query, key, value: conv(query.flatten(1).float(), edge_index)


def own_layer(edges: EdgeSet, device: torch.device) -> Attention:
    """Our layer, its projections included."""
    conv = MaskedAttentionConv(HEADS * CHANNELS, CHANNELS, HEADS).to(device)
    return lambda query, key, value: conv(query.flatten(1).float(), edges)


def freshly_compiled(function: Any) -> Any:
    """Compiled for one size, whatever was compiled before: a second one would be for all sizes, and slower."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def operator(bench: GPUBench) -> None:
    """Attention along edges, and the peers that need no compiler."""
    for count in bench.args.sizes:
        edges = knn_edges(count, bench.device)
        for backward in (False, True):
            peers: dict[str, Callable[[], Call]] = {}
            for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float)):
                tensors = functools.partial(nodes, count, dtype, bench.device, backward)
                functions: dict[str, Callable[[], Attention]] = {
                    "ours": functools.partial(along, edges),
                    "sdpa": lambda: dense(F.scaled_dot_product_attention),
                }
                if name == "fp32" and count <= MOST_COMPILED:
                    functions["TransformerConv"] = functools.partial(transformer_conv, edges, bench.device)
                    functions["our layer"] = functools.partial(own_layer, edges, bench.device)
                for peer, make in functions.items():
                    peers[f"{peer} {name}"] = functools.partial(passes, make, tensors, backward)
            captured = [name for name in peers if name.startswith(("ours", "sdpa"))]
            bench.measure(_labels("operator", count, backward), peers, captured)


def compiled_operators(bench: GPUBench) -> None:
    """The peers that are compiled, on the same edges."""
    for count in (size for size in bench.args.sizes if size <= MOST_COMPILED):
        edges = knn_edges(count, bench.device)
        for backward in (False, True):
            conv = functools.partial(transformer_conv, edges, bench.device, compiles=True)
            made: tuple[tuple[str, torch.dtype, Callable[[], Attention]], ...] = (
                ("flex bf16", torch.bfloat16, functools.partial(flex, edges)),
                ("compiled TransformerConv fp32", torch.float, conv),
            )
            peers: dict[str, Callable[[], Call]] = {
                name: functools.partial(
                    passes, make, functools.partial(nodes, count, dtype, bench.device, backward), backward
                )
                for name, dtype, make in made
            }
            bench.measure(_labels("operator", count, backward), peers, ["flex bf16"])


def dense_windows(bench: GPUBench) -> None:
    """Dense groups: parts and anchors, which SDPA sees as parts alone, or laid side by side for it beforehand."""
    for count in bench.args.windows:
        edges, shuffled = (windows(count, bench.device, shuffled=other) for other in (False, True))
        for backward in (False, True):
            arguments = (count, torch.bfloat16, bench.device, backward)
            tensors = functools.partial(nodes, *arguments)
            sdpa = F.scaled_dot_product_attention
            made: dict[str, tuple[Callable[[], Attention], Callable[[], list[Tensor]]]] = {
                "ours bf16": (functools.partial(along, edges), tensors),
                "ours bf16, any order of nodes": (functools.partial(along, shuffled), tensors),
                "sdpa bf16, parts alone": (functools.partial(dense, sdpa, PART), tensors),
                "sdpa bf16, parts and anchors": (
                    functools.partial(dense, sdpa, PART, PART + ANCHORS),
                    functools.partial(nodes_beside_anchors, *arguments),
                ),
            }
            peers: dict[str, Callable[[], Call]] = {
                name: functools.partial(passes, *functions, backward) for name, functions in made.items()
            }
            bench.measure(_labels("windows", count, backward), peers, peers)


def _labels(section: str, count: int, backward: bool) -> Row:
    return {"section": section, "n": count, "pass": "backward" if backward else "forward"}
