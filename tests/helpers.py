"""What several tests need."""

import pytest
import torch
from torch.utils.data import Dataset

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.ops import sparse_attention


def random_set(
    num_keypoints: int, channels: int = 16, size: tuple[int, int] = (640, 480), **kwargs
) -> KeypointSet:
    dtype = kwargs.pop("dtype", torch.float)
    pos = torch.rand(num_keypoints, 2, dtype=dtype) * torch.tensor(size, dtype=dtype)
    x = torch.nn.functional.normalize(torch.randn(num_keypoints, channels, dtype=dtype), dim=1)
    return KeypointSet(pos=pos, x=x, score=torch.rand(num_keypoints, dtype=dtype), image_size=size, **kwargs)


def random_pair(count0: int, count1: int, channels: int = 16, **kwargs) -> KeypointPair:
    return KeypointPair.from_sets(
        random_set(count0, channels, **kwargs), random_set(count1, channels, (320, 600), **kwargs)
    )


class AttentionDataset(Dataset):
    """Runs attention in a worker, on more threads than a worker has by itself."""

    def __init__(self, case: tuple) -> None:
        self.case = case

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.set_num_threads(2)
        out = sparse_attention(*self.case)
        torch.set_num_threads(1)  # torch's own threads do not survive a fork
        return out


# Compilers of older versions do not follow what an edge set is made of.
compiles = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="torch.compile needs torch 2.13 here"
)
