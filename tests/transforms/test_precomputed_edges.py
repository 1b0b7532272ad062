import pytest
import torch
from helpers import random_pair
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import to_torch_csr_tensor

from pyg_match.transforms import CandidateEdges, KNNGraph, PrecomputedEdges, as_edge_index


def forms(edge_index, num_nodes):
    """The same edges in any form, with whether the order of the sources of a target survives."""
    plain = edge_index.as_tensor()
    transposed = to_torch_csr_tensor(plain.flip(0), size=(num_nodes, num_nodes))
    mask = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
    mask[plain[1], plain[0]] = True
    shuffled = plain[:, torch.randperm(plain.size(1))]
    found = {
        "edge_index": (plain, True),
        "int32": (plain.int(), True),
        "EdgeIndex": (EdgeIndex(plain, sparse_size=(num_nodes, num_nodes), sort_order="col"), True),
        "shuffled": (shuffled, False),
        "by row": (EdgeIndex(plain[:, plain[0].argsort()], sort_order="row"), False),
        "CSR": (transposed, False),
        "CSC": (transposed.to_sparse_csc(), False),
        "COO": (transposed.to_sparse_coo(), False),
        "mask": (mask, False),
    }
    if WITH_TORCH_SPARSE:
        found["SparseTensor"] = (
            SparseTensor(row=plain[1], col=plain[0], sparse_sizes=(num_nodes,) * 2),
            False,
        )
    return found


def ordered(edge_index):
    """Edges by target, then source."""
    plain = edge_index.as_tensor()
    return plain[:, (plain[1] * (int(plain.max()) + 1) + plain[0]).argsort()]


@pytest.mark.parametrize("key", ["edge_index", "cross_edge_index"])
def test_all_forms_give_what_building_it_inside_gives(key):
    pair = random_pair(20, 15)
    built = CandidateEdges(3)(KNNGraph(4)(pair))[key]
    for name, (adjacency, keeps_order) in forms(built, 35).items():
        data = PrecomputedEdges(adjacency, key)(pair)
        out = data[key]
        assert data.validate(), name
        assert out.is_sorted_by_col and out.dtype == torch.long, name
        assert out.sparse_size() == (35, 35), name
        out.validate()
        if keeps_order:
            assert torch.equal(out, built), name
        assert torch.equal(ordered(out), ordered(built)), name


@pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="torch-sparse is not installed")
def test_sparse_tensor():
    edge_index = torch.tensor([[1, 0, 2], [0, 1, 1]])
    adjacency = SparseTensor(row=edge_index[1], col=edge_index[0], sparse_sizes=(3, 3))
    assert torch.equal(as_edge_index(adjacency, 3).as_tensor(), edge_index)


def test_named_attribute_and_batches():
    examples = [KNNGraph(2)(Data(pos=torch.rand(n, 2))) for n in (5, 8)]
    for data in examples:
        data.adj_t = to_torch_csr_tensor(data.edge_index.as_tensor().flip(0), size=(data.num_nodes,) * 2)
    out = PrecomputedEdges("adj_t", key="seen_index")(Batch.from_data_list(examples))
    assert torch.equal(ordered(out.seen_index), ordered(out.edge_index))
    del out.adj_t  # PyG batches sparse tensors of torch, but cannot take them apart
    for single, data in zip(out.to_data_list(), examples, strict=True):
        assert torch.equal(ordered(single.seen_index), ordered(data.edge_index))


def test_no_edges():
    assert as_edge_index(torch.empty(2, 0, dtype=torch.long), 0).shape == (2, 0)
    assert as_edge_index(torch.zeros(3, 3, dtype=torch.bool), 3).shape == (2, 0)
    assert as_edge_index(torch.zeros(3, 3).to_sparse_csr(), 3).shape == (2, 0)


def test_repr_and_errors():
    assert str(PrecomputedEdges("adj_t")) == "PrecomputedEdges(key='edge_index')"
    with pytest.raises(ValueError, match=r"must have shape \(3, 3\), got \(2, 3\)"):
        as_edge_index(torch.ones(2, 3, dtype=torch.bool), 3)
    with pytest.raises(ValueError, match=r"must have shape \(3, 3\), got \(4, 4\)"):
        as_edge_index(torch.eye(4).to_sparse_csr(), 3)
    with pytest.raises(ValueError, match=r"edges must have shape \[2, E\], got \[3, 2\]"):
        as_edge_index(torch.zeros(3, 2, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="names node 3, but there are 3 nodes"):
        as_edge_index(torch.tensor([[0], [3]]), 3)
    with pytest.raises(TypeError, match=r"must be a mask of dtype torch.bool, got torch.float32"):
        as_edge_index(torch.eye(3), 3)
    with pytest.raises(TypeError, match="got list"):
        as_edge_index([[0], [1]], 3)
    with pytest.raises(ValueError, match="'key' must contain 'index', as PyG's batching needs, got 'seen'"):
        PrecomputedEdges(torch.eye(3).bool(), key="seen")
    with pytest.raises(TypeError, match="the data has no adjacency 'adj_t'"):
        PrecomputedEdges("adj_t")(Data(pos=torch.rand(3, 2)))
