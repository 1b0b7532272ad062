"""Recorded forwards; on the CPU, a tape of operators stands in for CUDA graphs."""

import copy
import pickle

import pytest
import torch
from helpers import NeverWaits, random_pair
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.nn import GraphMatcher, recorded
from pyg_match.ops import candidates
from pyg_match.transforms import AnchorEdges, CandidateEdges, HilbertPartition, KNNGraph

GRAPHS = {
    "neighbours": Compose([KNNGraph(4, loop=True), CandidateEdges(3)]),
    "anchors": Compose(
        [KNNGraph(4, loop=True), AnchorEdges(5, loop=True, weighted=True, listed=False), CandidateEdges(3)]
    ),
    "windows": Compose(
        [
            HilbertPartition(6, shift=True),
            AnchorEdges(5, loop=True, weighted=True, listed=False),
            CandidateEdges(3),
        ]
    ),
    "complete images": CandidateEdges(3),
}


class Tape(NeverWaits):
    """Runs the same operators again on the same memory, whatever Python would do now, as a CUDA graph does."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for into, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(into, torch.Tensor) and into.data_ptr() != new.data_ptr():
                    assert into.shape == new.shape
                    into.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """The tapes that were recorded."""
    made = []

    def record(function, device, place):
        with Tape() as tape:
            output = function()
        made.append(tape)
        return output, tape.replay

    monkeypatch.setattr(recorded, "can_record", lambda device: True)
    monkeypatch.setattr(recorded, "record", record)
    monkeypatch.setattr(candidates, "waits_for_counts", lambda device: True)
    return made


def pairs(graph, *sizes, seed=0):
    torch.manual_seed(seed)
    return graph(Batch.from_data_list([random_pair(*size, dtype=torch.double) for size in sizes]))


def matcher(**options):
    torch.manual_seed(0)
    options = {"assign_on_edges": True, "filter_threshold": 0.001, **options}
    return GraphMatcher(in_channels=16, hidden_channels=16, num_layers=3, heads=2, **options).double().eval()


def check_equal(found, expected):
    assert torch.equal(found.matches, expected.matches) and bool((found.matches >= 0).any())
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        found.edge_log_assignment, expected.edge_log_assignment, rtol=1e-10, atol=1e-10
    )
    for name in ("depth", "num_layers", "num_keypoints", "cross_edge_index"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("options", [{}, {"redraw_after": 1, "redraw_k": 6}, {"encoding": "mlp"}], ids=str)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_replays_of_one_recording_give_what_forwards_give(graph, options, tapes):
    fast, slow = matcher(**options).freeze(cuda_graphs=True), matcher(**options).freeze()
    with torch.no_grad():
        for seed, sizes in enumerate([(46, 34), (50, 40), (52, 44), (9, 71), (46, 34)]):
            pair = pairs(graph, sizes, seed=seed)
            check_equal(fast(pair), slow(pair))
    assert len(tapes) == 1


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_replays_never_wait(graph, tapes):
    model = matcher(redraw_after=1, redraw_k=6).freeze(cuda_graphs=True)
    with torch.no_grad():
        prepared = model.prepare(pairs(graph, (46, 34)))
        for _ in range(3):
            with NeverWaits():
                model(prepared)
    assert len(tapes) == 1


def test_batches(tapes):
    fast, slow = (
        matcher(redraw_after=1, redraw_k=6).freeze(cuda_graphs=True),
        matcher(redraw_after=1, redraw_k=6),
    )
    with torch.no_grad():
        several = [
            ((40, 30), (3, 1), (0, 7), (12, 0)),
            ((0, 0), (5, 5), (30, 12), (9, 61)),
            ((9, 61), (0, 0), (5, 5), (30, 12)),
        ]
        for seed, sizes in enumerate(several):
            batch = pairs(GRAPHS["anchors"], *sizes, seed=seed)
            check_equal(fast(batch), slow(batch))
    assert len(tapes) == 1


def test_masks_and_weights_of_edges(tapes):
    fast, slow = matcher().freeze(cuda_graphs=True), matcher().freeze()
    with torch.no_grad():
        for seed in range(3):
            pair = pairs(GRAPHS["neighbours"], (40 + seed, 30), seed=seed)
            for name in ("edge", "cross_edge"):
                ends = pair[f"{name}_index"].as_tensor().sum(0)
                pair[f"{name}_mask"] = ends % 5 != seed  # the same both ways
                pair[f"{name}_weight"] = torch.rand(ends.numel(), dtype=torch.double) + 0.1
            check_equal(fast(pair), slow(pair))
    assert len(tapes) == 1


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_sizes(graph, tapes):
    fast, slow = matcher().freeze(cuda_graphs=True), matcher().freeze()
    with torch.no_grad():
        for sizes in ((1, 1), (96, 96), (97, 95), (96, 97), (1, 300), (700, 3)):
            pair = pairs(graph, sizes)
            fast(pair)
            found, expected = fast(pair), slow(pair)
            assert torch.equal(found.matches, expected.matches)
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-10, atol=1e-10)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("options", [{}, {"redraw_after": 1, "redraw_k": 6}, {"bfloat16": True}], ids=str)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_on_a_gpu(graph, options):
    fast, slow = (matcher(**options).float().cuda() for _ in range(2))
    fast.freeze(cuda_graphs=True)
    with torch.no_grad():
        for seed, sizes in enumerate([(46, 34), (50, 40), (52, 44), (9, 71), (46, 34)]):
            pair = pairs(graph, sizes, seed=seed)
            pair.x, pair.pos = pair.x.float(), pair.pos.float()
            pair = pair.to("cuda")
            found, expected = fast(pair), slow.freeze()(pair)
            assert found.cross_edge_index.shape == expected.cross_edge_index.shape
            # Products of other shapes are rounded in another way, and then now and then a best one is another.
            near = (found.scores - expected.scores).abs() < (5e-2 if options.get("bfloat16") else 1e-4)
            assert float(near.float().mean()) > 0.9
    assert len(fast.recorded._recordings) == 1


def test_what_is_recorded_is_no_memory_of_users(tapes):
    """Neither what they gave nor what they got."""
    model, pair = matcher().freeze(cuda_graphs=True), pairs(GRAPHS["anchors"], (40, 30))
    kept = {name: value.clone() for name, value in pair if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        prepared = model.prepare(pair)
        model(prepared)
        first = model(prepared)
        scores = first.scores.clone()
        model(pairs(GRAPHS["anchors"], (41, 31), seed=1))
    assert len(tapes) == 1
    assert torch.equal(first.scores, scores)
    assert all(torch.equal(pair[name], value) for name, value in kept.items())


def test_other_modes(tapes):
    """In inference mode as without gradients, one after the other."""
    model = matcher().freeze(cuda_graphs=True)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            pair = pairs(GRAPHS["anchors"], (40, 30))
            check_equal(model(pair), matcher()(pair))
            check_equal(model(pair), matcher()(pair))
    assert len(tapes) == 1


def test_what_cannot_be_recorded_runs_as_it_did(tapes):
    pair, graph = pairs(GRAPHS["anchors"], (40, 30)), GRAPHS["anchors"]
    model = matcher().freeze(cuda_graphs=True)
    assert model(pair).scores.requires_grad and model(pair).scores.requires_grad
    with torch.no_grad():
        for _ in range(2):
            assert len(model(pair, return_descriptors=True).descriptors) == 3
            with torch.autocast("cpu", torch.bfloat16):
                model(pair)
        seen = []
        conv = model.layers[0].self_attn.conv
        for register in (model.layers[1].register_forward_hook, conv.register_message_forward_hook):
            hook = register(lambda *_: seen.append(1))
            model(pair)
            model(pair)
            hook.remove()
        assert len(seen) == 4
        conv.fuse = False
        model(pair)
        model(pair)
        conv.fuse = True
        for options in (
            {"assign_on_edges": False},
            {"depth_confidence": 0.9},
            {"redraw_after": 1, "mask_mode": "zero"},
            {"redraw_after": 1, "redraw_k": 41},
        ):
            other = matcher(**options).freeze(cuda_graphs=True)
            other(pair)
            other(pair)
        model(graph(Batch.from_data_list([random_pair(0, 0, dtype=torch.double)])))
        no_edges = pairs(KNNGraph(4), (40, 30))
        assert model(no_edges).log_assignment is not None
    assert tapes == []


def test_weights_that_are_not_finite_are_refused(tapes):
    model = matcher()
    model.layers[1].self_attn.lin_out.weight.data[0, 0] = torch.nan
    model.freeze(cuda_graphs=True)
    pair = pairs(GRAPHS["anchors"], (40, 30))
    with torch.no_grad():
        for expected in (0, 1):
            with pytest.raises(ValueError, match="NaN or infinite"):
                model(pair)
            assert len(tapes) == expected


def test_other_weights_are_recorded_anew(tapes):
    model, pair = matcher().freeze(cuda_graphs=True), pairs(GRAPHS["anchors"], (40, 30))
    with torch.no_grad():
        model(pair)
        model(pair)
        model.layers[0].self_attn.lin_out.bias[1] += 1.0
        with pytest.raises(RuntimeError, match="freeze"):
            model(pair)
        model.freeze(cuda_graphs=True)(pair)
        check_equal(model(pair), copy.deepcopy(model).train().eval()(pair))
        assert len(tapes) == 2
        assert model.freeze().recorded is None
        assert model.freeze(cuda_graphs=True).train().recorded is None


def test_few_sizes_are_kept(tapes, monkeypatch):
    monkeypatch.setattr(recorded, "_KEPT", 2)
    model, slow = matcher().freeze(cuda_graphs=True), matcher()
    sizes = [(10, 10), (300, 10), (10, 10), (700, 10), (300, 10), (700, 10), (10, 10)]
    with torch.no_grad():
        for size in sizes:
            pair = pairs(GRAPHS["anchors"], size)
            check_equal(model(pair), slow(pair))
    assert len(tapes) == 4 and len(model.recorded._recordings) == 2


def test_copies_record_anew(tapes):
    model, pair = matcher().freeze(cuda_graphs=True), pairs(GRAPHS["anchors"], (40, 30))
    with torch.no_grad():
        expected = model(pair)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.float().double()):
            assert other.recorded is not None
            other(pair)
            torch.testing.assert_close(other(pair).scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert len(tapes) == 3


def test_what_cannot_be_recorded_runs_without(tapes, monkeypatch):
    tries = []

    def fails(function, device, place):
        tries.append(function())
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "record", fails)
    model, slow = matcher().freeze(cuda_graphs=True), matcher()
    pair = pairs(GRAPHS["anchors"], (40, 30))
    with torch.no_grad():
        check_equal(model(pair), slow(pair))
        with pytest.warns(UserWarning, match="runs without being recorded: operation not permitted"):
            check_equal(model(pair), slow(pair))
        check_equal(model(pair), slow(pair))
    assert len(tries) == 1
    assert model.recorded._places == {}  # another size gets memory of its own


def test_few_sizes_are_remembered(tapes, monkeypatch):
    monkeypatch.setattr(recorded, "_MET", 2)
    model = matcher().freeze(cuda_graphs=True)
    with torch.no_grad():
        for size in [(10, 10), (300, 10), (700, 10), (10, 10), (10, 10)]:
            model(pairs(GRAPHS["anchors"], size))
    assert len(tapes) == 1 and len(model.recorded._met) == 2
