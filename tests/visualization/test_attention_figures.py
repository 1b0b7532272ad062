import sys

import numpy as np
import pytest
import torch
from helpers import random_pair
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from PIL import Image

from pyg_match.nn import GraphMatcher
from pyg_match.transforms import KNNGraph
from pyg_match.visualization import (
    EASY,
    HARD,
    MEDIUM,
    UNKNOWN,
    AttentionPanel,
    Canvas,
    Difficulty,
    plot_attention,
    plot_attention_comparison,
    plot_attention_grid,
    plot_attention_panels,
    plot_difficulty,
    plot_layer_curves,
    plot_repeated_groups,
    record_attention,
)
from pyg_match.visualization.canvas import BLUE, GREEN, PAGE, VERMILION, YELLOW
from pyg_match.visualization.keypoint_figures import DIFFICULTY_COLOURS

# Sizes of the images of random_pair.
IMAGES = (torch.rand(3, 480, 640), torch.rand(3, 600, 320))
SHIFT = 640 + 6


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return random_pair(12, 9)


@pytest.fixture(scope="module")
def matcher():
    torch.manual_seed(1)
    return GraphMatcher(in_channels=16, hidden_channels=32, num_layers=3, heads=2).eval()


@pytest.fixture(scope="module")
def record(matcher, pair):
    with record_attention(matcher) as found:
        matcher(pair)
    return found


def collections(axes, kind):
    return [c for c in axes.collections if isinstance(c, kind)]


def labelled(axes, kind, label):
    (found,) = [c for c in collections(axes, kind) if c.get_label() == label]
    return found


def on_canvas(pair):
    points = pair.pos.numpy().astype(float)
    points[12:] += [SHIFT, 0]
    return points


@pytest.mark.parametrize("node", [4, 15])
def test_lines_are_the_coefficients(pair, record, node, tmp_path):
    figure = plot_attention(
        *IMAGES,
        pair,
        record,
        node,
        layer=1,
        head=1,
        partner=3,
        title="title",
        path=tmp_path / "attention.svg",
    )
    (axes,) = figure.axes
    points = on_canvas(pair)
    for kind, colour in (("self", BLUE), ("cross", VERMILION)):
        source, alpha = record.of(node, 1, kind, 1)
        order = alpha.argsort(stable=True)
        lines = labelled(axes, LineCollection, kind)
        segments = np.array(lines.get_segments())
        assert np.allclose(segments[:, 0], points[node])
        assert np.allclose(segments[:, 1], points[source[order]])
        colours = np.array(lines.get_colors())
        assert np.allclose(colours[:, :3], to_rgba(colour)[:3])
        assert np.allclose(colours[:, 3], alpha[order] / alpha.max(), atol=1e-6)
    query, match = (labelled(axes, PathCollection, label) for label in ("query", "match"))
    assert np.allclose(query.get_offsets(), points[node])
    assert np.allclose(match.get_offsets(), points[3 + 12 if node < 12 else 3])
    assert np.allclose(query.get_edgecolors()[0], to_rgba(YELLOW))
    assert np.allclose(match.get_edgecolors()[0], to_rgba(GREEN))
    assert axes.get_title() == "title" and len(axes.images) == 2
    assert (tmp_path / "attention.svg").read_text().startswith("<?xml")
    assert [file.name for file in tmp_path.iterdir()] == ["attention.svg"]  # nothing temporary


def test_one_kind_and_limits(pair, record):
    axes = plot_attention(*IMAGES, pair, record, 2, kind="cross").axes[0]
    assert [c.get_label() for c in collections(axes, LineCollection)] == ["cross"]
    assert len(labelled(axes, LineCollection, "cross").get_segments()) == 9
    from matplotlib.figure import Figure

    from pyg_match.visualization import draw_attention

    axes = Figure().subplots()
    draw_attention(axes, Canvas(*IMAGES), AttentionPanel(pair, record, 2, 0), max_lines=4)
    assert [len(c.get_segments()) for c in collections(axes, LineCollection)] == [4, 4]
    nothing = Figure().subplots()
    draw_attention(nothing, Canvas(*IMAGES), AttentionPanel(pair, record, 2, 0), max_lines=0)
    assert [len(c.get_segments()) for c in collections(nothing, LineCollection)] == [0, 0]
    # The largest last, on top.
    opacity = np.array(labelled(axes, LineCollection, "self").get_colors())[:, 3]
    assert opacity[-1] == 1 and (np.diff(opacity) >= 0).all()


def test_grid_and_table(pair, record, tmp_path):
    figure = plot_attention_grid(*IMAGES, pair, record, 5, "self", path=tmp_path / "grid.png")
    assert len(figure.axes) == 3 * 2
    assert [axes.get_title() for axes in figure.axes] == ["head 0", "head 1", "", "", "", ""]
    assert [axes.texts[0].get_text() for axes in figure.axes[::2]] == ["layer 0", "layer 1", "layer 2"]
    drawn = [labelled(axes, LineCollection, "self").get_colors() for axes in figure.axes]
    for number, colours in enumerate(drawn):
        alpha = record.of(5, number // 2, "self", number % 2)[1]
        assert np.allclose(np.sort(np.array(colours)[:, 3]), (alpha / alpha.max()).sort().values, atol=1e-6)
    assert Image.open(tmp_path / "grid.png").width == 200 * PAGE
    assert len(plot_attention_grid(*IMAGES, pair, record, 5, layers=[-1]).axes) == 2
    panel = AttentionPanel(pair, record, 5, 0)
    for rows in ([], [[]], [[panel], [panel, panel]]):
        with pytest.raises(ValueError, match="expected rows of equally many panels"):
            plot_attention_panels(*IMAGES, rows)


def test_comparison_of_graphs(pair, record, matcher):
    sparse = KNNGraph(3)(pair.clone())
    with record_attention(matcher, nodes=[7]) as other:
        matcher(sparse)
    records = {"complete": (pair, record), "nearest": (sparse, other)}
    figure = plot_attention_comparison(*IMAGES, records, 7, [0, 2], "self")
    assert [axes.get_title() for axes in figure.axes] == ["complete", "nearest", "", ""]
    lines = [len(labelled(axes, LineCollection, "self").get_segments()) for axes in figure.axes]
    assert lines == [12, 3, 12, 3]


def test_keypoints_by_difficulty(pair, tmp_path):
    labels = torch.tensor([EASY] * 4 + [MEDIUM] * 5 + [HARD] * 3 + [UNKNOWN] * 9)
    figure = plot_difficulty(
        *IMAGES, pair, Difficulty(labels, labels, labels), path=tmp_path / "difficulty.pdf"
    )
    axes = figure.axes[0]
    for label, name in (
        (EASY, "easy (4)"),
        (MEDIUM, "medium (5)"),
        (HARD, "hard (3)"),
        (UNKNOWN, "unknown (9)"),
    ):
        points = labelled(axes, PathCollection, name)
        assert np.allclose(points.get_offsets(), on_canvas(pair)[labels == label])
        assert np.allclose(points.get_facecolors()[0], to_rgba(DIFFICULTY_COLOURS[label]))
    assert len(set(DIFFICULTY_COLOURS.values())) == 4
    assert {text.get_text() for text in axes.get_legend().get_texts()} >= {"easy (4)", "hard (3)"}
    assert (tmp_path / "difficulty.pdf").stat().st_size > 1000
    with pytest.raises(ValueError, match="expected 21 labels"):
        plot_difficulty(*IMAGES, pair, Difficulty(labels[:3], labels[:3], labels[:3]))


def test_repeated_groups(pair, record):
    groups = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1, -1])
    pos = pair.pos[12:]
    figure = plot_repeated_groups(IMAGES[1], pos, groups, record, group=1, layer=2, first_node=12)
    left, right = figure.axes
    assert left.get_title() == "2 groups, the 2 largest in colour"
    sizes = [len(c.get_offsets()) for c in collections(left, PathCollection)]
    assert sizes == [3, 3, 3]
    received, members = collections(right, PathCollection)
    expected = torch.zeros(21)
    for node in (15, 16, 17):
        source, alpha = record.of(node, 2, "self")
        expected[source] += alpha / 3
    assert np.allclose(received.get_sizes(), 400 * expected[12:], rtol=1e-5)
    assert np.allclose(members.get_offsets(), pos[3:6])
    share = 100 * float(expected[15:18].sum())
    assert right.get_title() == f"layer 2: {share:.0f} % stays in the group"
    assert len(plot_repeated_groups(IMAGES[1], pos, groups).axes) == 1
    with pytest.raises(ValueError, match=r"group 4 does not exist, expected one of \[0, 1\]"):
        plot_repeated_groups(IMAGES[1], pos, groups, record, group=4)
    with pytest.raises(ValueError, match="layer 3 does not exist"):
        plot_repeated_groups(IMAGES[1], pos, groups, record, layer=3)
    with pytest.raises(ValueError, match=r"'groups' must have shape \[9\], got \[2\]"):
        plot_repeated_groups(IMAGES[1], pos, groups[:2])


def test_curves(tmp_path):
    values = torch.rand(5, 3)
    curves = {"many heads": values, "one": values[:, 0]}
    figure = plot_layer_curves(
        curves, "attended distance (pixels)", log=True, title="t", path=tmp_path / "a.svg"
    )
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["many heads", "many heads, lowest head", "one"]
    drawn = [line.get_ydata() for line in axes.lines]
    for found, wanted in zip(drawn, (values.mean(1), values.amin(1), values[:, 0]), strict=True):
        assert np.allclose(found, wanted)
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "-"]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert figure.get_size_inches()[0] == pytest.approx(3.4) and axes.get_yscale() == "log"
    plot_layer_curves(curves, "attended distance (pixels)", log=True, title="t", path=tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(ValueError, match=r"curve 'x' must have shape \[L\] or \[L, H\], got \[1, 2, 3\]"):
        plot_layer_curves({"x": torch.zeros(1, 2, 3)}, "y")


def test_large_images_are_stored_small():
    canvas = Canvas(torch.rand(3, 300, 900), max_side=90)
    assert canvas.pixels[0].shape == (30, 90) and (canvas.width, canvas.height) == (900, 300)


def test_errors(pair, record, tmp_path):
    with pytest.raises(ValueError, match="keypoint 21 does not exist, expected a number from 0 to 20"):
        plot_attention(*IMAGES, pair, record, 21)
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        plot_attention(*IMAGES, pair, record, 1, layer=7)
    for node, partner, count in ((1, 9, 9), (13, 12, 12)):
        with pytest.raises(
            ValueError, match=f"one of the {count} keypoints of the other image, got {partner}"
        ):
            plot_attention(*IMAGES, pair, record, node, partner=partner)
    with pytest.raises(ValueError, match=r"figures are saved as .*, got 'figure.x'"):
        plot_attention(*IMAGES, pair, record, 1, path=tmp_path / "figure.x")
    assert list(tmp_path.iterdir()) == []
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
