"""Checks of user data, shared by keypoint sets and pairs."""

from typing import Optional

import torch
from torch import Tensor
from torch_geometric.data import Data


def check_nodes(data: Data) -> None:
    """Check the keypoint attributes of ``data``.

    Raises:
        TypeError: If ``pos`` or ``x`` is missing or not a floating-point tensor.
        ValueError: If a shape is wrong or a value is NaN or infinite.
    """
    for name in ("pos", "x"):
        value = data.get(name)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"'{name}' must be a tensor with one row per keypoint, got {type(value).__name__}"
            )
    num_nodes = data.pos.size(0)
    shapes: dict[str, tuple[Optional[int], ...]] = {"pos": (num_nodes, 2), "x": (num_nodes, None)}
    shapes.update({name: (num_nodes,) for name in ("score", "scale", "orientation") if name in data})
    for name, shape in shapes.items():
        value = data[name]
        if not value.is_floating_point():
            raise TypeError(f"'{name}' must be a floating-point tensor, got {value.dtype}")
        if value.dim() != len(shape) or any(
            e is not None and s != e for s, e in zip(value.shape, shape, strict=True)
        ):
            expected = "[" + ", ".join("D" if e is None else str(e) for e in shape) + "]"
            raise ValueError(f"'{name}' must have shape {expected}, got {list(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"'{name}' holds NaN or infinite values, expected finite ones")
    if "image_size" in data:
        size = torch.as_tensor(data.image_size)
        if size.dim() != 2 or size.size(1) != 2 or not bool((size > 0).all()):
            raise ValueError(f"'image_size' must hold positive (width, height) rows, got {size.tolist()}")
