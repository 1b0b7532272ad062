"""Storage of edges and values in data, so that a batch still comes apart."""

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.edge_index import CatMetadata, SortOrder


def carried(data: Data, key: str) -> list[str]:
    """The attributes that say something about the edges of ``data[key]``, such as ``edge_mask`` for ``edge_index``.

    One of them is ``anchor_weight``, which stands for edges within images that ``edge_index`` does not list.
    """
    names = [key.replace("index", kind) for kind in ("attr", "weight", "mask")]
    names += ["anchor_weight"] if key == "edge_index" else []
    return [name for name in names if data.get(name) is not None]


def store_edges(data: Data, key: str, edge_index: EdgeIndex) -> None:
    """Set ``data[key]`` to edges sorted by target; what the edges there carried goes with them.

    A :class:`~torch_geometric.data.Batch` remembers which slice of an attribute belongs to which example. It knows
    nothing of edges that are drawn after batching, so their slices are written down here: indexing and
    :meth:`~torch_geometric.data.Batch.to_data_list` then work as if each example had been transformed before.
    """
    if _comes_apart(data):
        ptr = data.ptr.cpu()
        slices = edge_index.get_csc()[0][0].cpu()[ptr].long()
        count = ptr.numel() - 1
        edge_index._cat_metadata = CatMetadata(
            nnz=slices.diff().tolist(),
            sparse_size=[(end, end) for end in ptr[1:].tolist()],  # PyG subtracts the offset of the example
            sort_order=[SortOrder.COL] * count,
            is_undirected=[False] * count,
        )
        _write_down(data, key, slices, ptr[:-1])
    for name in carried(data, key):
        del data[name]
    if key == "edge_index" and "window" in data:  # they take the place of parts that see each other whole
        del data["window"]
    data[key] = edge_index


def store_values(data: Data, key: str, value: Tensor, edges: str | None = None) -> None:
    """Set ``data[key]`` to one value per node, or per edge of ``data[edges]`` as :func:`store_edges` left it."""
    if _comes_apart(data):
        ptr = data.ptr.cpu()
        slices = ptr if edges is None else data[edges].get_csc()[0][0].cpu()[ptr].long()
        _write_down(data, key, slices, torch.zeros_like(ptr[1:]))
    data[key] = value


def _comes_apart(data: Data) -> bool:
    return isinstance(data, Batch) and hasattr(data, "_slice_dict")


def _write_down(data: Data, key: str, slices: Tensor, increments: Tensor) -> None:
    # The dictionaries are shared with the batch that the transform was called on, which is to stay as it was.
    data._slice_dict = {**data._slice_dict, key: slices}
    data._inc_dict = {**data._inc_dict, key: increments}
