"""What the page shows, as plain values for JSON."""

import base64
import io
import re
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyg_match._version import __version__
from pyg_match.app.packing import Packed
from pyg_match.app.truth import RIGHT, WRONG, Truth, sizes_of
from pyg_match.data import KeypointPair
from pyg_match.data.keypoint_pair import without_edges
from pyg_match.features.image import ImageLike, load_image
from pyg_match.transforms import CandidateEdges
from pyg_match.visualization import LayerMatches, difficulty, repeated_groups, repetition_score
from pyg_match.visualization.difficulty import HARD, MEDIUM, NAMES

CANDIDATES = 5  # of a keypoint that are shown
_DRAWN_SIDE, _SMALL_SIDE = 1200, 150  # largest sides in pixels of an image in the picture and in the grid


class Looks(NamedTuple):
    """What descriptors alone say about the keypoints of a pair.

    Attributes:
        candidates: The nodes of the other image with the most similar descriptors, best first, :math:`(N, C)`.
        repetition: How many keypoints of the same image look like each, :math:`(N)`.
        groups: The group of repeated keypoints that each belongs to, or -1, :math:`(N)`.
    """

    candidates: Tensor
    repetition: Tensor
    groups: Tensor

    @classmethod
    def of(cls, pair: KeypointPair) -> "Looks":
        """Compare the descriptors of all keypoints."""
        k = min(CANDIDATES, *pair.num_keypoints[0].tolist())
        candidates = torch.empty(pair.x.size(0), 0, dtype=torch.long)
        if k > 0:
            edges: Any = CandidateEdges(k, symmetric=False)(without_edges(pair)).cross_edge_index.as_tensor()
            candidates = edges[0].view(-1, k)
        return cls(candidates, repetition_score(pair), repeated_groups(pair))


def drawn(image: Optional[ImageLike]) -> dict[str, str]:
    """An image in grey as it is drawn, large and small, as addresses that hold their data."""
    if image is None:
        return {"large": "", "small": ""}
    grey = (load_image(image).detach().float().mean(0) * 255).round().byte().cpu().numpy()
    return {"large": _jpeg(grey, _DRAWN_SIDE, 82), "small": _jpeg(grey, _SMALL_SIDE, 70)}


def _jpeg(grey: Any, side: int, quality: int) -> str:
    picture = Image.fromarray(grey)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def of_pair(
    pair: KeypointPair, looks: Looks, images: list[dict[str, str]], names: tuple[str, str], truth: Truth
) -> dict[str, Any]:
    """What is the same for all settings: images, keypoints, and what is known of them."""
    xy = pair.pos.detach().cpu().double().numpy().round(2)
    partner = truth.partner if truth.partner is not None else torch.empty(0)
    return {
        "version": __version__,
        "names": list(names),
        "sizes": sizes_of(pair),
        "images": images,
        "counts": pair.num_keypoints[0].tolist(),
        "x": xy[:, 0].tolist(),
        "y": xy[:, 1].tolist(),
        "candidates": looks.candidates.tolist(),
        "repetition": looks.repetition.tolist(),
        "groups": looks.groups.tolist(),
        "truth": {
            "name": truth.name,
            "right": truth.right,
            "wrong": truth.wrong,
            "partner": partner.tolist(),
        },
    }


def of_setting(
    pair: KeypointPair, found: LayerMatches, truth: Truth, packed: Packed, setting: str, weights: str
) -> dict[str, Any]:
    """What one setting gives: matches after the last layer, how hard they were, and how they are judged."""
    judged = without_edges(pair)
    judged.y = truth.partner
    # With the answer of the last layer alone, nothing can be called late, nor stable.
    has_layers = len(found.matches) > 1
    labels, stable, _ = difficulty(judged, found, late=2 / 3 if has_layers else 1.0)
    stable = stable if has_layers else torch.zeros_like(stable)
    return {
        "name": setting,
        "slug": re.sub(r"[^A-Za-z0-9]+", "-", setting).strip("-") or "setting",
        "weights": weights,
        "layers": packed.layers,
        "heads": packed.heads,
        "top": packed.top,
        "match": found.matches[-1].tolist(),
        "score": np.round(found.scores[-1].double().numpy(), 4).tolist(),
        "difficulty": [NAMES[label] for label in labels.tolist()],
        "stable": stable.tolist(),
        "judged": truth.judge(pair, found.matches[-1]).tolist(),
    }


def start_of(looks: Looks, setting: dict[str, Any]) -> int:
    """The keypoint of image 0 to start with: matched and right, not easy, with look-alikes; -1 without any match."""
    judged = torch.tensor(setting["judged"], dtype=torch.long)
    matched = torch.tensor(setting["match"], dtype=torch.long)[: len(judged)] >= 0
    if not bool(matched.any()):
        return -1
    hard = torch.tensor(
        [name in (NAMES[MEDIUM], NAMES[HARD]) for name in setting["difficulty"][: len(judged)]]
    )
    interest = (
        torch.tensor(setting["score"])[: len(judged)] + 2.0 * (judged == RIGHT) - 1.0 * (judged == WRONG)
    )
    interest = interest + hard + 0.5 * (looks.groups[: len(judged)] >= 0)
    return int(interest.masked_fill(~matched, -torch.inf).argmax())
