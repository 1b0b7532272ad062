"""Attention over the edges of a graph: the fused operator against dense attention and other ways to use edges.

    python benchmarks/attention_ops.py                               # N = 128 .. 16384, k = 32
    python benchmarks/attention_ops.py --backward                    # forward and backward
    python benchmarks/attention_ops.py --k 8 128 --edges local --degrees powerlaw

Queries, keys and values are ready, in the layout that each peer likes best; masks, pointers and compiled code are
ready, too. The peers:

    ours           sparse_attention on an EdgeIndex sorted by target, [N, H, C] in memory head by head
    sdpa           scaled_dot_product_attention of all N x N pairs: it has more pairs to look at, and no mask
    sdpa-mask      the same with a dense boolean mask of the graph
    naive-mask     matmul, masked_fill, softmax, matmul
    flex           FlexAttention with a block mask, compiled (forward only: it has no backward on CPUs)
    gather-einsum  neighbours gathered to [N, k, H, C], einsum, softmax, einsum (equal degrees only)
    messages       queries, keys, values gathered per edge, PyG's softmax and scatter: what MessagePassing does
    messages-csr   the same on sorted edges with their pointer
    torch-scatter  the same with torch_scatter

The bound beside the times is the larger of two: the bytes of the keys and values of all edges over the rate at which
all threads read these rows and add them up, and 4 x edges x H x C operations over the rate of a matrix product. Both
rates are measured in the same run, the first on keys and values laid side by side, all heads in a row or head by
head, whichever is faster at that size.
"""

import argparse
import ctypes
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Bench, Call, Row, Target, exponent, parser, peak_memory, plot
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.utils import scatter, segment, softmax

from pyg_match.data.edges import sorted_edges
from pyg_match.ops import sparse_attention
from pyg_match.ops.native.build import compiler

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
MAIN: Row = {"k": 32, "edges": "random", "degrees": "equal"}  # the graphs that the targets speak of
MEMORY_PEERS = ("ours", "sdpa", "gather-einsum", "messages")


@dataclass(frozen=True)
class Problem:
    """A graph, and the shape of queries, keys and values."""

    num_nodes: int
    edge_index: Tensor  # sorted by target
    heads: int
    channels: int
    backward: bool = False

    @functools.cached_property
    def edges(self) -> Tensor:
        return sorted_edges(self.edge_index, self.num_nodes, is_sorted=True)

    @functools.cached_property
    def mask(self) -> Tensor:
        mask = torch.zeros(self.num_nodes, self.num_nodes, dtype=torch.bool)
        mask[self.edge_index[1], self.edge_index[0]] = True
        return mask

    @functools.cached_property
    def degree(self) -> Tensor:
        return torch.bincount(self.edge_index[1], minlength=self.num_nodes)

    def inputs(self, heads_first: bool, heads_apart: bool = False) -> list[Tensor]:
        """Queries, keys and values: [1, H, N, C] or [N, H, C], in memory head by head if ``heads_apart``."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.num_nodes, self.heads, self.channels)
        drawn = [torch.randn(shape, generator=generator) for _ in range(3)]
        by_head = [x.transpose(0, 1).contiguous() for x in drawn] if heads_first or heads_apart else []
        return (
            [x.unsqueeze(0) for x in by_head]
            if heads_first
            else [x.transpose(0, 1) for x in by_head] or drawn
        )


def draw_graph(num_nodes: int, k: int, edges: str, degrees: str, seed: int) -> Tensor:
    """Edges sorted by target, each once.

    Every node has k sources, or with ``degrees="powerlaw"`` a number from a Pareto distribution of exponent 2.5
    with about that mean. Sources are random, or with ``edges="local"`` the nearest of random points of the plane,
    numbered in random order.
    """
    random = np.random.default_rng(seed)
    count = np.full(num_nodes, k)
    if degrees == "powerlaw":
        count = np.rint((1 + random.pareto(1.5, num_nodes)) * k / 3).astype(int)
    count = count.clip(1, num_nodes)
    if edges == "local":
        points = random.random((num_nodes, 2))
        tree = cKDTree(points)
        sources = [tree.query(points[i], k=np.arange(1, count[i] + 1))[1] for i in range(num_nodes)]
    else:
        sources = [random.choice(num_nodes, size, replace=False) for size in count]
    targets = np.repeat(np.arange(num_nodes), count)
    return torch.from_numpy(np.stack([np.concatenate(sources).astype(np.int64), targets]))


def ours(problem: Problem) -> tuple[bool, Attention]:
    edges = problem.edges
    return False, lambda query, key, value: sparse_attention(query, key, value, edges)


def sdpa(problem: Problem) -> tuple[bool, Attention]:
    return True, F.scaled_dot_product_attention


def sdpa_mask(problem: Problem) -> tuple[bool, Attention]:
    return True, functools.partial(F.scaled_dot_product_attention, attn_mask=problem.mask)


def naive_mask(problem: Problem) -> tuple[bool, Attention]:
    mask, scale = problem.mask, problem.channels**-0.5

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        score = (query @ key.transpose(-1, -2)) * scale
        return score.masked_fill(~mask, -torch.inf).softmax(-1) @ value

    return True, attention


def flex(problem: Problem) -> tuple[bool, Attention] | str:
    if problem.backward:
        return "FlexAttention has no backward on CPUs"
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    except ImportError:
        return "FlexAttention needs torch 2.5"
    mask, size = problem.mask, problem.num_nodes
    torch._dynamo.reset()  # one graph for each size, beyond the number that dynamo keeps
    compiled: Any = torch.compile(flex_attention)
    try:
        block_mask = create_block_mask(lambda b, h, i, j: mask[i, j], None, None, size, size, device="cpu")
        attention = functools.partial(compiled, block_mask=block_mask)
        with torch.no_grad():
            attention(*problem.inputs(True))
    except Exception as error:  # the compiler of this machine may fail in any way
        return f"does not compile here: {type(error).__name__}"
    return True, attention


def gather_einsum(problem: Problem) -> tuple[bool, Attention] | str:
    degree = int(problem.degree[0])
    if bool((problem.degree != degree).any()):
        return "degrees differ"
    neighbours = problem.edge_index[0].view(problem.num_nodes, degree)
    scale = problem.channels**-0.5

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = (torch.einsum("nhc,nkhc->nkh", query, key[neighbours]) * scale).softmax(1)
        return torch.einsum("nkh,nkhc->nhc", weights, value[neighbours])

    return False, attention


def messages(problem: Problem) -> tuple[bool, Attention]:
    (source, target), scale, size = problem.edge_index, problem.channels**-0.5, problem.num_nodes

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        score = (query.index_select(0, target) * key.index_select(0, source)).sum(-1) * scale
        alpha = softmax(score, target, num_nodes=size)
        return scatter(value.index_select(0, source) * alpha.unsqueeze(-1), target, 0, size)

    return False, attention


def messages_csr(problem: Problem) -> tuple[bool, Attention]:
    (source, target), scale = problem.edge_index, problem.channels**-0.5
    ptr = F.pad(problem.degree.cumsum(0), (1, 0))

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        score = (query.index_select(0, target) * key.index_select(0, source)).sum(-1) * scale
        alpha = softmax(score, ptr=ptr)
        return segment(value.index_select(0, source) * alpha.unsqueeze(-1), ptr)

    return False, attention


def torch_scatter(problem: Problem) -> tuple[bool, Attention] | str:
    try:
        from torch_scatter import scatter_add, scatter_softmax
    except ImportError:
        return "torch-scatter is not installed"
    (source, target), scale, size = problem.edge_index, problem.channels**-0.5, problem.num_nodes

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        score = (query.index_select(0, target) * key.index_select(0, source)).sum(-1) * scale
        alpha = scatter_softmax(score, target, dim=0, dim_size=size)
        weighted = value.index_select(0, source) * alpha.unsqueeze(-1)
        return scatter_add(weighted, target, dim=0, dim_size=size)

    return False, attention


PEERS: dict[str, Callable[[Problem], tuple[bool, Attention] | str]] = {
    "ours": ours,
    "sdpa": sdpa,
    "sdpa-mask": sdpa_mask,
    "naive-mask": naive_mask,
    "flex": flex,
    "gather-einsum": gather_einsum,
    "messages": messages,
    "messages-csr": messages_csr,
    "torch-scatter": torch_scatter,
}


def prepare(problem: Problem, peer: str) -> Call | str:
    """What is timed for a peer, or the reason why nothing is."""
    made = PEERS[peer](problem)
    if isinstance(made, str):
        return made
    heads_first, attention = made
    inputs = problem.inputs(heads_first, heads_apart=peer == "ours")
    if problem.backward:
        inputs = [x.requires_grad_() for x in inputs]
        grad = torch.randn_like(inputs[0])
        return lambda: torch.autograd.grad(attention(*inputs), inputs, grad)

    def call() -> Tensor:
        with torch.no_grad():
            return attention(*inputs)

    return call


def check(problem: Problem, peers: Sequence[str]) -> None:
    """All peers but the dense one have to agree with masked attention in double precision."""
    expected = naive_mask(problem)[1](*(x.double() for x in problem.inputs(True)))[0].transpose(0, 1)
    for peer in peers:
        made = PEERS[peer](problem) if peer != "sdpa" else ""
        if isinstance(made, str):
            continue
        heads_first, attention = made
        with torch.no_grad():
            found = attention(*problem.inputs(heads_first))
        found = found[0].transpose(0, 1) if heads_first else found
        error = float((found - expected).abs().max())
        if not error < 1e-4:
            raise RuntimeError(f"'{peer}' differs from masked attention by {error:.1e}")


def matmul_rate(size: int = 1536, repeats: int = 20) -> float:
    """Operations per second of a matrix product, the best of some."""
    a, b = torch.randn(2, size, size)
    return 2.0 * size**3 / min(_elapsed(lambda: a @ b) for _ in range(repeats))


def row_rate(problem: Problem, threads: int, repeats: int = 8) -> float:
    """Bytes per second at which all threads together read the keys and values that the edges name."""
    width = 2 * problem.heads * problem.channels
    parts = np.array_split(problem.edge_index[0].numpy(), threads)
    read = _row_reader()
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for passes in (1, problem.heads):
            tables = np.ones((passes, problem.num_nodes, width // passes), np.float32)
            sums = [np.zeros(width // passes, np.float32) for _ in parts]

            def read_all(tables: np.ndarray = tables, sums: list[np.ndarray] = sums) -> None:
                for table in tables:
                    list(pool.map(read, [table] * threads, parts, sums))

            read_all()
            seconds = min(_elapsed(read_all) for _ in range(repeats))
            rates.append(sum(part.size for part in parts) * 4.0 * width / seconds)
    return max(rates)


# Eight rows at a time, so that reading them is what takes time.
_ROW_READER = r"""
#include <stdint.h>
__attribute__((noinline)) static void add_rows(const float *const row[8], int64_t width, float *restrict total) {
  const float *a = row[0], *b = row[1], *c = row[2], *d = row[3], *e = row[4], *f = row[5], *g = row[6], *h = row[7];
  for (int64_t i = 0; i < width; i++)
    total[i] += ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]));
}
void read_rows(const float *table, const int64_t *rows, int64_t count, int64_t width, float *total) {
  for (int64_t i = 0; i + 8 <= count; i += 8) {
    const float *row[8];
    for (int j = 0; j < 8; j++) row[j] = table + rows[i + j] * width;
    add_rows(row, width, total);
  }
}
"""


@functools.cache
def _row_reader() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "reader.c", Path(folder) / "reader.so"
        source.write_text(_ROW_READER)
        words = [
            *compiler(),
            "-O3",
            "-march=native",
            "-fPIC",
            "-shared",
            source,
            "-o",
            library,
        ]
        subprocess.run([str(word) for word in words], check=True)
        function = ctypes.CDLL(str(library)).read_rows

    def read(table: np.ndarray, rows: np.ndarray, total: np.ndarray) -> None:
        sizes = ctypes.c_int64(rows.size), ctypes.c_int64(total.size)
        function(
            *(ctypes.c_void_p(x.ctypes.data) for x in (table, rows)),
            *sizes,
            ctypes.c_void_p(total.ctypes.data),
        )

    return read


def _elapsed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bound(problem: Problem, matmul: float, threads: int) -> Row:
    """The least time that the edges take by the measured rates, and which of them limits."""
    rows = row_rate(problem, threads)
    width = problem.heads * problem.channels
    num_edges = problem.edge_index.size(1)
    reading, computing = 8.0 * num_edges * width / rows, 4.0 * num_edges * width / matmul
    return {
        "name": "reading" if reading > computing else "computing",
        "seconds": max(reading, computing),
        "row_bytes_per_second": rows,
        "matmul_flops": matmul,
    }


def memory_case(peer: str, num_nodes: int, heads: int, channels: int) -> tuple[Call, Call]:
    """A small call and the call to measure, for :func:`common.peak_memory`."""
    calls = []
    for size in (256, num_nodes):
        graph = draw_graph(size, MAIN["k"], MAIN["edges"], MAIN["degrees"], seed=0)
        call = prepare(Problem(size, graph, heads, channels), peer)
        if isinstance(call, str):
            raise RuntimeError(f"'{peer}' cannot be measured: {call}")
        calls.append(call)
    return calls[0], calls[1]


def measure_memory(args: argparse.Namespace) -> list[Row]:
    """The extra memory of one forward for some peers."""
    output = 4 * args.memory_size * args.heads * args.channels
    print(
        f"\nextra memory of a forward, N={args.memory_size}, k={MAIN['k']}; its output has {output / 2**20:.1f} MiB"
    )
    rows = []
    for peer in (peer for peer in MEMORY_PEERS if peer in args.peers):
        used = peak_memory(memory_case, args.threads, peer, args.memory_size, args.heads, args.channels)
        rows.append({"peer": peer, "n": args.memory_size, "bytes": used, "outputs": used / output})
        print(f"  {peer:34}{used / 2**20:10.1f} MiB {used / output:8.2f} x the output", flush=True)
    return rows


def first_calls() -> dict[str, float]:
    """Seconds of the first use of the kernels in a process."""
    code = "from pyg_match.ops import warmup; print(warmup())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = float(done.stdout)
    print(f"first use of the kernels: {seconds:.3f} s", flush=True)
    return {"loaded": seconds}


def targets(bench: Bench, bounds: list[Row], memory: list[Row]) -> list[Target]:
    """What the operator aims at, on the main graphs."""
    main = {**MAIN, "pass": "backward" if bench.args.backward else "forward"}
    wanted = {2048: 8, 8192: 25} if bench.args.backward else {512: 3, 2048: 12, 8192: 40}
    found = [
        Target(f"{main['pass']} against sdpa, N={n}", bench.ratio(["sdpa"], "ours", n=n, **main), ratio)
        for n, ratio in wanted.items()
    ]
    if not bench.args.backward:
        edgewise = bench.ratio(["messages", "messages-csr"], "ours", n=2048, **main)
        found.append(Target("forward against edge messages, N=2048", edgewise, 40))
    slope = exponent(bench.rows, "ours", **main)
    found.append(Target(f"{main['pass']}: exponent of N from 1024 on", slope, 1.15, unit="", at_least=False))
    if not bench.args.backward:
        extra = next((row["outputs"] for row in memory if row["peer"] == "ours" and row["n"] == 16384), None)
        found.append(Target("memory of a forward, N=16384, in outputs", extra, 3.0, at_least=False))
        reached = [row["reached"] for row in bounds if row["n"] >= 512 and MAIN.items() <= row.items()]
        least = 100 * min(reached) if reached else None
        found.append(Target("share of the bound, the least from N=512 on", least, 30, unit=" %"))
    return found


def run_kind(bench: Bench, kind: Row, matmul: float) -> list[Row]:
    """Time all peers on all sizes of one kind of graph; returns the bounds of the forward."""
    args = bench.args
    bench.slow.clear()
    graph = draw_graph(256, **kind, seed=args.seed)
    check(Problem(256, graph, args.heads, args.channels), [peer for peer in args.peers if peer != "flex"])
    bounds: list[Row] = []
    for size in sorted(args.sizes):
        graph = draw_graph(size, **kind, seed=args.seed)
        problem = Problem(size, graph, args.heads, args.channels, args.backward)
        labels = {"pass": "backward" if args.backward else "forward", "n": size, **kind}
        bench.time(labels, {peer: functools.partial(prepare, problem, peer) for peer in args.peers})
        print(f"  {graph.size(1)} edges, at most {int(problem.degree.max())} of a node")
        own = bench.seconds("ours", **labels)
        if own is None or args.backward:
            continue
        row = {"n": size, **kind, **bound(problem, matmul, args.threads)}
        row["reached"] = row["seconds"] / own
        bounds.append(row)
        print(
            f"  bound by {row['name']}: {1e3 * row['seconds']:.3g} ms, ours reaches {row['reached']:.0%} "
            f"(rows {row['row_bytes_per_second'] / 1e9:.0f} GB/s, matmul {matmul / 1e9:.0f} GFLOP/s)"
        )
    return bounds


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [2**i for i in range(7, 15)])
    made.add_argument("--k", nargs="+", type=int, default=[32], help="sources of a node (%(default)s)")
    made.add_argument("--edges", nargs="+", default=["random"], choices=["random", "local"])
    made.add_argument("--degrees", nargs="+", default=["equal"], choices=["equal", "powerlaw"])
    made.add_argument("--backward", action="store_true", help="time forward and backward together")
    made.add_argument("--heads", type=int, default=4)
    made.add_argument("--channels", type=int, default=64, help="of a head (%(default)s)")
    made.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    made.add_argument(
        "--memory-size",
        type=int,
        default=16384,
        help="N for peak memory; 0 leaves it and the first call out (%(default)s)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments, "attention_backward" if args.backward else "attention_forward")
    matmul = 0.0 if args.backward else matmul_rate()
    kinds = [
        {"k": k, "edges": edges, "degrees": degrees}
        for k in args.k
        for edges in args.edges
        for degrees in args.degrees
    ]
    bounds = [row for kind in kinds for row in run_kind(bench, kind, matmul)]
    extra = args.memory_size > 0 and not args.backward
    memory = measure_memory(args) if extra else []
    first = first_calls() if extra else {}
    bench.finish(targets(bench, bounds, memory), bounds=bounds, memory=memory, first_calls=first)
    if args.plot:
        what = "forward and backward" if args.backward else "forward"
        title = (
            f"Attention, {what}, k={args.k[0]}, {args.heads} heads x {args.channels}, {args.threads} threads"
        )
        plot(args.plot, bench.rows, title, **kinds[0])


if __name__ == "__main__":
    main()
