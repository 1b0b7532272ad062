"""What it costs to record attention, and that it costs nothing once it is over.

    python benchmarks/recording.py

Random keypoints, random weights of LightGlue's shape, all nine layers. `never recorded` and `recorded before` are
matchers of the same weights; the second one has been recorded before it is timed, and is not while it is. The others
record as they match: a few query points, or the largest coefficients of every keypoint.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from common import Bench, Call, Target, parser

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, KNNGraph
from pyg_match.visualization import record_attention

OFF, BEFORE = "never recorded", "recorded before"


def random_pair(num_keypoints: int, graph: str) -> KeypointPair:
    """Keypoints all over two images, and the edges between them."""
    sets = [
        KeypointSet(
            pos=torch.rand(num_keypoints, 2) * 640,
            x=torch.nn.functional.normalize(torch.randn(num_keypoints, 128), dim=1),
            image_size=(640, 640),
        )
        for _ in range(2)
    ]
    pair = KeypointPair.from_sets(*sets)
    return pair if graph == "complete" else CandidateEdges(16)(KNNGraph(32)(pair))


def make_peers(pair: KeypointPair) -> dict[str, Callable[[], Call | str]]:
    """What is timed, by name."""
    fresh = GraphMatcher().freeze()
    used = GraphMatcher()
    used.load_state_dict(fresh.state_dict())
    used.freeze()
    with record_attention(used, top=1), torch.inference_mode():
        used(pair)

    def run(matcher: GraphMatcher) -> Callable[[], Call]:
        return lambda: torch.inference_mode()(lambda: matcher(pair))

    def recording(**options: int | range) -> Callable[[], Call]:
        @torch.inference_mode()
        def call() -> None:
            with record_attention(fresh, **options):  # type: ignore[arg-type]
                fresh(pair)

        return lambda: call

    return {
        OFF: run(fresh),
        BEFORE: run(used),
        "recording 16 query points": recording(nodes=range(16)),
        "recording the top 8 of each": recording(top=8),
    }


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [512, 1024, 2048])
    made.add_argument("--graphs", nargs="+", default=["complete", "sparse"], choices=["complete", "sparse"])
    made.set_defaults(budget=20.0, limit=60.0)  # one percent takes many samples
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    bench = Bench(__file__, args, arguments)
    torch.manual_seed(args.seed)
    targets = []
    for graph in args.graphs:
        for size in args.sizes:
            labels = {"graph": graph, "n": size}
            bench.time(labels, make_peers(random_pair(size, graph)), reference=OFF)
            ratio = bench.ratio([BEFORE], OFF, **labels)
            targets.append(Target(f"recording off, {graph}, N={size}", ratio, 1.01, at_least=False))
    bench.finish(targets)


if __name__ == "__main__":
    main()
