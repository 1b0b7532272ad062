import math

import pytest
import torch

from pyg_match.datasets import HomographyWarps
from pyg_match.datasets.homography_warps import inside_photo
from pyg_match.geometry import warp_points

PHOTO, SIZE = (320, 200), (160, 120)


def views(count=40, photo=PHOTO, **kwargs):
    return [
        HomographyWarps(**kwargs).draw(photo, SIZE, torch.Generator().manual_seed(seed))
        for seed in range(count)
    ]


def overlap(view):
    x, y = (torch.linspace(-0.5, extent - 0.5, 60, dtype=torch.float64) for extent in view.size)
    grid = torch.cartesian_prod(x, y)
    shares = []
    for H in (view.homography, torch.linalg.inv(view.homography)):
        seen = warp_points(grid, H)
        limit = torch.tensor(view.size) - 0.5
        shares.append(float(((seen >= -0.5) & (seen <= limit)).all(1).double().mean()))
    return shares


def test_without_warps_both_views_are_one_crop_of_the_photo():
    for view in views(10, perspective=0, rotation=0, scale=1, translation=0, crop=0.5):
        assert torch.allclose(view.homography, torch.eye(3, dtype=torch.float64), atol=1e-9)
        corners = torch.tensor([[-0.5, -0.5], [159.5, 119.5]], dtype=torch.float64)
        photo = warp_points(corners, torch.linalg.inv(view.to_view0))
        extent = photo[1] - photo[0]
        assert float(extent[0] / extent[1]) == pytest.approx(160 / 120)
        assert 0.5 - 1e-9 <= float(extent[1]) / 200 <= 1 + 1e-9
        assert bool((photo >= -0.5 - 1e-6).all()) and bool(
            (photo[1] <= torch.tensor(PHOTO) - 0.5 + 1e-6).all()
        )


def test_rotation_to_any_angle_is_selectable():
    def angles(rotation):
        drawn = views(60, perspective=0, scale=1, translation=0, both=0, rotation=rotation)
        return [math.degrees(math.atan2(v.homography[1, 0], v.homography[0, 0])) for v in drawn]

    assert max(map(abs, angles(20))) <= 20 + 1e-6
    wide = angles(180)
    assert min(wide) < -150 and max(wide) > 150 and any(abs(a) < 40 for a in wide)


def test_overlap_is_partial_but_never_below_its_limit():
    drawn = views(translation=0.4, min_overlap=0.35, scale=1.5)
    shares = [max(overlap(view)) for view in drawn]
    assert min(shares) > 0.3  # the limit, less what a grid misses
    assert sum(share < 0.7 for share in shares) > 10
    assert all(min(overlap(view)) < 1 for view in drawn)


def test_view_0_is_warped_only_as_often_as_asked():
    def is_upright(view):
        return float(view.to_view0[2, :2].abs().max()) < 1e-12

    assert all(is_upright(view) for view in views(both=0))
    assert not any(is_upright(view) for view in views(both=1))
    assert 5 < sum(is_upright(view) for view in views(both=0.5)) < 35


def test_every_view_looks_at_one_side_of_the_photo():
    """No view shows the horizon, however strong the perspective."""
    for view in views(30, perspective=0.45, translation=0.5, scale=3, rotation=180, min_overlap=0.1):
        corners = torch.tensor([[0, 0, 1], [159, 0, 1], [159, 119, 1], [0, 119, 1]], dtype=torch.float64)
        for H in (view.homography, torch.linalg.inv(view.to_view0), torch.linalg.inv(view.to_view1)):
            depth = corners @ H[2] * H[2, 2].sign()
            assert float(depth.min()) > 0
        assert float(torch.linalg.det(view.homography)) > 0


def test_tilt_shortens_a_drawn_direction():
    """Areas and the centre stay, ratios fill the range, and without tilt nothing else is drawn."""
    settings = {"perspective": 0, "rotation": 0, "scale": 1, "translation": 0, "both": 0, "min_overlap": 0}
    ratios, directions = [], []
    for view in views(200, tilt=4, **settings):
        left, (longest, shortest), _ = torch.linalg.svd(view.homography[:2, :2])
        assert float(longest * shortest) == pytest.approx(1)
        centre = torch.tensor([[79.5, 59.5]], dtype=torch.float64)
        assert torch.allclose(warp_points(centre, view.homography), centre)
        ratios.append(float(longest / shortest))
        directions.append(float(left[1, 0] / left[0, 0]))
    assert 1 <= min(ratios) < 1.1
    assert 3.7 < max(ratios) <= 4
    assert 90 < sum(ratio < 2 for ratio in ratios) < 110  # the logarithm is uniform
    assert min(directions) < -3
    assert max(directions) > 3
    for plain, still in zip(views(5), views(5, tilt=1), strict=True):
        assert torch.equal(plain.homography, still.homography)


def test_portrait_photos_have_upright_views():
    assert views(1, photo=(200, 320))[0].size == (120, 160)
    assert views(1, photo=(320, 200))[0].size == SIZE
    assert views(1, photo=(200, 200))[0].size == SIZE


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_inside_photo(sign):
    """Compared with the distance to many points of the photo's outline, seen in the view."""
    for view in views(8, both=1, rotation=180):
        pos = torch.rand(300, 2) * torch.tensor(view.size)
        to_view = sign * view.to_view1
        t = torch.linspace(0, 1, 4000, dtype=torch.float64)[:, None]
        corners = torch.tensor(
            [[-0.5, -0.5], [319.5, -0.5], [319.5, 199.5], [-0.5, 199.5]], dtype=torch.float64
        )
        outline = torch.cat([a + t * (b - a) for a, b in zip(corners, corners.roll(-1, 0), strict=True)])
        in_front = outline @ to_view[2, :2] + to_view[2, 2]
        depth = in_front * (sign if float(torch.linalg.det(view.to_view1)) > 0 else -sign)
        seen = warp_points(outline[depth > 1e-3], to_view)
        distance = torch.cdist(pos.double(), seen).amin(1)
        photo = warp_points(pos.double(), torch.linalg.inv(view.to_view1))
        inside = ((photo > -0.5) & (photo < torch.tensor(PHOTO) - 0.5)).all(1)
        for margin in (0.0, 4.0):
            expected = inside & (distance >= margin)
            sure = (distance - margin).abs() > 0.2
            assert torch.equal(inside_photo(pos, to_view, PHOTO, margin)[sure], expected[sure])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"perspective": 0.5},
        {"rotation": 181.0},
        {"scale": 0.9},
        {"translation": -0.1},
        {"tilt": 0.5},
        {"both": 1.1},
        {"crop": 0.0},
        {"min_overlap": float("nan")},
    ],
)
def test_ranges(kwargs):
    with pytest.raises(ValueError, match=f"'{next(iter(kwargs))}' must be in .*, got"):
        HomographyWarps(**kwargs)
