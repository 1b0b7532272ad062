"""Reading files of weights."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pyg_match.digest import DIGEST, tensor_digest


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, official or written by this package.

    Raises:
        ValueError: If it is damaged, or holds no state dict.
    """
    with path.open("rb") as file:
        head = file.read(24)
    try:
        if path.suffix == ".safetensors":
            content: Any = _read_safetensors(path)
        else:
            content = load_tensors(path)
    except Exception as error:  # pickle, zip and safetensors fail in a dozen ways on a damaged file
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes, beginning with {head!r}) is not a readable weight file: "
            f"{type(error).__name__}: {reason}"
        ) from error
    weights = _state_dict(content)
    if weights is None:
        raise ValueError(f"{path} holds no state dict, expected tensors by name, got {_outline(content)}")
    for name, value in weights.items():
        if not _holds_numbers(value):
            raise ValueError(
                f"{path} must hold dense tensors of real numbers, got '{name}' of {value.dtype}, {value.layout} on "
                f"{value.device}"
            )
    return weights


def load_tensors(path: Path) -> Any:
    """What :func:`torch.load` reads from a file, which cannot run code.

    Raises:
        ValueError: If it is a tar archive, as the first versions of torch wrote; before torch 2.6 one could run code.
        Exception: As :func:`torch.load`.
    """
    if tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive, the format of the first versions of torch")
    return torch.load(path, map_location="cpu", weights_only=True)


def _holds_numbers(value: Tensor) -> bool:
    """Whether a tensor has the numbers that weights have, one beside the other."""
    is_dense = value.layout == torch.strided and not (value.is_meta or value.is_nested or value.is_quantized)
    # Of 8 bits there are some that torch does not compute with.
    return is_dense and not (value.is_complex() or (value.is_floating_point() and value.itemsize == 1))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, compared with the digest that :meth:`pyg_match.nn.GraphMatcher.save` writes."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = dict(file.metadata() or {})
    digest = texts.pop(DIGEST, None)
    if digest is not None and digest != tensor_digest(tensors, texts):
        raise ValueError("its numbers do not agree with their digest")
    return tensors


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    if _is_state_dict(content):
        return dict(content)
    values = content.values() if isinstance(content, Mapping) else ()
    nested = [value for value in values if _is_state_dict(value)]
    return dict(nested[0]) if len(nested) == 1 else None


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
    )


def _outline(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    entries = [f"{key!r}: {type(value).__name__}" for key, value in list(content.items())[:4]]
    return "a dict with " + (", ".join(entries) or "nothing in it")
