"""Random pairs for tests."""

import torch

from pyg_match.data import KeypointPair, KeypointSet


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
