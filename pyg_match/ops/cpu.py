"""The operators on the CPU: between torch's tensors and the compiled kernels."""

import functools
import time
import warnings
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_match.ops.parallel import for_rows

if TYPE_CHECKING:
    from pyg_match.ops.kernels import Kernels


@functools.cache
def kernels() -> Optional["Kernels"]:
    """The compiled kernels; ``None``, after one warning, if they cannot be had."""
    try:
        from pyg_match.ops.kernels import Kernels
    except ImportError as error:
        warnings.warn(f"sparse attention runs in plain torch, which is slower: {error}", stacklevel=2)
        return None
    try:
        return Kernels(cache=True)
    except RuntimeError as error:  # no folder to write to
        warnings.warn(f"sparse attention is compiled anew by each process: {error}", stacklevel=2)
        return Kernels(cache=False)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the compiled kernels can be had."""
    return kernels() is not None


def warmup(*dtypes: torch.dtype) -> float:
    """Compile the kernels, or read them from disk, before they are needed.

    Args:
        *dtypes: ``torch.float`` (the default) and ``torch.double``.

    Returns:
        The seconds that it took: some for the first process, a fraction of one later.
    """
    from pyg_match.ops.csr import CSR
    from pyg_match.ops.sparse_attention import edge_scores, sparse_attention

    start = time.perf_counter()
    edges = CSR(torch.tensor([0, 1]), torch.tensor([0]))
    for dtype in dtypes or (torch.float,):
        x = torch.zeros(1, 1, 4, dtype=dtype, requires_grad=True)
        (sparse_attention(x, x, x, edges).sum() + edge_scores(x, x, edges).sum()).backward()
    return time.perf_counter() - start


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
    """Attention and log-sum-exp; ``bias [H, E]`` and ``keep [E]`` are in the order of ``col``."""
    run = _run()
    out = query.new_empty(query.size(0), query.size(1), value.size(2))
    lse = query.new_empty(query.size(0), query.size(1))
    q, k, v, result, log_total = _flat(query, key, value, out, lse)
    pointer, source = _indices(rowptr, col)
    _check_structure(pointer, source, query.size(0), key.size(0))
    fixed = (
        pointer,
        source,
        *_optional(query, bias, keep),
        removes,
        *_numbers(query, scale),
        result,
        log_total,
    )
    sizes = _sizes(query.size(1), query.size(2), value.size(2))

    def work(head: int, start: int, stop: int) -> None:
        run.attention_forward(q, k, v, *fixed, *sizes, *_sizes(head, start, stop))

    for_rows(work, pointer, range(query.size(1)), query.size(2) + value.size(2))
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
    run = _run()
    grad_query, grad_key, grad_value = (t.new_empty(t.shape) for t in (query, key, value))
    grad_score = query.new_empty(query.size(1), col.numel())
    alpha = torch.empty_like(grad_score)
    g, q, k, v, *results = _flat(grad, query, key, value, out, lse, grad_query, grad_score, alpha)
    pointer, source = _indices(rowptr, col)
    fixed = (pointer, source, *_optional(query, bias, keep), removes, *_numbers(query, scale), *results)
    sizes = _sizes(query.size(1), query.size(2), value.size(2))

    def work(head: int, start: int, stop: int) -> None:
        run.attention_backward(g, q, k, v, *fixed, *sizes, *_sizes(head, start, stop))

    for_rows(work, pointer, range(query.size(1)), 2 * query.size(2) + value.size(2))
    # Sources gather from their targets what these sent them.
    by_source = run.transpose(pointer, source, np.uint64(key.size(0)))
    _gather_sum(grad_score, query, by_source, scale, grad_key)
    _gather_sum(alpha, grad, by_source, 1.0, grad_value)
    return grad_query, grad_key, grad_value, grad_score


def scores_forward(query: Tensor, key: Tensor, rowptr: Tensor, col: Tensor, scale: float) -> Tensor:
    """The scaled inner products of all edges, ``[H, E]``."""
    run = _run()
    out = query.new_empty(query.size(1), col.numel())
    q, k, result = _flat(query, key, out)
    pointer, source = _indices(rowptr, col)
    _check_structure(pointer, source, query.size(0), key.size(0))
    fixed = (pointer, source, *_numbers(query, scale), result, *_sizes(query.size(1), query.size(2)))

    def work(head: int, start: int, stop: int) -> None:
        run.scores_forward(q, k, *fixed, *_sizes(head, start, stop))

    for_rows(work, pointer, range(query.size(1)), query.size(2))
    return out


def scores_backward(
    grad: Tensor, query: Tensor, key: Tensor, rowptr: Tensor, col: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of queries and keys."""
    grad_query, grad_key = (t.new_empty(t.shape) for t in (query, key))
    pointer, source = _indices(rowptr, col)
    _gather_sum(grad, key, (pointer, source, np.arange(len(source), dtype=np.uint64)), scale, grad_query)
    _gather_sum(grad, query, _run().transpose(pointer, source, np.uint64(key.size(0))), scale, grad_key)
    return grad_query, grad_key


def _gather_sum(weight: Tensor, source: Tensor, edges: Any, scale: float, out: Tensor) -> None:
    """``out[row] = scale * sum_e weight[perm[e]] source[col[e]]`` along edges (pointer, col, perm)."""
    run = _run()
    w, x, result = _flat(weight, source, out)
    fixed = (*edges, *_numbers(out, scale), result, *_sizes(out.size(1), out.size(2)))

    def work(head: int, start: int, stop: int) -> None:
        run.gather_sum(w, x, *fixed, *_sizes(head, start, stop))

    for_rows(work, edges[0], range(source.size(1)), source.size(2))


def _run() -> "Kernels":
    compiled = kernels()
    if compiled is None:
        raise RuntimeError("the compiled kernels of sparse attention are missing; use backend='reference'")
    return compiled


def _flat(*tensors: Tensor) -> list[np.ndarray]:
    """One-dimensional arrays; of contiguous tensors, the same memory."""
    return [t.detach().contiguous().view(-1).numpy() for t in tensors]


def _indices(*tensors: Tensor) -> list[np.ndarray]:
    return [t.long().contiguous().numpy().view(np.uint64) for t in tensors]


def _sizes(*numbers: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(number) for number in numbers)


def _optional(like: Tensor, bias: Optional[Tensor], keep: Optional[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays without entries stand for none."""
    flat = like.new_empty(0) if bias is None else bias.detach().to(like.dtype).contiguous().view(-1)
    mask = np.empty(0, dtype=np.uint8) if keep is None else keep.contiguous().numpy().view(np.uint8)
    return flat.numpy(), mask


def _numbers(like: Tensor, scale: float) -> tuple[Any, Any]:
    """The scale and zero in the type of the numbers."""
    number = np.float32 if like.dtype == torch.float else np.float64
    return number(scale), number(0)


def _check_structure(rowptr: np.ndarray, col: np.ndarray, num_targets: int, num_sources: int) -> None:
    """A wrong index would read foreign memory. Negative numbers appear as very large ones here."""
    edges = len(col)
    if len(rowptr) != num_targets + 1 or rowptr[0] != 0 or rowptr[-1] != edges:
        raise ValueError(
            f"'rowptr' must lead from 0 to {edges} in {num_targets} steps, got {len(rowptr) - 1} steps "
            f"from {rowptr.view(np.int64)[0]} to {rowptr.view(np.int64)[-1]}"
        )
    if (rowptr[1:] < rowptr[:-1]).any():
        raise ValueError("'rowptr' must not fall")
    if edges > 0 and col.max() >= num_sources:
        seen = col[col >= num_sources].view(np.int64)[0]
        raise ValueError(f"an edge names source {seen}, but there are {num_sources}")
