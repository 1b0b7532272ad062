"""Training that computes again what is quick to compute."""

from collections import Counter

import pytest
import torch
from helpers import random_pair
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch
from torch_geometric.transforms import Compose

from pyg_match.nn import GraphMatcher, matcher_layer
from pyg_match.pretrained import read_metadata
from pyg_match.transforms import AnchorEdges, CandidateEdges, HilbertPartition, KNNGraph
from pyg_match.visualization import record_attention

ANCHORS = AnchorEdges(5, loop=True, weighted=True, listed=False)
GRAPHS = {
    "complete": Compose([]),
    "neighbours": Compose([KNNGraph(4, loop=True), ANCHORS, CandidateEdges(3)]),
    "windows": Compose([HilbertPartition(6, shift=True), ANCHORS, CandidateEdges(3)]),
}


class Counts(TorchDispatchMode):
    """How many times each operator runs."""

    def __init__(self):
        super().__init__()
        self.of = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.of[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def step(graph, checkpointed, **options):
    """Gradients of a step, and what runs for them."""
    torch.manual_seed(0)
    batch = graph(Batch.from_data_list([random_pair(*size) for size in ((40, 35), (1, 0), (60, 60))]))
    model = GraphMatcher(
        in_channels=16, hidden_channels=32, num_layers=3, heads=2, checkpointed=checkpointed, **options
    )
    loss = torch.stack([part.mean() for part in model(batch).log_assignment]).sum()
    with Counts() as counts:
        loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None], counts.of


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("options", [{}, {"value_source": "initial"}, {"bfloat16": True}], ids=str)
def test_gradients_are_the_same_bit_for_bit(name, options):
    (expected, _), (found, _) = (step(GRAPHS[name], again, **options) for again in (False, True))
    assert len(found) == len(expected) > 50
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_what_is_computed_again():
    """In six blocks: normalisation and activation, but neither attention nor the joined product behind it."""
    (_, plain), (_, again) = (step(GRAPHS["neighbours"], checkpointed) for checkpointed in (False, True))
    for name in ("aten::native_layer_norm", "aten::gelu"):
        assert again[name] - plain[name] == 6
    assert again["pyg_match::attention"] == 0
    # Three projections of self steps, two of cross steps, and one of messages; of three assignments, both projections
    # and the similarities.
    products = sum(again[name] - plain[name] for name in ("aten::addmm", "aten::mm"))
    assert products == 3 * (3 + 2 + 2) + 3 * 3


def test_no_matrix_of_all_to_all_is_kept():
    """What gradients wait for has less numbers than the keypoints of both images have pairs."""
    sizes = []
    for checkpointed in (False, True):
        model = GraphMatcher(
            in_channels=16, hidden_channels=16, num_layers=1, heads=2, checkpointed=checkpointed
        )
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            model(random_pair(300, 280)).log_assignment[0].sum()
        sizes.append(max(kept))
    assert sizes[1] < 300 * 280 <= sizes[0]


def test_hooks_see_an_assignment_once():
    model, calls = (
        GraphMatcher(in_channels=16, hidden_channels=16, num_layers=1, heads=2, checkpointed=True),
        [],
    )
    model.assignments[0].register_forward_hook(lambda *_: calls.append(1))
    model(random_pair(9, 8)).log_assignment[0].sum().backward()
    assert len(calls) == 1


def test_files_do_not_say(tmp_path):
    model = GraphMatcher(in_channels=8, hidden_channels=16, num_layers=1, heads=2, checkpointed=True)
    assert model.config.checkpointed and model.layers[0].self_attn.checkpointed
    file = tmp_path / "matcher.safetensors"
    model.save(file)
    assert "checkpointed" not in read_metadata(file)["config"]
    assert not GraphMatcher.from_pretrained(file).config.checkpointed
    assert GraphMatcher.from_pretrained(file, checkpointed=True).layers[0].cross_attn.checkpointed


def both(**options):
    """The same matcher with and without."""
    torch.manual_seed(0)
    shape = {"in_channels": 16, "hidden_channels": 16, "num_layers": 3, "heads": 2, **options}
    plain = GraphMatcher(**shape)
    again = GraphMatcher(**shape, checkpointed=True)
    again.load_state_dict(plain.state_dict())
    return plain, again


def test_inference_takes_no_notice(monkeypatch):
    plain, again = (model.eval() for model in both())
    pair = random_pair(20, 15)

    def never(*args, **kwargs):
        raise AssertionError("nothing is kept for gradients here")

    monkeypatch.setattr(matcher_layer, "checkpointed", never)
    with torch.no_grad():
        assert torch.equal(again(pair).scores, plain(pair).scores)
    again.freeze()(pair)
    with pytest.raises(AssertionError, match="nothing is kept"):
        again.train()(pair)


def gradients(model, pairs, before=None):
    """Of the sum over pairs, whose forwards share one autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        if before is not None:
            with torch.no_grad():
                model(before)
        losses = [model(pair).log_assignment[0].float().mean() for pair in pairs]
    torch.stack(losses).sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def forgets_gradients():
    """Whether a layer has no gradient after it has run without, as before torch 2.6 or so."""
    layer = torch.nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            layer(torch.ones(1, 2))
        return not layer(torch.ones(1, 2)).requires_grad


@pytest.mark.parametrize("looks_before", [True, False])
def test_forwards_may_share_an_autocast(looks_before):
    if looks_before and forgets_gradients():
        pytest.skip("torch keeps weights without gradients for the rest of an autocast")
    pairs = [random_pair(20, 15), random_pair(9, 30)]
    found = [gradients(model, pairs, pairs[0] if looks_before else None) for model in both()]
    for one, other in zip(*found, strict=True):  # whose parts are added before or after they are widened
        assert (one - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize(
    "options", [{"redraw_after": 1, "redraw_k": 4}, {"ffn_channels": 8}, {"encoding": "mlp"}], ids=str
)
def test_other_matchers(options):
    pair, found = CandidateEdges(3)(random_pair(20, 15)), []
    for model in both(**options):
        loss = model(pair).log_assignment[0].mean()
        found.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))


@pytest.mark.parametrize(
    "part",
    [
        "layers.0.self_attn.lin_out",
        "layers.0.cross_attn.ffn.1",
        "layers.0.self_attn.conv.lin_value",
        "assignments.0.lin",
    ],
)
def test_hooks_see_parts_of_a_layer_once(part):
    model, calls = both()[1], []
    model.get_submodule(
        part.replace("assignments.0", f"assignments.{len(model.assignments) - 1}")
    ).register_forward_hook(lambda *_: calls.append(1))
    model(random_pair(9, 8)).log_assignment[0].sum().backward()
    assert len(calls) == 1


@pytest.mark.parametrize("hook", ["message", "propagate", "aggregate"])
def test_hooks_of_layers_of_pyg_see_them_once(hook):
    model, calls = both()[1], []
    conv = model.layers[0].self_attn.conv
    getattr(conv, f"register_{hook}_forward_hook")(lambda *_: calls.append(1))
    pair = CandidateEdges(4)(KNNGraph(4, loop=True)(random_pair(9, 8)))
    model(pair).log_assignment[0].sum().backward()
    assert len(calls) == 1


def test_hooks_see_a_layer_once():
    """Those of a recording too, with gradients asked for while it lasts."""
    pair, found = random_pair(20, 15), []
    for model in both():
        with record_attention(model) as record:
            model(pair).log_assignment[0].mean().backward()
        assert len(record.steps("self")) == 3
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_prepared_by_a_matcher_without_it():
    plain, again = both()
    prepared = plain.prepare(random_pair(20, 15))
    assert torch.equal(again(prepared).scores, plain(prepared).scores)
