"""What matches are judged by: ground truth, or the geometry that they agree on."""

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from pyg_match.arrays import Array, ArrayLike
from pyg_match.data import KeypointPair
from pyg_match.geometry import sampson_distance, transfer_error
from pyg_match.metrics import homography_ground_truth
from pyg_match.metrics.ground_truth import IGNORED
from pyg_match.model_selection import estimate_geometry, thresholds_for

NONE, RIGHT, WRONG, UNJUDGED, MISSED = range(5)


@dataclass(frozen=True, eq=False)
class Truth:
    r"""What matches are judged by.

    Attributes:
        name: What it is, in words.
        right: What a match is called that agrees with it, ``"right"`` or ``"inlier"``.
        wrong: What one is called that does not.
        partner: The index of the true partner in the other image, -1 for none, -2 for undecided, :math:`(N)`;
            ``None`` where it is not known.
        homography: The homography that the matches agree on, if any.
        fundamental: The fundamental matrix that they agree on, if any.
        threshold: Largest error in pixels of a match that agrees with either.
    """

    name: str
    right: str = "right"
    wrong: str = "wrong"
    partner: Optional[Tensor] = None
    homography: Optional[Array] = None
    fundamental: Optional[Array] = None
    threshold: float = 0.0

    @classmethod
    def of(cls, pair: KeypointPair, matches: Tensor, given: Optional[ArrayLike] = None) -> "Truth":
        """The ground truth that is given or that the pair has, else the geometry of its matches.

        Args:
            pair: The pair.
            matches: The match of each node, an index in the other image or -1.
            given: Partners in the manner of ``pair.y``, or the homography from image 0 to image 1.

        Shapes:
            - **matches:** :math:`(N)`
            - **given:** :math:`(N)` or :math:`(3, 3)`

        Raises:
            TypeError: If partners are no whole numbers.
            ValueError: If the shape of ``given`` is another one, or a partner does not exist.
        """
        if given is None:
            return (
                cls._estimated(pair, matches) if pair.y is None else cls("ground truth", partner=pair.y.cpu())
            )
        values = given if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given))
        values = values.detach().cpu()
        if values.shape == (3, 3):
            return cls("ground truth (homography)", partner=_partners(pair, values.double()))
        if values.shape != (pair.num_nodes,):
            raise ValueError(
                f"'truth' must be partners [{pair.num_nodes}] or a homography [3, 3], got {list(values.shape)}"
            )
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"'truth' must be partners in whole numbers, got {values.dtype}")
        counts = pair.num_keypoints[0].cpu()
        wrong = values[values >= counts.flip(0).repeat_interleave(counts)]
        if wrong.numel() > 0:
            raise ValueError(
                f"'truth' names keypoint {int(wrong[0])} of the other image, but there are {counts.tolist()}"
            )
        return cls("ground truth", partner=values.long())

    @classmethod
    def _estimated(cls, pair: KeypointPair, matches: Tensor) -> "Truth":
        p0, p1, _ = _matched(pair, matches)
        (w0, h0), (w1, h1) = sizes_of(pair)
        limits = thresholds_for((int(w0), int(h0)), (int(w1), int(h1)))
        kind, model, inliers, threshold = estimate_geometry(p0, p1, "poselib", *limits)
        if kind == "none" or model is None:
            return cls("nothing: no geometry fits the matches", "inlier", "outlier")
        agree = f"of the matches ({inliers.sum()} within {threshold:g} px)"
        if kind == "fundamental":
            name = f"fundamental matrix {agree}"
            return cls(name, "inlier", "outlier", fundamental=model, threshold=threshold)
        partner = _partners(pair, torch.from_numpy(model))
        return cls(f"homography {agree}", "inlier", "outlier", partner, model, threshold=threshold)

    def judge(self, pair: KeypointPair, matches: Tensor) -> Tensor:
        """``NONE``, ``RIGHT``, ``WRONG``, ``UNJUDGED`` or ``MISSED`` for each keypoint of image 0.

        A keypoint is missed if it has a true partner, but no match.

        Shapes:
            - **matches:** :math:`(N)`
            - **output:** :math:`(N_0)`
        """
        count = int(pair.num_keypoints[0, 0])
        p0, p1, matched = _matched(pair, matches)
        verdict = torch.full((count,), NONE)
        if self.partner is not None:
            verdict[self.partner[:count] >= 0] = MISSED
        agrees = None
        if self.homography is not None:
            agrees = transfer_error(self.homography, p0, p1) <= self.threshold
        elif self.fundamental is not None:
            agrees = sampson_distance(self.fundamental, p0, p1) <= self.threshold
        if agrees is not None:
            verdict[matched] = torch.where(torch.from_numpy(agrees), RIGHT, WRONG)
        elif self.partner is not None:
            partner, found = self.partner[matched], matches[matched].cpu()
            judged = torch.where(partner == found, RIGHT, WRONG)
            verdict[matched] = torch.where(partner == IGNORED, UNJUDGED, judged)
        else:
            verdict[matched] = UNJUDGED
        return verdict


def _matched(pair: KeypointPair, matches: Tensor) -> tuple[Array, Array, Tensor]:
    """The ends of all matches in pixels, and the keypoints of image 0 that have one."""
    count = int(pair.num_keypoints[0, 0])
    pos, own = pair.pos.detach().cpu().double(), matches[:count].cpu()
    index = (own >= 0).nonzero().squeeze(1)
    return pos[index].numpy(), pos[own[index] + count].numpy(), index


def _partners(pair: KeypointPair, homography: Tensor) -> Tensor:
    pos0, pos1 = pair.pos.detach().cpu().double().split(pair.num_keypoints[0].tolist())
    size0, size1 = torch.tensor(sizes_of(pair))
    return torch.cat(homography_ground_truth(pos0, pos1, homography, size0, size1))


def sizes_of(pair: KeypointPair) -> list[list[float]]:
    """Widths and heights of both images; where the pair does not know them, a box around the keypoints."""
    if pair.get("image_size") is not None:
        return [[max(1.0, round(side)) for side in size] for size in pair.image_size.tolist()]
    boxes = []
    for pos in pair.pos.split(pair.num_keypoints[0].tolist()):
        boxes.append([math.ceil(side) + 1.0 for side in pos.amax(0).tolist()] if len(pos) else [1.0, 1.0])
    return boxes
