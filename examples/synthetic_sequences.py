"""Write warped and relit copies of photos as sequences that hpatches_eval.py evaluates.

    python examples/synthetic_sequences.py photos outputs/synthetic --sequences 40
    python examples/hpatches_eval.py outputs/synthetic

Each sequence has an image `1.png`, a copy of it `2.png`, and the homography between them in `H_1_2`. With
`--held-out RUN/held_out.txt` only those photos are used that a run of `pyg-match train` kept for validation; without a
file, those that it keeps under its default settings. With `--without` none are used that are in a file of pairs, for
weights that were trained on these.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pyg_match.datasets import HomographyWarps, SyntheticHomographies
from pyg_match.datasets.photo_pairs import read_pairs
from pyg_match.datasets.sources import find_images
from pyg_match.training.config import DataConfig
from pyg_match.training.data import split_photos


def write_image(image: Tensor, path: Path) -> None:
    """Write an image with values in [0, 1]."""
    pixels = (image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels).save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("out", type=Path, help="folder of the sequences; must not exist")
    parser.add_argument("--sequences", type=int, default=40, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=12345, help="of the warps (%(default)s)")
    parser.add_argument("--rotation", type=float, default=30.0, help="largest, in degrees (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.6, help="largest magnification (%(default)s)")
    parser.add_argument(
        "--repeats", type=float, default=0.1, help="share of repeated structure (%(default)s)"
    )
    parser.add_argument(
        "--held-out",
        nargs="?",
        const="",
        metavar="FILE",
        help="only photos that training does not see: names in a file, or those of the default settings",
    )
    parser.add_argument(
        "--without", type=Path, metavar="PAIRS", help="file of pairs whose photos are not used"
    )
    args = parser.parse_args(arguments)
    try:
        warps = HomographyWarps(rotation=args.rotation, scale=args.scale, min_overlap=0.4, both=0.0)
        options = {"num_pairs": args.sequences, "seed": args.seed, "warps": warps, "repeats": args.repeats}
        photos = find_images(args.photos)[0]
        if args.held_out:
            names = {
                Path(os.path.abspath(args.photos / line))
                for line in os.fsdecode(Path(args.held_out).read_bytes()).splitlines()
            }
            photos = [photo for photo in photos if photo in names]
            if not photos:
                raise ValueError(f"no name in '{args.held_out}' is that of a photo in '{args.photos}'")
        elif args.held_out is not None:
            photos = split_photos(photos, DataConfig().validation_photos, DataConfig().seed)[1]
        if args.without is not None:
            seen = {photo for pair in read_pairs(args.without, args.photos) for photo in pair}
            photos = [photo for photo in photos if photo not in seen]
        pairs = SyntheticHomographies(photos, "aliked", **options)
        args.out.mkdir(parents=True)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for i in range(len(pairs)):
        image0, image1, homography = pairs.render(i)
        folder = args.out / f"v_{i:04}"
        folder.mkdir()
        write_image(image0, folder / "1.png")
        write_image(image1, folder / "2.png")
        np.savetxt(folder / "H_1_2", homography.numpy(), fmt="%.12g")
    print(f"{len(pairs)} sequences in {args.out}")


if __name__ == "__main__":
    main()
