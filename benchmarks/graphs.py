"""What each graph construction costs, how the cost grows, and what a growing orthogonality weight does.

    python benchmarks/graphs.py [--quick] [--image PHOTO]

All constructions run on a pair of random images with N keypoints each. At 2,048 keypoints they are compared with a
matcher on a sparse graph of the same pair. The last table is about the descriptors of a real photo.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import Bench, Call, Row, Target, exponent, parser, plot
from skimage import data as photos
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.features import extractor, load_image
from pyg_match.nn import GraphMatcher
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    PrecomputedEdges,
    RemovePairs,
    RingPartition,
)

K = 32
SHARE_AT = 2048  # keypoints of each image at which the cost is compared with the matcher's
LINEARITHMIC = 1.2  # N log N has a slope of 1.13 between 1,024 and 8,192; the rest is for noise
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def constructions(pair: KeypointPair) -> dict[str, Call]:
    """What is measured: name and a call that draws the edges of ``pair``."""
    num_nodes = pair.pos.size(0)
    parts = max(1, num_nodes // 2 // 64)
    near = KNNGraph(K // 2)(pair)
    candidates = CandidateEdges(K)(pair)
    source, target = near.edge_index.as_tensor()
    matrix = torch.sparse_coo_tensor(
        torch.stack([target, source]), torch.ones(source.numel()), (num_nodes, num_nodes)
    ).to_sparse_csr()
    calls: list[tuple[str, BaseTransform, Data]] = [
        (f"kNN {K}", KNNGraph(K), pair),
        (f"rings {K // 2}, {K}", RingPartition([K // 2, K]), pair),
        (f"nested {K // 2}, {K}", NestedPartition([K // 2, K]), pair),
        (f"rank modulo 3 of kNN {K}", EqualPartition(3, by="edges", k=K), pair),
        ("parts of 64 keypoints", EqualPartition(parts), pair),
        (f"parts of 64, kNN {K // 2} inside", EqualPartition(parts, k=K // 2), pair),
        ("64 anchors by parts", AnchorEdges(64), near),
        ("112 weighted anchors", AnchorEdges(112, weighted=True), near),
        ("32 weighted anchors of the other image", AnchorEdges(32, weighted=True, cross=True), candidates),
        ("64 anchors by distance", AnchorEdges(64, method="farthest"), near),
        (f"diverse kNN {K // 2}, descriptors", DiverseKNN(K // 2), pair),
        (f"diverse kNN {K // 2}, directions", DiverseKNN(K // 2, space="direction"), pair),
        (f"diverse kNN {K}, descriptors", DiverseKNN(K), pair),
        ("remove pairs by distance", RemovePairs(max_distance=20.0), near),
        ("remove pairs by similarity", RemovePairs(max_similarity=0.2, mode="mask"), near),
        ("precomputed CSR", PrecomputedEdges(matrix), pair),
    ]
    return {name: lambda transform=transform, data=data: transform(data) for name, transform, data in calls}


def random_pair(num_keypoints: int) -> KeypointPair:
    sets = [
        KeypointSet(
            pos=torch.rand(num_keypoints, 2) * torch.tensor([640.0, 480.0]),
            x=torch.nn.functional.normalize(torch.randn(num_keypoints, 128), dim=1),
            image_size=(640, 480),
        )
        for _ in range(2)
    ]
    return KeypointPair.from_sets(*sets)


def time_all(bench: Bench) -> list[str]:
    """Time all constructions, and the matcher where they are compared with it; returns the constructions."""
    names: list[str] = []
    for size in bench.args.sizes:
        pair = random_pair(size)
        peers = {name: lambda call=call: call for name, call in constructions(pair).items()}
        names = list(peers)
        if size == SHARE_AT:
            call = matcher(pair)
            peers["matcher"] = lambda call=call: call
        bench.time({"n": size}, peers, reference="matcher" if size == SHARE_AT else None)
    return names


def summary(bench: Bench, names: list[str]) -> list[Row]:
    """The time of each construction at 2,048 keypoints, its share of the matcher's, and how it grows; printed."""
    whole = bench.seconds("matcher", n=SHARE_AT)
    rows: list[Row] = []
    title = f"{SHARE_AT} keypoints in each image" + (f", matcher {1e3 * whole:.4g} ms" if whole else "")
    print(f"\n{title:48}{'ms':>10}{'% of the matcher':>18}{'exponent of N':>15}")
    for name in names:
        own, slope = bench.seconds(name, n=SHARE_AT), exponent(bench.rows, name)
        share = 100 * own / whole if own and whole else None
        rows.append({"peer": name, "n": SHARE_AT, "seconds": own, "share": share, "exponent": slope})
        cells = (f"{1e3 * own:.4g}" if own else "-", f"{share:.2f}" if share is not None else "-")
        growth = "-" if slope is None else f"{slope:.2f}"
        print(f"  {name:46}{cells[0]:>10}{cells[1]:>18}{growth:>15}")
    return rows


def cost_targets(rows: list[Row]) -> list[Target]:
    """Each construction is cheap beside the matcher, and grows no faster than N log N."""
    cheap = [
        Target(
            f"{row['peer']}: share of the matcher's time at {row['n']}",
            row["share"],
            10.0,
            "%",
            at_least=False,
        )
        for row in rows
    ]
    slow_growth = [
        Target(f"{row['peer']}: exponent of N", row["exponent"], LINEARITHMIC, "", at_least=False)
        for row in rows
    ]
    return cheap + slow_growth


def matcher(pair: KeypointPair) -> Call:
    """A matcher of LightGlue's shape on a sparse graph, which is to be compared with the cost of drawing it."""
    model = GraphMatcher().freeze()
    graph = CandidateEdges(16)(AnchorEdges(64)(KNNGraph(K // 2, loop=True)(pair)))

    @torch.no_grad()
    def match() -> object:
        return model(graph)

    return match


def mean_cosine(x: torch.Tensor, edge_index: torch.Tensor, k: int) -> float:
    """The mean absolute cosine of two neighbours of the same keypoint."""
    neighbours = x[edge_index[0].view(-1, k)]
    cosine = torch.bmm(neighbours, neighbours.transpose(1, 2)).abs()
    pairs = cosine.sum() - cosine.diagonal(dim1=1, dim2=2).sum()
    return float(pairs / (neighbours.size(0) * k * (k - 1)))


def print_diversity(image: Path | None, features: str, num_keypoints: int) -> tuple[list[Row], int]:
    """How alike and how far the chosen neighbours are, against the weight; and how often they get more alike."""
    photo = load_image(photos.coffee() if image is None else image)
    keypoints = extractor(features, max_num_keypoints=num_keypoints).extract(photo)
    x = torch.nn.functional.normalize(keypoints.x, dim=1)
    k = K // 2
    name = "a cup of coffee (scikit-image)" if image is None else image.name
    print(f"\ndiverse kNN {k} on {keypoints.num_keypoints} {features} keypoints of {name}")
    print(f"{'orthogonality weight':>22}{'mean |cosine|':>16}{'mean distance px':>18}")
    rows: list[Row] = []
    for weight in WEIGHTS:
        edges = DiverseKNN(k, orthogonality_weight=weight)(keypoints).edge_index.as_tensor()
        distance = (keypoints.pos[edges[0]] - keypoints.pos[edges[1]]).norm(dim=1).mean()
        rows.append({"weight": weight, "cosine": mean_cosine(x, edges, k), "distance": float(distance)})
        print(f"{weight:>22}{rows[-1]['cosine']:>16.4f}{rows[-1]['distance']:>18.1f}")
    cosines = [row["cosine"] for row in rows]
    return rows, sum(after >= before for before, after in zip(cosines[:-1], cosines[1:], strict=True))


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, [512, 1024, 2048, 4096, 8192])
    made.add_argument("--quick", action="store_true", help="three sizes, fewer samples")
    made.add_argument(
        "--image", type=Path, help="photo for the diversity table, by default one of scikit-image's"
    )
    made.add_argument("--features", default="aliked", help="detector for it (%(default)s)")
    made.add_argument("--max-keypoints", type=int, default=1024, help="of that photo (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = options().parse_args(arguments)
    if args.quick:
        args.sizes, args.budget = [1024, 2048, 4096], min(args.budget, 2.0)
    bench = Bench(__file__, args, arguments)
    costs = summary(bench, time_all(bench))
    rows, rises = print_diversity(args.image, args.features, args.max_keypoints)
    targets = cost_targets(costs)
    targets.append(
        Target("mean |cosine| falls with the weight: steps up", float(rises), 0.0, "", at_least=False)
    )
    bench.finish(targets, summary=costs, diversity=rows)
    if args.plot:
        plot(args.plot, bench.rows, f"Drawing the graphs of a pair of images, {args.threads} threads")


if __name__ == "__main__":
    main()
