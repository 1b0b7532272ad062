import pytest
import torch
from torch_geometric.utils import to_undirected

from pyg_match.ops import undirected as module
from pyg_match.ops.undirected import undirected


def random_edges(nodes, degree, repeated=False):
    """Edges by target, a few or none for each."""
    generator = torch.Generator().manual_seed(nodes)
    counts = torch.randint(degree + 1, (nodes,), generator=generator)
    rows = [torch.randperm(nodes, generator=generator)[:count] for count in counts.tolist()]
    rows = [torch.cat([row, row[:2]]) for row in rows] if repeated else rows
    rowptr = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return rowptr, torch.cat([torch.empty(0, dtype=torch.long), *rows])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("nodes", "degree"), [(0, 0), (1, 1), (2, 1), (40, 0), (40, 3), (300, 20)])
@pytest.mark.parametrize("repeated", [False, True])
def test_equals_pyg(monkeypatch, compiled, nodes, degree, repeated):
    """Loops, repeated edges, and nodes without any included."""
    rowptr, col = random_edges(nodes, degree, repeated)
    if not compiled:
        monkeypatch.setattr(module, "library", lambda: None)
    edges = undirected(rowptr, col)
    target = torch.arange(nodes).repeat_interleave(rowptr.diff())
    # PyG sorts by its first row.
    assert torch.equal(edges.listed().flip(0), to_undirected(torch.stack([target, col]), num_nodes=nodes))
    assert edges.rowptr.shape == (nodes + 1,) and edges.rowptr[-1] == edges.col.numel()


def test_numbers_that_do_not_lie_side_by_side():
    rowptr, col = random_edges(30, 4)
    apart = [torch.stack([t, t], dim=1)[:, 0] for t in (rowptr, col)]
    assert torch.equal(undirected(*apart).listed(), undirected(rowptr, col).listed())
