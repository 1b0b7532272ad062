"""Attention along the edges of a graph."""

from typing import Any, Literal, Optional, Union

import torch
from torch import Tensor

from pyg_match.checks import one_of, real_number
from pyg_match.ops import attention_operators as operators
from pyg_match.ops.attention_checks import check_edge_values, check_nodes
from pyg_match.ops.attention_reference import (
    MaskMode,
    dense_attention,
    reference_attention,
    reference_scores,
    softmax_of_edges,
)
from pyg_match.ops.csr import CSR, EdgesLike
from pyg_match.ops.derivatives import is_transformed
from pyg_match.ops.edges import Anchored, Blocks, EdgeSet

Backend = Literal["auto", "kernel", "reference"]


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edge_index: Union[EdgesLike, Blocks, Anchored, EdgeSet],
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

    On the CPU and on CUDA devices, score, softmax and sum are fused: time is linear in the number of edges, and nothing
    of the size :math:`E \times H \times C` is ever stored, forward or backward. Half-precision inputs are computed in
    single precision and give a result in theirs; keys and values in bfloat16 are read as they are. A target without
    edges gets zeros; an edge that is listed twice counts twice. Gradients flow to queries, keys, values and biases;
    second derivatives need ``backend="reference"``.

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        value: Values of the sources.
        edge_index: Edges from source to target, as a tensor of any order, an :class:`~torch_geometric.EdgeIndex`, a
            transposed sparse adjacency matrix, :class:`~pyg_match.ops.CSR`, :class:`~pyg_match.ops.Blocks` for
            complete graphs, :class:`~pyg_match.ops.Anchored` for edges and anchors, or the
            :class:`~pyg_match.ops.EdgeSet` of any of these, which is checked once however often it is used. Edges that
            are sorted by target are fastest, with queries, keys and values that lie head by head in memory
            (``x.transpose(0, 1).contiguous().transpose(0, 1)``); others are copied as needed. The result lies in
            memory as the queries do.
        bias: Added to the scores, in the order of the edges (for matrices: row by row).
        mask: ``False`` at edges to forbid, in the same order.
        mask_mode: What becomes of forbidden edges: ``"remove"``, as good as absent, or ``"zero"``, their coefficient
            is set to 0 after the softmax and the rest is not renormalised.
        scale: The factor :math:`s`; :math:`1 / \sqrt{C}` by default.
        backend: ``"kernel"`` (C on the CPU, Triton on CUDA devices), ``"reference"`` (plain torch, any device), or
            ``"auto"``.

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
            ``scale`` is not finite, or a bias or a mask is given with dense groups.
        TypeError: If a type does not fit.

    Example:
        >>> q, k, v = torch.randn(3, 2, 8), torch.randn(5, 2, 8), torch.randn(5, 2, 4)
        >>> sparse_attention(q, k, v, torch.tensor([[0, 1, 4], [0, 0, 2]])).shape
        torch.Size([3, 2, 4])
    """
    check_nodes(query, key, value)
    one_of("mask_mode", mask_mode, ("remove", "zero"))
    edges = EdgeSet.of(edge_index, query.size(0), key.size(0), query.device)
    if edges.groups is not None and not (bias is None and mask is None):
        raise ValueError(
            "dense groups list no edges, so that neither a bias nor a mask can be given with them"
        )
    check_edge_values(edges.col.size(0), query.size(1), bias, mask)
    _check_devices(query, edges, bias, mask)
    asked, backend = backend, _differentiable(backend, query, key, value, bias, edges.log_weight)
    kernel = _uses_kernel(backend, query)
    scale = _factor(query, scale)
    dtype = torch.promote_types(query.dtype, torch.promote_types(key.dtype, value.dtype))
    on_cpu = kernel and query.device.type == "cpu"
    dense = edges.is_dense and asked != "reference"
    # Sums are made in single precision at least; kernels on a GPU and dense attention see to that themselves.
    widens = (on_cpu and dtype != torch.bfloat16) if dense else (on_cpu or not kernel)
    wide = torch.promote_types(dtype, torch.float) if widens else dtype
    q = query.to(wide)
    # Those on the CPU read bfloat16: there is half as much to bring near the core.
    halves = on_cpu and widens and wide == torch.float and key.dtype == value.dtype == torch.bfloat16
    k, v = (key, value) if halves else (q if key is query else key.to(wide), value.to(wide))
    bias = None if bias is None else edges.sorted(bias)
    bias = bias if bias is None or (kernel and not on_cpu) else bias.to(wide)
    mask = None if mask is None else edges.sorted(mask)
    if kernel:
        out = operators.attention(q, k, v, edges, bias, mask, mask_mode == "remove", scale)[0]
    elif dense and edges.groups is not None:
        out = dense_attention(q, k, v, edges.groups, scale)
    else:
        edges, weight = edges.listed()
        bias = bias if weight is None else weight.to(wide).unsqueeze(1).expand(-1, q.size(1))
        out = reference_attention(q, k, v, edges.csr(), bias, mask, mask_mode, scale)
    return out.to(dtype)


def attention_weights(
    query: Tensor,
    key: Tensor,
    edge_index: Union[EdgesLike, EdgeSet],
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    mask_mode: MaskMode = "remove",
    scale: Optional[float] = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""The coefficients :math:`\alpha` of :func:`sparse_attention`, in the order of the edges.

    Arguments are those of :func:`sparse_attention`, but edges must be listed. Nothing of the size
    :math:`E \times H \times C` is stored. Second derivatives need ``backend="reference"``.

    Shapes:
        - **output:** :math:`(E, H)`

    Raises:
        ValueError: As :func:`sparse_attention`, or if there are dense groups.
        TypeError: If a type does not fit.

    Example:
        >>> q = torch.randn(3, 2, 8)
        >>> attention_weights(q, q, torch.tensor([[0, 1, 2], [0, 0, 2]])).sum(0).round()
        tensor([2., 2.])
    """
    one_of("mask_mode", mask_mode, ("remove", "zero"))
    score, csr = _edge_scores(query, key, edge_index, scale, backend, bias, mask)
    bias, mask = (None if value is None else csr.sorted(value) for value in (bias, mask))
    alpha = softmax_of_edges(score, csr, bias, mask, mask_mode)
    return csr.unsorted(alpha).to(torch.promote_types(query.dtype, key.dtype))


def edge_scores(
    query: Tensor,
    key: Tensor,
    edge_index: Union[EdgesLike, EdgeSet],
    scale: Optional[float] = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""The scaled inner product :math:`s \langle \mathbf{q}_i, \mathbf{k}_j \rangle` of both ends of each edge.

    Nothing of the size :math:`E \times H \times C` is stored.

    Args:
        query: Queries of the targets.
        key: Keys of the sources.
        edge_index: See :func:`sparse_attention`; edges must be listed.
        scale: The factor :math:`s`; :math:`1 / \sqrt{C}` by default.
        backend: See :func:`sparse_attention`.

    Shapes:
        - **query:** :math:`(T, H, C)`
        - **key:** :math:`(S, H, C)`
        - **output:** :math:`(E, H)`, in the order of the edges

    Raises:
        ValueError: As :func:`sparse_attention`, or if there are dense groups.
        TypeError: If a type does not fit.

    Example:
        >>> edge_scores(torch.ones(2, 1, 4), torch.ones(2, 1, 4), torch.tensor([[0, 1], [1, 1]]))
        tensor([[2.],
                [2.]])
    """
    score, csr = _edge_scores(query, key, edge_index, scale, backend)
    return csr.unsorted(score).to(torch.promote_types(query.dtype, key.dtype))


def _edge_scores(
    query: Tensor,
    key: Tensor,
    edge_index: Union[EdgesLike, EdgeSet],
    scale: Optional[float],
    backend: Backend,
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
) -> tuple[Tensor, CSR]:
    """Scores in single precision at least, in the order of the edges that come with them.

    What else belongs to the edges is checked, too, before anything is computed.
    """
    check_nodes(query, key, key)
    backend = _differentiable(backend, query, key)
    scale = _factor(query, scale)
    edges = EdgeSet.of(edge_index, query.size(0), key.size(0), query.device)
    if edges.groups is not None:
        raise ValueError(f"expected edges that are listed, got {len(edges.groups)} dense groups")
    check_edge_values(edges.col.size(0), query.size(1), bias, mask)
    _check_devices(query, edges, bias, mask)
    dtype = torch.promote_types(query.dtype, key.dtype)
    q, k = (t.to(torch.promote_types(dtype, torch.float)) for t in (query, key))
    if _uses_kernel(backend, query):
        return operators.edge_scores(q, k, edges, scale), edges.csr()
    return reference_scores(q, k, edges.csr(), scale), edges.csr()


def _check_devices(query: Tensor, edges: EdgeSet, *values: Optional[Tensor]) -> None:
    """Refuse edges, or what belongs to them, on another device than the nodes."""
    for tensor in (edges.rowptr, edges.groups, edges.log_weight, *values):
        if tensor is not None and tensor.device != query.device:
            raise ValueError(f"edges must be on the device of the nodes, {query.device}, got {tensor.device}")


def _uses_kernel(backend: Backend, query: Tensor) -> bool:
    one_of("backend", backend, ("auto", "kernel", "reference"))
    if backend == "reference":
        return False
    kind = query.device.type
    found = bool(operators.has_kernels(kind))
    # The library of the CPU tells itself what is missing.
    if backend == "kernel" and not found and kind != "cpu":
        raise ValueError(
            "backend='kernel' runs on the CPU, and with Triton 3.2 on NVIDIA GPUs of compute capability 8.0 and above, "
            f"got tensors on {query.device}"
        )
    return found or backend == "kernel"


def _factor(query: Tensor, scale: Any) -> float:
    """The factor of the scores."""
    if scale is None:
        return float(query.size(2) ** -0.5)
    if isinstance(scale, Tensor) and scale.requires_grad:
        raise TypeError("'scale' has no gradient; multiply the queries by what wants one")
    return scale if torch.compiler.is_compiling() else real_number("scale", scale)


def _differentiable(backend: Backend, *tensors: Optional[Tensor]) -> Backend:
    """The backend to use: kernels have neither derivatives forward nor those of :mod:`torch.func`."""
    return "reference" if not torch.compiler.is_compiling() and is_transformed(*tensors) else backend
