"""Positional encodings of keypoints."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import MLP

from pyg_match.checks import MOST_CHANNELS, check_tensor, kind_of, real_number, whole_number


def normalize_positions(pos: Tensor, image_size: Tensor) -> Tensor:
    r"""Map pixels to :math:`[-1, 1]` along the longer side of the image, the centre of the image to 0.

    .. math::
        \tilde{\mathbf{p}} = \frac{2 \mathbf{p} - (w, h)}{\max(w, h)}

    Args:
        pos: Keypoints in pixels.
        image_size: ``(width, height)`` in pixels, for each keypoint or broadcastable.

    Shapes:
        - **pos:** :math:`(N, 2)`
        - **image_size:** :math:`(N, 2)` or :math:`(1, 2)`
        - **output:** :math:`(N, 2)`

    Raises:
        TypeError: If one of them is no tensor of real numbers.
        ValueError: If there are not two numbers in a row.

    Source: ``normalize_keypoints`` of LightGlue (https://arxiv.org/abs/2306.13643).

    Example:
        >>> normalize_positions(
        ...     torch.tensor([[320.0, 240.0], [640.0, 480.0]]), torch.tensor([[640, 480]])
        ... ).tolist()
        [[0.0, 0.0], [1.0, 0.75]]
    """
    check_tensor("pos", pos, (None, 2), "real")
    if not isinstance(image_size, Tensor) or image_size.is_complex() or image_size.dtype == torch.bool:
        raise TypeError(f"'image_size' must be a tensor of real numbers, got {kind_of(image_size)}")
    if image_size.shape[-1:] != (2,):
        raise ValueError(f"'image_size' must have rows (width, height), got {list(image_size.shape)}")
    if not pos.is_floating_point():  # whole numbers of few bits hold no doubled position
        pos = pos.to(torch.get_default_dtype())
    size = image_size.to(pos)
    return (2 * pos - size) / size.amax(dim=-1, keepdim=True)


class RotaryEncoding(nn.Module):
    r"""Learnable Fourier features that rotate queries and keys.

    Each pair of channels of a head is one complex number, which is turned by an angle linear in the position, so
    that the score of two keypoints depends on their positions only through their difference:

    .. math::
        \mathbf{r}(\mathbf{p}) = \exp(i\, \mathbf{W}_r \mathbf{p}), \qquad
        \langle \mathbf{r}(\mathbf{p}) \mathbf{q}, \mathbf{r}(\mathbf{p}') \mathbf{k} \rangle
        = \mathrm{Re}\, \sum_c q_c \overline{k_c} \, e^{i\, \mathbf{w}_c^\top (\mathbf{p} - \mathbf{p}')}

    Args:
        in_channels: Number of coordinates: 2, or 4 with scale and orientation.
        head_channels: Channels of one attention head, an even number.
        gamma: Inverse square root of the standard deviation of the initial frequencies.

    Shapes:
        - **input:** :math:`(N, M)`, normalised
        - **output:** :math:`(N, C / 2)`, complex of modulus 1, to be given to :func:`rotate`

    Source: LightGlue (https://arxiv.org/abs/2306.13643), eq. 3; learnable Fourier features:
    https://arxiv.org/abs/2106.02795.

    Example:
        >>> RotaryEncoding(2, 64)(torch.zeros(3, 2)).shape
        torch.Size([3, 32])
    """

    def __init__(self, in_channels: int, head_channels: int, gamma: float = 1.0) -> None:
        super().__init__()
        self.in_channels = in_channels = whole_number("in_channels", in_channels, most=MOST_CHANNELS)
        self.head_channels = head_channels = whole_number("head_channels", head_channels, most=MOST_CHANNELS)
        if head_channels % 2 != 0:
            raise ValueError(f"'head_channels' must be even, got {head_channels}")
        self.gamma = real_number("gamma", gamma, positive=True)
        self.lin = nn.Linear(in_channels, head_channels // 2, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the frequencies anew."""
        nn.init.normal_(self.lin.weight, std=self.gamma**-2)

    def forward(self, pos: Tensor) -> Tensor:
        """The rotations at the normalised positions ``pos``."""
        angle = self.lin(pos)
        if angle.dtype in (torch.half, torch.bfloat16):  # no complex numbers of that width
            angle = angle.float()
        return torch.complex(angle.cos(), angle.sin())

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.head_channels})"


def rotate(x: Tensor, rotation: Tensor, inplace: bool = False) -> Tensor:
    """Turn each pair of neighbouring channels of ``x`` by the angles of ``rotation``.

    Args:
        x: Queries or keys.
        rotation: What :class:`RotaryEncoding` gives.
        inplace: Whether ``x`` may be overwritten, which saves the time that new memory takes.

    Shapes:
        - **x:** :math:`(N, H, C)`
        - **rotation:** :math:`(N, C / 2)`, complex
        - **output:** :math:`(N, H, C)`

    Raises:
        TypeError: If rotations are not complex, or what they turn consists of no floating-point numbers.
        ValueError: If a shape does not fit.

    Example:
        >>> quarter = torch.tensor([[1j]])
        >>> rotate(torch.tensor([[[1.0, 0.0]]]), quarter).tolist()
        [[[0.0, 1.0]]]
    """
    check_tensor("x", x, (None, None, None))
    _check_rotation(rotation, x.size(0), x.size(2))
    wide = x.to(torch.promote_types(x.dtype, torch.float)).unflatten(-1, (-1, 2))
    numbers, angles = torch.view_as_complex(wide.contiguous()), rotation.unsqueeze(1)
    turned = numbers.mul_(angles) if inplace else numbers * angles
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _check_rotation(rotation: Tensor, num_nodes: int, channels: int) -> None:
    """Refuse rotations that do not fit queries or keys."""
    if not isinstance(rotation, Tensor) or not rotation.is_complex():
        raise TypeError(f"'rotation' must be complex, as RotaryEncoding gives it, got {kind_of(rotation)}")
    rows = num_nodes if rotation.dim() == 2 and rotation.size(0) != 1 else 1  # one turn may be that of all
    if rotation.shape != (rows, channels // 2) or channels % 2 != 0:
        raise ValueError(
            f"'rotation' must have shape [{num_nodes}, {channels / 2:g}], half as many columns as a head has channels, "
            f"got {list(rotation.shape)}"
        )


class KeypointEncoding(nn.Module):
    r"""An MLP of position and detection score, :math:`\mathrm{MLP}(\mathbf{p}_i, c_i)`, which the matcher adds to the
    descriptor.

    Args:
        in_channels: Number of coordinates, the score included: 3, or 5 with scale and orientation.
        out_channels: Width of the descriptors.
        hidden_channels: Widths of the hidden layers.

    Shapes:
        - **input:** :math:`(N, M)`, normalised
        - **output:** :math:`(N, D)`

    Source: SuperGlue (https://arxiv.org/abs/1911.11763), eq. 2.

    Example:
        >>> KeypointEncoding(3, 256)(torch.rand(5, 3)).shape
        torch.Size([5, 256])
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden_channels: tuple[int, ...] = (32, 64, 128)
    ) -> None:
        super().__init__()
        self.in_channels = in_channels = whole_number("in_channels", in_channels, most=MOST_CHANNELS)
        self.out_channels = out_channels = whole_number("out_channels", out_channels, most=MOST_CHANNELS)
        hidden_channels = tuple(
            whole_number("hidden_channels", n, most=MOST_CHANNELS) for n in hidden_channels
        )
        # Layer normalisation, because batch statistics would make a pair's answer depend on its batch.
        self.mlp = MLP(
            [in_channels, *hidden_channels, out_channels], norm="LayerNorm", norm_kwargs={"mode": "node"}
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the MLP; its last bias starts at zero."""
        self.mlp.reset_parameters()
        nn.init.zeros_(self.mlp.lins[-1].bias)

    def forward(self, pos: Tensor) -> Tensor:
        """The encoding of the normalised positions and scores ``pos``."""
        out: Tensor = self.mlp(pos)
        return out

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels})"
