"""Two images as one graph."""

import copy
import re
from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.utils import cumsum

from pyg_match.checks import kind_of, shown
from pyg_match.data.checks import (
    check_counts,
    check_edge_index,
    check_edges,
    check_image_sizes,
    check_nodes,
    image_sizes,
)
from pyg_match.data.edges import edge_values, sorted_edges
from pyg_match.data.keypoint_set import KeypointSet

NODE_ATTRIBUTES = ("x", "pos", "score", "scale", "orientation")
_EDGE_SET = re.compile(r"(cross_)?edge_index(_\d+)?")


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

    Raises:
        TypeError: If ``num_keypoints``, ``homography`` or ``image_size`` does not consist of numbers.
        ValueError: If one of them has not as many numbers as expected, or a number of keypoints is negative.

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
        device = kwargs["pos"].device if isinstance(kwargs.get("pos"), Tensor) else None
        if num_keypoints is not None:
            kwargs["num_keypoints"] = _counts(num_keypoints, device)
        if homography is not None:
            kwargs["homography"] = _homographies(homography)
        if kwargs.get("image_size") is not None:
            kwargs["image_size"] = image_sizes(kwargs["image_size"], device)
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
            TypeError: If a set is none, or lacks keypoints or descriptors.
            ValueError: If a set is malformed or a batch, or the descriptor widths differ.
        """
        for name, keypoints in (("set0", set0), ("set1", set1)):
            if not isinstance(keypoints, KeypointSet):
                raise TypeError(f"'{name}' must be a KeypointSet, got {type(keypoints).__name__}")
            keypoints.validate()
            if isinstance(keypoints, Batch) and keypoints.num_graphs != 1:
                raise ValueError(
                    f"'{name}' must hold the keypoints of one image, got a batch of {keypoints.num_graphs}; make pairs "
                    "first, and a batch of these"
                )
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
        return cumsum(self.num_keypoints.flatten().long())

    @property
    def image_batch(self) -> Tensor:
        r"""The number of the image that each node belongs to, from :math:`0` to :math:`2B - 1`."""
        counts = self.num_keypoints.flatten().long()  # 8 and 16 bits have no kernel
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

        The homography is inverted and the ground truth exchanged.

        Raises:
            ValueError: If it is a batch.
        """
        count0 = self._single()[0]
        truth = self.y
        pair = KeypointPair.from_sets(self.image(1), self.image(0))
        if truth is not None:
            pair.y = torch.cat([truth[count0:], truth[:count0]])
        if "homography" in self:
            pair.homography = torch.linalg.inv(self.homography)
        return pair

    def subgraph(self, subset: Tensor) -> "KeypointPair":
        """The pair of some of its keypoints, with the edges between them.

        Args:
            subset: The nodes to keep, as a mask or by rising numbers. A keypoint whose partner is left out has none.

        Shapes:
            - **subset:** :math:`(N_0 + N_1)` ``bool``, or :math:`(M)`

        Raises:
            TypeError: If ``subset`` is no mask and holds no whole numbers.
            ValueError: If it is a batch, numbers do not rise or name no node, or edges or labels name no node.

        Example:
            >>> sets = [KeypointSet(pos=torch.rand(n, 2), x=torch.randn(n, 8)) for n in (5, 3)]
            >>> KeypointPair.from_sets(*sets).subgraph(torch.tensor([0, 4, 6])).num_keypoints
            tensor([[2, 1]])
        """
        self._single()
        keep, before = self._kept(subset)
        values = {name: self[name] for name in ("image_size", "homography") if name in self}
        for name in [name for name in self.keys() if _EDGE_SET.fullmatch(name)]:
            edges = check_edge_index(name, self[name], keep.numel())
            inside = keep[edges].all(dim=0)
            values[name] = before[edges[:, inside]]
            if isinstance(self[name], EdgeIndex) and self[name].is_sorted_by_col:
                values[name] = sorted_edges(values[name], int(before[-1]), is_sorted=True)
            values |= {other: self[other][inside] for other in edge_values(self, name)}
        ptr = self.image_ptr
        values["num_keypoints"] = before[ptr].diff().view(1, 2)
        if self.y is not None:
            _check_labels(self.y, self.num_keypoints.flatten()[self.image_batch ^ 1])
            start = ptr[self.image_batch ^ 1]
            has_partner = self.y >= 0
            partner = torch.where(has_partner, start + self.y, 0)
            renumbered = torch.where(keep[partner], before[partner] - before[start], -1)
            values["y"] = torch.where(has_partner, renumbered, self.y)[keep]
        rest = copy.copy(self)
        for name in values:
            del rest[name]
        pair = Data.subgraph(rest, keep)
        for name, value in values.items():
            pair[name] = value
        return pair

    def _kept(self, subset: Tensor) -> tuple[Tensor, Tensor]:
        """The mask of nodes, and how many are kept before each."""
        count, keep = self.num_nodes, subset
        if not isinstance(subset, Tensor) or subset.dtype not in (torch.bool, torch.int32, torch.int64):
            raise TypeError(f"'subset' must be a mask or numbers of nodes, got {kind_of(subset)}")
        if subset.dtype != torch.bool:
            wrong = subset[(subset < 0) | (subset >= count)]
            if wrong.numel() > 0:
                raise ValueError(f"'subset' names node {int(wrong[0])}, but there are {count}")
            if subset.dim() != 1 or bool((subset.diff() <= 0).any()):
                raise ValueError(
                    f"node numbers must rise, as images follow each other, got {shown(subset.tolist())}"
                )
            keep = torch.zeros(count, dtype=torch.bool, device=subset.device)
            keep[subset.long()] = True
        elif subset.shape != (count,):
            raise ValueError(f"expected a mask of {count} nodes, got shape {list(subset.shape)}")
        return keep, cumsum(keep.long())

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
            self._check()
            super().validate(raise_on_error=True)
        except (TypeError, ValueError):
            if raise_on_error:
                raise
            return False
        return True

    def _check(self) -> None:
        check_nodes(self)
        check_counts(self.get("num_keypoints"), self.pos.size(0))
        if "image_size" in self:
            check_image_sizes(self.image_size, self.num_keypoints.numel())
        image = self.image_batch
        partner = image ^ 1
        for name, expected in (("edge_index", None), ("cross_edge_index", partner)):
            if self.get(name) is not None:
                check_edges(name, self[name], image, expected)
        if self.y is not None:
            _check_labels(self.y, self.num_keypoints.flatten()[partner])
        if "homography" in self:
            _check_homographies(self.homography, self.num_keypoints.size(0))


def without_edges(pair: KeypointPair) -> KeypointPair:
    """The keypoints of a pair, or of a batch of pairs, with complete graphs, and nothing else that it holds."""
    kept = {name: pair[name] for name in (*NODE_ATTRIBUTES, "image_size") if pair.get(name) is not None}
    return KeypointPair(num_keypoints=pair.num_keypoints, **kept)


def _counts(num_keypoints: Any, device: Optional[torch.device]) -> Tensor:
    """Numbers of keypoints as a user gave them, ``[B, 2]``."""
    try:
        counts = torch.as_tensor(num_keypoints, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"'num_keypoints' must be two whole numbers for each pair, got {shown(num_keypoints)}"
        ) from None
    if counts.dim() not in (1, 2) or counts.size(-1) != 2:
        raise ValueError(
            f"'num_keypoints' must be two whole numbers for each pair, got {shown(num_keypoints)}"
        )
    counts = counts.view(-1, 2)
    check_counts(counts)
    return counts.long()


def _homographies(homography: Any) -> Tensor:
    """Homographies as a user gave them, ``[B, 3, 3]``."""
    try:
        matrix = torch.as_tensor(homography)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"'homography' must be a 3 x 3 matrix, got {shown(homography)}") from None
    if matrix.dim() not in (2, 3) or matrix.shape[-2:] != (3, 3):
        raise ValueError(f"'homography' must have shape [3, 3], got {list(matrix.shape)}")
    # Half precision has no inverse.
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float)) if not matrix.is_complex() else matrix
    return matrix.reshape(-1, 3, 3)


def _check_labels(y: Any, limit: Tensor) -> None:
    """Refuse labels that are no index of a keypoint below the ``limit`` of each, nor -1 or -2."""
    if not isinstance(y, Tensor) or y.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"'y' must be a tensor of int64 indices, got {kind_of(y)}")
    if y.shape != limit.shape:
        raise ValueError(f"'y' must have shape [{limit.numel()}], got {list(y.shape)}")
    if y.device != limit.device:
        raise ValueError(f"'y' must be on the device of 'num_keypoints', {limit.device}, got {y.device}")
    wrong = (y < -2) | (y >= limit)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"'y' must hold -2, -1 or the index of a keypoint of the other image, got {int(y[first])} at keypoint "
            f"{first}, for which there are {int(limit[first])}"
        )


def _check_homographies(homography: Any, num_pairs: int) -> None:
    """Refuse homographies that map no plane to a plane; NaN stands for none."""
    if not isinstance(homography, Tensor) or not homography.is_floating_point():
        raise TypeError(f"'homography' must be a floating-point tensor, got {kind_of(homography)}")
    if homography.shape != (num_pairs, 3, 3):
        raise ValueError(f"'homography' must have shape [{num_pairs}, 3, 3], got {list(homography.shape)}")
    if homography.is_meta:
        raise ValueError("'homography' is on the meta device, which holds no numbers")
    # Not every device has double precision and ranks.
    homography = homography.detach().cpu().double()
    known = homography[~homography.isnan().all(dim=2).all(dim=1)]
    if not bool(torch.isfinite(known).all()):
        raise ValueError("'homography' must be finite, or NaN altogether where there is none")
    if bool((torch.linalg.matrix_rank(known) < 3).any()):
        singular = known[torch.linalg.matrix_rank(known) < 3][0].tolist()
        raise ValueError(f"'homography' must be invertible, got {singular}")
