"""Parts that are seen whole: the same answers as with listed edges."""

import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.data import KeypointPair
from pyg_match.data.edges import sorted_edges
from pyg_match.nn import GraphMatcher, pair_graph
from pyg_match.nn.pair_graph import PairGraph
from pyg_match.transforms import AnchorEdges, CandidateEdges, HilbertPartition
from pyg_match.transforms.multi_scale import store_scales
from pyg_match.visualization import record_attention


def pairs():
    """The same ones at each call."""
    torch.manual_seed(0)
    return [random_pair(*size) for size in ((30, 25), (3, 1), (0, 7), (0, 0), (12, 40))]


def graph(anchors=True, shift=True, size=6):
    steps = [HilbertPartition(size, shift=shift)]
    steps += [AnchorEdges(5, loop=True, weighted=True, listed=False)] if anchors else []
    return Compose([*steps, CandidateEdges(3)])


def matcher(**options):
    torch.manual_seed(0)
    options = {"num_layers": 3, **options}
    return GraphMatcher(in_channels=16, hidden_channels=16, heads=2, **options).double().eval()


def with_scales(pair: KeypointPair) -> KeypointPair:
    """The parts of each division as listed edges, drawn from the definition."""
    image = pair.image_batch
    drawn = []
    for part in pair.window.unbind(1):
        same = (image[:, None] == image) & (part[:, None] == part)
        target, source = same.nonzero().t()
        drawn.append(sorted_edges(torch.stack([source, target]), pair.num_nodes))
    store_scales(pair, drawn)
    del pair["window"]
    return pair


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_layers_take_divisions_in_turn(shift, grad):
    """As the scales of a matcher whose layers each read one of them."""
    drawn = graph(anchors=False, shift=shift)
    dense = matcher()
    listed = matcher(layer_scales=(0, int(shift), 0))
    batch = drawn(Batch.from_data_list(pairs()))
    with torch.set_grad_enabled(grad):
        found, expected = dense(batch), listed(with_scales(batch.clone()))
    assert torch.equal(found.matches, expected.matches)
    for one, other in zip(found.log_assignment, expected.log_assignment, strict=True):
        torch.testing.assert_close(one, other)
    if grad:
        sums = [sum(a.sum() for a in out.log_assignment) for out in (found, expected)]
        grads = [
            torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
            for total, model in zip(sums, (dense, listed), strict=True)
        ]
        for one, other in zip(*grads, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth_confidence": 0.9, "width_confidence": 0.6},
        {"width_confidence": 0.55},
        {"redraw_after": 1, "redraw_k": 4},
        {"assign_on_edges": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("grad", [True, False])
def test_devices_without_kernels_give_the_same(options, grad, monkeypatch):
    model = matcher(**options)
    batch = graph()(Batch.from_data_list(pairs()))
    outputs = []
    for kernels in (True, False):
        monkeypatch.setattr(pair_graph, "has_kernels", lambda _, known=kernels: known)
        with torch.set_grad_enabled(grad):
            outputs.append(model(batch))
    found, expected = outputs
    assert torch.equal(found.matches, expected.matches) and torch.equal(found.depth, expected.depth)
    torch.testing.assert_close(found.scores, expected.scores)
    for one, other in zip(found.log_assignment or [], expected.log_assignment or [], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layer", [0, 1])
def test_weights_count_every_keypoint_of_an_image(layer):
    batch = graph()(Batch.from_data_list(pairs()))
    edges, bias = PairGraph.from_data(batch).self_edges(layer)[0].listed()
    counted = torch.zeros(batch.num_nodes).index_add_(0, edges.csr().target(), bias.exp().float())
    sizes = batch.num_keypoints.flatten()
    torch.testing.assert_close(counted, sizes.repeat_interleave(sizes).float())


def test_numbers_of_parts_may_be_large():
    """And a few of them left out."""
    model, batch = matcher(), graph()(Batch.from_data_list(pairs()))
    moved = batch.clone()
    moved.window = batch.window * 3 + 2**61
    assert torch.equal(model(moved).scores, model(batch).scores)


def test_small_images_are_complete():
    """One part and anchors of no weight: what a matcher without a graph sees."""
    model, (pair, *_) = matcher(), pairs()
    found, expected = (
        model(Compose([HilbertPartition(64, shift=True), anchors])(pair.clone()))
        for anchors in (AnchorEdges(5, loop=True, weighted=True, listed=False), lambda data: data)
    )
    complete = model(pair)
    for out in (found, expected):
        torch.testing.assert_close(out.log_assignment[0], complete.log_assignment[0])


def test_anchors_of_no_weight_have_gradients():
    """Those of all other weights are as if it were next to nothing."""
    model, pair = matcher(), graph()(pairs()[0])
    grads = []
    for least in (0.0, 1e-12):
        weight = pair.anchor_weight.detach().double()
        weight[[0, 40]] = least
        pair.anchor_weight = weight.requires_grad_()
        model(pair).log_assignment[0].sum().backward()
        grads.append(weight.grad)
    assert (grads[0][[0, 40]] == 0).all() and grads[0].count_nonzero() > 50
    for grad in grads:
        grad[[0, 40]] = 0
    torch.testing.assert_close(*grads)


def test_batches_and_order_of_keypoints_change_nothing():
    model = matcher()
    alone = [model(graph()(pair)) for pair in pairs()]
    whole = model(graph()(Batch.from_data_list(pairs())))
    for one, out in zip(whole.log_assignment, alone, strict=True):
        torch.testing.assert_close(one, out.log_assignment[0])
    pair = pairs()[0]
    order = torch.cat([torch.randperm(30), 30 + torch.randperm(25)])
    moved = pair.clone()
    for name in ("pos", "x", "score"):
        moved[name] = pair[name][order]
    found = model(graph()(moved)).log_assignment[0]
    rows, columns = (torch.cat([part, torch.tensor([len(part)])]) for part in (order[:30], order[30:] - 30))
    torch.testing.assert_close(found, alone[0].log_assignment[0][rows][:, columns])


def test_attention_is_recorded():
    model, pair = matcher(), graph()(pairs()[0])
    with record_attention(model) as record, torch.no_grad():
        model(pair)
    edges = PairGraph.from_data(pair)
    for layer, step in enumerate(record.steps("self")):
        listed = edges.self_edges(layer)[0].listed()[0]
        assert torch.equal(step.edge_index, listed.csr().listed())
        sums = torch.zeros(55, 2, dtype=step.alpha.dtype).index_add_(0, step.edge_index[1], step.alpha)
        torch.testing.assert_close(sums, torch.ones_like(sums))
    assert not torch.equal(record.steps("self")[0].edge_index, record.steps("self")[1].edge_index)


def test_wrong_attributes():
    model, pair = matcher(), graph()(pairs()[0])
    edges = sorted_edges(torch.zeros(2, 1, dtype=torch.long), 55)
    wrong = {
        "edge_index": (edges, "'edge_index' cannot be used with parts that are seen whole"),
        "anchor": (None, "'anchor_weight' needs 'anchor'"),
        "anchor_weight": (torch.full((55, 2), -1.0), "must be finite and not negative, got -1"),
        "window": (pair.window[:54], "'window'"),
    }
    for name, (value, message) in wrong.items():
        bad = pair.clone()
        bad[name] = value
        with pytest.raises(ValueError, match=message):
            model(bad)
    alone = graph(anchors=False)(pairs()[0])
    for window, message in (
        (alone.window - 1, "numbers of parts from 0 on, got -1"),
        (alone.window[:, :0], "a column for each division"),
    ):
        bad = alone.clone()
        bad.window = window
        with pytest.raises(ValueError, match=message):
            model(bad)
    bad = pair.clone()
    bad.window = pair.window.float()
    with pytest.raises(TypeError, match="'window'"):
        model(bad)
    bad.window = pair.window[:, 0]
    with pytest.raises(ValueError, match="'window'"):
        model(bad)
    del bad["anchor_weight"]
    with pytest.raises(ValueError, match="'window'"):
        AnchorEdges(5, loop=True, listed=False)(bad)
    two = graph()(pairs()[0])
    two.anchor_weight = two.anchor_weight[:, :1]
    with pytest.raises(ValueError, match=r"'anchor_weight' must have shape \[55, 2\], got \[55, 1\]"):
        model(two)
