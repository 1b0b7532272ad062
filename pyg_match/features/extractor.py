"""Base class of the detectors."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyg_match.checks import whole_number
from pyg_match.data import KeypointSet
from pyg_match.features.image import ImageLike, load_image, load_resized

_MOST = (1 << 31) - 1  # keypoints that OpenCV can count
_BATCH_SIZE = 8  # of images on a GPU
_MOST_WAITING = 4  # batches of images of several sizes that are in memory

# Half a grey level of an 8-bit image: whatever varies less is of one colour.
_BLANK = 0.5 / 255


class Extractor(nn.Module):
    r"""Base class of the detectors: one image in, one :class:`~pyg_match.data.KeypointSet` out.

    An extractor is always in evaluation mode and in single precision, whatever ``train()``, ``half()``, ``double()`` or
    torch's default type say, and computes no gradients. Images of one colour and images
    smaller than :attr:`min_side` in a direction have no keypoints. Subclasses implement :meth:`detect`.

    Args:
        max_num_keypoints: Keep at most this many keypoints, those with the highest scores. ``None`` keeps
            all.

    Shapes:
        - **input:** image :math:`(3, H, W)`, RGB in [0, 1], or :math:`(1, H, W)`, grey
        - **output:** ``pos`` :math:`(N, 2)` in pixels of that image, ``x`` :math:`(N, D)` of unit length,
          ``score`` :math:`(N)`, ``image_size`` :math:`(1, 2)`

    Example:
        >>> class Corners(Extractor):
        ...     descriptor_dim = 2
        ...
        ...     def detect(self, image):
        ...         pos = torch.tensor([[0.0, 0.0], [image.size(2) - 1.0, image.size(1) - 1.0]])
        ...         return {"pos": pos, "x": torch.eye(2), "score": torch.ones(2)}
        >>> Corners()(torch.rand(3, 48, 64)).pos
        tensor([[ 0.,  0.],
                [63., 47.]])
    """

    descriptor_dim: int
    min_side: int = 16

    def __init__(self, max_num_keypoints: int | None = 2048) -> None:
        super().__init__()
        if max_num_keypoints is not None:
            max_num_keypoints = whole_number("max_num_keypoints", max_num_keypoints, most=_MOST)
        self.max_num_keypoints = max_num_keypoints

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """Find the keypoints of an RGB image ``[3, H, W]``: the arguments of a :class:`KeypointSet`."""
        raise NotImplementedError

    def detect_batch(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Find the keypoints of RGB images of one size, ``[B, 3, H, W]``: one by one unless a subclass does better."""
        return [self.detect(image) for image in images]

    def empty(self, image: Tensor) -> dict[str, Tensor]:
        """What :meth:`detect` returns where there is nothing to find."""
        shapes = {"pos": (0, 2), "x": (0, self.descriptor_dim), "score": (0,)}
        return {name: image.new_zeros(shape, dtype=torch.float) for name, shape in shapes.items()}

    @torch.no_grad()
    def forward(self, image: Tensor) -> KeypointSet:
        """Find the keypoints of one image tensor, in its own pixels.

        Raises:
            ValueError: If the image is empty, has NaN or infinite values or not one or three channels.
            TypeError: If it is not floating point.
        """
        return self._detect_all([image], batch_size=1)[0]

    @torch.no_grad()
    def forward_batch(self, images: Iterable[Tensor], batch_size: int | None = None) -> list[KeypointSet]:
        """Do what :meth:`forward` does for several images; those of one size go through the detector together.

        Args:
            images: Image tensors, on one device.
            batch_size: See :meth:`extract_batch`.

        Raises:
            ValueError: See :meth:`forward`.
            TypeError: See :meth:`forward`.
        """
        return self._detect_all(images, batch_size)

    def extract(self, image: ImageLike, resize: int | None = 1024, side: str = "long") -> KeypointSet:
        """Load an image, resize it, find its keypoints and express them in its original pixels.

        Args:
            image: Whatever :func:`load_image` takes.
            resize: Length in pixels of the chosen side during detection, smaller images being enlarged, as in
                LightGlue, unless they have fewer than 16 pixels in both directions. ``None`` keeps the size.
            side: ``"long"`` or ``"short"``; see :func:`resize_image`.

        Returns:
            The keypoints; ``pos``, ``scale`` and ``image_size`` refer to the image as it was given.
        """
        return self._extract_all([image], resize, side, batch_size=1)[0]

    @torch.no_grad()
    def extract_batch(
        self,
        images: Sequence[ImageLike],
        resize: int | None = 1024,
        side: str = "long",
        batch_size: int | None = None,
    ) -> list[KeypointSet]:
        """Do what :meth:`extract` does for several images; those of one size go through the detector together.

        Args:
            images: Whatever :func:`load_image` takes, each.
            resize: See :meth:`extract`.
            side: See :meth:`extract`.
            batch_size: Most images that go together. By default 8, but 1 on the CPU, where more are no faster.

        Returns:
            The keypoints of each image, the same as those of the image alone.
        """
        batch_size = None if batch_size is None else whole_number("batch_size", batch_size)
        if type(self).extract is not Extractor.extract:  # which a subclass may have replaced
            options = {} if side == "long" else {"side": side}
            return [self.extract(image, resize=resize, **options) for image in images]
        return self._extract_all(images, resize, side, batch_size)

    @torch.no_grad()
    def _extract_all(
        self, images: Sequence[ImageLike], resize: int | None, side: str, batch_size: int | None
    ) -> list[KeypointSet]:
        resize = None if resize is None else whole_number("resize", resize)
        device = next((parameter.device for parameter in self.parameters()), None)
        resized: list[tuple[tuple[int, int], Tensor]] = []  # original sizes, and scales

        def tensors() -> Iterator[Tensor]:
            for image in images:
                if resize is None:
                    tensor = load_image(image)
                    yield tensor if device is None else tensor.to(device)
                else:
                    tensor, scale, size = load_resized(image, resize, side, device)
                    resized.append((size, scale))
                    yield tensor

        sets = self._detect_all(tensors(), batch_size)
        if resize is not None:
            for keypoints, (size, scale) in zip(sets, resized, strict=True):
                _to_original(keypoints, torch.tensor([size]), scale)
        return sets

    def _detect_all(self, images: Iterable[Tensor], batch_size: int | None) -> list[KeypointSet]:
        """The keypoints of images, those of one size together as soon as there are enough."""
        features: dict[int, dict[str, Tensor]] = {}
        sizes: list[tuple[int, int]] = []
        waiting: dict[Any, list[tuple[int, Tensor]]] = {}
        for i, image in enumerate(images):
            checked = self._checked(image)
            sizes.append((image.size(2), image.size(1)))
            if checked is None:
                features[i] = self.empty(image)
                continue
            kind = (checked.shape, checked.device)
            most = batch_size or (1 if checked.device.type == "cpu" else _BATCH_SIZE)
            waiting.setdefault(kind, []).append((i, checked))
            many = sum(map(len, waiting.values())) >= _MOST_WAITING * most
            if len(waiting[kind]) >= most or many:  # of many sizes, else all would be in memory
                kind = max(waiting, key=lambda kind: len(waiting[kind]))
                features.update(self._detect_group(waiting.pop(kind)))
        for group in waiting.values():
            features.update(self._detect_group(group))
        return [KeypointSet(**features[i], image_size=size) for i, size in enumerate(sizes)]

    def _detect_group(self, group: Sequence[tuple[int, Tensor]]) -> dict[int, dict[str, Tensor]]:
        """The keypoints of numbered images of one size."""
        with single_precision():
            found = self.detect_batch(torch.stack([image for _, image in group]))
        return {i: features for (i, _), features in zip(group, found, strict=True)}

    def _checked(self, image: Tensor) -> Tensor | None:
        """The image with three channels, or ``None`` if it has nothing to find."""
        if not isinstance(image, Tensor):
            raise TypeError(f"expected an image tensor, got {type(image).__name__}; see load_image")
        if image.dim() != 3 or image.size(0) not in (1, 3) or image.numel() == 0:
            raise ValueError(f"expected an image of shape [3, H, W] or [1, H, W], got {list(image.shape)}")
        if not image.is_floating_point():
            raise TypeError(f"expected a floating-point image in [0, 1], got {image.dtype}; see load_image")
        spread = image.amax(dim=(1, 2)) - image.amin(dim=(1, 2))
        if not torch.isfinite(spread).all():
            raise ValueError("the image holds NaN or infinite values, expected finite ones")
        if min(image.shape[-2:]) < self.min_side or bool((spread < _BLANK).all()):
            return None
        return image.float().expand(3, -1, -1)

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in evaluation mode: batch statistics of a single image would change its features."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> "Extractor":
        """Move to another device, but stay in single precision: half would find other keypoints."""

        def move(tensor: Tensor) -> Tensor:
            out: Tensor = fn(tensor)
            return out if out.dtype == tensor.dtype else tensor.to(out.device)

        return super()._apply(move, recurse)

    def freeze(self) -> None:
        """Switch off gradients and training mode; for the end of a subclass's ``__init__``."""
        self.requires_grad_(False)
        self.eval()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(max_num_keypoints={self.max_num_keypoints})"


def _to_original(keypoints: KeypointSet, size: Tensor, scale: Tensor) -> None:
    """Express keypoints of a resized image in the pixels of the one of which ``size`` is width and height."""
    size, scale = size.to(keypoints.pos.device), scale.to(keypoints.pos.device)
    pos = (keypoints.pos + 0.5) / scale - 0.5
    # Enlarging moves the centre of a border pixel out of the frame by a fraction of a pixel.
    keypoints.pos = torch.minimum(pos.clamp(min=0), size.to(pos) - 1)
    keypoints.image_size = size
    if "scale" in keypoints:
        keypoints.scale = keypoints.scale / scale.prod().sqrt()


@contextmanager
def single_precision() -> Iterator[None]:
    """Make new tensors of detectors in single precision, whatever torch's default type is."""
    before = torch.get_default_dtype()
    if before == torch.float:  # not touched, as it belongs to all threads
        yield
        return
    torch.set_default_dtype(torch.float)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
