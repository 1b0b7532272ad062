"""Match two photos of a motorcycle from different places, and compare with the true disparity.

Runs offline: photos and truth come with scikit-image (Scharstein et al., GCPR 2014), the weights with pyg_match.

    python examples/demo.py --out outputs/demo.png
"""

import argparse
from pathlib import Path

import numpy as np
from skimage import data

from pyg_match import Matcher
from pyg_match.visualization import plot_matches

PIXELS = 2.0  # largest error of a right match


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/demo.png"), help="picture to write")
    parser.add_argument("--weights", default="aliked-sparse", help="pretrained matcher (%(default)s)")
    parser.add_argument("--max-keypoints", type=int, default=2048, help="in an image (%(default)s)")
    args = parser.parse_args()

    left, right, disparity = data.stereo_motorcycle()
    result = Matcher.from_pretrained(args.weights, max_num_keypoints=args.max_keypoints)(left, right)
    geometry = result.geometry()

    # A point (x, y) of the left photo lies at (x - disparity, y) of the right one. Some disparities are not known.
    points0, points1 = result.points0.numpy(), result.points1.numpy()
    column, row = points0.round().astype(int).T
    shift = disparity[row.clip(0, disparity.shape[0] - 1), column.clip(0, disparity.shape[1] - 1)]
    error = np.linalg.norm(points0 - np.stack([shift, np.zeros_like(shift)], axis=1) - points1, axis=1)
    known = np.isfinite(error)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    title = f"motorcycle_left and motorcycle_right of scikit-image, {args.weights}"
    plot_matches(left, right, result, geometry=geometry, path=args.out, title=title)
    print(f"picture: {args.out}")
    print("seconds: " + " ".join(f"{stage}={seconds:.2f}" for stage, seconds in result.seconds.items()))
    print(
        f"keypoints={len(result.keypoints0)},{len(result.keypoints1)} matches={len(result.matches)} "
        f"{geometry.kind}={int(geometry.inliers.sum())} "
        f"within_{PIXELS:g}_px_of_truth={(error[known] < PIXELS).mean():.1%}"
    )


if __name__ == "__main__":
    main()
