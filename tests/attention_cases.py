"""Inputs of the operators."""

import torch

from pyg_match.ops import CSR, EdgeSet

# Parts of nodes that see each other, and two sets of nodes seen by more than one of them; one group has no targets and
# one no sources.
GROUPS = [[0, 4, 0, 4], [4, 9, 4, 9], [9, 9, 9, 12], [9, 12, 12, 12], [0, 9, 12, 15], [9, 12, 15, 17]]
SOURCE = [*range(12), 0, 4, 8, 9, 11]


def edge_set(seed=0, weighted=True, listed=True, ordered=False):
    """Twelve nodes with groups, which divide them in another order or not, and two random sources each besides."""
    generator = torch.Generator().manual_seed(seed)
    col = torch.randint(12, (24,), generator=generator) if listed else torch.empty(0, dtype=torch.long)
    rowptr = torch.arange(13) * (2 if listed else 0)
    log_weight = torch.rand(24, generator=generator, dtype=torch.double) * 3 if weighted else None
    groups, source = torch.tensor(GROUPS), torch.tensor(SOURCE)
    order = torch.randperm(12, generator=generator) if ordered else None
    return EdgeSet.of(CSR(rowptr, col), 12, 12).with_groups(groups, source, log_weight, order)


def windows(count=5, size=3, anchors=4):
    """Nodes of two images in windows, of which the last of each holds one node more, and anchors of each image."""
    generator = torch.Generator().manual_seed(0)
    num_nodes = 2 * (count * size + 1)
    half = num_nodes // 2
    order = torch.cat([torch.randperm(half, generator=generator) + start for start in (0, half)])
    bounds = [start + size * i for start in (0, half) for i in range(count)]
    rows = [[first, last] for first, last in zip(bounds, [*bounds[1:], num_nodes], strict=True)]
    groups = [row * 2 for row in rows]
    groups += [
        [half * i, half * (i + 1), num_nodes + anchors * i, num_nodes + anchors * (i + 1)] for i in (0, 1)
    ]
    of_anchors = torch.cat([torch.arange(anchors) + start for start in (0, half)])
    log_weight = torch.cat([torch.zeros(num_nodes), torch.rand(num_nodes, generator=generator)]).double()
    none = EdgeSet.of(torch.empty(2, 0, dtype=torch.long), num_nodes, num_nodes)
    return none.with_groups(groups, torch.cat([order, of_anchors]), log_weight, order)


def nodes(channels=4, value_channels=4, dtype=torch.double):
    generator = torch.Generator().manual_seed(1)
    widths = (channels, channels, value_channels)
    return [torch.randn(12, 2, width, generator=generator, dtype=torch.double).to(dtype) for width in widths]


def random_case(
    seed, targets, sources, edges, heads, channels, value_channels, dtype=torch.double, hub=False
):
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    q, k, v = (
        randn(targets, heads, channels),
        randn(sources, heads, channels),
        randn(sources, heads, value_channels),
    )
    edges = edges if targets * sources > 0 else 0
    source = torch.randint(max(sources, 1), (edges,), generator=generator)
    target = torch.randint(max(targets, 1), (edges,), generator=generator)
    if hub:
        target[edges // 4 :] = targets // 2
    mask = torch.rand(edges, generator=generator) < 0.6
    return q, k, v, torch.stack([source, target]), 3 * randn(edges, heads), mask
