import math

import pytest
import torch
from helpers import random_pair

from pyg_match.nn import GraphMatcher
from pyg_match.transforms import KNNGraph
from pyg_match.visualization import (
    EdgeAttention,
    attention_entropy,
    attention_mass,
    attention_span,
    record_attention,
)
from pyg_match.visualization.attention import AttentionRecord


def record_of(*steps, top=None):
    record = AttentionRecord(top=top)
    record.self_attention = record.cross_attention = [
        EdgeAttention(torch.tensor(edges).t(), torch.tensor(alpha)) for edges, alpha in steps
    ]
    return record


# Target 0 attends to 1 and 2, target 2 to 0; two heads.
STEP = ([[1, 0], [2, 0], [0, 2]], [[0.25, 1.0], [0.75, 0.0], [1.0, 1.0]])
POS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 10.0]])


def test_by_hand():
    record = record_of(STEP)
    span = attention_span(record, POS)
    assert span.tolist() == [[pytest.approx((0.25 * 5 + 0.75 * 10 + 10) / 2), pytest.approx((5 + 10) / 2)]]
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert attention_entropy(record)[0].tolist() == [pytest.approx(entropy / 2), 0.0]
    labels = torch.tensor([5, 7, 5])
    mass = attention_mass(record, labels, labels)
    assert mass.shape == (1, 3, 2) and mass[0, 0].tolist() == [0.75, 0.0] and mass[0, 2].tolist() == [1, 1]
    assert mass[0, 1].isnan().all()  # attends to nothing
    partner = attention_mass(record, torch.arange(3), torch.tensor([1, 2, -1]), "cross")
    assert partner[0, 0].tolist() == [0.25, 1.0] and partner[0, 2].isnan().all()


def test_forbidden_edges_do_not_count_as_targets():
    edges, alpha = STEP
    record = record_of(([*edges, [0, 1]], [*alpha, [0.0, 0.0]]))
    record.self_attention[0] = EdgeAttention(*(t.clone() for t in record.self_attention[0]))
    assert torch.allclose(attention_span(record, POS), attention_span(record_of(STEP), POS))
    assert torch.allclose(attention_entropy(record), attention_entropy(record_of(STEP)))


def test_of_a_matcher():
    matcher = GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, heads=2).eval()
    pair = KNNGraph(5)(random_pair(20, 15))
    with record_attention(matcher) as record:
        matcher(pair)
    span = attention_span(record, pair.pos)
    source, target = pair.edge_index.as_tensor()
    distance = (pair.pos[source] - pair.pos[target]).norm(dim=1)
    expected = [[float((distance * a).sum() / 35) for a in step.alpha.t()] for step in record.self_attention]
    assert torch.allclose(span, torch.tensor(expected), rtol=1e-5)
    assert (attention_entropy(record) <= math.log(5) + 1e-6).all()
    assert (attention_entropy(record, "cross") <= math.log(20) + 1e-6).all()


def test_nothing_and_errors():
    empty = AttentionRecord()
    empty.self_attention = [EdgeAttention(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, 2))]
    assert attention_span(empty, torch.zeros(0, 2)).isnan().all()
    assert attention_entropy(empty).isnan().all()
    assert attention_mass(empty, torch.arange(3), torch.arange(3)).isnan().all()
    mass = torch.arange(3)
    for measure in (
        lambda r: attention_span(r, POS),
        attention_entropy,
        lambda r: attention_mass(r, mass, mass),
    ):
        with pytest.raises(ValueError, match="no self attention was recorded"):
            measure(AttentionRecord())
    for measure in (lambda r: attention_span(r, POS), attention_entropy):
        with pytest.raises(ValueError, match="needs all coefficients of each target, but top=2"):
            measure(record_of(STEP, top=2))


def test_positions_and_labels_that_do_not_fit():
    record = record_of(STEP)
    assert torch.equal(attention_span(record, POS.long()), attention_span(record, POS))
    with pytest.raises(ValueError, match=r"'pos' must have shape \[N, 2\], got \[3, 1\]"):
        attention_span(record, POS[:, :1])
    with pytest.raises(ValueError, match="names source 2, but there are 2"):
        attention_span(record, POS[:2])
    labels = torch.arange(3)
    with pytest.raises(ValueError, match=r"'target_label' must have shape \[3\], got \[2\]"):
        attention_mass(record, labels, labels[:2])
    with pytest.raises(ValueError, match="names source 2, but there are 2"):
        attention_mass(record, labels[:2], labels[:2])
