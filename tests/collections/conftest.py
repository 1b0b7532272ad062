import pytest
import torch
from hloc_files import CHANNELS, COUNTS, write_hloc_features

from pyg_match.nn import GraphMatcher

GRAPH = [
    {"KNNGraph": {"k": 4, "loop": True}},
    {"AnchorEdges": {"num_anchors": 5, "loop": True, "weighted": True, "listed": False}},
    {"CandidateEdges": {"k": 6}},
]


@pytest.fixture
def features(tmp_path):
    return write_hloc_features(tmp_path / "features.h5", COUNTS)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small matcher with a graph."""
    torch.manual_seed(0)
    matcher = GraphMatcher(
        in_channels=CHANNELS,
        hidden_channels=32,
        num_layers=2,
        heads=2,
        assign_on_edges=True,
        redraw_after=1,
        redraw_k=8,
        filter_threshold=0.0,
    )
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    matcher.save(path, metadata={"graph": GRAPH, "extractor": "aliked"})
    return path


@pytest.fixture
def pairs(tmp_path):
    names = sorted(COUNTS)
    lines = [f"{a} {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path
