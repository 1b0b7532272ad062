"""The operators ``pyg_match::attention`` and ``pyg_match::edge_scores``: schemas, shapes, gradients and backends."""

import functools
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from subprocess import SubprocessError
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_match.ops import attention_cpu
from pyg_match.ops.edge_lists import narrow_edges
from pyg_match.ops.edges import EdgeSet
from pyg_match.ops.native.library import available

# Edges as EdgeSet has them; all but the first two may be left out.
_LISTED = "Tensor? colptr=None, Tensor? row=None, Tensor? perm=None"
_ATTENTION = (
    "Tensor query, Tensor key, Tensor value, Tensor rowptr, Tensor col, Tensor? bias, Tensor? keep, bool removes, "
    f"float scale, {_LISTED}, Tensor? groups=None, Tensor? source=None, Tensor? log_weight=None, "
    "Tensor? target=None"
)
_SCORES = f"Tensor query, Tensor key, Tensor rowptr, Tensor col, float scale, {_LISTED}"

_library = torch.library.Library("pyg_match", "FRAGMENT")
_library.define(f"attention({_ATTENTION}) -> (Tensor, Tensor)")
_library.define(
    f"attention_backward(Tensor grad, Tensor out, Tensor lse, Tensor? grad_lse, bool weighs, {_ATTENTION}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(f"edge_scores({_SCORES}) -> Tensor")
_library.define(f"edge_scores_backward(Tensor grad, {_SCORES}) -> (Tensor, Tensor)")


def implementations(backend: Callable[[], Any]) -> dict[str, Callable[..., Any]]:
    """The operators by name, as a backend computes them: it takes edges as a set, and schemas take tensors.

    Args:
        backend: Gives the module of the backend, which is asked for only when an operator is called.
    """

    # `given` holds bias, mask, whether that removes, and scale, and behind them the other fields of the edges.
    def forward(q: Tensor, k: Tensor, v: Tensor, rowptr: Tensor, col: Tensor, *given: Any) -> Any:
        edges = _edge_set(k, rowptr, col, *given[4:])
        return backend().attention_forward(q, k, v, edges, *given[:4])

    def backward(
        grad: Tensor, out: Tensor, lse: Tensor, grad_lse: Optional[Tensor], weighs: bool, q: Tensor, k: Tensor,
        v: Tensor, rowptr: Tensor, col: Tensor, *given: Any,
    ) -> Any:  # fmt: skip
        edges = _edge_set(k, rowptr, col, *given[4:])
        return backend().attention_backward(grad, out, lse, grad_lse, weighs, q, k, v, edges, *given[:4])

    def scores(q: Tensor, k: Tensor, rowptr: Tensor, col: Tensor, scale: float, *given: Any) -> Any:
        return backend().scores_forward(q, k, _edge_set(k, rowptr, col, *given), scale)

    def scores_backward(
        grad: Tensor, q: Tensor, k: Tensor, rowptr: Tensor, col: Tensor, scale: float, *given: Any
    ) -> Any:
        return backend().scores_backward(grad, q, k, _edge_set(k, rowptr, col, *given), scale)

    return {
        "attention": forward,
        "attention_backward": backward,
        "edge_scores": scores,
        "edge_scores_backward": scores_backward,
    }


def _edge_set(
    key: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Optional[Tensor] = None,
    row: Optional[Tensor] = None,
    perm: Optional[Tensor] = None,
    groups: Optional[Tensor] = None,
    source: Optional[Tensor] = None,
    log_weight: Optional[Tensor] = None,
    target: Optional[Tensor] = None,
) -> EdgeSet:
    """The edges of a call, with pointers of 64 bits and sources of 32."""
    num_sources = key.size(0)
    rowptr = rowptr.long().contiguous()
    if col.dtype != torch.int32:  # of someone who has not checked it
        col = narrow_edges(rowptr, col, num_sources)
    transposed = None if colptr is None or row is None or perm is None else (colptr, row, perm)
    return EdgeSet(rowptr, col, num_sources, None, transposed, groups, source, log_weight, target=target)


# The backend for GPUs is imported, and Triton with it, when it is first called.
_BACKENDS = {"CPU": lambda: attention_cpu, "CUDA": lambda: import_module("pyg_match.ops.attention_cuda")}
for _device, _backend in _BACKENDS.items():
    for _name, _function in implementations(_backend).items():
        _library.impl(_name, _function, _device)


@torch.compiler.assume_constant_result
def has_kernels(device_type: str) -> bool:
    """Whether the operators run on that kind of device."""
    return _runs_triton() if device_type == "cuda" else device_type == "cpu" and available()


@functools.cache
def has_triton() -> bool:
    """Whether there is a version of Triton that the kernels were written for."""
    if find_spec("triton") is None:
        return False
    try:
        found = version("triton")
    except PackageNotFoundError:  # builds of other names, as those of nightly versions of torch
        found = import_module("triton").__version__
    return tuple(map(int, found.split(".")[:2])) >= (3, 2)


@functools.cache
def _runs_triton() -> bool:
    """Whether there is a GPU for the kernels besides, and a C compiler, by which Triton makes what launches them."""
    if torch.version.hip is not None or not has_triton() or torch.cuda.get_device_capability() < (8, 0):
        return False
    try:
        _ = import_module("triton").runtime.driver.active
    except (OSError, RuntimeError, SubprocessError) as error:
        warnings.warn(
            "Triton cannot launch the kernels of pyg_match, so plain torch does their work, which takes longer: "
            f"{error}",
            stacklevel=2,
        )
        return False
    return True


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edges: EdgeSet,
    bias: Optional[Tensor],
    keep: Optional[Tensor],
    removes: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention along edges and its log-sum-exp, both with gradients.

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        value: Values of the sources.
        edges: The edges.
        bias: Added to the scores of listed edges, in their order.
        keep: ``False`` at listed edges to forbid.
        removes: Whether these are as good as absent; otherwise their coefficients become 0.
        scale: Factor of the scores.

    Shapes:
        - **query:** :math:`(T, H, C)`
        - **key:** :math:`(S, H, C)`
        - **value:** :math:`(S, H, D)`
        - **bias:** :math:`(E, H)`
        - **keep:** :math:`(E)`
        - **output:** :math:`(T, H, D), (T, H)`
    """
    transposed = edges.transposed or (None, None, None)
    groups = (edges.groups, edges.source, edges.log_weight, edges.target)
    # One row of biases for each head; the same memory for all of them where they share their biases.
    by_head = None if bias is None else bias.t() if bias.stride() == (1, 0) else bias.t().contiguous()
    out: tuple[Tensor, Tensor] = torch.ops.pyg_match.attention.default(
        query, key, value, edges.rowptr, edges.col, by_head, keep, keep is not None and removes, scale, *transposed,
        *groups,
    )  # fmt: skip
    return out


def edge_scores(query: Tensor, key: Tensor, edges: EdgeSet, scale: float) -> Tensor:
    """The scaled inner product of both ends of each listed edge, :math:`(E, H)`."""
    transposed = edges.transposed or (None, None, None)
    by_head: Tensor = torch.ops.pyg_match.edge_scores.default(
        query, key, edges.rowptr, edges.col, scale, *transposed
    )
    return by_head.t()


@torch.library.register_fake("pyg_match::attention")
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    sums = torch.promote_types(query.dtype, torch.float)
    return attention_cpu.empty_result(query, value), query.new_empty(query.shape[:2], dtype=sums)


@torch.library.register_fake("pyg_match::attention_backward")
def _(grad: Tensor, out: Tensor, lse: Tensor, grad_lse: Any, weighs: bool, *arguments: Any) -> Any:
    query, key, value, _, col, bias = arguments[:6]
    like = [attention_cpu.empty_result(t, t) for t in (query, key, value)]
    shape = query.size(1), col.size(0)
    of_bias = query.new_empty(0) if bias is None else bias.new_empty(shape)
    # Compilers leave out what is None at the end.
    of_weight = torch.empty_like(arguments[14]) if weighs else query.new_empty(0)
    return (*like, of_bias, of_weight)


@torch.library.register_fake("pyg_match::edge_scores")
def _(query: Tensor, key: Tensor, rowptr: Tensor, col: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.size(1), col.size(0))


@torch.library.register_fake("pyg_match::edge_scores_backward")
def _(grad: Tensor, query: Tensor, key: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return attention_cpu.empty_result(query, query), attention_cpu.empty_result(key, key)


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.removes, ctx.scale = inputs[7:9]
    ctx.save_for_backward(*inputs[:7], *inputs[9:], *output)
    ctx.set_materialize_grads(False)


def _attention_gradient(
    ctx: Any, grad: Optional[Tensor], grad_lse: Optional[Tensor]
) -> tuple[Optional[Tensor], ...]:
    *inputs, out, lse = ctx.saved_tensors
    if grad is None and grad_lse is None:
        return (None,) * 16
    bias, log_weight = inputs[5], inputs[-2]
    weighs = log_weight is not None and log_weight.requires_grad
    query, key, value, of_bias, of_weight = torch.ops.pyg_match.attention_backward.default(
        torch.zeros_like(out) if grad is None else grad, out, lse, grad_lse, weighs, *inputs[:7], ctx.removes,
        ctx.scale, *inputs[7:],
    )  # fmt: skip
    of_bias = None if bias is None else of_bias
    return query, key, value, None, None, of_bias, *(None,) * 8, of_weight if weighs else None, None


def _scores_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.scale = inputs[4]
    ctx.save_for_backward(*inputs[:4], *inputs[5:])


def _scores_gradient(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
    query, key = torch.ops.pyg_match.edge_scores_backward.default(
        grad, *ctx.saved_tensors[:4], ctx.scale, *ctx.saved_tensors[4:]
    )
    return query, key, *(None,) * 6


def _no_second_derivatives(ctx: Any, *grads: Any) -> Any:
    """Refuse gradients of the gradients of the operators."""
    raise RuntimeError("the kernels have no second derivatives; use backend='reference' for them")


torch.library.register_autograd("pyg_match::attention_backward", _no_second_derivatives)
torch.library.register_autograd("pyg_match::edge_scores_backward", _no_second_derivatives)
torch.library.register_autograd("pyg_match::attention", _attention_gradient, setup_context=_attention_setup)
torch.library.register_autograd("pyg_match::edge_scores", _scores_gradient, setup_context=_scores_setup)
