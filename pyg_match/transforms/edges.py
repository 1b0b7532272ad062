"""Which nodes may be joined: the images of a pair, or the examples of a batch."""

from typing import Optional

import torch
from torch import Tensor
from torch_geometric.data import Data

from pyg_match.data import KeypointPair


def node_groups(data: Data) -> Optional[Tensor]:
    """The number of the image or example that each node belongs to; ``None`` if there is only one."""
    if isinstance(data, KeypointPair):
        return data.image_batch
    batch: Optional[Tensor] = data.get("batch")
    return batch


def group_ptr(data: Data) -> list[int]:
    """The node offsets of the images or examples of ``data``."""
    groups = node_groups(data)
    if isinstance(data, KeypointPair):
        offsets: list[int] = data.image_ptr.tolist()
        return offsets
    if groups is None:
        return [0, int(data.num_nodes or 0)]
    if bool((groups[1:] < groups[:-1]).any()):
        raise ValueError("'batch' must be sorted, so that the nodes of an example follow each other")
    return [0, *torch.bincount(groups).cumsum(0).tolist()]
