"""Training on a GPU from photos: processes read them, the device makes the pairs."""

import os
import tempfile
import time
from pathlib import Path

import torch
from common import Call
from gpu_clock import GPUBench
from gpu_matchers import SPARSE, step
from torch.utils.data import DataLoader

from pyg_match.datasets import HomographyWarps, SyntheticHomographies
from pyg_match.datasets.live_pairs import LivePairs
from pyg_match.files import allow_open_files
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import graph_from_recipe


def live(bench: GPUBench) -> None:
    """Seconds of a batch: its photos, its views, keypoints and edges, and all of it with a step of training."""
    allow_open_files()
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
            pairs, batch_size=labels["pairs"], collate_fn=list, num_workers=processes, prefetch_factor=2
        )
        batches = iter(loader)
        items = next(batches)
        for name, call in (
            ("photos", lambda: next(batches)),
            ("views, keypoints and edges", lambda: pairs.batch(items, bench.device)),
            ("all of it", step(bench.device, True, lambda: pairs.batch(next(batches), bench.device))),
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
