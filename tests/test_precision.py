"""Devices without double precision; the CPU stands in for one, without its own kernels and trees."""

import pytest
import torch
from helpers import random_pair
from skimage.data import astronaut
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match import Matcher, transforms
from pyg_match.nn import GraphMatcher, layer_assignment, pair_graph
from pyg_match.ops import (
    attention_operators,
    candidates,
    convolution,
    detection,
    diverse,
    edge_lists,
    knn,
    largest,
    precision,
    undirected,
)
from pyg_match.training import Objective
from pyg_match.training.config import LossConfig


class NoDouble(TorchDispatchMode):
    """Raises where a tensor in double precision is made."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            assert not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.double, f"{func} makes doubles"
        return out


@pytest.fixture
def other_device(monkeypatch):
    """What runs within ``with other_device:`` runs as on a device that has neither kernels nor double precision."""
    monkeypatch.setattr(precision, "_WITHOUT_DOUBLE", {"cpu"})
    monkeypatch.setattr(knn, "_has_tree", lambda _: False)
    monkeypatch.setattr(candidates, "waits_for_counts", lambda _: True)
    monkeypatch.setattr(layer_assignment, "waits_for_counts", lambda _: True)
    monkeypatch.setattr(edge_lists, "available", lambda: False)
    for module in (diverse, largest, undirected):
        monkeypatch.setattr(module, "library", lambda: None)
    for module in (attention_operators, convolution, detection, pair_graph):
        monkeypatch.setattr(module, "has_kernels", lambda *_: False)
    return NoDouble()


@pytest.mark.parametrize(
    "transform",
    [
        transforms.KNNGraph(7, loop=True),
        transforms.HilbertPartition(6, shift=True),
        transforms.EqualPartition(4, by="nodes"),
        transforms.RingPartition((2, 4)),
        transforms.NestedPartition((2, 4)),
        transforms.DiverseKNN(4),
        transforms.DiverseKNN(4, space="direction"),
        # Of two keypoints in a part, rounding says which is nearer to their middle; there is no such part here.
        transforms.AnchorEdges(3, listed=False, loop=True, weighted=True),
        transforms.AnchorEdges(5, method="farthest"),
        transforms.CandidateEdges(3),
    ],
    ids=repr,
)
def test_graphs(transform, other_device, monkeypatch):
    torch.manual_seed(0)
    pairs = [random_pair(*size) for size in ((30, 25), (3, 1), (0, 0), (14, 40))]
    with other_device:
        found = transform(Batch.from_data_list([pair.clone() for pair in pairs]))
    monkeypatch.undo()
    expected = transform(Batch.from_data_list(pairs))
    assert found.keys() == expected.keys()
    for name, value in expected.to_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("weights", ["aliked-sparse", "aliked-lightglue"])
def test_two_photos(weights, other_device, monkeypatch):
    image = astronaut()
    photos = image[:400, :400], image[60:, 60:]
    matcher = Matcher.from_pretrained(weights, max_num_keypoints=128)
    with other_device:
        found = matcher(*photos)
    monkeypatch.undo()
    expected = matcher(*photos)
    assert len(expected.matches) > 60
    assert torch.equal(found.matches, expected.matches)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-3)


def test_training(other_device):
    torch.manual_seed(0)
    graph = Compose([transforms.KNNGraph(4, loop=True), transforms.CandidateEdges(3)])
    matcher = GraphMatcher(in_channels=16, hidden_channels=16, num_layers=2, assign_on_edges=True)
    with other_device:
        pair = graph(Batch.from_data_list([random_pair(12, 9), random_pair(5, 7)]))
        pair.y = torch.full((33,), -1)
        losses = Objective(matcher, LossConfig())(pair, (0, 1))
        losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters() if p.grad is not None)
