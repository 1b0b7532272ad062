"""Images of which many pairs are matched, with the edges within each image drawn once."""

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.transforms import Compose
from torch_geometric.utils import cumsum

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.data.edges import edge_values, scales, sorted_edges
from pyg_match.data.keypoint_pair import NODE_ATTRIBUTES
from pyg_match.transforms import (
    AnchorEdges,
    CandidateEdges,
    DiverseKNN,
    EqualPartition,
    HilbertPartition,
    KNNGraph,
    NestedPartition,
    RingPartition,
)

_WITHIN_IMAGES = (
    AnchorEdges,
    DiverseKNN,
    EqualPartition,
    HilbertPartition,
    KNNGraph,
    NestedPartition,
    RingPartition,
)


class ImageGraphs:
    """Keypoints of several images, of which batches of pairs are put together without a loop over pairs.

    The first transforms of a graph that join keypoints of the same image are applied to each image once, and their
    edges are copied to all its pairs. The other transforms are applied to each batch.

    Args:
        sets: The keypoints of each image. Of scores, scales and orientations what all have is kept.
        transform: The graph of a pair; ``None`` for the complete one.
        device: Where to put everything together.

    Raises:
        ValueError: If descriptors have different widths.
    """

    def __init__(
        self,
        sets: Sequence[KeypointSet],
        transform: Callable[[KeypointPair], KeypointPair] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        widths = sorted({int(keypoints.x.size(1)) for keypoints in sets})
        if len(widths) > 1:
            raise ValueError(f"descriptors of all images must have the same width, got {widths}")
        within, self._transform = _split(transform)
        names = [name for name in NODE_ATTRIBUTES if all(name in keypoints for keypoints in sets)]
        images = {name: torch.cat([keypoints[name] for keypoints in sets]).to(device) for name in names}
        counts = [keypoints.num_keypoints for keypoints in sets]
        sizes = torch.cat([keypoints.image_size for keypoints in sets]).to(device)
        self.counts = torch.tensor(counts)
        self._sizes = sizes
        self._ptr = cumsum(self.counts).to(device)
        # All images as if they were pairs, the last of an odd number with an image without keypoints.
        odd = len(counts) % 2
        everything = KeypointPair(
            num_keypoints=torch.tensor([*counts, *[0] * odd], device=device).view(-1, 2),
            image_size=torch.cat([sizes, sizes[:odd]]),
            **images,
        )
        for step in within:
            everything = step(everything)
        self._nodes: dict[str, Tensor] = {}
        self._edges: dict[str, tuple[Tensor, Tensor]] = {}
        self._of_edges: dict[str, tuple[str, Tensor]] = {}
        self._take_apart(everything)

    def _take_apart(self, everything: KeypointPair) -> None:
        """Remember the edges of each image, and all that there is for each node and each edge."""
        keys = ["edge_index"] if everything.get("edge_index") is not None else []
        keys += [f"edge_index_{number}" for number in range(len(scales(everything)))]
        for key in keys:
            edges: EdgeIndex = everything[key]
            self._edges[key] = (edges.get_csc()[0][0].long(), edges.as_tensor()[0])
            self._of_edges |= {name: (key, everything[name]) for name in edge_values(everything, key)}
        other = {"num_keypoints", "image_size", *self._edges, *self._of_edges}
        self._nodes = {name: everything[name] for name in everything.keys() if name not in other}  # noqa: SIM118

    def batches(self, pairs: Tensor, batch_keypoints: int) -> Iterator[tuple[int, int]]:
        """Where each batch of pairs starts and ends, so that none has more keypoints than that, or is one pair.

        Shapes:
            - **pairs:** :math:`(P, 2)`, numbers of images
        """
        total = self.counts[pairs].sum(1).cumsum(0)
        start, before = 0, 0
        while start < len(pairs):
            end = int(torch.searchsorted(total, before + batch_keypoints, right=True))
            end = max(end, start + 1)
            yield start, end
            start, before = end, int(total[end - 1])

    def batch(self, pairs: Tensor) -> KeypointPair:
        """Pairs of the images, with all their edges, as one graph.

        Args:
            pairs: Numbers of the images of each pair.

        Shapes:
            - **pairs:** :math:`(B, 2)`
        """
        pair = self.images(pairs)
        for step in self._transform:
            pair = step(pair)
        return pair

    @property
    def all_pairs_once(self) -> Tensor:
        r"""All images as if they were pairs, :math:`(\lceil I / 2 \rceil, 2)`, the last of an odd number twice."""
        numbers = torch.arange(len(self.counts))
        return torch.cat([numbers, numbers[-1:]])[: len(numbers) + len(numbers) % 2].view(-1, 2)

    @property
    def edges_within_are_drawn(self) -> bool:
        """Whether batches get no other edges within images than :meth:`images` has."""
        return all(
            type(later) is CandidateEdges or (type(later) is AnchorEdges and later.cross)
            for later in self._transform
        )

    def set_self_step(self, stepped: Tensor) -> None:
        """Give all images in :attr:`all_pairs_once` the descriptors after a matcher's first self step."""
        self._nodes["self_step"] = stepped[: int(self.counts.sum())]

    def images(self, pairs: Tensor) -> KeypointPair:
        """Pairs of the images with their edges within images alone; see :meth:`batch`."""
        images = pairs.reshape(-1)
        counts = self.counts[images]
        total = int(counts.sum())
        images, counts = images.to(self._ptr.device), counts.to(self._ptr.device)
        start = self._ptr[images]
        nodes, shift = _ranges(start, counts, total)
        values: dict[str, Any] = {name: value[nodes] for name, value in self._nodes.items()}
        taken: dict[str, Tensor] = {}
        for key, (ptr, col) in self._edges.items():
            first = ptr[start]
            in_image = ptr[start + counts] - first
            num_edges = int(in_image.sum())
            taken[key], _ = _ranges(first, in_image, num_edges)
            source = col[taken[key]] - torch.repeat_interleave(shift, in_image, output_size=num_edges)
            degree = (ptr[1:] - ptr[:-1])[nodes]
            target = torch.repeat_interleave(degree, output_size=num_edges)
            values[key] = sorted_edges(torch.stack([source, target]), total, is_sorted=True)
        values |= {name: value[taken[key]] for name, (key, value) in self._of_edges.items()}
        return KeypointPair(num_keypoints=counts.view(-1, 2), image_size=self._sizes[images], **values)


def _ranges(start: Tensor, count: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The numbers of ranges one after the other, and how far each range is moved to get there."""
    shift = start - (count.cumsum(0) - count)
    index = torch.arange(total, device=start.device)
    return index + torch.repeat_interleave(shift, count, output_size=total), shift


def _split(transform: Any) -> tuple[list[Any], list[Any]]:
    """The transforms that come first and join keypoints of the same image, and the others."""
    steps = [] if transform is None else [transform]
    if isinstance(transform, Compose):
        steps = list(transform.transforms)
    within = list(takewhile(_is_within_images, steps))
    return within, steps[len(within) :]


def _is_within_images(step: Any) -> bool:
    return type(step) in _WITHIN_IMAGES and not getattr(step, "cross", False)
