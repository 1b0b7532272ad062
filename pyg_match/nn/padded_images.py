"""Padding of the images of a batch to one size, for devices on which a loop over pairs is slow."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def least(dtype: torch.dtype) -> float:
    """What stands for minus infinity, of which differences and gradients would be NaN; twice of it is still a number.

    Example:
        >>> least(torch.half)
        -16376.0
    """
    return torch.finfo(dtype).min / 4


class PaddedImages(NamedTuple):
    r"""The keypoints of :math:`B` pairs, as if all images had as many as the largest one.

    A log assignment of all of them is :math:`(B, M + 1, M + 1)`; row and column of the dustbin lie behind those of the
    keypoints that a pair has, and what is behind these is :func:`least`.

    Attributes:
        rows: The node of each place; any node where there is none.
        real: Which places hold a keypoint.
        image: The image of each node.
        place: The place of each node within its image.
        offsets: Where the nodes of each image start, and their number at the end.

    Shapes:
        - **rows**, **real:** :math:`(2B, M)`
        - **image**, **place:** :math:`(N)`
        - **offsets:** :math:`(2B + 1)`
    """

    rows: Tensor
    real: Tensor
    image: Tensor
    place: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, offsets: Tensor, num_nodes: int, most: int) -> "PaddedImages":
        """Lay out images.

        Args:
            offsets: See above.
            num_nodes: Number of nodes, at least one.
            most: Number of keypoints of the largest image.
        """
        place = torch.arange(most, device=offsets.device)
        nodes = torch.arange(num_nodes, device=offsets.device)
        image = torch.searchsorted(offsets[1:], nodes, right=True)
        return cls(
            rows=(offsets[:-1].unsqueeze(1) + place).clamp(max=num_nodes - 1),
            real=place < offsets.diff().unsqueeze(1),
            image=image,
            place=nodes - offsets[image],
            offsets=offsets,
        )

    @property
    def sizes(self) -> Tensor:
        """Number of keypoints of images 0 and 1, :math:`(B, 2)`."""
        return self.offsets.diff().view(-1, 2)

    @property
    def both(self) -> Tensor:
        """Where both places hold a keypoint, :math:`(B, M, M)`."""
        return self.real[::2].unsqueeze(2) & self.real[1::2].unsqueeze(1)

    def with_dustbins(self, inner: Tensor, dustbin: Tensor, corner: Tensor) -> Tensor:
        """A log assignment, or scores, with dustbins.

        Args:
            inner: Between keypoints.
            dustbin: Of each keypoint.
            corner: Of both dustbins.

        Shapes:
            - **inner:** :math:`(B, M, M)`
            - **dustbin:** :math:`(2B, M)`
            - **corner:** a single number
            - **output:** :math:`(B, M + 1, M + 1)`
        """
        none = least(inner.dtype)
        out = F.pad(inner.masked_fill(~self.both, none), (0, 1, 0, 1), value=none)
        size0, size1 = self.sizes.unsqueeze(2).unbind(1)
        edge = F.pad(dustbin.masked_fill(~self.real, none), (0, 1), value=none)
        corners = corner.to(edge.dtype).expand_as(size0)
        column, row = edge[::2].scatter(1, size0, corners), edge[1::2].scatter(1, size1, corners)
        out = out.scatter(2, size1.unsqueeze(2).expand(-1, out.size(1), 1), column.unsqueeze(2))
        return out.scatter(1, size0.unsqueeze(2).expand(-1, 1, out.size(2)), row.unsqueeze(1))

    def of_nodes(self, of_image0: Tensor, of_image1: Tensor) -> Tensor:
        """What places hold, node by node: :math:`(B, M), (B, M)` to :math:`(N)`."""
        return torch.stack([of_image0, of_image1], dim=1).flatten(0, 1)[self.image, self.place]

    def at(self, values: Tensor, other: Tensor) -> Tensor:
        r"""The entry of each node in the row or column that is its own.

        Args:
            values: A log assignment.
            other: A place in the other image for each node, or its number of keypoints for the dustbin.

        Shapes:
            - **values:** :math:`(B, M + 1, M + 1)`
            - **other**, **output:** :math:`(N)`
        """
        first = self.image % 2 == 0
        rows, columns = torch.where(first, self.place, other), torch.where(first, other, self.place)
        return values[self.image // 2, rows, columns]

    def others(self) -> Tensor:
        """Number of keypoints of the other image, for each node: where its dustbin is, :math:`(N)`."""
        return self.offsets.diff()[self.image ^ 1]

    def matches(self, log_assignment: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        r"""What :func:`~pyg_match.nn.assignment.mutual_matches` reads off, with nodes in the place of indices.

        Args:
            log_assignment: Of all pairs.
            threshold: Least probability of a match.

        Shapes:
            - **log_assignment:** :math:`(B, M + 1, M + 1)`
            - **output:** :math:`(N), (N)`
        """
        none = least(log_assignment.dtype)
        inner = log_assignment[:, :-1, :-1].masked_fill(~self.both, none)
        # Of several that are as good, the first one, for rows and columns alike.
        best, partner0 = inner.max(dim=2)
        partner1 = inner.detach().max(dim=1).indices
        places = torch.arange(inner.size(1), device=inner.device)
        mutual0 = (partner1.gather(1, partner0) == places) & (best > none / 2)
        mutual1 = (partner0.gather(1, partner1) == places) & mutual0.gather(1, partner1)
        scores0 = best.exp().masked_fill(~mutual0, 0)
        scores1 = scores0.gather(1, partner1).masked_fill(~mutual1, 0)
        matches = self.of_nodes(partner0.masked_fill(~mutual0, -1), partner1.masked_fill(~mutual1, -1))
        scores = self.of_nodes(scores0, scores1)
        nodes = matches + self.offsets[self.image ^ 1]
        return torch.where((matches >= 0) & (scores > threshold), nodes, -1), scores
