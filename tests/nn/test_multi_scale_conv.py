import pytest
import torch
from helpers import random_pair
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv, GCNConv, GPSConv, HeteroConv, SAGEConv, Sequential, to_hetero

from pyg_match.nn import (
    MaskedAttentionConv,
    MultiScaleConv,
    OrthogonalFusion,
    PartitionGCNConv,
    orthogonality_penalty,
)
from pyg_match.transforms import NestedPartition, RingPartition, scales

BRANCHES = {
    "gcn": lambda: PartitionGCNConv(16, 16),
    "attention": lambda: MaskedAttentionConv(16, 4, heads=4),
    "GCNConv": lambda: GCNConv(16, 16),
    "SAGEConv": lambda: SAGEConv(16, 16),
    "GATConv": lambda: GATConv(16, 4, heads=4),
}


def batch_of_pairs(transform):
    return transform(Batch.from_data_list([random_pair(20, 15), random_pair(1, 9), random_pair(0, 4)]))


@pytest.mark.parametrize("name", BRANCHES)
def test_any_conv_as_branch(name):
    data = batch_of_pairs(RingPartition([3, 8]))
    graphs = scales(data)
    convs = [BRANCHES[name](), BRANCHES[name]()]
    features = MultiScaleConv(convs)(data.x, graphs)
    assert len(features) == 2
    for feature, conv, edges in zip(features, convs, graphs, strict=True):
        assert torch.equal(feature, conv(data.x, edges))
        assert torch.allclose(feature, conv(data.x, edges.as_tensor()), atol=1e-5)
    fused = MultiScaleConv(convs, fusion=OrthogonalFusion(16))
    out, parts = fused(data.x, graphs, return_scales=True)
    assert torch.equal(out, fused(data.x, graphs))
    assert out.shape == (49, 16)
    loss = out.square().sum() + orthogonality_penalty(*parts)
    loss.backward()
    for key, parameter in fused.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def test_a_batch_equals_its_examples():
    transform = NestedPartition([2, 6])
    pairs = [transform(random_pair(*counts)) for counts in ((20, 15), (1, 9), (0, 4))]
    conv = MultiScaleConv(
        [PartitionGCNConv(16, 16), PartitionGCNConv(16, 16)], OrthogonalFusion(16, residual=True)
    )
    batch = Batch.from_data_list(pairs)
    out = conv(batch.x, scales(batch), pos=batch.pos)
    expected = torch.cat([conv(pair.x, scales(pair), pos=pair.pos) for pair in pairs])
    assert torch.allclose(out, expected, atol=1e-5)


def test_arguments_for_all_branches_or_for_each():
    data = RingPartition([3, 8])(random_pair(20, 15))
    graphs = scales(data)
    convs = [PartitionGCNConv(16, 16), PartitionGCNConv(16, 16)]
    weights = [torch.rand(graph.size(1)) for graph in graphs]
    out = MultiScaleConv(convs)(data.x, graphs, edge_weight=weights, pos=data.pos)
    for feature, conv, edges, weight in zip(out, convs, graphs, weights, strict=True):
        assert torch.equal(feature, conv(data.x, edges, weight, pos=data.pos))


@pytest.mark.filterwarnings("ignore:There exist node types")
def test_in_pyg_containers():
    data = RingPartition([3, 8])(random_pair(20, 15))
    x, graphs = data.x, scales(data)
    conv = MultiScaleConv([PartitionGCNConv(16, 16), SAGEConv(16, 16)], OrthogonalFusion(16))
    model = Sequential("x, graphs", [(conv, "x, graphs -> x"), torch.nn.ReLU()])
    assert torch.allclose(model(x, graphs), conv(x, graphs).relu())
    assert GPSConv(16, conv, heads=4)(x, graphs).shape == (35, 16)
    cross = torch.stack([torch.randint(12, (50,)), torch.randint(35, (50,))])
    y = torch.randn(12, 8)
    sage = SAGEConv((8, 16), 16)
    hetero = HeteroConv({("a", "near", "a"): conv, ("b", "to", "a"): sage})
    out = hetero({"a": x, "b": y}, {("a", "near", "a"): graphs, ("b", "to", "a"): cross})
    assert torch.allclose(out["a"], conv(x, graphs) + sage((y, x), cross), atol=1e-5)


class Net(torch.nn.Module):
    """Branches and fusion of a multi-scale convolution where PyG can see them one by one."""

    def __init__(self):
        super().__init__()
        self.near = PartitionGCNConv(16, 8, add_self_loops=False)
        self.far = PartitionGCNConv(16, 8, add_self_loops=False)
        self.fusion = OrthogonalFusion(8)

    def forward(self, x, edge_index_0, edge_index_1):
        return self.fusion([self.near(x, edge_index_0), self.far(x, edge_index_1)])


def test_to_hetero():
    x = {"a": torch.randn(30, 16), "b": torch.randn(12, 16)}
    keys = [("a", "to", "a"), ("b", "to", "a"), ("a", "to", "b")]
    graphs = [
        {
            k: torch.stack([torch.randint(len(x[k[0]]), (60,)), torch.randint(len(x[k[2]]), (60,))])
            for k in keys
        }
        for _ in range(2)
    ]
    model = to_hetero(Net(), (["a", "b"], keys), aggr="sum")
    out = model(x, *graphs)
    assert out["a"].shape == (30, 8) and out["b"].shape == (12, 8)


def test_reset_repr_and_errors():
    conv = MultiScaleConv([GCNConv(4, 8), SAGEConv(4, 8)], OrthogonalFusion(8))
    assert str(conv) == (
        "MultiScaleConv([GCNConv(4, 8), SAGEConv(4, 8, aggr=mean)], "
        "fusion=OrthogonalFusion(8, num_scales=2, project=True, residual=False))"
    )
    before = [parameter.clone() for parameter in conv.parameters() if parameter.dim() > 1]
    conv.reset_parameters()
    after = [parameter for parameter in conv.parameters() if parameter.dim() > 1]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    edge_index = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="expected a list of 2 graphs, got 1"):
        conv(torch.rand(2, 4), [edge_index])
    with pytest.raises(ValueError, match="expected a list of 2 graphs, got Tensor"):
        conv(torch.rand(2, 4), edge_index)
    with pytest.raises(ValueError, match="at least one convolution, got none"):
        MultiScaleConv([])


@pytest.mark.parametrize("count", [1, 3])
def test_lists_for_another_number_of_branches_are_refused(count):
    edges, weight = torch.tensor([[0, 1], [1, 0]]), torch.ones(2)
    conv = MultiScaleConv([PartitionGCNConv(4, 2), PartitionGCNConv(4, 2)])
    with pytest.raises(ValueError, match=f"an item for each of 2 graphs, got {count}"):
        conv(torch.rand(2, 4), [edges, edges], edge_weight=[weight] * count)
