"""Checks of user data, shared by keypoint sets, pairs and the matcher."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from pyg_match.checks import kind_of, shown

NODE_NUMBERS = ("score", "scale", "orientation")  # one for each keypoint


def image_sizes(image_size: Any, device: Optional[torch.device] = None) -> Tensor:
    """Widths and heights as a user gave them, ``[B, 2]``.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If there are not two for each image.
    """
    size = _as_tensor(image_size, device)
    if size.dim() not in (1, 2) or size.size(-1) != 2 or size.dtype == torch.bool or size.is_complex():
        raise ValueError(
            f"'image_size' must be (width, height) in pixels, or a row of them for each image, got {shown(image_size)}"
        )
    return size.view(-1, 2)


def _as_tensor(image_size: Any, device: Optional[torch.device] = None) -> Tensor:
    if isinstance(image_size, Tensor):  # as_tensor would move it to the default device
        return image_size if device is None else image_size.to(device)
    try:
        return torch.as_tensor(image_size, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"'image_size' must be (width, height) in pixels, got {shown(image_size)}") from None


def check_image_sizes(size: Any, num_images: Optional[int] = None) -> None:
    """Refuse sizes that no image has.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If their shape does not fit, or one is not positive and finite.
    """
    size = _as_tensor(size)
    rows = "B" if num_images is None else num_images
    if size.dim() != 2 or size.size(1) != 2 or (num_images is not None and size.size(0) != num_images):
        raise ValueError(
            f"'image_size' must have shape [{rows}, 2], a row (width, height) for each image, got {list(size.shape)}"
        )
    if size.is_complex() or size.dtype == torch.bool or size.is_meta:
        raise TypeError(f"'image_size' must be a tensor of real numbers, got {size.dtype} on {size.device}")
    good = torch.isfinite(size) & (size > 0)
    if not bool(good.all()):
        wrong = size[~good.all(dim=1)][0].tolist()
        raise ValueError(f"'image_size' must hold positive finite (width, height) rows, got {wrong}")


def check_nodes(data: Data, needed: Optional[Sequence[str]] = None) -> None:
    """Check the keypoint attributes of ``data``.

    Args:
        data: Keypoints.
        needed: Which of ``score``, ``scale`` and ``orientation`` somebody needs who takes whole numbers, too, and does
            not look at the others; ``None`` to check all that there are, strictly.

    Raises:
        TypeError: If ``pos``, ``x`` or what is needed besides is missing, or not a floating-point tensor.
        ValueError: If a shape is wrong, a value is NaN or infinite, or they lie on several devices or on none.
    """
    strict = needed is None
    if needed is None:
        needed = [name for name in NODE_NUMBERS if data.get(name) is not None]
    names = ("pos", "x", *needed)
    for name in names:
        value = data.get(name)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"'{name}' must be a tensor with one row per keypoint, got {type(value).__name__}"
            )
        if not value.is_floating_point() and (strict or value.is_complex() or value.dtype == torch.bool):
            raise TypeError(f"'{name}' must be a floating-point tensor, got {value.dtype}")
        if value.is_meta:
            raise ValueError(f"'{name}' is on the meta device, which holds no numbers")
    # The first number of a batch of positions is not that of keypoints.
    num_nodes: Any = data.pos.size(0) if data.pos.dim() in (1, 2) else "N"
    shapes = {"pos": (num_nodes, 2), "x": (num_nodes, None)}
    for name in names:
        value, expected = data[name], shapes.get(name, (num_nodes,))
        fits = value.dim() == len(expected) and all(
            size in (None, seen) for seen, size in zip(value.shape, expected, strict=True)
        )
        if not fits:
            wanted = ", ".join("D" if size is None else str(size) for size in expected)
            raise ValueError(f"'{name}' must have shape [{wanted}], got {list(value.shape)}")
        if value.device != data.pos.device:
            raise ValueError(
                f"'{name}' must be on the device of 'pos', {data.pos.device}, got {value.device}"
            )
        if not bool(torch.isfinite(value).all()):
            row = int((~torch.isfinite(value)).nonzero()[0][0])
            raise ValueError(
                f"'{name}' holds NaN or infinite values, expected finite ones, first at keypoint {row}"
            )


def check_counts(counts: Any, num_nodes: Optional[int] = None) -> None:
    """Refuse what holds no numbers of keypoints, or numbers that do not add up to the keypoints that there are.

    Raises:
        TypeError: If they are no tensor of whole numbers.
        ValueError: If they are not two for each pair, negative, or do not fit.
    """
    whole = isinstance(counts, Tensor) and not (counts.is_floating_point() or counts.is_complex())
    if not whole or counts.dtype == torch.bool:
        raise TypeError(
            f"'num_keypoints' must be a tensor of whole numbers, two for each pair, got {kind_of(counts)}"
        )
    if counts.is_meta:
        raise ValueError("'num_keypoints' is on the meta device, which holds no numbers")
    if counts.dim() != 2 or counts.size(1) != 2:
        raise ValueError(
            f"'num_keypoints' must have shape [B, 2], two numbers for each pair, got {list(counts.shape)}"
        )
    if bool((counts < 0).any()):
        raise ValueError(
            f"'num_keypoints' must not be negative, got {counts[(counts < 0).any(1)][0].tolist()}"
        )
    if num_nodes is not None and int(counts.sum()) != num_nodes:
        raise ValueError(
            f"'num_keypoints' {shown(counts.tolist())} must sum to the {num_nodes} keypoints that there are"
        )


def check_edge_index(name: str, edges: Any, num_nodes: int) -> Tensor:
    """The edges from source to target as a plain tensor, ``[2, E]``.

    Raises:
        TypeError: If they are no tensor of whole numbers.
        ValueError: If their shape is wrong, or an edge names no node.
    """
    if not isinstance(edges, Tensor) or edges.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"'{name}' must be a tensor of int64 node numbers, got {kind_of(edges)}")
    if edges.is_meta or edges.layout != torch.strided:
        raise ValueError(
            f"'{name}' must be a dense tensor with numbers, got {edges.layout} on {edges.device}"
        )
    if edges.dim() != 2 or edges.size(0) != 2:
        raise ValueError(f"'{name}' must have shape [2, E], got {list(edges.shape)}")
    plain: Tensor = edges.as_tensor() if isinstance(edges, EdgeIndex) else edges
    outside = (plain < 0) | (plain >= num_nodes)
    if bool(outside.any()):
        raise ValueError(f"'{name}' names node {int(plain[outside][0])}, but there are {num_nodes} nodes")
    return plain


def check_edges(name: str, edges: Any, image: Tensor, partner: Optional[Tensor] = None) -> None:
    """Refuse edges that name no keypoint, or join keypoints of images that they should not.

    Args:
        name: What the user calls them.
        edges: The edges from source to target, ``[2, E]``.
        image: The image, or example, of each keypoint.
        partner: The image that sources of edges to each keypoint lie in; its own if not given.

    Raises:
        TypeError: If they are no tensor of whole numbers.
        ValueError: If their shape is wrong, or an edge is; the first such edge is named.
    """
    plain = check_edge_index(name, edges, image.numel())
    if edges.device != image.device:
        raise ValueError(f"'{name}' must be on the device of 'pos', {image.device}, got {edges.device}")
    source, target = plain
    wrong = (image if partner is None else partner)[target] != image[source]
    if bool(wrong.any()):
        where = "the same image" if partner is None else "the two images of a pair"
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"'{name}' must join keypoints of {where}, but edge {first} joins node {int(source[first])} "
            f"of image {int(image[source[first]])} to node {int(target[first])} "
            f"of image {int(image[target[first]])}"
        )
