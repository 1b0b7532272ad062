"""Pairs made as they are needed, against those of the cache."""

import pytest
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pyg_match.data import KeypointSet
from pyg_match.datasets import PhotoPairs, SyntheticHomographies
from pyg_match.datasets.live_pairs import LivePairs
from pyg_match.datasets.views import RenderedView, view_keypoints
from pyg_match.features import SIFT
from pyg_match.transforms import KNNGraph, graph_from_recipe

GRAPH = graph_from_recipe([{"KNNGraph": {"k": 4, "loop": True}}, {"CandidateEdges": {"k": 3}}])
CPU = torch.device("cpu")


def dataset(photos, extractor, **kwargs):
    options = {
        "num_pairs": 6, "size": (160, 120), "max_num_keypoints": 60, "min_num_keypoints": 20, "repeats": 0.3,
        "unrelated": 0.4, "seed": 3, "negative_threshold": 4.0,
    }  # fmt: skip
    return SyntheticHomographies(photos, extractor, **{**options, **kwargs})


def assert_equal(batch, other):
    assert sorted(batch.keys()) == sorted(other.keys())
    for name in batch.keys():  # noqa: SIM118
        assert torch.equal(batch[name].nan_to_num(-9), other[name].nan_to_num(-9)), name


@pytest.mark.parametrize("extractor", ["aliked", SIFT()])
def test_pairs_are_those_of_the_cache(photos, tmp_path, extractor):
    cached = dataset(photos, extractor, cache=tmp_path, transform=GRAPH)
    cached.prepare()
    live = LivePairs([dataset(photos, extractor, transform=KNNGraph(2))], GRAPH)
    assert len(live) == 6 and live.prepare() == 0
    assert any(bool(pair.homography.isnan().all()) for pair in cached)
    for chosen in ([0], [1, 2, 3], [5, 4]):
        batch = live.batch([live[index] for index in chosen], CPU)
        assert_equal(batch, Batch.from_data_list([cached[index] for index in chosen]))


def test_other_kinds_of_pairs_come_from_their_cache(photos, tmp_path):
    paths = sorted(photos.glob("*.png"))
    of_photos = PhotoPairs([(paths[0], paths[1])], "aliked", max_num_keypoints=32, resize=120, cache=tmp_path)
    live = LivePairs([dataset(photos, "aliked"), of_photos], GRAPH)
    assert len(live) == 7 and live.prepare() == 1 and set(paths) <= set(live.paths)
    batch = live.batch([live[6], live[0]], CPU)
    assert bool(batch.homography[0].isnan().all()) and batch.num_keypoints.shape == (2, 2)
    assert torch.equal(batch[0].x, of_photos[0].x)
    assert torch.equal(live[-1][1].x, live[6][1].x) and live[-7][1].number == 0
    for index in (7, -8):
        with pytest.raises(IndexError, match=f"pair {index} does not exist, there are 7"):
            live[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_views_rendered_where_keypoints_are_found(photos, workers):
    part = dataset(photos, SIFT())
    live, there = LivePairs([part], GRAPH), LivePairs([part], GRAPH, render_on_device=True)
    loader = DataLoader(there, batch_size=6, collate_fn=list, num_workers=workers)
    (items,) = loader
    drawn = [item for _, item in items]
    assert {view.photo.dtype for pair in drawn for view in pair[1:3]} == {torch.uint8, torch.float}
    assert_equal(there.batch(items, CPU), live.batch([live[index] for index in range(6)], CPU))


@pytest.mark.filterwarnings("error:.*nearly black")
def test_dark_views_are_no_reason_to_warn():
    view = 0.004 * torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(0))
    rendered = RenderedView(view, torch.eye(3, dtype=torch.float64), (120, 90))
    (found,) = view_keypoints(SIFT(), [rendered], 10)
    assert found.num_keypoints == min(10, SIFT()(view).num_keypoints)


def test_processes_render_and_this_one_finds(photos):
    live = LivePairs([dataset(photos, SIFT())], GRAPH)
    loader = DataLoader(live, batch_size=3, collate_fn=list, num_workers=2)
    for start, items in zip((0, 3), loader, strict=True):
        expected = live.batch([live[index] for index in range(start, start + 3)], CPU)
        assert_equal(live.batch(items, CPU), expected)


def test_keypoints_of_a_batch_are_found_together(photos):
    calls = []

    class Counting(SIFT):
        def forward_batch(self, images, **kwargs) -> list[KeypointSet]:
            calls.append(len(images))
            return super().forward_batch(images, **kwargs)

    live = LivePairs([dataset(photos, Counting())], GRAPH)
    live.batch([live[index] for index in range(4)], CPU)
    assert calls == [8]
