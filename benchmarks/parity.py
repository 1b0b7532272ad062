"""Compare detectors with kornia's modules, and the graph matcher on complete graphs with kornia's LightGlue.

    python benchmarks/parity.py ROOT [--features aliked disk] [--pairs 10]

ROOT is a folder in HPatches layout. Of detectors: the share of keypoints that are the same to .05 px, the least cosine
of their descriptors, and the share of matches of `NAME-sparse` that stay when kornia's module detects. Of matchers:
assignments, matches and gradients. Every figure is the worst over the images or pairs.
"""

import argparse
import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from kornia import feature
from kornia.feature import LightGlue
from torch import Tensor

from pyg_match import Matcher
from pyg_match.data import KeypointPair, KeypointSet
from pyg_match.datasets import HPatches
from pyg_match.features import Extractor, extractor
from pyg_match.nn import GraphMatcher, convert_lightglue
from pyg_match.pretrained import load_weights

SAME_PIXELS = 0.05


# Early exit and pruning of LightGlue, off and as its authors set them.
ALL_LAYERS = {"depth_confidence": -1.0, "width_confidence": -1.0}
EARLY_EXIT = {"depth_confidence": 0.95, "width_confidence": 0.99}


def kornia_lightglue(name: str, early_exit: bool = False) -> LightGlue:
    """Kornia's LightGlue with official weights, without early exit and pruning unless asked for."""
    peer = LightGlue(features=None, input_dim=128, **(EARLY_EXIT if early_exit else ALL_LAYERS))
    state = {}
    for key, value in load_weights(name).items():
        kind, _, rest = key.partition(".")
        if kind in ("self_attn", "cross_attn"):
            number, _, rest = rest.partition(".")
            key = f"transformers.{number}.{kind}.{rest}"
        state[key] = value
    missing, _ = peer.load_state_dict(state, strict=False)
    if missing not in ([], ["confidence_thresholds"]):
        raise RuntimeError(f"kornia's LightGlue does not take these weights, it misses {missing}")
    return peer.eval()


def as_kornia(pair: KeypointPair) -> dict[str, dict[str, Tensor]]:
    """A pair in the form that kornia's LightGlue takes."""
    images = [pair.image(i) for i in (0, 1)]
    return {
        f"image{i}": {
            "keypoints": image.pos[None],
            "descriptors": image.x[None],
            "image_size": image.image_size.to(image.pos.dtype),
        }
        for i, image in enumerate(images)
    }


def gradients(model: torch.nn.Module, log_assignment: Tensor, matches: Tensor) -> dict[str, Tensor]:
    """Gradients of the mean negative log-likelihood of given matches with respect to all weights."""
    loss = -log_assignment[matches[:, 0], matches[:, 1]].mean()
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(parameters.items(), grads, strict=True)
    }


def compare(
    ours: GraphMatcher, peer: LightGlue, pair: KeypointPair, with_gradients: bool
) -> dict[str, float]:
    """The differences on one pair."""
    with torch.set_grad_enabled(with_gradients):
        mine, theirs = ours(pair), peer(as_kornia(pair))
    matches = torch.cat([theirs["matches0"][0], theirs["matches1"][0]])
    figures = {
        "log_assignment": (mine.log_assignment[0] - theirs["log_assignment"][0]).abs().max().item(),
        "other_matches": (mine.matches != matches).double().mean().item(),
    }
    if with_gradients and len(theirs["matches"][0]) > 0:
        given = theirs["matches"][0]
        _, expected = convert_lightglue(gradients(peer, theirs["log_assignment"][0], given))
        found = gradients(ours, mine.log_assignment[0], given)
        norm = sum(float(g.double().square().sum()) for g in expected.values()) ** 0.5
        difference = sum(float((found[k] - expected[k]).double().square().sum()) for k in expected) ** 0.5
        figures["gradient"] = difference / norm
    return figures


class Kornias(Extractor):
    """kornia's module of a detector, as it comes."""

    descriptor_dim = 128

    def __init__(self, name: str, max_num_keypoints: int, detection_threshold: float | None = None) -> None:
        super().__init__(max_num_keypoints)
        if name == "aliked":
            threshold = 0.2 if detection_threshold is None else detection_threshold
            self.model: torch.nn.Module = feature.ALIKED("aliked-n16", max_num_keypoints, threshold)
            self.model.load_state_dict(load_weights("aliked-n16"), strict=False)
            self.options: dict[str, Any] = {}
        else:
            self.model = feature.DISK()
            self.model.load_state_dict(load_weights("disk"))
            self.min_side = 17
            self.options = {"n": max_num_keypoints, "pad_if_not_divisible": True}
        self.freeze()

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        found = self.model(image[None], **self.options)[0]
        score = found.keypoint_scores if isinstance(self.model, feature.ALIKED) else found.detection_scores
        return {"pos": found.keypoints, "x": found.descriptors, "score": score}


def compare_keypoints(found: KeypointSet, expected: KeypointSet) -> tuple[float, float]:
    """The share of keypoints that both have, and the least cosine of their descriptors."""
    distance = torch.cdist(found.pos, expected.pos, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, index = distance.min(dim=1)
    same = nearest < SAME_PIXELS
    share = float(same.sum()) / max(found.num_keypoints, expected.num_keypoints)
    cosines = (found.x[same] * expected.x[index[same]]).sum(dim=1)
    return share, float(cosines.min()) if len(cosines) else math.nan


def compare_detectors(name: str, pairs: Sequence[Any], count: int) -> None:
    """Print how much a detector differs from kornia's module."""
    matcher = Matcher.from_pretrained(f"{name}-sparse", max_num_keypoints=count)
    peer = Matcher(Kornias(name, count), matcher.matcher, matcher.transform)
    shares, cosines, kept = [], [], []
    for pair in pairs:
        ours, theirs = (one(pair.path0, pair.pathk) for one in (matcher, peer))
        ends = [torch.cat([r.points0, r.points1], dim=1) for r in (ours, theirs)]
        if min(len(points) for points in ends) > 0:
            apart = torch.cdist(ends[0], ends[1], p=torch.inf).amin(dim=1)
            kept.append(float((apart < SAME_PIXELS).sum()) / max(len(points) for points in ends))
        for path in (pair.path0, pair.pathk):
            share, cosine = compare_keypoints(matcher.extractor.extract(path), peer.extractor.extract(path))
            shares.append(share)
            cosines.append(cosine)
    least, mean = min(kept, default=math.nan), sum(kept) / max(1, len(kept))
    print(f"{name:18}{min(shares):>16.2%}{min(cosines):>15.6f}{least:>12.2%}{mean:>12.2%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--features", nargs="+", default=["aliked", "disk"], choices=["aliked", "disk"])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--max-keypoints", type=int, default=1024)
    args = parser.parse_args()
    pairs = list(HPatches(args.root))
    pairs = pairs[:: max(1, len(pairs) // args.pairs)][: args.pairs]
    print(f"{len(pairs)} pairs, {args.max_keypoints} keypoints, 1024 px; the worst over the images or pairs")
    print(f"{'detector':18}{'same keypoints':>16}{'least cosine':>15}{'matches':>12}{'mean':>12}")
    for name in args.features:
        compare_detectors(name, pairs, args.max_keypoints)
    print(f"\n{len(pairs)} pairs, {args.max_keypoints} keypoints, complete graph; the worst over the pairs")
    print(f"{'weights':18}{'precision':>10}{'log assignment':>16}{'other matches':>15}{'gradient':>12}")
    for name in args.features:
        detect = extractor(name, max_num_keypoints=args.max_keypoints)
        sets = [[detect.extract(path, resize=640) for path in (p.path0, p.pathk)] for p in pairs]
        ours, peer = GraphMatcher.from_pretrained(f"{name}-lightglue"), kornia_lightglue(f"{name}-lightglue")
        for dtype in (torch.float, torch.double):
            ours, peer = ours.to(dtype), peer.to(dtype)
            worst: dict[str, float] = {}
            for number, (set0, set1) in enumerate(sets):
                pair = KeypointPair.from_sets(set0, set1)
                pair.x, pair.pos = pair.x.to(dtype), pair.pos.to(dtype)
                # Gradients take memory quadratic in the keypoints, so they are compared on some pairs only.
                for key, value in compare(ours, peer, pair, with_gradients=number % 3 == 0).items():
                    worst[key] = max(worst.get(key, 0.0), value)
                gc.collect()
            print(
                f"{name + '-lightglue':18}{str(dtype)[6:]:>10}{worst['log_assignment']:>16.1e}"
                f"{worst['other_matches']:>15.2%}{worst['gradient']:>12.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
