"""Pairs whose keypoints are found when they are needed."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torch_geometric.data import Batch

from pyg_match.data import KeypointPair
from pyg_match.datasets.cached_pairs import CachedPairs
from pyg_match.datasets.synthetic_homographies import SyntheticHomographies
from pyg_match.datasets.views import as_bytes, render_pair


class LivePairs(Dataset[tuple[int, Any]]):
    """Warped photos whose keypoints and edges are found in batches on the device that trains; nothing of them is kept.
    Pairs of other kinds come from their cache.

    Each of any number of pairs is a new one then, which costs no disk.

    Args:
        parts: Datasets whose pairs follow each other.
        transform: Draws the edges of a batch, on its device.
        render_on_device: Whether views are warped and lit on that device, too. Otherwise the processes of a loader do
            so, and with this they read photos only. The noise of a view is another one on another device.

    Example:
        >>> pairs = LivePairs([SyntheticHomographies("photos", "aliked")], KNNGraph(16))  # doctest: +SKIP
        >>> batch = pairs.batch([pairs[0], pairs[1]], torch.device("cuda"))  # doctest: +SKIP
    """

    def __init__(
        self,
        parts: Sequence[CachedPairs],
        transform: Callable[[KeypointPair], KeypointPair] | None = None,
        render_on_device: bool = False,
    ) -> None:
        self.parts = [copy.copy(part) for part in parts]
        for part in self.parts:
            part.transform = None  # type: ignore[attr-defined]
        self.transform = transform
        self.render_on_device = render_on_device

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        """The number of the dataset that a pair is of, and what views are made of, its views, or the pair."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} does not exist, there are {len(self)}")
        place, number = index % len(self), 0
        while place >= len(self.parts[number]):
            place -= len(self.parts[number])
            number += 1
        part = self.parts[number]
        if not isinstance(part, SyntheticHomographies):
            return number, part[place]
        if not self.render_on_device:
            return number, part.rendered(place)
        return number, as_bytes(part.drawn(place))

    def batch(self, items: Sequence[tuple[int, Any]], device: torch.device) -> KeypointPair:
        """A batch with edges, on the device, of what :meth:`__getitem__` gives."""
        pairs: list[Any] = [item for _, item in items]
        for number, part in enumerate(self.parts):
            places = [place for place, (of, _) in enumerate(items) if of == number]
            if places and isinstance(part, SyntheticHomographies):
                part.extractor.to(device)
                views = [pairs[place] for place in places]
                if self.render_on_device:
                    views = [render_pair(drawn, part.photometric, device) for drawn in views]
                for place, pair in zip(places, part.find(views), strict=True):
                    pairs[place] = pair
        batch: Any = Batch.from_data_list([with_homography(pair).to(device) for pair in pairs])
        return batch if self.transform is None else self.transform(batch)

    @property
    def paths(self) -> list[Path]:
        """The photos of all parts."""
        return [path for part in self.parts for path in part.paths]

    def prepare(self, progress: bool = False) -> int:
        """Fill the caches of the parts that have one; returns the number of pairs that were made."""
        cached = [part for part in self.parts if not isinstance(part, SyntheticHomographies)]
        return sum(part.prepare(progress=progress) for part in cached)


def with_homography(pair: KeypointPair) -> KeypointPair:
    """The pair, with a homography of NaN if it has none."""
    if "homography" not in pair:
        pair.homography = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    return pair
