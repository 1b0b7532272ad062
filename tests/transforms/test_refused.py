"""What no transform can work with, told where it enters."""

import math

import numpy as np
import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch, Data, HeteroData

from pyg_match import knn_graph
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    CompleteGraph,
    DiverseKNN,
    EqualPartition,
    KNNGraph,
    NestedPartition,
    PrecomputedEdges,
    RemovePairs,
    RingPartition,
)

WITHIN = [
    KNNGraph(3),
    CompleteGraph(),
    DiverseKNN(2, space="direction"),
    AnchorEdges(2),
    EqualPartition(2),
    EqualPartition(2, by="edges", k=4),
    RingPartition([1, 3]),
    NestedPartition([1, 3]),
]


@pytest.mark.parametrize("transform", [*WITHIN, RemovePairs(max_distance=1.0)], ids=str)
@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (torch.tensor([0.0, 0.0, 1.0, 1.0]), TypeError),
        (torch.tensor([False, False, True, True]), TypeError),
        ([0, 0, 1, 1], TypeError),
        (torch.tensor([-1, 0, 0, 1]), ValueError),
        (torch.tensor([0, 1, 0, 1]), ValueError),
        (torch.tensor([0, 0, 1]), ValueError),
        (torch.tensor([0, 0, 1, 1, 9]), ValueError),
    ],
)
def test_a_batch_that_is_none(transform, batch, error):
    data = Data(pos=torch.rand(4, 2), edge_index=torch.tensor([[0], [1]]), batch=batch)
    with pytest.raises(error, match="'batch' must"):
        transform(data)


@pytest.mark.parametrize("transform", [*WITHIN, CandidateEdges(2)], ids=str)
def test_numbers_of_keypoints_that_do_not_fit(transform):
    pair = random_pair(4, 3)
    pair.num_keypoints = torch.tensor([[4, 4]])
    with pytest.raises(ValueError, match="must sum to the 7 keypoints"):
        transform(pair)
    pair.num_keypoints = torch.tensor([[8, -1]])
    with pytest.raises(ValueError, match="must not be negative"):
        transform(pair)


@pytest.mark.parametrize("transform", WITHIN, ids=str)
def test_data_without_what_is_needed(transform):
    with pytest.raises(TypeError, match=f"the data lacks 'pos', which {type(transform).__name__} needs"):
        transform(Data(x=torch.rand(4, 8)))
    with pytest.raises(TypeError, match=r"'pos' must be a tensor with one row per node .* got list"):
        transform(Data(pos=[[0.0, 1.0]], x=torch.rand(1, 8)))
    with pytest.raises(ValueError, match="got a tensor without dimensions"):
        transform(Data(pos=torch.tensor(1.0), x=torch.rand(1, 8)))
    hetero = HeteroData()
    hetero["keypoint"].pos = torch.rand(4, 2)
    with pytest.raises(TypeError, match="needs a Data or KeypointPair, got HeteroData"):
        transform.forward(hetero)
    with pytest.raises(TypeError, match="lacks 'x', which DiverseKNN"):
        DiverseKNN(2)(Data(pos=torch.rand(3, 2)))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda n: KNNGraph(n), "k"),
        (lambda n: CandidateEdges(n), "k"),
        (lambda n: DiverseKNN(n), "k"),
        (lambda n: DiverseKNN(1, pool=n), "pool"),
        (lambda n: AnchorEdges(n), "num_anchors"),
        (lambda n: EqualPartition(n), "parts"),
        (lambda n: EqualPartition(2, k=n), "k"),
        (lambda n: EqualPartition(n, by="edges", k=4), "parts"),
        (lambda n: RingPartition([n]), "ks"),
        (lambda n: NestedPartition([n, 9]), "ks"),
        (lambda n: knn_graph(torch.rand(5, 2), n), "k"),
    ],
)
def test_counts_that_are_none(make, name):
    for number in (2.5, math.nan, math.inf, "12", True, [2], -1):
        with pytest.raises(ValueError, match=f"'{name}' must be"):
            make(number)
    for number in (np.int64(2), np.uint8(2), torch.tensor(2)):
        make(number)


@pytest.mark.parametrize("ks", ["12", 5, None, {3: 4}.values])
def test_scales_that_are_no_list(ks):
    for transform in (RingPartition, NestedPartition):
        with pytest.raises(ValueError, match="'ks' must be growing positive numbers of neighbours, got"):
            transform(ks)


def test_many_graphs_are_refused_before_they_are_drawn():
    with pytest.raises(ValueError, match="'parts' must be a whole number from 1 to 1024, got 100000"):
        EqualPartition(10**5, by="edges", k=2)


def test_precomputed_edges_join_what_they_may():
    pair, key = random_pair(3, 2), "cross_edge_index"
    within, between = torch.tensor([[0, 4], [1, 3]]), torch.tensor([[0, 3], [4, 1]])
    assert PrecomputedEdges(within)(pair.clone()).validate()
    assert PrecomputedEdges(between, key)(pair.clone()).validate()
    with pytest.raises(
        ValueError, match=r"same image, but edge 0 joins node 3 of image 1 to node 1 of image 0"
    ):
        PrecomputedEdges(between)(pair.clone())
    with pytest.raises(
        ValueError, match=r"two images of a pair, but edge 0 joins node 0 of image 0 to node 1 of"
    ):
        PrecomputedEdges(within, key)(pair.clone())
    dense = torch.ones(5, 5, dtype=torch.bool)
    for name in ("edge_index", key, "edge_index_0"):
        with pytest.raises(ValueError, match=f"'{name}' must join keypoints of"):
            PrecomputedEdges(dense, name)(pair.clone())
    batch = Batch.from_data_list([Data(pos=torch.rand(2, 2)), Data(pos=torch.rand(2, 2))])
    with pytest.raises(ValueError, match="edge 1 joins node 0 of image 0 to node 2 of image 1"):
        PrecomputedEdges(torch.tensor([[1, 0], [0, 2]]))(batch)
    pairs = Batch.from_data_list([random_pair(2, 2), random_pair(2, 2)])
    with pytest.raises(
        ValueError, match="two images of a pair, but edge 0 joins node 0 of image 0 to node 6 of image 3"
    ):
        PrecomputedEdges(torch.tensor([[0], [6]]), key)(pairs)


def test_edges_stay_within_examples_whatever_their_numbers():
    data = Data(
        pos=torch.rand(7, 2), batch=torch.tensor([1, 1, 1, 4, 4, 4, 4])
    )  # examples 0, 2 and 3 are empty
    for transform in (KNNGraph(5), EqualPartition(2), AnchorEdges(2), CompleteGraph()):
        source, target = transform(data.clone()).edge_index.as_tensor()
        assert torch.equal(data.batch[source], data.batch[target]) and int(source.max()) < 7
