"""A pair that must not see each other: coefficient 0, no edge, or an adjacency made elsewhere."""

import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose
from torch_geometric.utils import to_torch_csr_tensor

from pyg_match.nn import GraphMatcher
from pyg_match.transforms import CandidateEdges, CompleteGraph, KNNGraph, PrecomputedEdges, RemovePairs

KEYS = ("edge_index", "cross_edge_index")
COUNTS = [(20, 15), (1, 9), (0, 4), (12, 12)]


def matcher(mask_mode):
    torch.manual_seed(1)
    return GraphMatcher(
        in_channels=16, hidden_channels=16, num_layers=2, heads=2, mask_mode=mask_mode
    ).double()


def batch_of_pairs(transform):
    torch.manual_seed(2)
    return Batch.from_data_list([transform(random_pair(*counts, dtype=torch.double)) for counts in COUNTS])


def result(model, data):
    """Assignments of all pairs, and gradients."""
    out = torch.cat([log_assignment.flatten() for log_assignment in model(data).log_assignment])
    model.zero_grad()
    out.square().sum().backward()
    return out, [torch.zeros(0) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize(
    "drawn", [Compose([KNNGraph(6, loop=True), CandidateEdges(5)]), CompleteGraph()], ids=str
)
def test_remove_is_absence_and_zero_is_not(drawn):
    forbid = {"max_similarity": 0.3, "max_distance": 400.0, "key": KEYS}
    masked = batch_of_pairs(Compose([drawn, RemovePairs(**forbid, mode="mask")]))
    dropped = batch_of_pairs(Compose([drawn, RemovePairs(**forbid)]))
    assert masked.edge_index.size(1) > dropped.edge_index.size(1)
    assert masked.edge_mask.sum() == dropped.edge_index.size(1)
    assert masked.cross_edge_mask.sum() == dropped.cross_edge_index.size(1)
    removed, grads = result(matcher("remove"), masked)
    absent, expected_grads = result(matcher("remove"), dropped)
    assert torch.allclose(removed, absent, atol=1e-10)
    for grad, expected in zip(grads, expected_grads, strict=True):
        assert torch.allclose(grad, expected, atol=1e-8)
    zeroed, _ = result(matcher("zero"), masked)
    assert not torch.allclose(zeroed, removed, atol=1e-3)
    unmasked, _ = result(matcher("zero"), dropped)
    assert torch.allclose(unmasked, absent, atol=1e-12)


def test_a_precomputed_adjacency_is_the_one_built_inside():
    drawn = Compose([KNNGraph(6, loop=True), CandidateEdges(5)])
    built = batch_of_pairs(drawn)
    expected, expected_grads = result(matcher("remove"), built)
    size = (built.num_nodes, built.num_nodes)
    bare = batch_of_pairs(lambda pair: pair)
    for form in ("edge_index", "mask", "csr"):
        data = bare
        for key in KEYS:
            plain = built[key].as_tensor()
            if form == "csr":
                adjacency = to_torch_csr_tensor(plain.flip(0), size=size)
            elif form == "mask":
                adjacency = torch.zeros(size, dtype=torch.bool)
                adjacency[plain[1], plain[0]] = True
            else:
                adjacency = plain
            data = PrecomputedEdges(adjacency, key)(data)
        out, grads = result(matcher("remove"), data)
        assert torch.allclose(out, expected, atol=1e-12)
        for grad, other in zip(grads, expected_grads, strict=True):
            assert torch.allclose(grad, other, atol=1e-9)
