"""The operators on the CPU: pointers and threads for ``native/attention.c``."""

import ctypes
import functools
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from pyg_match.ops.csr import CSR
from pyg_match.ops.dense_groups import add_gradients, attend_groups
from pyg_match.ops.edge_lists import transpose_edges
from pyg_match.ops.edges import EdgeSet
from pyg_match.ops.native.job import fields
from pyg_match.ops.native.library import address, function, kernel
from pyg_match.ops.team import run_together
from pyg_match.ops.workspace import GRAD, KEY, QUERY, SCRATCH, VALUE, whole_lines, workspace

_INLINE_WORK = 1 << 15  # multiply-adds below which handing work to another thread costs more than it saves
_TASKS = 4  # for each thread, so that one that is held up does not hold up all
_TASK_EDGES = 1 << 15  # scores that a core's cache has room for beside the nodes
_CACHED_BYTES = 1 << 17  # of a head's nodes that stay in a core's cache wherever they lie
_PACKED_DEGREE = 8  # edges of a node from which on a copy of it pays
_FAR = 2  # times the bytes that a core's cache has, from which on a head's nodes are fetched before they are read
_AHEAD = 2  # rows from the one at hand to the one whose sources are fetched


@functools.cache
def core_cache() -> int:
    """Bytes of the second level of a core's cache, 0 if the system does not tell."""
    try:  # Linux; Python's os.sysconf knows the names of no caches
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(size.removesuffix("K")) << 10 if size.endswith("K") else 0
    except (OSError, ValueError):
        return 0


class Table(ctypes.Structure):
    """Nodes ``[N, H, C]`` whose channels lie side by side; ``table`` in the C code."""

    _fields_ = [("at", ctypes.c_void_p), ("step", ctypes.c_int64), ("head", ctypes.c_int64)]


_TABLES = ("query", "key", "value", "grad", "out", "grad_query")


class Job(ctypes.Structure):
    """One call for all rows of all heads; ``struct job`` in the C code."""

    _fields_ = [
        *fields("next_task next_worker heads heads_at_once chunks num_rows edges ahead channels"),
        *fields("value_channels bias_head removes alone scratch_bytes"),
        ("scale", ctypes.c_double),
        *fields("*bounds *scratch *rowptr *col *perm *bias *keep *lse *grad_lse *alpha *slope"),
        *((name, Table) for name in _TABLES),
    ]


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
    edges: EdgeSet,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp; ``bias [H, E]`` and ``keep [E]`` are in the order of the listed edges.

    Keys and values may be in bfloat16 where all else is in single precision.
    """
    out = empty_result(query, value)
    if edges.groups is not None and edges.col.numel() == 0:
        out.zero_()
        lse = query.new_full(query.shape[:2], -torch.inf, dtype=torch.promote_types(query.dtype, torch.float))
    else:
        halves = query.dtype == torch.float and key.dtype == value.dtype == torch.bfloat16
        keys, values = (key, value) if halves else (key.to(query.dtype), value.to(query.dtype))
        lse = query.new_empty(query.shape[:2])
        rows = CSR(edges.rowptr, edges.col)
        _run(
            "forward", keys.dtype, rows, scale, removes,
            query=query, key=_packed(keys, rows, KEY), value=_packed(values, rows, VALUE), bias=bias, keep=keep,
            out=out, lse=lse,
        )  # fmt: skip
    if edges.groups is not None:
        attend_groups(query, key, value, edges, scale, out, lse)
    return out, lse


def attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_lse: Optional[Tensor],
    weighs: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edges: EdgeSet,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values, biases ``[H, E]`` if there are any, and weights of groups if wanted."""
    kind, given = query.dtype, (key, value)
    key, value = key.to(kind), value.to(kind)
    grads = empty_result(query, query), empty_result(key, key), empty_result(value, value)
    slope = query.new_empty(query.size(1), edges.col.numel())
    if edges.groups is not None and edges.col.numel() == 0:
        for of_nodes in grads:
            of_nodes.zero_()
    else:
        alpha, rows = torch.empty_like(slope), CSR(edges.rowptr, edges.col)
        _run(
            "backward_targets", kind, rows, scale, removes, edges.groups is None,
            query=query, key=_packed(key, rows, KEY), value=_packed(value, rows, VALUE), grad=grad, bias=bias,
            keep=keep, out=out, lse=lse, grad_lse=grad_lse, alpha=alpha, slope=slope, grad_query=grads[0],
        )  # fmt: skip
        # Sources gather from their targets what these sent them.
        by_source = _by_source(edges)
        packed = _packed(query, by_source, QUERY)
        _run("gather", kind, by_source, scale, alpha=slope, value=packed, out=grads[1])
        _run("gather", kind, by_source, 1.0, alpha=alpha, value=_packed(grad, by_source, GRAD), out=grads[2])
    grad_weight: Optional[Tensor] = None
    if edges.groups is not None:
        grad_weight = add_gradients(grad, query, key, value, edges, scale, out, lse, grad_lse, grads, weighs)
    grad_key, grad_value = (
        grad if grad.dtype == t.dtype else empty_result(t, t).copy_(grad)
        for grad, t in zip(grads[1:], given, strict=True)
    )
    none = query.new_empty(0)
    of_bias = none if bias is None else slope.to(bias.dtype)
    return grads[0], grad_key, grad_value, of_bias, none if grad_weight is None else grad_weight


def scores_forward(
    query: Tensor,
    key: Tensor,
    edges: EdgeSet,
    scale: float,
) -> Tensor:
    """The scaled inner products of all edges, ``[H, E]``."""
    out = query.new_empty(query.size(1), edges.col.numel())
    rows = CSR(edges.rowptr, edges.col)
    _run("scores", query.dtype, rows, scale, query=query, key=_packed(key, rows, KEY), alpha=out)
    return out


def scores_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    edges: EdgeSet,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of queries and keys."""
    kind = query.dtype
    grad_query, grad_key = (empty_result(t, t) for t in (query, key))
    rows, by_source = CSR(edges.rowptr, edges.col), _by_source(edges)
    _run("gather", kind, rows, scale, alpha=grad, value=_packed(key, rows, KEY), out=grad_query)
    _run("gather", kind, by_source, scale, alpha=grad, value=_packed(query, by_source, QUERY), out=grad_key)
    return grad_query, grad_key


def _by_source(edges: EdgeSet) -> CSR:
    return CSR(*(edges.transposed or transpose_edges(edges.rowptr, edges.col, edges.num_sources)))


def _run(
    name: str,
    dtype: torch.dtype,
    edges: CSR,
    scale: float,
    removes: bool = False,
    alone: bool = False,
    **tensors: Optional[Tensor],
) -> None:
    """Call a kernel for all rows of all heads, on as many threads as torch uses.

    Args:
        name: What it is called in the C code.
        dtype: The type of numbers, of keys and values.
        edges: What it runs along, ``col`` and ``perm`` in 32 bits; ``perm`` leads to the weights of edges.
        scale: Factor of the scores.
        removes: Whether masked edges are removed.
        alone: Whether targets have no edges in dense groups besides.
        **tensors: What it reads and writes, named as in :class:`Job`.
    """
    given = {field: _laid_out(field, tensor) for field, tensor in tensors.items() if tensor is not None}
    out = given["out"] if "out" in given else given["query"]
    num_rows, count, heads = edges.rowptr.numel() - 1, edges.col.numel(), out.size(1)
    if num_rows == 0 or heads == 0:
        return
    job = Job(
        heads=heads, num_rows=num_rows, edges=count, removes=removes, alone=alone, scale=scale,
        rowptr=address(edges.rowptr), col=address(edges.col),
        perm=None if edges.perm is None else address(edges.perm),
    )  # fmt: skip
    table_bytes = width = 0
    for field, tensor in given.items():
        if field not in _TABLES:
            setattr(job, field, address(tensor))
            continue
        step, head, _ = tensor.stride()
        setattr(job, field, Table(address(tensor), step, head))
        width = max(width, tensor.size(2))
        if field in ("key", "value"):
            table_bytes = max(table_bytes, tensor.size(0) * tensor.size(2) * tensor.element_size())
    if "bias" in given:  # all heads may share one
        job.bias_head = given["bias"].stride(0)
    job.channels = given["query"].size(2) if "query" in given else 0
    job.value_channels = given["value"].size(2) if "value" in given else 0
    threads = torch.get_num_threads() if count * width * heads >= _INLINE_WORK else 1
    # Each thread has heads of its own if its own cache holds their nodes; else all read the same nodes, as they share
    # the cache that these lie in.
    job.heads_at_once = min(heads, threads) if table_bytes <= core_cache() else 1
    job.ahead = _AHEAD if 0 < _FAR * core_cache() <= table_bytes else 0
    job.chunks = 1
    if threads > 1 or count > _TASK_EDGES:
        job.chunks = min(num_rows, max(-(-threads * _TASKS // heads), -(-count // _TASK_EDGES)))
    bounds = (ctypes.c_int64 * (job.chunks + 1))()
    longest = function("share_out", ctypes.c_int64)(
        address(edges.rowptr), _number(num_rows), _number(job.chunks), bounds
    )
    job.bounds = ctypes.addressof(bounds)
    job.scratch_bytes = whole_lines(longest * out.element_size())
    scratch = workspace(SCRATCH, threads * job.scratch_bytes)
    job.scratch = scratch.data_ptr()
    run_together(kernel(name, dtype), ctypes.addressof(job), threads, job, bounds, scratch, given, edges)


def _laid_out(field: str, tensor: Tensor) -> Tensor:
    """The same numbers as the kernels read them: in rows whose channels (of biases: edges) lie side by side."""
    if field in _TABLES:
        together = tensor.stride(2) == 1 or tensor.size(2) <= 1
        if not together and field in ("out", "grad_query"):  # a copy of it would be lost
            raise RuntimeError(
                f"results must have their channels side by side, got strides {tensor.stride()}"
            )
    elif field == "bias":
        together = tensor.stride(1) == 1 or tensor.size(1) <= 1
    else:
        together = tensor.is_contiguous()
    return tensor if together else tensor.contiguous()


def _packed(nodes: Tensor, edges: CSR, place: int) -> Tensor:
    """The same, with the nodes of a head side by side in memory, until the thread packs into that place again.

    Rows of one head that lie far apart share few of the places that a cache has for them.
    """
    apart, size = nodes.stride(0) != nodes.size(2), nodes.numel() * nodes.element_size()
    pays = size > _CACHED_BYTES * nodes.size(1) and edges.col.numel() >= _PACKED_DEGREE * nodes.size(0)
    if not (apart and pays):
        return nodes
    by_head = nodes.transpose(0, 1)
    memory = workspace(place, size)[:size].view(nodes.dtype)
    return memory.view(by_head.shape).copy_(by_head).transpose(0, 1)


_number = ctypes.c_int64
