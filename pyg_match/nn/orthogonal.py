"""Orthogonal features of several scales: projection, fusion and penalty."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from pyg_match.checks import MOST_CHANNELS, whole_number


def orthogonalize(*features: Tensor) -> list[Tensor]:
    r"""Make the features of several scales orthogonal, node by node, from the last scale to the first.

    The last one stays as it is. Each one before it loses its projection on all that follow it:

    .. math::
        \mathbf{g}_S = \mathbf{f}_S, \qquad
        \mathbf{g}_s = \mathbf{f}_s - \sum_{t > s} \frac{\langle \mathbf{f}_s, \mathbf{g}_t \rangle}
        {\langle \mathbf{g}_t, \mathbf{g}_t \rangle} \mathbf{g}_t

    This is the QR decomposition of :math:`[\mathbf{f}_S, \dots, \mathbf{f}_1]` with columns that keep their length,
    by the modified Gram-Schmidt process, run twice over each vector so that rounding leaves no overlap. A vector
    that is zero, or to rounding a combination of those after it, has no direction, and nothing is projected out
    along it. Values and gradients are finite everywhere.

    Args:
        *features: Features of at least one scale.

    Shapes:
        - **features:** :math:`(*, C)` each
        - **output:** the same

    Raises:
        ValueError: If the shapes differ or there are no features.

    Example:
        >>> g1, f2 = orthogonalize(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
        >>> g1
        tensor([[3., 0.]])
    """
    _check(features)
    # Rounding leaves some ulps of a vector that its successors span.
    tolerance = 8 * torch.finfo(features[0].dtype).eps
    result = [features[-1]]
    directions: list[Tensor] = []
    for i in range(len(features) - 2, -1, -1):
        directions.append(_direction(result[0], features[i + 1], tolerance))
        rest = features[i]
        for direction in 2 * directions:
            rest = rest - (rest * direction).sum(dim=-1, keepdim=True) * direction
        result.insert(0, rest)
    return result


def orthogonality_penalty(*features: Tensor) -> Tensor:
    r"""How much the features of several scales overlap: the mean squared cosine over nodes and pairs of scales.

    .. math::
        \frac{1}{N \binom{S}{2}} \sum_{i=1}^{N} \sum_{s < t}
        \frac{\langle \mathbf{f}_{s,i}, \mathbf{f}_{t,i} \rangle^2}
        {\lVert \mathbf{f}_{s,i} \rVert^2 \lVert \mathbf{f}_{t,i} \rVert^2}

    It is 0 if all are orthogonal and 1 if all are parallel. The cosine with a zero vector counts as 0 and has no
    gradient; without nodes the penalty is 0.

    Args:
        *features: Features of at least two scales.

    Shapes:
        - **features:** :math:`(*, C)` each
        - **output:** a scalar

    Raises:
        ValueError: If the shapes differ or there are fewer than two scales.

    Example:
        >>> orthogonality_penalty(
        ...     torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [-2.0, 0.0]])
        ... )
        tensor(0.5000)
    """
    if len(features) < 2:
        raise ValueError(f"the penalty compares at least two scales, got {len(features)}")
    _check(features)
    directions = [_direction(feature, feature) for feature in features]
    squares = [(a * b).sum(dim=-1).square() for a, b in combinations(directions, 2)]
    total = torch.stack(squares)
    return total.sum() / max(1, total.numel())


class OrthogonalFusion(nn.Module):
    r"""Fusion of the features of several scales into one, after what they have in common is removed.

    .. math::
        \mathbf{x}' = \mathrm{MLP} \left( [\mathbf{g}_1 \, \| \, \dots \, \| \, \mathbf{g}_S] \right), \qquad
        \mathrm{MLP} = \mathrm{Linear} \circ \mathrm{GELU} \circ \mathrm{LayerNorm} \circ \mathrm{Linear}

    with the orthogonal features of :func:`orthogonalize`; for two scales :math:`\mathbf{g}_2 = \mathbf{f}_2` and
    :math:`\mathbf{g}_1` is what remains of :math:`\mathbf{f}_1` without its projection on :math:`\mathbf{f}_2`. The
    MLP goes from :math:`S C` channels to :math:`C`.

    Args:
        channels: Width :math:`C` of the features of each scale, and of the output.
        num_scales: Number of scales :math:`S`.
        project: Whether to orthogonalize. If ``False`` the features are concatenated as they are, for use with
            :func:`orthogonality_penalty` in the loss instead.
        residual: Whether to add the features of the last scale, which is then refined by the others.

    Shapes:
        - **input:** :math:`S` tensors :math:`(*, C)`, as a sequence
        - **output:** :math:`(*, C)`

    Raises:
        ValueError: If the number of scales or their shapes do not fit.

    Example:
        >>> fusion = OrthogonalFusion(8)
        >>> fusion([torch.randn(5, 8), torch.randn(5, 8)]).shape
        torch.Size([5, 8])
    """

    def __init__(
        self, channels: int, num_scales: int = 2, project: bool = True, residual: bool = False
    ) -> None:
        super().__init__()
        self.num_scales = num_scales = whole_number("num_scales", num_scales, most=MOST_CHANNELS)
        self.channels = channels = whole_number("channels", channels, most=MOST_CHANNELS)
        self.project = project
        self.residual = residual
        width = num_scales * channels
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, channels)
        )

    def reset_parameters(self) -> None:
        """Reset the MLP."""
        reset(self.mlp)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse the features of all scales."""
        if len(features) != self.num_scales:
            raise ValueError(f"expected the features of {self.num_scales} scales, got {len(features)}")
        parts = orthogonalize(*features) if self.project else list(features)
        out: Tensor = self.mlp(torch.cat(parts, dim=-1))
        return out + features[-1] if self.residual else out

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.channels}, num_scales={self.num_scales}, "
            f"project={self.project}, residual={self.residual})"
        )


def _check(features: tuple[Tensor, ...]) -> None:
    shapes = [list(feature.shape) for feature in features]
    if not features or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"the features of all scales must have the same shape, got {shapes}")


def _direction(vector: Tensor, origin: Tensor, tolerance: float = 0.0) -> Tensor:
    """The vectors scaled to unit length; zero for those not longer than ``tolerance`` times their origin.

    Vectors are first divided by their largest entry, so that no square under- or overflows. The result does not
    depend on that divisor, and so neither does its gradient.
    """
    largest = vector.detach().abs().amax(dim=-1, keepdim=True)
    has_direction = largest > tolerance * origin.detach().abs().amax(dim=-1, keepdim=True)
    scaled = torch.where(has_direction, vector / largest.masked_fill(~has_direction, 1.0), 0.0)
    square = scaled.square().sum(dim=-1, keepdim=True)
    return scaled * square.masked_fill(~has_direction, 1.0).rsqrt()
