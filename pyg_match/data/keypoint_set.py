"""The keypoints of one image as a PyG graph without edges."""

from typing import Any, Optional

from torch import Tensor
from torch_geometric.data import Data

from pyg_match.data.checks import check_image_sizes, check_nodes, image_sizes


class KeypointSet(Data):
    r"""The local features of one image: a :class:`~torch_geometric.data.Data` whose nodes are keypoints.

    Any PyG transform or layer works on it; edges may be added under any name.

    Args:
        pos: Keypoints in pixels, x to the right and y down, the centre of the top-left pixel being (0, 0).
        x: Descriptors.
        score: Detection scores; the higher, the better.
        scale: Diameter of the keypoints in pixels, twice the standard deviation that COLMAP and hloc write.
        orientation: Orientation of the keypoints in radians.
        image_size: ``(width, height)`` of the image in pixels, as a tuple or tensor.
        **kwargs: Further attributes, stored as they are.

    Raises:
        TypeError: If ``image_size`` does not consist of numbers.
        ValueError: If ``image_size`` is not two numbers.

    Shapes:
        - **pos:** :math:`(N, 2)`
        - **x:** :math:`(N, D)`
        - **score**, **scale**, **orientation:** :math:`(N)`
        - **image_size:** stored as :math:`(1, 2)`, so that a batch of :math:`B` sets holds :math:`(B, 2)`

    Example:
        >>> import torch
        >>> KeypointSet(pos=torch.rand(5, 2) * 100, x=torch.randn(5, 128), image_size=(640, 480))
        KeypointSet(x=[5, 128], pos=[5, 2], image_size=[1, 2])
    """

    def __init__(
        self,
        pos: Optional[Tensor] = None,
        x: Optional[Tensor] = None,
        score: Optional[Tensor] = None,
        scale: Optional[Tensor] = None,
        orientation: Optional[Tensor] = None,
        image_size: Any = None,
        **kwargs: Any,
    ) -> None:
        optional = {"score": score, "scale": scale, "orientation": orientation}
        kwargs.update({key: value for key, value in optional.items() if value is not None})
        if image_size is not None:
            device = pos.device if isinstance(pos, Tensor) else None
            kwargs["image_size"] = image_sizes(image_size, device)
        super().__init__(x=x, pos=pos, **kwargs)

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints :math:`N`."""
        return 0 if self.pos is None else len(self.pos)

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check shapes, dtypes and finiteness of the keypoints, on top of PyG's own checks.

        Args:
            raise_on_error: If ``False``, return whether the data is valid instead of raising.

        Raises:
            ValueError: If an attribute has the wrong shape or holds NaN or infinite values.
            TypeError: If an attribute is missing or is not a floating-point tensor.
        """
        try:
            check_nodes(self)
            if "image_size" in self:
                check_image_sizes(self.image_size)
            super().validate(raise_on_error=True)
        except (TypeError, ValueError):
            if raise_on_error:
                raise
            return False
        return True
