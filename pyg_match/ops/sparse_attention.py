"""Attention along the edges of a graph: the operators."""

from typing import Any, Literal, Optional, Union

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from pyg_match.checks import one_of, real_number
from pyg_match.ops import attention_cpu
from pyg_match.ops.anchored import (
    Anchored,
    anchored_attention,
    check_anchors,
    fuses_anchors,
    no_second_derivatives,
)
from pyg_match.ops.attention_checks import check_edge_values, check_nodes
from pyg_match.ops.blocks import Blocks, block_attention
from pyg_match.ops.csr import EdgesLike, check_sources, to_csr
from pyg_match.ops.native.library import available
from pyg_match.ops.reference import (
    MaskMode,
    reference_attention,
    reference_scores,
    reference_weights,
)

Backend = Literal["auto", "kernel", "reference"]

_library = torch.library.Library("pyg_match", "DEF")
_library.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor rowptr, Tensor col, Tensor? bias, Tensor? keep, "
    "bool removes, float scale) -> (Tensor, Tensor)"
)
_library.define(
    "attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor rowptr, Tensor col, Tensor? bias, "
    "Tensor? keep, bool removes, float scale, Tensor out, Tensor lse, Tensor? grad_lse=None) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define("edge_scores(Tensor query, Tensor key, Tensor rowptr, Tensor col, float scale) -> Tensor")
_library.define(
    "edge_scores_backward(Tensor grad, Tensor query, Tensor key, Tensor rowptr, Tensor col, float scale) "
    "-> (Tensor, Tensor)"
)
_library.impl("attention", attention_cpu.attention_forward, "CPU")
_library.impl("attention_backward", attention_cpu.attention_backward, "CPU")
_library.impl("edge_scores", attention_cpu.scores_forward, "CPU")
_library.impl("edge_scores_backward", attention_cpu.scores_backward, "CPU")


@torch.library.register_fake("pyg_match::attention")
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return attention_cpu.empty_result(query, value), query.new_empty(query.shape[:2])


@torch.library.register_fake("pyg_match::attention_backward")
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, rowptr: Tensor, col: Tensor, *_: Any) -> Any:
    like = [attention_cpu.empty_result(t, t) for t in (query, key, value)]
    return (*like, query.new_empty(query.size(1), col.size(0)))


@torch.library.register_fake("pyg_match::edge_scores")
def _(query: Tensor, key: Tensor, rowptr: Tensor, col: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.size(1), col.size(0))


@torch.library.register_fake("pyg_match::edge_scores_backward")
def _(grad: Tensor, query: Tensor, key: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return attention_cpu.empty_result(query, query), attention_cpu.empty_result(key, key)


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, removes, scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.removes, ctx.scale = removes, scale
    ctx.set_materialize_grads(False)


def _attention_gradient(
    ctx: Any, grad: Optional[Tensor], grad_lse: Optional[Tensor]
) -> tuple[Optional[Tensor], ...]:
    *tensors, out, lse = ctx.saved_tensors
    if grad is None and grad_lse is None:
        return (None,) * 9
    grad = torch.zeros_like(out) if grad is None else grad
    arguments = (grad, *tensors, ctx.removes, ctx.scale, out, lse, grad_lse)
    query, key, value, score = torch.ops.pyg_match.attention_backward.default(*arguments)
    return query, key, value, None, None, None if tensors[5] is None else score, None, None, None


def _scores_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _scores_gradient(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
    query, key = torch.ops.pyg_match.edge_scores_backward.default(grad, *ctx.saved_tensors, ctx.scale)
    return query, key, None, None, None


torch.library.register_autograd("pyg_match::attention_backward", no_second_derivatives)
torch.library.register_autograd("pyg_match::edge_scores_backward", no_second_derivatives)
torch.library.register_autograd("pyg_match::attention", _attention_gradient, setup_context=_attention_setup)
torch.library.register_autograd("pyg_match::edge_scores", _scores_gradient, setup_context=_scores_setup)


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edge_index: Union[EdgesLike, Blocks, Anchored],
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    mask_mode: MaskMode = "remove",
    scale: Optional[float] = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Multi-head attention in which a target sees only the sources that its edges come from.

    .. math::
        \mathbf{o}_i = \sum_{j \in \mathcal{N}(i)} \alpha_{ij} \mathbf{v}_j, \qquad
        \alpha_{ij} = \underset{j \in \mathcal{N}(i)}{\mathrm{softmax}}
        \left( s \langle \mathbf{q}_i, \mathbf{k}_j \rangle + b_{ij} \right)

    On the CPU, score, softmax and sum are fused: time is linear in the number of edges, and nothing of the size
    :math:`E \times H \times C` is ever stored, forward or backward. Half-precision inputs are computed in single
    precision and give a result in theirs; keys and values in bfloat16 are read as they are. A target without edges
    gets zeros; an edge that is listed twice counts twice. Gradients flow to queries, keys, values and biases; second
    derivatives need ``backend="reference"``.

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        value: Values of the sources.
        edge_index: Edges from source to target, as a tensor of any order, an :class:`~torch_geometric.EdgeIndex`, a
            transposed sparse adjacency matrix, :class:`~pyg_match.ops.CSR`, :class:`~pyg_match.ops.Blocks` for
            complete graphs, or :class:`~pyg_match.ops.Anchored` for edges and anchors. Edges that are sorted by target
            are fastest, with queries, keys and values that lie head by head in memory
            (``x.transpose(0, 1).contiguous().transpose(0, 1)``); others are copied as needed. The result lies in
            memory as the queries do.
        bias: Added to the scores, in the order of the edges (for matrices: row by row).
        mask: ``False`` at edges to forbid, in the same order.
        mask_mode: What becomes of forbidden edges: ``"remove"``, as good as absent, or ``"zero"``, their coefficient
            is set to 0 after the softmax and the rest is not renormalised.
        scale: The factor :math:`s`; :math:`1 / \sqrt{C}` by default.
        backend: ``"kernel"`` (CPU), ``"reference"`` (plain torch, any device), or ``"auto"``.

    Shapes:
        - **query:** :math:`(T, H, C)`
        - **key:** :math:`(S, H, C)`
        - **value:** :math:`(S, H, D)`
        - **edge_index:** :math:`(2, E)`
        - **bias:** :math:`(E, H)`
        - **mask:** :math:`(E)`
        - **output:** :math:`(T, H, D)`

    Raises:
        ValueError: If a shape does not fit, an edge names a node that does not exist, tensors lie on several devices,
            or ``scale`` is not finite.
        TypeError: If a type does not fit.

    Example:
        >>> q, k, v = torch.randn(3, 2, 8), torch.randn(5, 2, 8), torch.randn(5, 2, 4)
        >>> sparse_attention(q, k, v, torch.tensor([[0, 1, 4], [0, 0, 2]])).shape
        torch.Size([3, 2, 4])
    """
    check_nodes(query, key, value)
    log_weight = edge_index.log_weight if isinstance(edge_index, Anchored) else None
    backend = _differentiable(backend, query, key, value, bias, log_weight)
    scale = _factor(query, scale)
    if isinstance(edge_index, Blocks):
        if bias is not None or mask is not None:
            raise ValueError("Blocks list no edges, so that neither a bias nor a mask can be given for them")
        dtype = torch.promote_types(query.dtype, torch.promote_types(key.dtype, value.dtype))
        q = query.to(dtype)
        return block_attention(q, q if key is query else key.to(dtype), value.to(dtype), edge_index, scale)
    one_of("mask_mode", mask_mode, ("remove", "zero"))
    dtype = wide = query.dtype
    q, k, v = query, key, value
    if not (key.dtype == value.dtype == dtype and dtype in (torch.float, torch.double)):
        dtype = torch.promote_types(dtype, torch.promote_types(key.dtype, value.dtype))
        wide = torch.promote_types(dtype, torch.float)
        q = query.to(wide)
        # The kernels read bfloat16: there is half as much to bring near the core.
        halves = wide == torch.float and key.dtype == value.dtype == torch.bfloat16
        if not (halves and _uses_kernel(backend, query)):
            k, v = key.to(wide), value.to(wide)
    if isinstance(edge_index, Anchored):
        if bias is not None or mask is not None:
            raise ValueError(
                "Anchored does not list its edges, so that neither a bias nor a mask can be given for them"
            )
        check_anchors(edge_index, query.size(0), key.size(0))
        weighs = torch.is_grad_enabled() and edge_index.log_weight.requires_grad
        if (
            not weighs
            and backend != "reference"
            and fuses_anchors(query.device)
            and key.size(2) == value.size(2)
        ):
            return anchored_attention(q, k, v, edge_index, scale).to(dtype)
        edge_index, bias = edge_index.listed()
        bias = bias.to(wide).unsqueeze(1).expand(-1, query.size(1))
    csr = to_csr(edge_index, query.size(0))
    check_edge_values(csr.col.size(0), query.size(1), bias, mask)
    bias = None if bias is None else csr.sorted(bias).to(wide)
    mask = None if mask is None else csr.sorted(mask)
    if _uses_kernel(backend, query):
        by_head = None if bias is None else _by_head(bias)
        out, _ = torch.ops.pyg_match.attention.default(
            q, k, v, csr.rowptr, csr.col, by_head, mask, mask is not None and mask_mode == "remove", scale
        )
    else:
        check_sources(csr, key.size(0))
        out = reference_attention(q, k, v, csr, bias, mask, mask_mode, scale)
    return out if dtype == wide else out.to(dtype)


def attention_weights(
    query: Tensor,
    key: Tensor,
    edge_index: EdgesLike,
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    mask_mode: MaskMode = "remove",
    scale: Optional[float] = None,
) -> Tensor:
    r"""The coefficients :math:`\alpha` of :func:`sparse_attention`, in the order of the edges.

    Shapes:
        - **output:** :math:`(E, H)`

    Example:
        >>> q = torch.randn(3, 2, 8)
        >>> attention_weights(q, q, torch.tensor([[0, 1, 2], [0, 0, 2]])).sum(0).round()
        tensor([2., 2.])
    """
    check_nodes(query, key, key)
    csr = to_csr(edge_index, query.size(0))
    check_sources(csr, key.size(0))
    check_edge_values(csr.col.size(0), query.size(1), bias, mask)
    bias, mask = (None if value is None else csr.sorted(value) for value in (bias, mask))
    return csr.unsorted(reference_weights(query, key, csr, bias, mask, mask_mode, scale))


def edge_scores(
    query: Tensor,
    key: Tensor,
    edge_index: EdgesLike,
    scale: Optional[float] = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""The scaled inner product :math:`s \langle \mathbf{q}_i, \mathbf{k}_j \rangle` of both ends of each edge.

    Nothing of the size :math:`E \times H \times C` is stored.

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        edge_index: See :func:`sparse_attention`.
        scale: The factor :math:`s`; :math:`1 / \sqrt{C}` by default.
        backend: See :func:`sparse_attention`.

    Shapes:
        - **query:** :math:`(T, H, C)`
        - **key:** :math:`(S, H, C)`
        - **output:** :math:`(E, H)`, in the order of the edges

    Example:
        >>> edge_scores(torch.ones(2, 1, 4), torch.ones(2, 1, 4), torch.tensor([[0, 1], [1, 1]]))
        tensor([[2.],
                [2.]])
    """
    check_nodes(query, key, key)
    backend = _differentiable(backend, query, key)
    scale = _factor(query, scale)
    csr = to_csr(edge_index, query.size(0))
    dtype = torch.promote_types(query.dtype, key.dtype)
    q, k = (t.to(torch.promote_types(dtype, torch.float)) for t in (query, key))
    if _uses_kernel(backend, query):
        out = torch.ops.pyg_match.edge_scores.default(q, k, csr.rowptr, csr.col, scale).t()
    else:
        check_sources(csr, key.size(0))
        out = reference_scores(q, k, csr, scale)
    return csr.unsorted(out).to(dtype)


def _uses_kernel(backend: Backend, query: Tensor) -> bool:
    one_of("backend", backend, ("auto", "kernel", "reference"))
    if backend == "kernel" and query.device.type != "cpu":
        raise ValueError(f"backend='kernel' runs on the CPU only, got tensors on {query.device}")
    if backend == "reference" or query.device.type != "cpu":
        return False
    return backend == "kernel" or bool(available())


def _factor(query: Tensor, scale: Optional[float]) -> float:
    """The factor of the scores."""
    if scale is None:
        return float(query.size(2) ** -0.5)
    return scale if torch.compiler.is_compiling() else real_number("scale", scale)


def _differentiable(backend: Backend, *tensors: Optional[Tensor]) -> Backend:
    """The backend to use: kernels have neither derivatives forward nor those of :mod:`torch.func`."""
    if torch.compiler.is_compiling():
        return backend
    transformed = torch._C._are_functorch_transforms_active()
    transformed = transformed or any(t is not None and unpack_dual(t).tangent is not None for t in tensors)
    return "reference" if transformed else backend


def _by_head(bias: Tensor) -> Tensor:
    """One row for each head; the same memory for all of them where they share their biases."""
    return bias.t() if bias.stride() == (1, 0) else bias.t().contiguous()
