"""Checks of the arguments of attention along edges."""

from typing import Optional

from torch import Tensor

from pyg_match.checks import check_tensor


def check_edge_values(num_edges: int, heads: int, bias: Optional[Tensor], mask: Optional[Tensor]) -> None:
    """Refuse biases and masks that do not fit the edges.

    Raises:
        ValueError: If there is not one value for each edge (of biases: and head).
        TypeError: If a mask is not boolean, or biases are no real numbers.
    """
    if bias is not None:
        check_tensor("bias", bias, (num_edges, heads), "real")
    if mask is not None:
        check_tensor("mask", mask, (num_edges,), "boolean")
    for name, value in (("bias", bias), ("mask", mask)):
        if value is not None and value.is_meta:
            raise ValueError(f"'{name}' is on the meta device, which holds no numbers")


def check_nodes(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse queries, keys and values that do not fit together."""
    named = (("query", query), ("key", key), ("value", value))
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"'{name}' must be a tensor [N, H, C], got {type(tensor).__name__}")
    shapes = [list(t.shape) for t in (query, key, value)]
    if any(len(shape) != 3 for shape in shapes):
        raise ValueError(f"queries, keys and values must have shape [N, H, C], got {shapes}")
    if query.shape[1:] != key.shape[1:] or key.shape[:2] != value.shape[:2]:
        raise ValueError(
            f"queries [T, H, C], keys [S, H, C] and values [S, H, D] do not fit together, got {shapes}"
        )
    if query.size(2) == 0:
        raise ValueError(f"queries and keys must have at least one channel, got shapes {shapes[:2]}")
    if not query.device == key.device == value.device:
        devices = [str(t.device) for t in (query, key, value)]
        raise ValueError(f"queries, keys and values must be on one device, got {devices}")
    if query.is_meta:
        raise ValueError("queries, keys and values are on the meta device, which holds no numbers")
    if not (query.is_floating_point() and key.is_floating_point() and value.is_floating_point()):
        raise TypeError(f"expected floating-point tensors, got {query.dtype}, {key.dtype} and {value.dtype}")
