"""Matcher of two images: detector, graph and network in one."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch_geometric.data import Batch

from pyg_match.checks import shown, usable_device, whole_number
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.data.keypoint_pair import NODE_ATTRIBUTES
from pyg_match.features import Extractor, extractor
from pyg_match.features.image import ImageLike
from pyg_match.match_result import MatchResult
from pyg_match.nn import GraphMatcher
from pyg_match.pretrained import detector_of, read_metadata
from pyg_match.transforms import graph_from_recipe
from pyg_match.weight_registry import DETECTORS, check_matcher


class Matcher:
    """Matcher of two images: a detector, a transform that draws edges, and a :class:`~pyg_match.nn.GraphMatcher`.

    Args:
        extractor: The detector.
        matcher: The matcher, trained with that detector.
        transform: Draws the edges of a :class:`~pyg_match.data.KeypointPair`; the graph is complete without one.
            Matchers with ``redraw_after``, such as the published sparse ones, draw edges between images anew after some
            layers; ``redraw_after=None`` keeps those of the transform.
        resize: Longer side of the image in pixels at which keypoints are detected; ``None`` for the original size.

    Example:
        >>> from pyg_match import Matcher
        >>> from skimage.data import astronaut
        >>> matcher = Matcher.from_pretrained("aliked-lightglue", max_num_keypoints=256)
        >>> result = matcher(astronaut(), astronaut()[:, ::-1].copy()[:, ::-1])
        >>> result.matches.shape[1]
        2
    """

    def __init__(
        self,
        extractor: Extractor,
        matcher: GraphMatcher,
        transform: Optional[Callable[[KeypointPair], KeypointPair]] = None,
        resize: Optional[int] = 1024,
    ) -> None:
        if extractor.descriptor_dim != matcher.config.in_channels:
            raise ValueError(
                f"the detector gives descriptors of width {extractor.descriptor_dim}, "
                f"but the matcher expects {matcher.config.in_channels}"
            )
        self.extractor = extractor
        self.matcher = matcher
        self.transform = transform
        self.resize = None if resize is None else whole_number("resize", resize)

    @classmethod
    def from_pretrained(
        cls,
        name: Union[str, Path] = "aliked-sparse",
        max_num_keypoints: Optional[int] = 2048,
        transform: Optional[Callable[[KeypointPair], KeypointPair]] = None,
        resize: Optional[int] = 1024,
        device: Union[str, torch.device] = "cpu",
        cuda_graphs: bool = False,
        **kwargs: Any,
    ) -> "Matcher":
        """Load a matcher and the detector that it was trained with.

        Args:
            name: ``"aliked-sparse"``, ``"disk-sparse"``, ``"aliked-lightglue"``, ``"disk-lightglue"``,
                ``"xfeat-lighterglue"``, or a file that training wrote.
            max_num_keypoints: Largest number of keypoints in an image; ``None`` keeps all.
            transform: See :class:`Matcher`. By default the graph that the matcher was trained on: the one that its
                file names, or the complete one.
            resize: See :class:`Matcher`.
            device: Where to run.
            cuda_graphs: Whether a GPU records its launches; see :meth:`GraphMatcher.freeze
                <pyg_match.nn.GraphMatcher.freeze>`.
            **kwargs: Fields of :class:`~pyg_match.nn.MatcherConfig` to override, such as ``filter_threshold``.

        Raises:
            ValueError: If the name is unknown, the weights or what their file says are damaged, there is no such
                device, or an option is out of range.
            TypeError: If there is no such option.
            FileNotFoundError: If the weights cannot be had.
        """
        device = usable_device(device)
        if not isinstance(name, str | Path):
            raise TypeError(f"a matcher must be given by name or path, got {shown(name)}")
        check_matcher(name)
        metadata = {} if str(name) in DETECTORS else read_metadata(name)
        trained_with = detector_of(name)
        if trained_with is None:
            raise ValueError(
                f"{name} does not say which detector it belongs to, expected one of {sorted(DETECTORS)} or a file "
                "that training wrote; build a Matcher of an extractor and a GraphMatcher instead"
            )
        if transform is None and metadata.get("graph"):
            transform = graph_from_recipe(metadata["graph"])
        matcher = GraphMatcher.from_pretrained(name, **kwargs).to(device).freeze(cuda_graphs)
        options = metadata.get("extractor_options", {})
        try:
            detector = extractor(trained_with, max_num_keypoints=max_num_keypoints, **options).to(device)
        except TypeError as error:
            raise ValueError(f"'extractor_options' in {name} do not fit {trained_with!r}: {error}") from None
        return cls(detector, matcher, transform, resize)

    def __call__(
        self, image0: Union[ImageLike, KeypointSet], image1: Union[ImageLike, KeypointSet]
    ) -> MatchResult:
        """Match two images.

        Args:
            image0: Path, array :math:`(H, W)` or :math:`(H, W, C)`, tensor :math:`(C, H, W)`, or PIL image; or
                keypoints that the detector has found before, with their ``image_size``.
            image1: The same for the other image.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If something is not an image, or keypoints do not fit the matcher.
            TypeError: If it is neither an image nor a :class:`~pyg_match.data.KeypointSet`.
        """
        return self.match_batch([(image0, image1)])[0]

    def extract(self, image: ImageLike) -> KeypointSet:
        """The keypoints of an image, for :meth:`__call__` and :meth:`match_batch` to take in its place.

        Args:
            image: See :meth:`__call__`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not an image.
        """
        return self.extractor.extract(image, resize=self.resize)

    @torch.no_grad()
    def match_batch(
        self,
        pairs: Iterable[tuple[Union[ImageLike, KeypointSet], Union[ImageLike, KeypointSet]]],
        batch_keypoints: int = 1 << 16,
    ) -> list[MatchResult]:
        """Match several pairs of images, those of a batch at once.

        Images that are in several pairs, as the same path or object, are read once. The graph is drawn on whole
        batches, as the transforms of this package do. ``seconds`` are those of all pairs.

        Args:
            pairs: Two images, or keypoints found before, each; see :meth:`__call__`.
            batch_keypoints: Largest number of keypoints in a batch; a pair with more is matched alone.

        Raises:
            FileNotFoundError: See :meth:`__call__`.
            ValueError: See :meth:`__call__`.
            TypeError: See :meth:`__call__`.

        Example:
            >>> from pyg_match import Matcher
            >>> from skimage.data import astronaut
            >>> matcher = Matcher.from_pretrained("aliked-lightglue", max_num_keypoints=64)
            >>> image = astronaut()
            >>> [
            ...     len(result.keypoints1)
            ...     for result in matcher.match_batch([(image, image), (image, image[:256])])
            ... ]
            [64, 64]
        """
        batch_keypoints, clock = whole_number("batch_keypoints", batch_keypoints), _Clock()
        all_pairs = [_two(two) for two in pairs]
        images = {_key(image): image for two in all_pairs for image in two}
        sets = dict(zip(images, self._keypoints(list(images.values())), strict=True))
        chosen = [(sets[_key(image0)], sets[_key(image1)]) for image0, image1 in all_pairs]
        clock.stop("extract")
        results: list[MatchResult] = []
        for batch in _batches(chosen, batch_keypoints):
            each = [KeypointPair.from_sets(*two) for two in batch]
            pair = each[0] if len(each) == 1 else Batch.from_data_list(each)
            if self.transform is not None:
                pair = self.transform(pair)
            clock.stop("graph")
            output = self.matcher(pair)
            found = [output.pair_matches(i) for i in range(len(batch))]
            clock.stop("match")
            for (set0, set1), (matches, scores) in zip(batch, found, strict=True):
                size0, size1 = _size(set0), _size(set1)
                results.append(MatchResult(set0.pos, set1.pos, matches, scores, size0, size1))
        for result in results:
            result.seconds = dict(clock.seconds)
        return results

    def _keypoints(self, images: Sequence[Union[ImageLike, KeypointSet]]) -> list[KeypointSet]:
        """The keypoints of images, and those that were found before, on the device of the matcher."""
        # A detector without parameters does not know the device.
        device = next(self.matcher.parameters()).device
        new = [image for image in images if not isinstance(image, KeypointSet)]
        found = iter(self.extractor.extract_batch(new, resize=self.resize))
        sets = [image if isinstance(image, KeypointSet) else next(found) for image in images]
        for keypoints in sets:
            if "image_size" not in keypoints:
                raise ValueError("keypoints found before need an 'image_size', (width, height) in pixels")
        # A batch holds what all of its keypoints have.
        common = set(NODE_ATTRIBUTES).intersection(*(set(keypoints.keys()) for keypoints in sets))
        return [
            KeypointSet(**{name: keypoints[name] for name in common}, image_size=keypoints.image_size).to(
                device
            )
            for keypoints in sets
        ]

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.extractor}, {self.matcher}, transform={self.transform})"


def _two(images: Any) -> tuple[Any, Any]:
    """Two images, and nothing else."""
    if not isinstance(images, (tuple, list)) or len(images) != 2:
        raise ValueError(f"expected pairs of two images each, got {shown(images)}")
    return images[0], images[1]


def _key(image: Any) -> Any:
    """The key by which images are told apart: the path, or the object."""
    return str(image) if isinstance(image, str | Path) else id(image)


def _size(keypoints: KeypointSet) -> tuple[int, int]:
    """Width and height of the image."""
    width, height = keypoints.image_size.flatten().tolist()
    return int(width), int(height)


def _batches(
    pairs: Sequence[tuple[KeypointSet, KeypointSet]], batch_keypoints: int
) -> Iterator[list[tuple[KeypointSet, KeypointSet]]]:
    """Pairs in their order, as many together as have so many keypoints, and at least one."""
    batch: list[tuple[KeypointSet, KeypointSet]] = []
    total = 0
    for pair in pairs:
        size = sum(keypoints.num_keypoints for keypoints in pair)
        if batch and total + size > batch_keypoints:
            yield batch
            batch, total = [], 0
        batch.append(pair)
        total += size
    if batch:
        yield batch


class _Clock:
    """Seconds between stops, those of equal names together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
