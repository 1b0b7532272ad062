"""Draw what each graph construction draws, for one keypoint and for all, on a real photo.

python examples/graph_figures.py --out docs/images
"""

import argparse
from pathlib import Path

import torch
from skimage import data
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform, Compose

from pyg_match.data import sorted_edges
from pyg_match.features import extractor, load_image
from pyg_match.transforms import (
    AnchorEdges,
    DiverseKNN,
    EqualPartition,
    HilbertPartition,
    KNNGraph,
    NestedPartition,
    RemovePairs,
    RingPartition,
)
from pyg_match.visualization import plot_graph


class ListedParts(BaseTransform):
    """List the edges within parts that are seen whole, to draw them."""

    def forward(self, data: Data) -> Data:
        parts = data.window[:, 0]
        target, source = (parts.unsqueeze(1) == parts).nonzero().t()
        data.edge_index = sorted_edges(torch.stack([source, target]), parts.numel(), is_sorted=True)
        return data


TWO, THREE = (tuple(f"edge_index_{s}" for s in range(n)) for n in (2, 3))
CONSTRUCTIONS: dict[str, tuple[BaseTransform, tuple[str, ...], str]] = {
    "knn": (KNNGraph(8), ("edge_index",), "KNNGraph(8)"),
    "diverse": (
        DiverseKNN(8, orthogonality_weight=2.0),
        ("edge_index",),
        "DiverseKNN(8, orthogonality_weight=2)",
    ),
    "direction": (
        DiverseKNN(8, orthogonality_weight=2.0, space="direction"),
        ("edge_index",),
        'DiverseKNN(8, orthogonality_weight=2, space="direction")',
    ),
    "rings": (RingPartition([6, 18]), TWO, "RingPartition([6, 18])"),
    "nested": (NestedPartition([6, 18]), TWO[::-1], "NestedPartition([6, 18]), the outer one below"),
    "parts": (EqualPartition(12), ("edge_index",), 'EqualPartition(12, by="nodes")'),
    "windows": (
        Compose([HilbertPartition(25), ListedParts()]),
        ("edge_index",),
        "HilbertPartition(25), edges listed to be drawn",
    ),
    "ranks": (EqualPartition(3, by="edges", k=18), THREE, 'EqualPartition(3, by="edges", k=18)'),
    "anchors": (Compose([KNNGraph(4), AnchorEdges(16)]), ("edge_index",), "KNNGraph(4) and AnchorEdges(16)"),
    "removed": (
        Compose([KNNGraph(18), RemovePairs(min_distance=30.0)]),
        ("edge_index",),
        "KNNGraph(18) and RemovePairs(min_distance=30)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder to write to")
    parser.add_argument("--max-keypoints", type=int, default=300)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    photo = load_image(data.coffee())
    keypoints = extractor("aliked", max_num_keypoints=args.max_keypoints)(photo)
    node = int((keypoints.pos - torch.tensor([330.0, 190.0])).norm(dim=1).argmin())
    for name, (transform, keys, title) in CONSTRUCTIONS.items():
        drawn = transform(keypoints)
        path = args.out / f"graph_{name}.jpg"
        plot_graph(photo, drawn, keys, node=node, title=title, path=path)
        degrees = [int((drawn[key][1] == node).sum()) for key in keys]
        edges = [drawn[key].size(1) for key in keys]
        print(f"{path}: {title}; edges {edges}, of which end at the keypoint {degrees}")


if __name__ == "__main__":
    main()
