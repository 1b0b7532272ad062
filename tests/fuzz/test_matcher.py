"""The matcher: a right answer for whatever fits, a clear error for everything else."""

import dataclasses

import torch
from fuzz.oracle import accepted, attempt, fuzz
from fuzz.strategies import attributes, edges, either, junk, numbers
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair
from pyg_match.nn import DualSoftmaxAssignment, GraphMatcher, MatcherConfig, SinkhornAssignment
from pyg_match.transforms import CandidateEdges, KNNGraph

SMALL = {"in_channels": 4, "hidden_channels": 8, "num_layers": 2, "heads": 2}
FIELDS = [field.name for field in dataclasses.fields(MatcherConfig)]
VARIANTS = [
    {},
    {"encoding": "mlp"},
    {"assignment": "sinkhorn"},
    {"use_scale_orientation": True},
    {"assign_on_edges": True},
    {"redraw_after": 1, "redraw_k": 3},
    {"depth_confidence": 0.5, "width_confidence": 0.5},
    {"value_source": "initial"},
]


@fuzz
@given(data=st.data())
def test_configurations(data):
    names = data.draw(st.lists(st.sampled_from([*FIELDS, "heeds", ""]), max_size=2, unique=True))
    changes = {name: data.draw(st.one_of(numbers, junk)) for name in names}
    # Widths that ask for gigabytes are what a user wants who asks for them.
    if any(
        isinstance(value, int) and not isinstance(value, bool) and value > 64 for value in changes.values()
    ):
        return
    made, config = accepted(
        lambda: (
            MatcherConfig(**{**SMALL, **changes}) if set(changes) <= set(FIELDS) else GraphMatcher(**changes)
        )
    )
    if made and isinstance(config, MatcherConfig):
        for name, value in dataclasses.asdict(config).items():
            assert not isinstance(value, torch.Tensor), name
        attempt(lambda: GraphMatcher(config))


@fuzz
@given(data=st.data())
def test_pairs(data):
    options = data.draw(st.sampled_from(VARIANTS))
    matcher = GraphMatcher(**SMALL, **options).eval()
    sizes = (data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6)))
    total = sum(sizes)
    values = attributes(data.draw, total) | {"image_size": torch.tensor([[64, 64], [64, 48]])}
    pair = KeypointPair(num_keypoints=sizes, **values)
    if data.draw(st.booleans()):
        pair = CandidateEdges(2)(KNNGraph(2, loop=True)(pair))
    for name in data.draw(st.lists(st.sampled_from(["edge_index", "cross_edge_index"]), max_size=1)):
        pair[name] = data.draw(edges(total))
    changed = data.draw(
        st.sampled_from(
            [
                None,
                None,
                "pos",
                "x",
                "score",
                "image_size",
                "num_keypoints",
                "edge_weight",
                "edge_mask",
                "cross_edge_weight",
                "anchor_weight",
                "edge_index_0",
                "scale",
            ]
        )
    )
    if changed is not None:
        pair[changed] = either(data.draw, torch.tensor([[0, 0], [64, 48]]))
    good, output = accepted(lambda: matcher(pair))
    if not good:
        return
    counts = pair.num_keypoints.flatten().tolist()
    assert len(output.matches) == sum(counts) and bool(torch.isfinite(output.scores).all())
    assert bool(((output.scores >= 0) & (output.scores <= 1 + 1e-5)).all())
    matches = output.matches.split(counts)
    for one, other in zip(matches[::2], matches[1::2], strict=True):
        for index, match in enumerate(one.tolist()):
            assert match == -1 or int(other[match]) == index
    if pair.validate(raise_on_error=False):
        check_batch(matcher, pair, output)


def check_batch(matcher, pair, output) -> None:
    """A pair in a batch gets the answer that it gets alone."""
    batch = matcher(Batch.from_data_list([pair, pair.clone()]))
    torch.testing.assert_close(batch.scores, torch.cat([output.scores] * 2), rtol=1e-3, atol=1e-4)


@fuzz
@given(data=st.data())
def test_heads(data):
    kind = data.draw(st.sampled_from([DualSoftmaxAssignment, SinkhornAssignment]))
    channels = data.draw(st.one_of(st.integers(1, 8), numbers))
    if isinstance(channels, int) and channels > 64:
        return
    made, head = accepted(lambda: kind(channels))
    if made:
        count0, count1 = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
        out = head.eval()(torch.randn(count0, head.channels), torch.randn(count1, head.channels))
        assert out.shape == (count0 + 1, count1 + 1) and not bool(out[:-1, :-1].isnan().any())
