"""Two images as one graph."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.data import Data

from pyg_match.data.checks import check_nodes
from pyg_match.data.keypoint_set import KeypointSet

NODE_ATTRIBUTES = ("x", "pos", "score", "scale", "orientation")


class KeypointPair(Data):
    r"""A pair of images as **one** graph.

    Its nodes are the keypoints of image 0 followed by those of image 1. ``edge_index`` joins keypoints of the
    same image and ``cross_edge_index`` joins keypoints of different images. An edge set that is *absent* stands
    for the complete one, which needs no listing: every keypoint sees every keypoint of its own image,
    respectively of the other image.

    Pairs with different numbers of keypoints are batched by :class:`torch_geometric.loader.DataLoader` without
    padding, and come apart again with :meth:`~torch_geometric.data.Batch.to_data_list`.

    Args:
        num_keypoints: The numbers of keypoints :math:`(N_0, N_1)`, which split the nodes into two images.
        y: Ground truth: for each keypoint the index of its partner among the keypoints of the *other* image,
            ``-1`` if it has none and ``-2`` if it is to be ignored.
        homography: The true homography from pixels of image 0 to pixels of image 1, NaN where there is none.
        **kwargs: Node attributes as in :class:`KeypointSet` for all nodes, ``image_size`` with one row per image,
            and further attributes.

    Shapes:
        - **pos:** :math:`(N_0 + N_1, 2)`
        - **x:** :math:`(N_0 + N_1, D)`
        - **edge_index**, **cross_edge_index:** :math:`(2, E)`, source to target
        - **y:** :math:`(N_0 + N_1)`
        - **num_keypoints:** stored as :math:`(1, 2)`; :math:`(B, 2)` in a batch
        - **image_size:** :math:`(2, 2)`; :math:`(2B, 2)` in a batch
        - **homography:** stored as :math:`(1, 3, 3)`

    Example:
        >>> import torch
        >>> set0 = KeypointSet(pos=torch.rand(5, 2), x=torch.randn(5, 8), image_size=(64, 48))
        >>> set1 = KeypointSet(pos=torch.rand(3, 2), x=torch.randn(3, 8), image_size=(64, 48))
        >>> pair = KeypointPair.from_sets(set0, set1)
        >>> pair.image_ptr.tolist()
        [0, 5, 8]
    """

    def __init__(
        self,
        num_keypoints: Any = None,
        y: Optional[Tensor] = None,
        homography: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> None:
        if num_keypoints is not None:
            device = kwargs["pos"].device if isinstance(kwargs.get("pos"), Tensor) else None
            counts = torch.as_tensor(num_keypoints, dtype=torch.long, device=device)
            kwargs["num_keypoints"] = counts.view(-1, 2)
        if homography is not None:
            kwargs["homography"] = torch.as_tensor(homography).view(-1, 3, 3)
        super().__init__(y=y, **kwargs)

    @classmethod
    def from_sets(
        cls,
        set0: KeypointSet,
        set1: KeypointSet,
        y: Optional[Tensor] = None,
        homography: Optional[Tensor] = None,
    ) -> "KeypointPair":
        """Join two keypoint sets. Of ``x``, ``pos``, ``score``, ``scale`` and ``orientation`` what both have is kept.

        Args:
            set0: Keypoints of image 0.
            set1: Keypoints of image 1.
            y: Ground truth, see :class:`KeypointPair`.
            homography: The true homography from image 0 to image 1.

        Raises:
            TypeError: If a set lacks keypoints or descriptors.
            ValueError: If a set is malformed or the descriptor widths differ.
        """
        set0.validate()
        set1.validate()
        if set0.x.size(1) != set1.x.size(1):
            raise ValueError(
                f"descriptors of both images must have the same width, got {set0.x.size(1)} and {set1.x.size(1)}"
            )
        kwargs = {
            key: torch.cat([set0[key], set1[key]]) for key in NODE_ATTRIBUTES if key in set0 and key in set1
        }
        if "image_size" in set0 and "image_size" in set1:
            kwargs["image_size"] = torch.cat([set0.image_size, set1.image_size])
        num_keypoints = (set0.num_keypoints, set1.num_keypoints)
        return cls(num_keypoints=num_keypoints, y=y, homography=homography, **kwargs)

    @property
    def image_ptr(self) -> Tensor:
        r"""Offsets of the images' nodes, :math:`(2B + 1)` for :math:`B` pairs: image 0 and 1 of each in turn."""
        counts = self.num_keypoints.flatten()
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @property
    def image_batch(self) -> Tensor:
        r"""The number of the image that each node belongs to, from :math:`0` to :math:`2B - 1`."""
        counts = self.num_keypoints.flatten()
        return torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)

    def image(self, index: int) -> KeypointSet:
        """The keypoints of image 0 or 1 alone; in a batch, image ``2 * b + i`` is image ``i`` of pair ``b``.

        Raises:
            IndexError: If there is no image of that number.
        """
        ptr = self.image_ptr.tolist()
        if not 0 <= index < len(ptr) - 1:
            raise IndexError(f"image {index} does not exist, expected a number from 0 to {len(ptr) - 2}")
        nodes = slice(ptr[index], ptr[index + 1])
        kwargs = {key: self[key][nodes] for key in NODE_ATTRIBUTES if self.get(key) is not None}
        if "image_size" in self:
            kwargs["image_size"] = self.image_size[index]
        return KeypointSet(**kwargs)

    def swapped(self) -> "KeypointPair":
        """The same pair with image 0 and image 1 exchanged, without its edges.

        Only for a single pair; the homography is inverted and the ground truth exchanged.
        """
        count0 = self._single()[0]
        truth = self.y
        pair = KeypointPair.from_sets(self.image(1), self.image(0))
        if truth is not None:
            pair.y = torch.cat([truth[count0:], truth[:count0]])
        if "homography" in self:
            pair.homography = torch.linalg.inv(self.homography)
        return pair

    def _single(self) -> list[int]:
        if self.num_keypoints.size(0) != 1:
            raise ValueError(f"expected a single pair, got a batch of {self.num_keypoints.size(0)}")
        counts: list[int] = self.num_keypoints[0].tolist()
        return counts

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check shapes, dtypes, finiteness, and that every edge joins the images that it should.

        Args:
            raise_on_error: If ``False``, return whether the data is valid instead of raising.

        Raises:
            TypeError: If an attribute is missing or has the wrong dtype.
            ValueError: If a shape is wrong, a value is NaN or infinite, or an edge joins the wrong images.
        """
        try:
            super().validate(raise_on_error=True)
            self._check()
        except (TypeError, ValueError):
            if raise_on_error:
                raise
            return False
        return True

    def _check(self) -> None:
        check_nodes(self)
        if not isinstance(self.get("num_keypoints"), Tensor):
            raise TypeError("'num_keypoints' is missing, expected the numbers of keypoints of both images")
        if int(self.num_keypoints.sum()) != self.pos.size(0):
            raise ValueError(
                f"'num_keypoints' {self.num_keypoints.tolist()} must sum to the {self.pos.size(0)} keypoints"
            )
        image = self.image_batch
        partner = image ^ 1
        if "image_size" in self and self.image_size.size(0) != self.num_keypoints.numel():
            raise ValueError(
                f"'image_size' must have a row for each of {self.num_keypoints.numel()} images, "
                f"got {self.image_size.size(0)}"
            )
        for name, expected in (("edge_index", image), ("cross_edge_index", partner)):
            edges = self.get(name)
            if edges is None:
                continue
            source, target = edges[0], edges[1]
            outside = (edges < 0) | (edges >= image.numel())
            if bool(outside.any()):
                raise ValueError(
                    f"'{name}' names node {int(edges[outside][0])}, but there are {image.numel()} nodes"
                )
            wrong = expected[target] != image[source]
            if bool(wrong.any()):
                where = "the same image" if name == "edge_index" else "the two images of a pair"
                first = int(wrong.nonzero()[0])
                raise ValueError(
                    f"'{name}' must join keypoints of {where}, but edge {first} joins node {int(source[first])} "
                    f"of image {int(image[source[first]])} to node {int(target[first])} "
                    f"of image {int(image[target[first]])}"
                )
        if self.y is not None:
            if self.y.shape != image.shape:
                raise ValueError(f"'y' must have shape [{image.numel()}], got {list(self.y.shape)}")
            limit = self.num_keypoints.flatten()[partner]
            if bool(((self.y < -2) | (self.y >= limit)).any()):
                raise ValueError("'y' must hold -2, -1 or the index of a keypoint of the other image")
