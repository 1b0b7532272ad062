"""Checks of arguments: numbers, words, devices and tensors."""

import difflib
import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Optional

import torch
from torch import Tensor

MOST_CHANNELS = 1 << 16  # of a layer; more are a mistake, for which no machine has the memory
_KINDS = {
    "floating": "a floating-point tensor",
    "real": "a tensor of real numbers",
    "whole": "a tensor of int64 or int32",
    "boolean": "boolean",
}
_SHOWN = 200  # letters of a value that a message quotes


def whole_number(name: str, value: Any, least: int = 1, most: Optional[int] = None) -> int:
    """A count that a user gave, of Python's, numpy's or torch's types.

    Args:
        name: What the user calls it.
        value: What the user gave.
        least: The smallest count that makes sense.
        most: The largest one, if there is one.

    Raises:
        ValueError: If it is no whole number, or out of range.

    Example:
        >>> import numpy as np
        >>> whole_number("k", np.int64(3))
        3
    """
    try:
        if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):  # the latter of tensors that are on no device
        number = None
    if number is None or number < least or (most is not None and number > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"'{name}' must be a whole number {limit}, got {shown(value)}")
    return number


def real_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, positive: bool = False
) -> float:
    """A finite number that a user gave.

    Args:
        name: What the user calls it.
        value: What the user gave.
        least: The smallest number that makes sense.
        most: The largest one.
        positive: Whether 0 is too small.

    Raises:
        ValueError: If it is no finite number, or out of range.

    Example:
        >>> real_number("threshold", 3)
        3.0
    """
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_meta:
        value = value.item()
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # of whole numbers that no float holds
        number = math.inf
    fits = math.isfinite(number) and least <= number <= most and not (positive and number <= 0)
    if not fits:
        limit = "positive" if positive else "finite"
        limit += f" number of at least {least:g}" if math.isfinite(least) else " number"
        limit += f" and at most {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"'{name}' must be a {limit}, got {shown(value)}")
    return number


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors, such as weights, that hold NaN or infinite values.

    Raises:
        ValueError: If there is one; ``what`` begins the message, which names the first.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise ValueError(f"{what} NaN or infinite values, {count} of {value.numel()} in '{name}'")


def one_of(name: str, value: Any, choices: Sequence[Optional[str]]) -> Any:
    """One of a few words that an argument may be.

    Raises:
        ValueError: If it is another one, or no word.

    Example:
        >>> one_of("mode", "drop", ("drop", "mask"))
        'drop'
    """
    if (value is not None and not isinstance(value, str)) or value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"'{name}' must be {', '.join(first)} or {last}, got {shown(value)}")
    return value


def usable_device(device: Any) -> torch.device:
    """The device that a user named.

    Raises:
        ValueError: If this machine, or this build of torch, has no such device.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"'device' must be one that this torch can use, got {shown(device)}: {reason}"
        ) from None
    if found.type == "meta":
        raise ValueError("'device' must be one that computes, got 'meta'")
    return found


def shown(value: Any) -> str:
    """A value as messages quote it, shortened where it is long."""
    text = (
        f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) and value.dim() else repr(value)
    )
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def kind_of(value: Any) -> str:
    """The type of the numbers of a tensor, or the class of anything else, as messages name it."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def nearest_name(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The hint of a message about an unknown name: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"did you mean '{prefix}{near[0]}'?" if near else f"expected one of {', '.join(names)}"


def check_tensor(
    name: str,
    value: Any,
    shape: Sequence[Optional[int]],
    kind: Literal["floating", "real", "whole", "boolean"] = "floating",
) -> Tensor:
    """Refuse what is no tensor of a kind and shape.

    Args:
        name: What the user calls it.
        value: What the user gave.
        shape: The sizes that it must have; ``None`` for any.
        kind: Of the numbers: floating-point, also whole, only whole, or ``True`` and ``False``.

    Raises:
        TypeError: If it is no tensor, or one of other numbers.
        ValueError: If the shape is another one.
    """
    fits = (
        isinstance(value, Tensor)
        and {
            "floating": value.is_floating_point(),
            "real": not value.is_complex() and value.dtype != torch.bool,
            "whole": value.dtype in (torch.int32, torch.int64),
            "boolean": value.dtype == torch.bool,
        }[kind]
    )
    if not fits:
        raise TypeError(f"'{name}' must be {_KINDS[kind]}, got {kind_of(value)}")
    if value.dim() != len(shape) or any(
        w is not None and s != w for s, w in zip(value.shape, shape, strict=True)
    ):
        letters = iter("NMKLPQ")
        wanted = ", ".join(next(letters) if size is None else str(size) for size in shape)
        raise ValueError(f"'{name}' must have shape [{wanted}], got {list(value.shape)}")
    return value


def check_points(name: str, points: Any, any_shape: bool = False) -> Tensor:
    r"""Finite numbers with one row for each point, such as positions.

    Args:
        name: What the user calls them.
        points: What the user gave.
        any_shape: Whether there may be one dimension, or more than two.

    Shapes:
        - **points**, **output:** :math:`(N, F)`

    Raises:
        TypeError: If it is no tensor of real numbers.
        ValueError: If there are no rows or no columns, a number is not finite, or they are on the meta device.
    """
    if not isinstance(points, Tensor) or points.is_complex() or points.dtype == torch.bool:
        raise TypeError(f"'{name}' must be a tensor of real numbers, got {kind_of(points)}")
    fits = points.dim() >= 1 if any_shape else points.dim() == 2
    if not fits or 0 in points.shape[1:]:
        shape = "[N] or [N, F]" if any_shape else "[N, F]"
        raise ValueError(f"'{name}' must have shape {shape} with F of at least 1, got {list(points.shape)}")
    if points.layout != torch.strided or points.is_meta:
        raise ValueError(
            f"'{name}' must be a dense tensor with numbers, got {points.layout} on {points.device}"
        )
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"'{name}' holds NaN or infinite values, expected finite points")
    return points


def check_batch(batch: Any, num_nodes: int) -> Tensor:
    r"""The example of each node, as PyG writes it: whole numbers from 0 on that do not fall.

    Shapes:
        - **batch**, **output:** :math:`(N)`

    Raises:
        TypeError: If it is no tensor of whole numbers.
        ValueError: If it has not one number for each node, or the numbers are negative or fall.
    """
    if not isinstance(batch, Tensor) or batch.dtype.is_floating_point or batch.dtype.is_complex:
        raise TypeError(f"'batch' must be a tensor of whole numbers, got {kind_of(batch)}")
    if batch.shape != (num_nodes,):
        raise ValueError(
            f"'batch' must have shape [{num_nodes}], got {list(batch.shape)}, expected a number for each node"
        )
    if batch.dtype == torch.bool:
        raise TypeError(f"'batch' must be a tensor of whole numbers, got {batch.dtype}")
    if batch.is_meta:
        raise ValueError("'batch' is on the meta device, which holds no numbers")
    batch = batch.long()
    if num_nodes > 0 and not torch.compiler.is_compiling():
        if int(batch[0]) < 0:
            raise ValueError(f"'batch' must start at 0 or above, got {int(batch[0])}")
        falls = (batch[1:] < batch[:-1]).nonzero()
        if falls.numel() > 0:
            first = int(falls[0])
            raise ValueError(
                "'batch' must be sorted, so that the nodes of an example follow each other, but "
                f"{int(batch[first + 1])} follows {int(batch[first])} at node {first + 1}"
            )
    return batch
