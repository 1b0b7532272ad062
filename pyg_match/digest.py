"""Digests of tensors and arrays, by which files are checked when they are read back."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

DIGEST = "pyg_match_digest"  # its name in the metadata of a matcher's file


def tensor_digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> str:
    """A digest of the names, types, shapes and numbers of tensors on the CPU, and of texts beside them.

    Example:
        >>> len(tensor_digest({"x": torch.zeros(3)}))
        32
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        if value.numel() > 0:  # strides of tensors without numbers cannot be viewed as bytes
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    for name, text in sorted((texts or {}).items()):
        digest.update(repr((name, text)).encode())
    return digest.hexdigest()


def array_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of the names, types, shapes and numbers of arrays.

    Example:
        >>> len(array_digest({"x": np.zeros(3)}))
        32
    """
    return tensor_digest({name: torch.from_numpy(value) for name, value in arrays.items()})
