"""What all graph constructions have in common: images stay apart, and batches come apart again."""

import pytest
import torch
from helpers import random_pair, random_set
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose
from torch_geometric.utils import unbatch_edge_index

from pyg_match.transforms import (
    AnchorEdges,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    PrecomputedEdges,
    RemovePairs,
    RingPartition,
    scales,
)

TRANSFORMS = [
    RingPartition([2, 5]),
    RingPartition([1, 3, 9], loop=True),
    NestedPartition([2, 5]),
    EqualPartition(3),
    EqualPartition(5, k=2, loop=True),
    EqualPartition(3, by="edges", k=7),
    AnchorEdges(3),
    AnchorEdges(3, method="farthest"),
    Compose(
        [RingPartition([2, 5]), DiverseKNN(3), AnchorEdges(2), RemovePairs(max_distance=200.0, mode="mask")]
    ),
    DiverseKNN(3),
    DiverseKNN(3, space="direction", loop=True),
    Compose([EqualPartition(2), RemovePairs(max_similarity=0.1)]),
]
COUNTS = [(9, 6), (1, 3), (0, 4), (1, 1), (0, 0), (12, 30)]


def same(a, b):
    if isinstance(a, EdgeIndex):
        assert isinstance(b, EdgeIndex)
        assert a.is_sorted_by_col and b.is_sorted_by_col
        assert a.sparse_size() == b.sparse_size()
        a.validate(), b.validate()
    return torch.equal(a, b)


@pytest.mark.parametrize("make", [lambda n0, n1: random_pair(n0, n1), lambda n0, n1: random_set(n0 + n1)])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_before_or_after_batching(transform, make):
    examples = [make(*counts) for counts in COUNTS]
    singles = [transform(example) for example in examples]
    before = Batch.from_data_list(singles)
    after = transform(Batch.from_data_list(examples))
    assert set(before.keys()) == set(after.keys())
    for key in before.keys():  # noqa: SIM118, a PyG method
        assert same(before[key], after[key]), key
    assert after.validate()
    for batch in (before, after):
        for single, apart, indexed in zip(singles, batch.to_data_list(), batch[:], strict=True):
            for key in single.keys():  # noqa: SIM118, a PyG method
                assert same(single[key], apart[key]), key
                assert same(single[key], indexed[key]), key
    for first, second in zip(scales(before), scales(after), strict=True):
        parts = unbatch_edge_index(first.as_tensor(), before.batch, len(COUNTS))
        for part, single in zip(
            parts, unbatch_edge_index(second.as_tensor(), after.batch, len(COUNTS)), strict=True
        ):
            assert torch.equal(part, single)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_images_stay_apart(transform):
    out = transform(Batch.from_data_list([random_pair(20, 30), random_pair(15, 10)]))
    for key in out.keys():  # noqa: SIM118, a PyG method
        if "edge_index" in key:
            assert torch.equal(out.image_batch[out[key][0]], out.image_batch[out[key][1]])


def test_batch_that_was_transformed_is_left_alone():
    batch = Batch.from_data_list([KNNGraph(2)(random_pair(5, 6)), KNNGraph(2)(random_pair(7, 8))])
    AnchorEdges(2)(batch)
    assert [data.edge_index.size(1) for data in batch.to_data_list()] == [22, 30]
    assert "anchor" not in batch.to_data_list()[0]


def test_new_edges_do_not_inherit_masks():
    data = RemovePairs(max_distance=50.0, mode="mask")(KNNGraph(2)(random_set(20)))
    assert data.edge_mask.numel() == 40
    for transform in (DiverseKNN(2), EqualPartition(3), PrecomputedEdges(torch.eye(20).bool())):
        assert "edge_mask" not in transform(data)
    assert data.edge_mask.numel() == 40


def test_loader_and_any_dimension():
    examples = [RingPartition([2, 4])(Data(pos=torch.rand(n, 3))) for n in (6, 9, 11)]
    batch = next(iter(DataLoader(examples, batch_size=3)))
    assert [e.size(1) for e in scales(batch)] == [52, 52]
    assert torch.equal(batch[2].edge_index_1, examples[2].edge_index_1)


def test_functional_names():
    from torch_geometric.data.datapipes import DatasetAdapter

    for name in (
        "ring_partition", "nested_partition", "equal_partition", "anchor_edges", "diverse_knn", "remove_pairs",
        "precomputed_edges",
    ):  # fmt: skip
        assert name in DatasetAdapter.functions
