import pytest
import torch
from helpers import loaded_example
from scipy.sparse.csgraph import shortest_path
from torch_geometric.datasets import KarateClub


@pytest.fixture(scope="module")
def example():
    with loaded_example("custom_layer_in_pyg") as module:
        yield module


def test_prints_a_row_for_each_layer_and_task(example, capsys):
    threads = torch.get_num_threads()
    try:
        example.main(["--epochs", "1", "--seeds", "1", "--parameters", "3000"])
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    for task in example.TASKS:
        start = lines.index(task) + 2
        for entry, line in zip(example.ENTRIES, lines[start:], strict=False):
            assert line.startswith(entry.name)
            hidden, parameters, accuracy, *_ = line[len(entry.name) :].split()
            assert int(hidden) % example.HEADS == 0
            assert int(parameters) <= 3000
            assert 0 <= float(accuracy) <= 1


def test_hops_are_shortest_paths(example):
    data = KarateClub()[0]
    out = example.HopPartition()(data)
    adjacency = torch.zeros(34, 34)
    adjacency[data.edge_index[1], data.edge_index[0]] = 1
    distance = torch.from_numpy(shortest_path(adjacency.numpy(), unweighted=True))
    for scale in (0, 1):
        expected = (distance == scale + 1).nonzero().t().flip(0)
        assert torch.equal(out[f"edge_index_{scale}"].as_tensor(), expected)
        assert out[f"edge_index_{scale}"].is_sorted_by_col


def test_shapes_lie_on_their_surfaces(example):
    generator = torch.Generator().manual_seed(0)
    shape = {name: getattr(example.Shapes, name)(200, generator) for name in example.Shapes.names}
    one = torch.ones(200)
    assert torch.allclose(shape["sphere"].norm(dim=1), one)
    assert torch.allclose(shape["cube"].abs().amax(1), one)
    assert torch.allclose(shape["cylinder"][:, :2].norm(dim=1), one)
    x, y, z = shape["torus"].t()
    assert torch.allclose(((x**2 + y**2).sqrt() - 1) ** 2 + z**2, 0.16 * one, atol=1e-5)


def test_clouds_repeat(example):
    first, second = (example.Shapes(8, 20, example.KNNGraph(3), seed=1) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.pos, b.pos) and torch.equal(a.edge_index, b.edge_index)
    assert [int(data.y) for data in first] == [0, 1, 2, 3] * 2
    assert not torch.equal(first[0].pos, example.Shapes(8, 20, example.KNNGraph(3), seed=2)[0].pos)
