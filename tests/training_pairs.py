"""Small pairs with known matches, for the tests of training."""

import time
from pathlib import Path

import torch
from torch.utils.data import Dataset

from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import random_homography
from pyg_match.geometry import warp_points
from pyg_match.training import TrainingConfig, config_from_dict
from pyg_match.transforms import graph_from_recipe

SPARSE = [
    {"KNNGraph": {"k": 4, "loop": True}},
    {"AnchorEdges": {"num_anchors": 3}},
    {"CandidateEdges": {"k": 4}},
]


def labelled_pair(seed: int, count: int = 24, extra: int = 6, channels: int = 16) -> KeypointPair:
    """``count`` keypoints seen in both images, ``extra`` more in each, and one that is to be ignored in each."""
    generator = torch.Generator().manual_seed(seed)
    size = (320, 240)
    homography = random_homography(*size, generator)
    pos0 = torch.rand(count + extra + 1, 2, generator=generator) * torch.tensor(size)
    seen = warp_points(pos0[:count].double(), homography).float()
    pos1 = torch.cat([seen, torch.rand(extra + 1, 2, generator=generator) * torch.tensor(size)])
    x0 = torch.randn(count + extra + 1, channels, generator=generator)
    x1 = torch.cat([x0[:count], torch.randn(extra + 1, channels, generator=generator)])
    x1 = x1 + 0.5 * torch.randn(x1.shape, generator=generator)
    order = torch.randperm(len(pos1), generator=generator)
    y0 = torch.cat([order.argsort()[:count], torch.full((extra,), -1), torch.tensor([-2])])
    y1 = torch.cat([torch.arange(count), torch.full((extra,), -1), torch.tensor([-2])])[order]
    sets = [
        KeypointSet(
            pos=pos,
            x=torch.nn.functional.normalize(x, dim=1),
            score=torch.ones(len(pos)),
            image_size=size,
        )
        for pos, x in ((pos0, x0), (pos1[order], x1[order]))
    ]
    return KeypointPair.from_sets(*sets, y=torch.cat([y0, y1]), homography=homography)


class Pairs(Dataset):
    """Pairs in memory, of different sizes, with the edges that a transform draws."""

    delay = 0.0  # seconds that a pair takes

    def __init__(self, count: int, transform=None, first: int = 0, **kwargs) -> None:
        self.pairs = [labelled_pair(first + i, extra=4 + i % 3, **kwargs) for i in range(count)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> KeypointPair:
        time.sleep(self.delay)
        pair = self.pairs[index].clone()
        return pair if self.transform is None else self.transform(pair)


def small_config(**changes) -> TrainingConfig:
    """Settings of a run that takes a second."""
    values = {
        "weights": None,
        "matcher": {"in_channels": 16, "hidden_channels": 16, "num_layers": 2, "heads": 2},
        "graph": SPARSE,
        "steps": 6,
        "batch_size": 2,
        "warmup": 2,
        "log_every": 2,
        "validate_every": 0,
        "checkpoint_every": 1,
        "learning_rate": 1e-3,
    }
    return config_from_dict({**values, **changes})


def datasets(count: int = 5) -> tuple[Pairs, Pairs]:
    transform = graph_from_recipe(SPARSE)
    return Pairs(count, transform), Pairs(1, transform, first=100)


def run(config, out, **kwargs) -> Path:
    from pyg_match.training.loop import train

    return train(config, None, out, datasets=datasets(), accelerator="cpu", devices=1, **kwargs)
