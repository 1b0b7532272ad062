"""Checks of a transform's data, and the groups of nodes that may be joined: images, or examples of a batch."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from pyg_match.checks import check_batch, check_points, shown
from pyg_match.data import KeypointPair
from pyg_match.data.checks import check_counts


def check_data(data: Any, transform: BaseTransform, *names: str) -> None:
    """Refuse data without what a transform needs.

    Args:
        data: What the transform was called with.
        transform: The transform.
        *names: Attributes with one row per node that it needs.

    Raises:
        TypeError: If it is no :class:`~torch_geometric.data.Data`, or lacks an attribute.
        ValueError: If an attribute has no rows, or not as many as the others, or positions are not finite.
    """
    kind = type(transform).__name__
    if not isinstance(data, Data):
        raise TypeError(f"{kind} needs a Data or KeypointPair, got {type(data).__name__}")
    rows = None
    for name in names:
        value = data.get(name)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the data lacks '{name}', which {kind} needs, a tensor with one row per node"
                if value is None
                else f"'{name}' must be a tensor with one row per node for {kind}, got {type(value).__name__}"
            )
        if value.dim() == 0:
            raise ValueError(f"{kind} needs '{name}' with one row per node, got a tensor without dimensions")
        if name == "pos":
            check_points(name, value)
        rows = value.size(0) if rows is None else rows
        if value.size(0) != rows:
            raise ValueError(f"'{names[0]}' has {rows} rows, but '{name}' has {value.size(0)}")


def node_groups(data: Data) -> Optional[Tensor]:
    """The number of the image or example that each node belongs to; ``None`` if there is only one.

    Raises:
        TypeError: If ``batch`` or ``num_keypoints`` does not hold whole numbers.
        ValueError: If it does not fit the nodes.
    """
    if isinstance(data, KeypointPair):
        check_counts(data.get("num_keypoints"), num_nodes_of(data))
        return data.image_batch
    batch = data.get("batch")
    return None if batch is None else check_batch(batch, num_nodes_of(data))


def group_ptr(data: Data) -> list[int]:
    """The node offsets of the images or examples of ``data``; raises what :func:`node_groups` raises."""
    groups = node_groups(data)
    if isinstance(data, KeypointPair):
        offsets: list[int] = data.image_ptr.tolist()
        return offsets
    if groups is None:
        return [0, num_nodes_of(data)]
    return [0, *torch.bincount(groups).cumsum(0).tolist()]


def num_nodes_of(data: Data) -> int:
    """The number of nodes, by positions or descriptors if there are any."""
    rows = (data.get(name) for name in ("pos", "x"))
    known = next((len(value) for value in rows if isinstance(value, Tensor) and value.dim() > 0), None)
    if known is not None:
        return known
    try:
        return int(data.num_nodes or 0)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ValueError(f"the data does not tell how many nodes it has, got {shown(data)}") from None
