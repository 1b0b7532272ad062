import numpy as np
import pytest
import torch
from helpers import random_set
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from pyg_match.data import KeypointSet
from pyg_match.transforms import KNNGraph, RingPartition
from pyg_match.visualization import plot_graph
from pyg_match.visualization.canvas import CYCLE

IMAGE = torch.rand(3, 48, 64)


def edges_of(axes):
    return [c for c in axes.collections if isinstance(c, LineCollection)]


def test_one_keypoint_and_all(tmp_path):
    data = KNNGraph(4)(random_set(30, size=(64, 48)))
    figure = plot_graph(IMAGE, data, node=7, title="title", path=tmp_path / "graph.svg")
    left, right = figure.axes
    assert [len(c.get_segments()) for c in edges_of(left)] == [4]
    assert [len(c.get_segments()) for c in edges_of(right)] == [120]
    for segment in edges_of(left)[0].get_segments():
        assert torch.allclose(torch.tensor(segment[1]).float(), data.pos[7])
    assert (tmp_path / "graph.svg").stat().st_size > 1000


def test_scales_have_colours_of_their_own():
    data = RingPartition([2, 5])(random_set(30, size=(64, 48)))
    left, _ = plot_graph(IMAGE, data, ("edge_index_0", "edge_index_1")).axes
    assert [len(c.get_segments()) for c in edges_of(left)] == [2, 3]
    assert [tuple(c.get_colors()[0])[:3] for c in edges_of(left)] == [
        to_rgba(colour)[:3] for colour in CYCLE[:2]
    ]


def test_no_keypoints():
    figure = plot_graph(IMAGE, KNNGraph(2)(random_set(0)))
    assert all(sum(len(lines.get_segments()) for lines in axes.collections[1:]) == 0 for axes in figure.axes)


def test_errors():
    data = KNNGraph(2)(random_set(5))
    with pytest.raises(ValueError, match="keypoint 5 does not exist"):
        plot_graph(IMAGE, data, node=5)
    with pytest.raises(ValueError, match="no edges 'edge_index_0', expected some of"):
        plot_graph(IMAGE, data, ("edge_index_0",))


@pytest.mark.parametrize("shape", [(20, 3000), (3000, 20)])
def test_figures_of_long_images_are_bounded(shape):
    data = KNNGraph(2)(KeypointSet(pos=torch.rand(9, 2) * 20, image_size=shape[::-1]))
    width, height = plot_graph(np.zeros(shape, np.uint8), data).get_size_inches()
    assert width == 7 and 0.3 < height < 30


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.double])
def test_positions_of_any_kind(kind):
    data = KNNGraph(4)(random_set(20, size=(64, 48)))
    data.pos = data.pos.to(kind).requires_grad_()
    assert len(edges_of(plot_graph(IMAGE, data).axes[1])[0].get_segments()) == 80
