"""Prepared pairs, and forwards that do not wait for the device; the CPU stands in for it."""

import inspect

import pytest
import torch
from helpers import NeverWaits, random_pair
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.nn import GraphMatcher
from pyg_match.ops import candidates
from pyg_match.transforms import AnchorEdges, CandidateEdges, HilbertPartition, KNNGraph, RingPartition

GRAPH = Compose(
    [KNNGraph(4, loop=True), AnchorEdges(5, loop=True, weighted=True, listed=False), CandidateEdges(3)]
)


WINDOWS = Compose(
    [
        HilbertPartition(6, shift=True),
        AnchorEdges(5, loop=True, weighted=True, listed=False),
        CandidateEdges(3),
    ]
)


def never_listed(self):
    """Stands in for Tensor.tolist, which the C kernels alone may call: they run on the CPU."""
    caller = inspect.stack()[1].filename
    assert caller.endswith("dense_groups.py"), f"{caller} brings a tensor to the host"
    return tolist(self)


tolist = torch.Tensor.tolist


def batch_of_pairs(graph=GRAPH):
    torch.manual_seed(0)
    sizes = ((30, 25), (3, 1), (0, 7), (0, 0), (12, 40))
    return graph(Batch.from_data_list([random_pair(*size, dtype=torch.double) for size in sizes]))


def matcher(**options):
    torch.manual_seed(0)
    options = {"assign_on_edges": True, **options}
    return GraphMatcher(in_channels=16, hidden_channels=16, num_layers=3, heads=2, **options).double().eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"redraw_after": 1, "redraw_k": 6},
        {"value_source": "initial"},
        {"encoding": "mlp"},
        {"bfloat16": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["inference", "training", "frozen"])
@pytest.mark.parametrize("graph", [GRAPH, WINDOWS], ids=["neighbours", "windows"])
def test_forward_never_waits(graph, options, mode, monkeypatch):
    monkeypatch.setattr(candidates, "waits_for_counts", lambda *_: True)
    model = matcher(**options).train(mode == "training")
    model = model.freeze() if mode == "frozen" else model
    with torch.set_grad_enabled(mode == "training"):
        prepared = model.prepare(batch_of_pairs(graph))
        monkeypatch.setattr(torch.Tensor, "tolist", never_listed)
        with NeverWaits():
            found = model(prepared)
    monkeypatch.undo()
    with torch.set_grad_enabled(mode == "training"):
        expected = model(batch_of_pairs(graph))
    tolerance = 1e-9 if not options.get("bfloat16") else 5e-2
    torch.testing.assert_close(found.scores, expected.scores, rtol=tolerance, atol=tolerance)
    if not options.get("bfloat16"):
        assert torch.equal(found.matches, expected.matches)
    for name in ("depth", "num_layers"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_the_guard_sees_what_waits():
    x = torch.arange(4)
    for call in (
        lambda: x[x > 1],
        lambda: bool((x > 1).any()),
        lambda: x.nonzero(),
        lambda: torch.tensor([1]),
        lambda: x.repeat_interleave(x),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), NeverWaits():
            call()


@pytest.mark.parametrize(
    "options", [{"depth_confidence": 0.9, "width_confidence": 0.6}, {"assign_on_edges": False}, {}], ids=str
)
def test_prepared_pairs_give_the_same(options):
    model, batch = matcher(**options), batch_of_pairs()
    with torch.no_grad():
        expected, prepared = model(batch), model.prepare(batch)
        for _ in range(2):
            found = model(prepared, return_descriptors=True)
            assert torch.equal(found.matches, expected.matches)
            torch.testing.assert_close(found.scores, expected.scores)
            assert len(found.descriptors) == 3


def test_prepared_pairs_train():
    model = matcher().train()
    prepared = model.prepare(batch_of_pairs())
    assert all(step.edges.transposed is not None for step in (*prepared.graph.within, prepared.graph.between))
    grads = []
    for pair in (prepared, batch_of_pairs()):
        loss = model(pair).edge_log_assignment.square().mean()
        grads.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_wrong_pairs_are_refused_when_they_are_prepared():
    batch = batch_of_pairs()
    batch.pos[3] = torch.nan
    with pytest.raises(ValueError, match="'pos' holds NaN"):
        matcher().prepare(batch)
    with pytest.raises(ValueError, match="use one of them"):
        batch = batch_of_pairs()
        batch.cross_edge_mask = torch.ones(batch.cross_edge_index.size(1), dtype=torch.bool)
        matcher(redraw_after=1).prepare(batch)
    with pytest.raises(ValueError, match="names scale 2, but the pair has 2 scales"):
        matcher(layer_scales=(0, 1, 2)).prepare(batch_of_pairs(Compose([GRAPH, RingPartition([3, 5])])))


@pytest.mark.parametrize(
    "sizes", [[(9, 7)], [(30, 25), (3, 1), (0, 7), (0, 0), (12, 40)], [(0, 0)], []], ids=str
)
@pytest.mark.parametrize("k", [1, 4, 100])
@pytest.mark.parametrize("elements", [1, 1 << 27])
def test_masked_candidates_are_the_same_edges(sizes, k, elements, monkeypatch):
    monkeypatch.setattr(candidates, "_BATCH_ELEMENTS", elements)
    ptr = [0]
    for count in (count for pair in sizes for count in pair):
        ptr.append(ptr[-1] + count)
    x = torch.randn(ptr[-1], 8, dtype=torch.double)
    expected = candidates.candidate_edges(x, ptr, k)
    most = max((b - a for a, b in zip(ptr, ptr[1:], strict=False)), default=0)
    edges, mask = candidates.masked_candidate_edges(x, torch.tensor(ptr), most, k)
    assert edges.rowptr[-1] == edges.col.numel() == mask.numel() == 2 * ptr[-1] * min(k, most)
    found = edges.subset(mask)
    assert torch.equal(found.rowptr, expected.rowptr) and torch.equal(found.col, expected.col)
    monkeypatch.setattr(candidates, "waits_for_counts", lambda *_: True)
    for symmetric in (True, False):
        drawn = candidates.candidate_edges(x, ptr, k, symmetric)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(candidates, "waits_for_counts", lambda *_: False)
            expected = candidates.candidate_edges(x, ptr, k, symmetric)
        assert torch.equal(drawn.rowptr, expected.rowptr) and torch.equal(drawn.col, expected.col)
