"""Compare the graph matcher on complete graphs with kornia's LightGlue: assignments, matches, gradients.

    python benchmarks/parity.py ROOT [--features aliked disk] [--pairs 10]

ROOT is a folder in HPatches layout. Every figure is the worst over the pairs.
"""

import argparse
import gc
from pathlib import Path

import torch
from kornia.feature import LightGlue
from torch import Tensor

from pyg_match.data import KeypointPair
from pyg_match.datasets import HPatches
from pyg_match.features import extractor
from pyg_match.nn import GraphMatcher, convert_lightglue
from pyg_match.pretrained import load_weights


def kornia_lightglue(name: str) -> LightGlue:
    """Kornia's LightGlue with official weights, without early exit and pruning."""
    peer = LightGlue(features=None, input_dim=128, depth_confidence=-1, width_confidence=-1)
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
    print(f"{len(pairs)} pairs, {args.max_keypoints} keypoints, complete graph; the worst over the pairs")
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
