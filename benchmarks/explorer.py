"""How fast the explorer's page follows the pointer, and how large it is, in a real Chromium.

    python benchmarks/explorer.py                       # 2,048 keypoints an image, one setting and two

Random keypoints, each matched with its copy in the other image, random weights of LightGlue's shape, all nine layers.
Every sample moves the pointer to another keypoint, and ends when two more frames have been drawn. So it holds the way
from this script to the browser and back as well. The browser counts as another process that keeps cores busy.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import Bench, Target, parser
from playwright.sync_api import TimeoutError as NotSeenError
from playwright.sync_api import sync_playwright

from pyg_match.app import Explorer, explore
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, KNNGraph
from pyg_match.visualization import record_attention

CHROMIUM = Path("/usr/bin/chromium")
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# Where a keypoint is on the screen.
PLACE = """(node) => {
  const { layout, plot } = explorer.pictures[0];
  const box = document.getElementById("box0").getBoundingClientRect();
  const { x_range: xs, y_range: ys } = plot;
  return [
    box.x + (box.width * (layout.x[node] - xs.start)) / (xs.end - xs.start),
    box.y + (box.height * (ys.end - layout.y[node])) / (ys.end - ys.start),
  ];
}"""


def random_pair(num_keypoints: int) -> KeypointPair:
    """The same random keypoints in both images."""
    keypoints = {
        "pos": torch.rand(num_keypoints, 2) * torch.tensor([1024.0, 768.0]),
        "x": torch.nn.functional.normalize(torch.randn(num_keypoints, 128), dim=1),
        "image_size": (1024, 768),
    }
    return KeypointPair.from_sets(KeypointSet(**keypoints), KeypointSet(**keypoints))


@torch.no_grad()
def made(pair: KeypointPair, matcher: GraphMatcher, setting: str) -> Explorer:
    """The page of a pair whose edges are drawn."""
    images = [torch.rand(3, 768, 1024)] * 2
    with record_attention(matcher, top=16) as record:
        matcher(pair)
    count = int(pair.num_keypoints[0, 0])
    return explore(pair, record, images, matches=torch.arange(count).repeat(2), setting=setting)


def hovered(file: Path, nodes: Sequence[int]) -> list[float]:
    """Seconds from moving the pointer to a keypoint until its attention is drawn, for each of them."""
    with sync_playwright() as driver:
        path = str(CHROMIUM) if CHROMIUM.exists() else None
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        page.keyboard.press("Escape")
        samples = []
        for node in nodes:
            x, y = page.evaluate(PLACE, node)
            before = page.evaluate("explorer.state.hovered")
            start = time.perf_counter()
            page.mouse.move(x, y)
            page.evaluate(FRAMES)
            # A busy machine delivers the event later.
            if page.evaluate("explorer.state.hovered") in (-1, before):
                try:
                    page.wait_for_function(
                        f"![-1, {before}].includes(explorer.state.hovered)", timeout=60_000
                    )
                except NotSeenError:
                    raise RuntimeError(f"the page shows no attention of keypoint {node}") from None
                page.evaluate(FRAMES)
            samples.append(time.perf_counter() - start)
        browser.close()
    return samples


def options() -> argparse.ArgumentParser:
    parsed = parser(__doc__, [2048])
    parsed.add_argument("--hovers", type=int, default=100, help="keypoints to point at (%(default)s)")
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    matcher = GraphMatcher(in_channels=128).eval()
    targets = []
    for size in args.sizes:
        pair = random_pair(size)
        sparse = CandidateEdges(16)(KNNGraph(32, loop=True)(pair.clone()))
        one = made(pair, matcher, "complete")
        for peer, page in (
            ("one setting", one),
            ("two settings", one.compare(made(sparse, matcher, "sparse"))),
        ):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "page.html"
                page.save(file)
                megabytes = file.stat().st_size / 1e6
                samples = hovered(file, torch.randperm(size)[: args.hovers].tolist())
            low, median, high = statistics.quantiles(samples, n=4)
            row: dict[str, Any] = {"seconds": median, "low": low, "high": high, "samples": len(samples)}
            bench.rows.append({"n": size, "peer": peer, **row, "most": max(samples), "megabytes": megabytes})
            told = f"hover {1e3 * median:.0f} ms, at most {1e3 * max(samples):.0f} ms; {megabytes:.1f} MB"
            print(f"{size} keypoints an image, {peer}: {told}", flush=True)
            targets.append(Target(f"slowest hover, {peer}, N={size}", 1e3 * max(samples), 100, " ms", False))
            targets.append(Target(f"size, {peer}, N={size}", megabytes, 15, " MB", False))
    bench.finish(targets)


if __name__ == "__main__":
    main()
