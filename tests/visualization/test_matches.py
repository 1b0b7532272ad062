import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from PIL import Image

from pyg_match import MatchResult
from pyg_match.model_selection import Geometry
from pyg_match.visualization import Canvas, plot_matches
from pyg_match.visualization.matches import CORRECT, WRONG, even_sample

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
    figure = plot_matches(*IMAGES, result, path=tmp_path / "matches.svg", title="title", color_by="score")
    points = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert [len(c.get_offsets()) for c in points] == [9, 8]
    segments = np.array(lines_of(figure).get_segments())
    assert np.allclose(segments[:, 0], result.points0)
    # Image 1 is enlarged from 30 to 40 pixels.
    moved = 4 / 3 * (result.points1 - result.points1.min(0).values)
    assert np.allclose(segments[:, 1] - segments[:, 1].min(0), moved, atol=1e-4)
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
    red, green, blue = np.asarray(left.get_array()).reshape(-1, 3).min(0).tolist()
    assert 120 < red < 255 and green == blue < 40  # dimmed
    assert left.get_extent() == [-0.5, 2999.5, 999.5, -0.5]
    assert right.get_array().shape == (30, 50, 3)
    assert right.get_extent()[0] >= 2999.5 and np.allclose(right.get_extent()[2:], [999.5, -0.5])


def related_result(count=60, wrong=15):
    """Matches of an image with itself, and some wrong ones."""
    keypoints = torch.rand(count, 2) * torch.tensor([300.0, 200.0])
    other = torch.arange(count)
    other[:wrong] = other[:wrong].roll(1)
    matches = torch.stack([torch.arange(count), other], 1)
    return MatchResult(keypoints, keypoints, matches, torch.rand(count), (300, 200), (300, 200))


def caption_of(figure):
    return figure.texts[0].get_text()


def legend_of(figure):
    legend = figure.axes[1].get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_the_caption_says_what_is_shown():
    image = torch.rand(3, 200, 300)
    result = related_result()
    figure = plot_matches(image, image, result)
    assert caption_of(figure) == "60 matches, homography: 45 inliers (3 px)"
    assert legend_of(figure) == ["inlier", "outlier"]
    colours = [tuple(colour)[:3] for colour in lines_of(figure).get_colors()]
    assert colours.count(to_rgba(CORRECT)[:3]) == 45
    inliers = np.ones(60, dtype=bool)
    figure = plot_matches(
        image, image, result, geometry=Geometry("fundamental", np.eye(3), inliers, 1.25), max_lines=20
    )
    assert caption_of(figure) == "20 of 60 matches shown, fundamental matrix: 60 inliers (1.25 px)"
    assert legend_of(figure) == ["inlier"]
    figure = plot_matches(image, image, result, correct=inliers & (np.arange(60) > 9))
    assert caption_of(figure) == "60 matches, 50 right" and legend_of(figure) == ["right", "wrong"]
    figure = plot_matches(image, image, result, color_by="score")
    assert caption_of(figure) == "60 matches" and legend_of(figure) == []
    assert len(figure.axes) == 3  # with a colour bar
    for count, caption in (
        (0, "no matches"),
        (1, "1 match, explained by no homography or fundamental matrix"),
    ):
        assert caption_of(plot_matches(*IMAGES, some_result(count))) == caption
    unrelated = MatchResult(
        result.keypoints0, torch.rand(60, 2) * 200, result.matches, result.scores, (300, 200), (300, 200)
    )
    figure = plot_matches(image, image, unrelated)
    assert caption_of(figure) == "60 matches, explained by no homography or fundamental matrix"
    assert legend_of(figure) == ["outlier"]


def test_wrong_matches_are_shown_in_proportion():
    correct = np.arange(1000) >= 100
    keypoints, order = torch.rand(1000, 2) * 100, torch.arange(1000)
    pairs = torch.stack([order, order], 1)
    result = MatchResult(keypoints, keypoints, pairs, torch.rand(1000), (100, 100), (100, 100))
    image = torch.rand(3, 100, 100)
    for right, lines, wrong in (
        (correct, 50, 5),
        (order.numpy() != 7, 50, 1),
        (correct, 1, 0),
        (correct, 0, 0),
    ):
        drawn = lines_of(plot_matches(image, image, result, correct=right, max_lines=lines))
        colours = [tuple(colour)[:3] for colour in drawn.get_colors()][: len(drawn.get_segments())]
        assert len(drawn.get_segments()) == lines
        assert colours.count(to_rgba(WRONG)[:3]) == wrong


def test_the_sample_is_even_and_always_the_same():
    rng = np.random.default_rng(0)
    # Nearly all points are in one corner.
    points = np.concatenate([rng.uniform(0, 10, (5000, 2)), rng.uniform(0, 100, (300, 2))])
    scores = rng.uniform(0, 1, len(points))
    chosen = even_sample(points, 200, scores)
    assert len(chosen) == len(set(chosen.tolist())) == 200 and (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, even_sample(points, 200, scores))
    quarters = np.bincount((points[chosen] > 50) @ [1, 2], minlength=4)
    assert quarters.min() > 25
    # The best of each cell, whatever the order.
    shuffled = rng.permutation(len(points))
    again = even_sample(points[shuffled], 200, scores[shuffled])
    assert set(shuffled[again].tolist()) == set(chosen.tolist())
    assert scores[chosen].mean() > 0.6
    line = np.stack([np.arange(1000.0), np.zeros(1000)], 1)
    gaps = np.diff(line[even_sample(line, 50), 0])
    assert gaps.max() < 60
    same = np.zeros((9, 2))
    assert even_sample(same, 3, np.arange(9.0)).tolist() == [6, 7, 8]
    assert even_sample(same, 0).tolist() == [] and even_sample(same, 99).tolist() == list(range(9))
    assert even_sample(np.empty((0, 2)), 5).tolist() == []
    with pytest.raises(ValueError, match="count"):
        even_sample(same, -1)


def test_images_have_one_height():
    canvas = Canvas(torch.rand(3, 100, 50), torch.rand(3, 30, 60), same_height=True)
    assert canvas.sizes == [(50.0, 100.0), (200.0, 100.0)] and canvas.height == 100
    corners = canvas.place(np.array([[-0.5, -0.5], [59.5, 29.5]]), 1)
    assert np.allclose(corners, [[51.5, -0.5], [251.5, 99.5]])
    assert np.allclose(canvas.place(np.array([[3.0, 4.0]]), 0), [[3, 4]])
    # A panorama beside a portrait stays lower than it, so that both can be seen.
    canvas = Canvas(torch.rand(3, 20, 600), torch.rand(3, 400, 40), same_height=True)
    assert canvas.sizes[0][0] == pytest.approx(8 * canvas.sizes[1][0])


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8),
        np.random.default_rng(0).integers(0, 65535, (40, 60), np.uint16),
        np.random.default_rng(0).integers(0, 255, (40, 60, 4), np.uint8),
        torch.rand(1, 40, 60),
    ],
    ids=["grey", "16 bits", "alpha", "tensor"],
)
def test_all_kinds_of_images_are_drawn(image, tmp_path):
    plot_matches(image, IMAGES[1], some_result(), path=tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert picture.size[0] == 1500 and pixels[100:300, 100:600].std() > 5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'color_by' must be 'inlier' or 'score', got 'luck'"):
        plot_matches(*IMAGES, some_result(), color_by="luck")
    geometry = Geometry("none", None, np.zeros(2, dtype=bool), 3.0)
    with pytest.raises(ValueError, match=r"the inliers of 'geometry' must have shape \[6\], got \[2\]"):
        plot_matches(*IMAGES, some_result(), geometry=geometry)
