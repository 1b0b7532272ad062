"""Losses of dense assignments for all pairs of a batch at once; what they are is said in ``losses.py``."""

import torch
from torch import Tensor

from pyg_match.nn.padded_images import PaddedImages


def log_likelihoods(log_assignment: Tensor, images: PaddedImages, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""The same as :func:`~pyg_match.training.losses.dense_log_likelihoods` for all pairs at once.

    Shapes:
        - **log_assignment:** :math:`(B, M + 1, M + 1)`
        - **y**, **output:** :math:`(N)`
    """
    partnered = torch.where(y >= 0, images.at(log_assignment, y.clamp(min=0)), 0)
    return partnered, images.at(log_assignment, images.others())


def decisions(log_assignment: Tensor, images: PaddedImages) -> Tensor:
    r"""The same as :func:`~pyg_match.training.losses.dense_decisions` for all pairs at once.

    Shapes:
        - **log_assignment:** :math:`(B, M + 1, M + 1)`
        - **output:** :math:`(N)`
    """
    best = images.of_nodes(log_assignment.argmax(2)[:, :-1], log_assignment.argmax(1)[:, :-1])
    return best.masked_fill(best == images.others(), -1)


def distillation(student: Tensor, teacher: Tensor, images: PaddedImages) -> Tensor:
    r"""The same as :func:`~pyg_match.training.losses.assignment_distillation` for all pairs at once.

    Shapes:
        - **student**, **teacher:** :math:`(B, M + 1, M + 1)`
        - **output:** :math:`(B)`
    """
    total = student.new_zeros(student.size(0))
    for image, dim in ((0, 2), (1, 1)):
        p, q = teacher.log_softmax(dim), student.log_softmax(dim)
        divergence = (p.exp() * (p - q)).sum(dim)[:, :-1]
        total = total + divergence.masked_fill(~images.real[image::2], 0).sum(1)
    return total / images.sizes.sum(1).clamp(min=1)
