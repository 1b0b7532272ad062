"""Whether a GPU computes what the CPU does, in a batch as alone and recorded as launched, and whether it ever waits."""

from typing import Any

import torch
from common import Row
from gpu_clock import GPUBench
from gpu_matchers import SPARSE, inference
from gpu_operators import knn_edges, nodes, windows
from torch import Tensor
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair
from pyg_match.datasets import warped_pair
from pyg_match.features import load_image
from pyg_match.matcher import Matcher
from pyg_match.nn import GraphMatcher
from pyg_match.ops import EdgeSet, sparse_attention


def accuracy(bench: GPUBench) -> None:
    """Relative errors of the operators, and shares of keypoints."""
    count = min(2048, max(bench.args.sizes))
    graphs = {
        "edges": knn_edges(count, bench.device),
        "windows": windows(count, bench.device),
        "windows in any order": windows(count, bench.device, shuffled=True),
    }
    for kind, edges in graphs.items():
        for name, dtype in (("fp32", torch.float), ("bf16", torch.bfloat16)):
            _note(bench, {"what": f"{kind} {name}", **_errors(edges, nodes(count, dtype, bench.device))})
    for row in _matches(bench):
        _note(bench, row)


def _note(bench: GPUBench, row: Row) -> None:
    bench.errors.append(row)
    print(row, flush=True)


def _errors(edges: EdgeSet, tensors: list[Tensor]) -> Row:
    """Against double precision."""
    exact = [t.double().requires_grad_() for t in tensors]
    outputs = []
    for leaves, backend in (([t.requires_grad_() for t in tensors], "auto"), (exact, "reference")):
        out = sparse_attention(*leaves, edges, backend=backend)
        grads = torch.autograd.grad(out.double().square().sum(), leaves)
        outputs.append([out.detach(), *grads])
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(*outputs, strict=True)]
    return {"forward": errors[0], "gradients": max(errors[1:])}


def _matches(bench: GPUBench) -> list[Row]:
    """Shares of keypoints that are matched alike, of photos and their warped copies."""
    pairs, expected = _drawn_photos(bench.args.photos)
    plain, recorded = (
        GraphMatcher.from_pretrained(SPARSE).to(bench.device).freeze(cuda_graphs=records)
        for records in (False, True)
    )
    moved = [pair.to(bench.device) for pair in pairs]
    alone = [inference(plain, pair)() for pair in moved]
    for _ in range(2):  # a size is recorded when it comes a second time
        for pair in moved:
            inference(recorded, pair)()
    replayed = [inference(recorded, pair)() for pair in moved]
    batch = Batch.from_data_list(moved)
    together: Any = inference(plain, batch)()
    matches = torch.cat([output.matches.cpu() for output in alone])
    scores, recorded_scores = (torch.cat([out.scores for out in outs]) for outs in (alone, replayed))
    rows = [
        {"what": "matches as on the CPU", "share": _share(matches == expected)},
        {"what": "matches in a batch as alone", "share": _share(together.matches.cpu() == matches)},
    ]
    if bench.device.type != "cuda":
        return rows
    if not recorded.recorded or not recorded.recorded._recordings:
        raise RuntimeError("no forward was recorded")
    return [
        *rows,
        {"what": "padded and recorded scores bit for bit", "share": _share(scores == recorded_scores)},
        {"what": "forwards of a prepared batch that never wait", "share": _never_waits(plain, batch)},
    ]


def _drawn_photos(count: int) -> tuple[list[KeypointPair], Tensor]:
    """Pairs with their edges, and what the CPU matches."""
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.camera()]
    cpu = Matcher.from_pretrained(SPARSE, max_num_keypoints=1024)
    pairs, matches = [], []
    for number in range(count):
        pair = warped_pair(load_image(photos[number % len(photos)]), seed=number)
        sets = cpu.extractor.extract_batch([pair.image0, pair.image1], resize=640)
        pairs.append(cpu.transform(KeypointPair.from_sets(*sets)))  # type: ignore[misc]
        output: Any = inference(cpu.matcher, pairs[-1])()
        matches.append(output.matches)
    return pairs, torch.cat(matches)


def _share(same: Tensor) -> float:
    return float(same.double().mean())


def _never_waits(model: GraphMatcher, batch: KeypointPair) -> float:
    """1 if a forward runs where waiting for the device is an error, else 0."""
    with torch.inference_mode():
        prepared = model.prepare(batch)
        model(prepared)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(prepared)
        except RuntimeError as error:
            print(f"  a forward waits: {error}")
            return 0.0
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return 1.0
