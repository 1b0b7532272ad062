"""Reading files of weights."""

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
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors fail in a dozen ways on a damaged file
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes, beginning with {head!r}) is not a readable weight file: "
            f"{type(error).__name__}: {reason}"
        ) from error
    weights = _state_dict(content)
    if weights is None:
        raise ValueError(f"{path} holds no state dict, expected tensors by name, got {_outline(content)}")
    return weights


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
    nested = (
        [value for value in content.values() if _is_state_dict(value)] if isinstance(content, Mapping) else []
    )
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
