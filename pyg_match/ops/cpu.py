"""The operators on the CPU: between torch's tensors and the compiled kernels."""

import functools
import time
import warnings
from typing import TYPE_CHECKING, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_match.ops.job import GRAD, KEY, QUERY, VALUE, Edges, packed, rounds, run

if TYPE_CHECKING:
    from pyg_match.ops.kernels import Kernels


@functools.cache
def kernels() -> Optional["Kernels"]:
    """The compiled kernels; ``None``, after one warning, if they cannot be had."""
    try:
        from pyg_match.ops.kernels import Kernels
    except ImportError as error:
        warnings.warn(
            f"there are no compiled kernels, so plain torch does their work, which takes longer: {error}",
            stacklevel=2,
        )
        return None
    try:
        return Kernels(cache=True)
    except RuntimeError as error:  # no folder to write to
        warnings.warn(f"kernels are compiled anew by each process: {error}", stacklevel=2)
        return Kernels(cache=False)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the compiled kernels can be had."""
    return kernels() is not None


def warmup(*dtypes: torch.dtype) -> float:
    """Compile the kernels, or read them from disk, before they are needed.

    Args:
        *dtypes: ``torch.float`` (the default), ``torch.double`` and ``torch.bfloat16``.

    Returns:
        The seconds that it took: some for the first process, a fraction of one later.
    """
    from pyg_match.ops.csr import CSR
    from pyg_match.ops.largest import LargestOfColumns, largest_indices
    from pyg_match.ops.sparse_attention import edge_scores, sparse_attention
    from pyg_match.ops.undirected import undirected

    start = time.perf_counter()
    with torch.inference_mode(False), torch.enable_grad():
        edges = CSR(torch.tensor([0, 1]), torch.tensor([0]))
        for dtype in dtypes or (torch.float,):
            x = torch.zeros(1, 1, 4, dtype=dtype, requires_grad=True)
            (sparse_attention(x, x, x, edges).sum() + edge_scores(x, x, edges).sum()).backward()
            values = x[0].detach().to(torch.promote_types(dtype, torch.float))
            largest_indices(values, 1)
            largest = LargestOfColumns(values.size(1), 1)
            largest.add(values)
            largest.indices()
    largest_indices(torch.zeros(1, 1, dtype=torch.double), 1)  # in which distances are compared
    undirected(edges.rowptr, edges.col)
    return time.perf_counter() - start


def empty_result(query: Tensor, value: Tensor) -> Tensor:
    """Memory for a result, which lies as the queries do, node by node or head by head."""
    nodes, heads, channels = query.size(0), query.size(1), value.size(2)
    if query.stride(1) > query.stride(0):
        return query.new_empty(heads, nodes, channels).transpose(0, 1)
    return query.new_empty(nodes, heads, channels)


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp; ``bias [H, E]`` and ``keep [E]`` are in the order of ``col``.

    Keys and values may be in bfloat16 where all else is in single precision.
    """
    compiled = _kernels()
    halves = query.dtype == torch.float and key.dtype == value.dtype == torch.bfloat16
    kernel = compiled.attention_of_halves if halves else compiled.attention_forward
    key, value = (key, value) if halves else (key.to(query.dtype), value.to(query.dtype))
    out = empty_result(query, value)
    lse = query.new_empty(query.shape[:2])
    # To sort biases and masks as well would cost more than tiles save.
    tables = (key, value) if bias is None and keep is None else ()
    edges = Edges.checked(compiled, rowptr, col, query.size(0), key.size(0), *tables)
    for heads in rounds(edges, key, value):
        run(
            compiled, kernel, edges, scale, removes,
            query=heads(query), key=packed(heads(key), edges, KEY), value=packed(heads(value), edges, VALUE),
            bias=None if bias is None else heads(bias, 0), keep=keep, out=heads(out), lse=heads(lse),
        )  # fmt: skip
    return out, lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rowptr: Tensor,
    col: Tensor,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values and scores, the last ``[H, E]``."""
    compiled = _kernels()
    key_type, value_type = key.dtype, value.dtype
    key, value = key.to(query.dtype), value.to(query.dtype)
    grad_query, grad_key, grad_value = (empty_result(t, t) for t in (query, key, value))
    slope = query.new_empty(query.size(1), col.numel())
    alpha = torch.empty_like(slope)
    tables = (key, value) if bias is None and keep is None else ()
    edges = Edges.checked(compiled, rowptr, col, query.size(0), key.size(0), *tables)
    # Sources gather from their targets what these sent them.
    by_source = Edges(*compiled.transpose(edges.rowptr, edges.col, np.uint64(key.size(0))))
    by_source = by_source.tiled(compiled, query, grad)
    gather = functools.partial(run, compiled, compiled.gather_sum)
    for heads in rounds(edges, query, key, value, grad, tiles=by_source.tiles):
        k = packed(heads(key), edges, KEY)
        run(
            compiled, compiled.attention_backward, edges, scale, removes,
            query=heads(query), key=k, value=packed(heads(value), edges, VALUE), grad=heads(grad),
            bias=None if bias is None else heads(bias, 0), keep=keep, out=heads(out), lse=heads(lse),
            weight=heads(alpha, 0), slope=heads(slope, 0),
        )  # fmt: skip
        gather(edges, scale, weight=heads(slope, 0), value=k, out=heads(grad_query))
        gather(
            by_source,
            scale,
            weight=heads(slope, 0),
            value=packed(heads(query), edges, QUERY),
            out=heads(grad_key),
        )
        gather(
            by_source,
            1.0,
            weight=heads(alpha, 0),
            value=packed(heads(grad), edges, GRAD),
            out=heads(grad_value),
        )
    return grad_query, grad_key.to(key_type), grad_value.to(value_type), slope


def scores_forward(query: Tensor, key: Tensor, rowptr: Tensor, col: Tensor, scale: float) -> Tensor:
    """The scaled inner products of all edges, ``[H, E]``."""
    compiled = _kernels()
    out = query.new_empty(query.size(1), col.numel())
    edges = Edges.checked(compiled, rowptr, col, query.size(0), key.size(0))
    for heads in rounds(edges, key):
        run(
            compiled, compiled.edge_scores, edges, scale,
            query=heads(query), key=packed(heads(key), edges, KEY), weight=heads(out, 0),
        )  # fmt: skip
    return out


def scores_backward(
    grad: Tensor, query: Tensor, key: Tensor, rowptr: Tensor, col: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of queries and keys."""
    compiled = _kernels()
    grad_query, grad_key = (empty_result(t, t) for t in (query, key))
    edges = Edges.checked(compiled, rowptr, col, query.size(0), key.size(0))
    by_source = Edges(*compiled.transpose(edges.rowptr, edges.col, np.uint64(key.size(0))))
    by_source, edges = by_source.tiled(compiled, query), edges.tiled(compiled, key)
    gather = functools.partial(run, compiled, compiled.gather_sum)
    for heads in rounds(edges, query, key, tiles=by_source.tiles):
        gather(
            edges,
            scale,
            weight=heads(grad, 0),
            value=packed(heads(key), edges, KEY),
            out=heads(grad_query),
        )
        gather(
            by_source,
            scale,
            weight=heads(grad, 0),
            value=packed(heads(query), edges, QUERY),
            out=heads(grad_key),
        )
    return grad_query, grad_key


def _kernels() -> "Kernels":
    compiled = kernels()
    if compiled is None:
        raise RuntimeError("the compiled kernels of sparse attention are missing; use backend='reference'")
    return compiled
