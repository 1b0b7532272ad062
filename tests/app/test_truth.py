import numpy as np
import pytest
import torch

from pyg_match.app.truth import MISSED, NONE, RIGHT, UNJUDGED, WRONG, Truth
from pyg_match.data import KeypointPair, KeypointSet


def pair_of(pos0, pos1, **kwargs):
    sets = [
        KeypointSet(pos=torch.as_tensor(pos).float(), x=torch.randn(len(pos), 4), image_size=(640, 480))
        for pos in (pos0, pos1)
    ]
    return KeypointPair.from_sets(*sets, **kwargs)


def shifted(count=80, depth=False):
    """Keypoints that move to the side: by the same for all, or by their depth; the last five matches are wrong."""
    rng = np.random.default_rng(0)
    pos = rng.uniform(50, 400, (count, 2))
    step = 60 / rng.uniform(1, 4, (count, 1)) if depth else np.full((count, 1), 20.0)
    pair = pair_of(pos, pos + step * [[1, 0]])
    matches = torch.arange(count)
    matches[-5:] = matches[-5:].roll(1)
    matches[0] = -1
    back = torch.full((count,), -1)
    back[matches[matches >= 0]] = (matches >= 0).nonzero().squeeze(1)
    return pair, torch.cat([matches, back])


def test_ground_truth():
    y = torch.tensor([0, 1, -1, -2, 4, 0, 1, -1, -2, 4])
    pair = pair_of(torch.rand(5, 2), torch.rand(5, 2), y=y)
    matches = torch.tensor([0, 2, 1, 3, -1, 0, 2, 1, 3, -1])
    truth = Truth.of(pair, matches)
    assert (truth.name, truth.right, truth.wrong) == ("ground truth", "right", "wrong")
    assert truth.judge(pair, matches).tolist() == [RIGHT, WRONG, WRONG, UNJUDGED, MISSED]
    given = Truth.of(pair, matches, torch.full((10,), -1))
    assert given.judge(pair, matches).tolist() == [WRONG] * 4 + [NONE]


def test_a_given_homography():
    pair, matches = shifted()
    truth = Truth.of(pair, matches, [[1, 0, 20], [0, 1, 0], [0, 0, 1]])
    verdict = truth.judge(pair, matches)
    assert verdict[0] == MISSED
    assert (verdict[1:75] == RIGHT).all() and (verdict[75:] == WRONG).all()
    with pytest.raises(ValueError, match=r"partners \[160\] or a homography \[3, 3\], got \[3\]"):
        Truth.of(pair, matches, torch.zeros(3))
    backwards = np.array([[1.0, 0, 0], [0, 1, 0], [20, 0, 1]])[::-1, ::-1][::-1, ::-1].T
    assert torch.equal(Truth.of(pair, matches, backwards).judge(pair, matches), verdict)
    with pytest.raises(TypeError, match=r"partners in whole numbers, got torch\.float32"):
        Truth.of(pair, matches, torch.full((160,), 2.7))
    with pytest.raises(ValueError, match=r"names keypoint 80 of the other image, but there are \[80, 80\]"):
        Truth.of(pair, matches, torch.full((160,), 80))


@pytest.mark.parametrize(("depth", "name"), [(False, "homography"), (True, "fundamental matrix")])
def test_the_geometry_fits_the_data(depth, name):
    pair, matches = shifted(depth=depth)
    truth = Truth.of(pair, matches)
    assert truth.name.startswith(f"{name} of the matches") and truth.right == "inlier"
    verdict = truth.judge(pair, matches)
    assert (verdict[1:75] == RIGHT).all()
    assert (verdict[75:] == WRONG).sum() >= 3
    # A fundamental matrix says of no keypoint that it has a partner.
    assert verdict[0] == (NONE if depth else MISSED)
    other = matches.clone()
    other[1] = -1
    # Other matches are judged by the same geometry.
    assert torch.equal(truth.judge(pair, other)[2:], verdict[2:])


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_matches_are_not_judged(count):
    pair = pair_of(torch.rand(count, 2), torch.rand(count + 1, 2))
    matches = torch.cat([torch.arange(count), torch.arange(count), torch.tensor([-1])])
    truth = Truth.of(pair, matches)
    assert "no geometry fits" in truth.name and truth.partner is None
    assert truth.judge(pair, matches).tolist() == [UNJUDGED] * count
