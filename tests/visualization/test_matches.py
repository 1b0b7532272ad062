import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from PIL import Image

from pyg_match import MatchResult
from pyg_match.visualization import plot_matches
from pyg_match.visualization.matches import CORRECT, WRONG

IMAGES = (torch.rand(3, 40, 60), torch.rand(3, 30, 50))


def some_result(count=6):
    keypoints0, keypoints1 = torch.rand(9, 2) * 30, torch.rand(8, 2) * 30
    matches = torch.stack([torch.arange(count), torch.arange(count)], 1)
    return MatchResult(keypoints0, keypoints1, matches, torch.linspace(0.1, 0.9, count), (60, 40), (50, 30))


def lines_of(figure):
    (lines,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    return lines


def test_draws_what_was_matched(tmp_path):
    result = some_result()
    figure = plot_matches(*IMAGES, result, path=tmp_path / "matches.svg", title="title")
    points = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert [len(c.get_offsets()) for c in points] == [9, 8]
    segments = np.array(lines_of(figure).get_segments())
    assert np.allclose(segments[:, 0], result.points0)
    assert np.allclose(
        segments[:, 1] - segments[:, 1].min(0), result.points1 - result.points1.min(0).values, atol=1e-4
    )
    assert (segments[:, 1, 0] >= 60).all()
    assert len({tuple(c) for c in lines_of(figure).get_colors()}) == 6
    assert (tmp_path / "matches.svg").read_text().startswith("<?xml")
    plot_matches(*IMAGES, result, path=tmp_path / "matches.png")
    assert Image.open(tmp_path / "matches.png").width == 1500


def test_colours_by_correctness_and_limit():
    correct = np.array([True, False, True, True, False, True])
    figure = plot_matches(*IMAGES, some_result(), correct=correct)
    colours = [tuple(c)[:3] for c in lines_of(figure).get_colors()]
    assert colours == [to_rgba(CORRECT if right else WRONG)[:3] for right in correct]
    figure = plot_matches(*IMAGES, some_result(), max_lines=2)
    assert len(lines_of(figure).get_segments()) == 2
    assert lines_of(plot_matches(*IMAGES, some_result(), max_lines=0)).get_segments() == []


def test_nothing_to_draw_and_errors(tmp_path):
    with pytest.raises(ValueError, match=r"figures are saved as .*png.*, got 'm.txt'"):
        plot_matches(*IMAGES, some_result(), path=tmp_path / "m.txt")
    assert not list(tmp_path.iterdir())
    assert lines_of(plot_matches(*IMAGES, some_result(0))).get_segments() == []
    with pytest.raises(ValueError, match=r"'correct' must have shape \[6\], got \[2\]"):
        plot_matches(*IMAGES, some_result(), correct=np.array([True, False]))


def test_large_images_are_stored_small_in_their_own_pixels():
    image = torch.zeros(3, 1000, 3000)
    image[0] = 1
    axes = plot_matches(image, IMAGES[1], some_result()).axes[0]
    left, right = axes.images
    assert left.get_array().shape == (500, 1500, 3)
    assert np.asarray(left.get_array()).reshape(-1, 3).min(0).tolist() == [255, 0, 0]
    assert left.get_extent() == [-0.5, 2999.5, 999.5, -0.5]
    assert right.get_array().shape == (30, 50, 3)
    assert right.get_extent()[0] >= 2999.5
