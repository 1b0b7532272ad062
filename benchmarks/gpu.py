"""Operators, matchers and training on a GPU, beside dense attention, LightGlue and PyG, in one command.

    python benchmarks/gpu.py [--sections accuracy operator windows matcher batches training live] [--device cuda]

accuracy     errors of the operators against double precision, and matches against those on the CPU
operator     `sparse_attention`, 4 heads x 64 channels, on the 32 nearest of random points numbered in random order;
             beside it SDPA and FlexAttention on all pairs, and PyG's TransformerConv, also compiled, on the same edges
windows      parts of 128 nodes and 256 anchors a group, as dense groups; SDPA on the parts alone
matcher      one pair: `aliked-sparse`, drawing its edges included, and complete graphs; LightGlue of kornia and of its
             authors, at 2048 keypoints also compiled
batches      many pairs at once, of one size and of random sizes; both LightGlues one by one, and padded to one batch
training     a step of `aliked-sparse` on 32 pairs of 512 keypoints
live         the same from photos of scikit-image: processes read them, the device makes the pairs

Every row is timed by the device's own clock, and tells the memory that it needed beyond its inputs. Keypoints of the
matcher's rows are random: what they cost does not depend on what they show. Without a GPU, `--device cpu` runs the same
code on the CPU, for which the figures mean nothing. All sections take some minutes on an H200.
"""

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import Bench, Call, Row, parser
from gpu_targets import RECORDED, targets
from lightglue_peers import LightGlues
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pyg_match import knn_graph
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import HomographyWarps, SyntheticHomographies, warped_pair
from pyg_match.datasets.live_pairs import LivePairs
from pyg_match.features import load_image
from pyg_match.matcher import Matcher
from pyg_match.nn import GraphMatcher
from pyg_match.ops import Blocks, EdgeSet, sparse_attention
from pyg_match.pretrained import read_metadata
from pyg_match.training import LossConfig, Objective
from pyg_match.transforms import graph_from_recipe

HEADS, CHANNELS, DEGREE = 4, 64, 32
PART, ANCHORS, GROUP = 128, 256, 2048
SPARSE = "aliked-sparse"
# Parts that are seen whole in the place of neighbours; the weights were not trained on them, which takes no time.
WINDOWS = [
    {"HilbertPartition": {"size": 128, "shift": True}},
    {"AnchorEdges": {"num_anchors": 256, "loop": True, "weighted": True, "listed": False}},
    {"CandidateEdges": {"k": 32}},
]
SECTIONS = ("accuracy", "operator", "windows", "matcher", "batches", "training", "live")


class GPUBench(Bench):
    """A benchmark whose clock is the device's."""

    def __init__(self, args: argparse.Namespace, arguments: Sequence[str] | None) -> None:
        super().__init__(__file__, args, arguments)
        self.device = torch.device(args.device)
        if self.device.type == "cuda":
            self.machine["gpu"] = torch.cuda.get_device_name(self.device)
            self.machine["driver"] = _driver()
            print(self.machine["gpu"], self.machine["driver"])

    def measure(self, labels: Row, peers: dict[str, Callable[[], Call]]) -> None:
        """Time each peer in turn, and keep a row of it; one that fails leaves the reason."""
        print("\n" + ", ".join(f"{key}={value}" for key, value in labels.items()))
        for name, prepare in peers.items():
            row: Row = {**labels, "peer": name, "seconds": None}
            try:
                call = prepare()
                row["memory"] = self._memory(call)
                samples = sorted(self._samples(call))
                row |= {"seconds": statistics.median(samples), "low": samples[0], "high": samples[-1]}
                row["samples"] = len(samples)
                memory = "" if row["memory"] is None else f"{row['memory'] / 2**20:10.1f} MiB"
                print(f"  {name:32}{1e3 * row['seconds']:10.4f} ms{memory}", flush=True)
            except Exception as error:  # a peer that this machine cannot run says why, and the others go on
                row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                print(f"  {name:32}{'-':>10}    {row['note']}", flush=True)
            self.rows.append(row)
            call = None  # type: ignore[assignment]
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _memory(self, call: Call) -> int | None:
        """Bytes that the second call needed at most beyond what there was."""
        call()
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _samples(self, call: Call) -> Iterator[float]:
        """Seconds of one call, as means of calls that take about 20 ms together."""
        once = self._seconds(call, 3)
        repeats = max(1, min(1000, int(0.02 / once)))
        for _ in range(max(3, min(15, int(self.args.budget / (once * repeats))))):
            yield self._seconds(call, repeats)

    def _seconds(self, call: Call, repeats: int) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) / repeats
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(repeats):
            call()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / repeats


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return "driver " + subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    return "driver unknown"


# --- operators --------------------------------------------------------------------------------------------------


def nodes(count: int, dtype: torch.dtype, device: torch.device, grad: bool = False) -> list[Tensor]:
    """Queries, keys and values."""
    x = torch.randn(3, count, HEADS, CHANNELS, device=device).to(dtype)
    return [t.contiguous().requires_grad_(grad) for t in x.unbind()]


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


def passes(function: Callable[..., Tensor], tensors: list[Tensor], backward: bool) -> Call:
    """The forward, or forward and backward, as one call."""
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*tensors)

        return forward
    grad = torch.randn_like(function(*tensors))
    return lambda: torch.autograd.grad(function(*tensors), tensors, grad, allow_unused=True)


def along(edges: EdgeSet) -> Callable[..., Tensor]:
    """Ours."""
    return lambda query, key, value: sparse_attention(query, key, value, edges)


def dense(function: Callable[..., Tensor], group: int | None = None) -> Callable[..., Tensor]:
    """Attention of all pairs of nodes, or of those of a group, that lie as ours do."""

    def attend(*tensors: Tensor) -> Tensor:
        size = group or tensors[0].size(0)
        split = (t.view(-1, size, HEADS, CHANNELS).transpose(1, 2) for t in tensors)
        return function(*split).transpose(1, 2).reshape(-1, HEADS, CHANNELS)

    return attend


def flex(edges: EdgeSet) -> Callable[..., Tensor]:
    """FlexAttention with the mask of the edges."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    count, device = edges.num_targets, edges.col.device
    allowed = torch.zeros(count, count, dtype=torch.bool, device=device)
    allowed[edges.csr().target(), edges.col.long()] = True
    mask = create_block_mask(lambda b, h, q, k: allowed[q, k], None, None, count, count, device=str(device))
    return dense(functools.partial(torch.compile(flex_attention), block_mask=mask))


def transformer_conv(edges: EdgeSet, device: torch.device, compiles: bool = False) -> Callable[..., Tensor]:
    """PyG's layer, its projections included."""
    from torch_geometric.nn import TransformerConv

    conv: Any = TransformerConv(HEADS * CHANNELS, CHANNELS, HEADS, root_weight=False).to(device)
    conv = torch.compile(conv) if compiles else conv
    edge_index = edges.csr().listed()
    return lambda query, key, value: conv(query.flatten(1).float(), edge_index)


def operator(bench: GPUBench) -> None:
    """Attention along edges, and the peers."""
    for count in bench.args.sizes:
        edges = knn_edges(count, bench.device)
        for backward in (False, True):
            labels = {"section": "operator", "n": count, "pass": "backward" if backward else "forward"}
            peers: dict[str, Callable[[], Call]] = {}
            for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float)):
                tensors = functools.partial(nodes, count, dtype, bench.device, backward)
                functions: dict[str, Callable[[], Callable[..., Tensor]]] = {
                    "ours": functools.partial(along, edges),
                    "sdpa": lambda: dense(F.scaled_dot_product_attention),
                }
                if name == "bf16" and count <= 8192:
                    functions["flex"] = functools.partial(flex, edges)
                if name == "fp32" and count <= 8192:
                    conv = functools.partial(transformer_conv, edges, bench.device)
                    functions |= {
                        "TransformerConv": conv,
                        "compiled TransformerConv": lambda conv=conv: conv(compiles=True),
                    }
                for peer, make in functions.items():
                    peers[f"{peer} {name}"] = functools.partial(_passes, make, tensors, backward)
            bench.measure(labels, peers)


def _passes(
    make: Callable[[], Callable[..., Tensor]], tensors: Callable[[], list[Tensor]], backward: bool
) -> Call:
    return passes(make(), tensors(), backward)


def dense_windows(bench: GPUBench) -> None:
    """Dense groups."""
    for count in bench.args.windows:
        edges, shuffled = (windows(count, bench.device, shuffled=other) for other in (False, True))
        for backward in (False, True):
            labels = {"section": "windows", "n": count, "pass": "backward" if backward else "forward"}
            tensors = functools.partial(nodes, count, torch.bfloat16, bench.device, backward)
            functions = {
                "ours bf16": functools.partial(along, edges),
                "ours bf16, any order of nodes": functools.partial(along, shuffled),
                "sdpa bf16, parts alone": lambda: dense(F.scaled_dot_product_attention, PART),
            }
            bench.measure(
                labels,
                {
                    name: functools.partial(_passes, make, tensors, backward)
                    for name, make in functions.items()
                },
            )


# --- matchers ---------------------------------------------------------------------------------------------------


def pairs_of(counts: Sequence[tuple[int, int]], seed: int = 0) -> list[KeypointPair]:
    """Pairs of random keypoints."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for pair in counts:
        sets = []
        for count in pair:
            x = F.normalize(torch.randn(count, 128, generator=generator), dim=1)
            pos = torch.rand(count, 2, generator=generator) * torch.tensor([1024.0, 768.0])
            sets.append(KeypointSet(pos=pos, x=x, image_size=(1024, 768)))
        made.append(KeypointPair.from_sets(*sets))
    return made


class Models:
    """Our matchers, and kornia's, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graph = graph_from_recipe(read_metadata(SPARSE)["graph"])
        self.windows = graph_from_recipe(WINDOWS)
        load = GraphMatcher.from_pretrained
        self.sparse = {
            name: load(SPARSE, bfloat16=name != "fp32").to(device).freeze(cuda_graphs=name == RECORDED)
            for name in ("fp32", "bf16", RECORDED)
        }
        self.complete = load("aliked-lightglue").to(device).freeze()
        self.lightglues = LightGlues(device)

    def calls(self, pairs: list[KeypointPair]) -> dict[str, Callable[[], Call]]:
        """What is timed on these pairs."""
        batch = (Batch.from_data_list(pairs) if len(pairs) > 1 else pairs[0]).to(self.device)
        drawn = self.graph(batch)
        found: dict[str, Callable[[], Call]] = {
            "edges of sparse": lambda: _inference(self.graph, batch),
            "edges of windows": lambda: _inference(self.windows, batch),
        }
        in_windows = self.sparse["bf16"].prepare(self.windows(batch))
        found["windows bf16, prepared"] = lambda: _inference(self.sparse["bf16"], in_windows)
        for name, model in self.sparse.items():
            if name == RECORDED and len(pairs) > 1:
                continue
            prepared = model.prepare(drawn)
            found[f"sparse {name}, prepared"] = functools.partial(_inference, model, prepared)
            found[f"sparse {name}, edges included"] = functools.partial(
                _inference, lambda pair, model=model: model(self.graph(pair)), batch
            )
        found["complete fp32"] = lambda: _inference(self.complete, batch)
        return found | self.lightglues.calls(pairs)


def _inference(function: Callable[[Any], object], argument: Any) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return function(argument)

    return call


def matcher(bench: GPUBench, models: Models) -> None:
    """One pair."""
    for count in bench.args.keypoints:
        bench.measure(
            {"section": "matcher", "n": count, "pairs": 1}, models.calls(pairs_of([(count, count)]))
        )


def batches(bench: GPUBench, models: Models) -> None:
    """Many pairs at once."""
    for count, pairs in ((512, 64), (2048, 16)):
        if count in bench.args.keypoints:
            labels = {"section": "batches", "n": count, "pairs": pairs}
            bench.measure(labels, models.calls(pairs_of([(count, count)] * pairs)))
    low, high = min(bench.args.keypoints), min(2048, max(bench.args.keypoints))
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(low, high + 1, (bench.args.pairs, 2), generator=generator).tolist()
    labels = {"section": "batches", "n": high, "from": low, "pairs": len(counts)}
    bench.measure(labels, models.calls(pairs_of([(a, b) for a, b in counts])))


def training(bench: GPUBench, models: Models) -> None:
    """A step with gradients."""
    most = max(bench.args.keypoints)
    for count, pairs in ((512, bench.args.pairs), (1024, 2)) if most >= 1024 else ((most, bench.args.pairs),):
        batch = Batch.from_data_list(pairs_of([(count, count)] * pairs)).to(bench.device)
        drawn = {"sparse": models.graph(batch), "windows": models.windows(batch)}
        for name in ("fp32", "bf16"):
            model = GraphMatcher.from_pretrained(SPARSE, bfloat16=name == "bf16").to(bench.device).train()
            labels = {"section": "training", "n": count, "pairs": pairs}
            steps = {
                f"{graph} {name}": functools.partial(_step, model, batch) for graph, batch in drawn.items()
            }
            bench.measure(labels, steps)


def _step(model: GraphMatcher, batch: KeypointPair) -> Call:
    def call() -> None:
        model.zero_grad(set_to_none=True)
        assignment = model(batch).edge_log_assignment
        assignment.masked_fill(assignment == -torch.inf, 0).mean().backward()

    return call


# --- training on pairs made as they are needed -------------------------------------------------------------------


def live(bench: GPUBench) -> None:
    """Seconds of a batch: its photos, its views, keypoints and edges, and all of it with a step of training."""
    processes = max(1, (os.cpu_count() or 2) - 1)
    labels = {"section": "live", "n": min(512, max(bench.args.keypoints)), "pairs": bench.args.pairs}
    print("\n" + ", ".join(f"{key}={value}" for key, value in {**labels, "processes": processes}.items()))
    with tempfile.TemporaryDirectory() as folder:
        _write_photos(Path(folder))
        photos = SyntheticHomographies(
            folder, "aliked", num_pairs=1_000_000, max_num_keypoints=labels["n"], unrelated=0.1,
            warps=HomographyWarps(tilt=5.0), extractor_options={"detection_threshold": 0.0},
        )  # fmt: skip
        graph = graph_from_recipe(read_metadata(SPARSE)["graph"])
        pairs = LivePairs([photos], graph, render_on_device=True)
        loader = DataLoader(
            pairs, batch_size=labels["pairs"], collate_fn=list, num_workers=processes, prefetch_factor=4
        )
        batches = iter(loader)
        items = next(batches)
        model = GraphMatcher.from_pretrained(SPARSE, bfloat16=True, assign_on_edges=False)
        objective = Objective(model.to(bench.device).train(), LossConfig())
        optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5, foreach=True)
        last = model.config.num_layers - 1

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            batch = pairs.batch(next(batches), bench.device)
            objective(batch, (last - 4, last - 2, last))["total"].backward()
            optimizer.step()

        for name, call in (
            ("photos", lambda: next(batches)),
            ("views, keypoints and edges", lambda: pairs.batch(items, bench.device)),
            ("all of it", step),
        ):
            seconds = _wall(call, bench)
            bench.rows.append({**labels, "peer": name, "processes": processes, "seconds": seconds})
            print(f"  {name:32}{1e3 * seconds:10.1f} ms{labels['pairs'] / seconds:10.1f} pairs/s", flush=True)


def _write_photos(folder: Path) -> None:
    from PIL import Image
    from skimage import data

    images = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    images |= dict(zip(("left", "right"), data.stereo_motorcycle()[:2], strict=True))
    for name, image in images.items():
        photo = Image.fromarray(image)
        photo.thumbnail((640, 640))
        photo.save(folder / f"{name}.png")


def _wall(call: Call, bench: GPUBench) -> float:
    """Seconds of one of the calls that fit the budget, after some that are not counted."""
    for _ in range(3):
        call()
    _wait(bench.device)
    start, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - start < 8 * bench.args.budget:
        call()
        count += 1
    _wait(bench.device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- accuracy ---------------------------------------------------------------------------------------------------


def accuracy(bench: GPUBench) -> list[Row]:
    """Relative errors of the operators, and the share of keypoints matched as on the CPU."""
    found: list[Row] = []
    count = min(2048, max(bench.args.sizes))
    graphs = {
        "edges": knn_edges(count, bench.device),
        "windows": windows(count, bench.device),
        "windows in any order": windows(count, bench.device, shuffled=True),
    }
    for kind, edges in graphs.items():
        for name, dtype in (("fp32", torch.float), ("bf16", torch.bfloat16)):
            tensors = nodes(count, dtype, bench.device)
            exact = [t.double().requires_grad_() for t in tensors]
            low = [t.requires_grad_() for t in tensors]
            outputs = []
            for leaves, backend in ((low, "auto"), (exact, "reference")):
                out = sparse_attention(*leaves, edges, backend=backend)
                grads = torch.autograd.grad(out.double().square().sum(), leaves)
                outputs.append([out.detach(), *grads])
            errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(*outputs, strict=True)]
            found.append({"what": f"{kind} {name}", "forward": errors[0], "gradients": max(errors[1:])})
    for name, recorded in (("matches", False), ("matches of recorded forwards", True)):
        found.append({"what": f"{name} as on the CPU", "share": _same_matches(bench, recorded)})
    for row in found:
        print(row)
    return found


def _same_matches(bench: GPUBench, recorded: bool) -> float:
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.camera()]
    same: list[Tensor] = []
    cpu = Matcher.from_pretrained(SPARSE, max_num_keypoints=1024)
    model = GraphMatcher.from_pretrained(SPARSE).to(bench.device).freeze(cuda_graphs=recorded)
    for number in range(bench.args.photos):
        pair = warped_pair(load_image(photos[number % len(photos)]), seed=number)
        sets = cpu.extractor.extract_batch([pair.image0, pair.image1], resize=640)
        drawn = cpu.transform(KeypointPair.from_sets(*sets))  # type: ignore[misc]
        with torch.inference_mode():
            expected = cpu.matcher(drawn).matches
            batch = model(drawn.to(bench.device)).matches
        same.append(batch.cpu() == expected)
    return float(torch.cat(same).double().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections."""
    options = parser(__doc__, sizes=(2048, 8192, 16384, 32768))
    options.set_defaults(budget=0.5)
    options.add_argument("--device", default="cuda")
    options.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options.add_argument("--keypoints", nargs="+", type=int, default=[512, 2048, 8192], help="of an image")
    options.add_argument("--windows", nargs="+", type=int, default=[65536], help="nodes in windows")
    options.add_argument("--pairs", type=int, default=32, help="pairs of the random batch and of training")
    options.add_argument("--photos", type=int, default=10, help="pairs matched on both devices")
    args = options.parse_args(arguments)
    bench = GPUBench(args, arguments)
    wanted = set(args.sections)
    errors = accuracy(bench) if "accuracy" in wanted else []
    if "operator" in wanted:
        operator(bench)
    if "windows" in wanted:
        dense_windows(bench)
    if wanted & {"matcher", "batches", "training"}:
        models = Models(bench.device)
        for name, section in (("matcher", matcher), ("batches", batches), ("training", training)):
            if name in wanted:
                section(bench, models)
    if "live" in wanted:
        try:
            live(bench)
        except Exception as error:  # what was measured before is kept
            print(f"  live: {type(error).__name__}: {error}")
    bench.finish(targets(bench, args.pairs, errors), errors=errors)


if __name__ == "__main__":
    main()
