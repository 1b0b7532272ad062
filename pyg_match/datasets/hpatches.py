"""Image sequences with known homographies, in the folder layout of HPatches."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyg_match.arrays import to_array
from pyg_match.checks import shown
from pyg_match.files import user_path, walk

LARGE_SEQUENCES = (  # left out by the usual protocol since their images are very large
    "i_contruction",
    "i_crownnight",
    "i_dc",
    "i_pencils",
    "i_whitebuilding",
    "v_artisans",
    "v_astronautis",
    "v_talent",
)
IMAGE_SUFFIXES = (".ppm", ".png", ".jpg")
KINDS = {"v_": "viewpoint", "i_": "illumination"}


@dataclass(frozen=True, eq=False)
class HPatchesPair:
    """Image 1 and image k of a sequence.

    Attributes:
        set_name: Name of the folder that holds the sequence.
        sequence: Name of the sequence.
        k: Number of the second image, from 2 on.
        path0: File of image 1.
        pathk: File of image k.
        homography: True homography from pixels of image 1 to pixels of image k, shape :math:`(3, 3)`, double
            precision.

    Example:
        >>> pair = HPatchesPair("hpatches", "v_wall", 2, Path("1.ppm"), Path("2.ppm"), torch.eye(3).double())
        >>> pair.kind
        'viewpoint'
    """

    set_name: str
    sequence: str
    k: int
    path0: Path
    pathk: Path
    homography: Tensor

    @property
    def kind(self) -> str:
        """``viewpoint`` or ``illumination`` by the sequence's prefix ``v_`` or ``i_``, else the set name."""
        return KINDS.get(self.sequence[:2], self.set_name)


class HPatches(Dataset[HPatchesPair]):
    r"""The pairs (1, k) of all sequences under a folder.

    A *sequence* is a folder with the images ``1.ppm``, ``2.ppm``, … (or ``.png``, ``.jpg``) and the text
    files ``H_1_2``, ``H_1_3``, …, each with the nine numbers of the homography from image 1 to image k in
    pixels of the original images. ``root`` may be a sequence, a folder of sequences such as the released
    ``hpatches-sequences-release``, or a folder of such folders. Sequences are sorted by path, pairs by k.

    Args:
        root: The folder.
        ignore_large: Leave out the eight sequences with very large images that evaluations since D2-Net skip,
            so that 108 of the 116 released sequences (540 pairs) remain.

    Raises:
        FileNotFoundError: If ``root`` is no folder, or an image or homography of a sequence is missing.
        ValueError: If there is no sequence under ``root``, an image exists twice, or a homography is garbled.

    Source: Balntas et al., *HPatches*, CVPR 2017; list of large sequences: glue-factory,
    ``datasets/hpatches.py``.

    Example:
        >>> for pair in HPatches("hpatches-sequences-release"):  # doctest: +SKIP
        ...     print(pair.kind, pair.sequence, pair.k, pair.homography)
    """

    def __init__(self, root: str | Path, ignore_large: bool = True) -> None:
        self.root = user_path(root)
        self.ignore_large = ignore_large
        if not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"{shown(str(self.root))} is not a folder, expected image sequences in HPatches layout"
            )
        folders = _sequence_folders(self.root)
        if not folders:
            raise ValueError(
                f"no sequence under '{self.root}', expected folders with the images 1.ppm, 2.ppm, … "
                "(or .png, .jpg) and the homographies H_1_2, …"
            )
        kept = [f for f in folders if not (ignore_large and f.name in LARGE_SEQUENCES)]
        if not kept:
            raise ValueError(
                f"all {len(folders)} sequences under '{self.root}' are left out by ignore_large=True"
            )
        self.pairs = [pair for folder in kept for pair in _read_sequence(folder)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> HPatchesPair:
        return self.pairs[index]

    def __iter__(self) -> Iterator[HPatchesPair]:
        return iter(self.pairs)

    def __repr__(self) -> str:
        sequences = len({(pair.set_name, pair.sequence) for pair in self.pairs})
        return f"{type(self).__name__}({str(self.root)!r}, sequences={sequences}, pairs={len(self)})"


def read_homography(path: str | Path) -> Tensor:
    r"""Read a homography from a text file of nine numbers separated by white space.

    Shapes:
        - **output:** :math:`(3, 3)`, double precision

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file does not hold nine finite numbers or they form a singular matrix.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "H_1_2").write_text("1 0 5  0 1 0  0 0 1")
        ...     read_homography(Path(folder, "H_1_2")).tolist()
        [[1.0, 0.0, 5.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"homography '{path}' is missing")
    try:
        values = [float(word) for word in path.read_text().split()]
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"'{path}' must hold nine numbers, got other text: {error}") from None
    if len(values) != 9:
        raise ValueError(f"'{path}' must hold nine numbers, got {len(values)}")
    matrix = np.array(values).reshape(3, 3)
    if not np.isfinite(matrix).all():
        raise ValueError(f"'{path}' must hold nine finite numbers, got {values}")
    if not np.linalg.cond(matrix) < 1 / np.finfo(np.float64).eps:
        raise ValueError(f"'{path}' holds a singular matrix, expected an invertible homography: {values}")
    return torch.from_numpy(matrix)


def _sequence_folders(root: Path) -> list[Path]:
    folders = []
    for folder, subfolders, files in walk(os.path.abspath(root)):
        if any(f"1{suffix}" in files for suffix in IMAGE_SUFFIXES):
            folders.append(folder)
            subfolders.clear()
    return sorted(folders)


def _read_sequence(folder: Path) -> list[HPatchesPair]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    images = [path for path in files if path.suffix in IMAGE_SUFFIXES and path.stem.isdecimal()]
    by_number = _numbered("image", [(int(path.stem), path) for path in images])
    named = [(match, path) for path in files if (match := re.fullmatch(r"H_1_(\d+)", path.name))]
    homographies = _numbered("homography H_1", [(int(match[1]), path) for match, path in named])
    pairs = []
    if 1 not in by_number:
        raise FileNotFoundError(f"sequence '{folder}' has a link in the place of image 1 that leads nowhere")
    for k in sorted((by_number.keys() | homographies.keys()) - {0, 1}):
        if k not in by_number:
            raise FileNotFoundError(f"'{homographies[k]}' has no image {k} (.ppm, .png or .jpg) beside it")
        if k not in homographies:
            raise FileNotFoundError(f"'{by_number[k]}' has no homography H_1_{k} beside it")
        matrix = read_homography(homographies[k])
        pairs.append(HPatchesPair(folder.parent.name, folder.name, k, by_number[1], by_number[k], matrix))
    if not pairs:
        raise FileNotFoundError(f"sequence '{folder}' has an image 1 but no image 2 and no H_1_2")
    return pairs


def _numbered(kind: str, files: list[tuple[int, Path]]) -> dict[int, Path]:
    """Files by their numbers, which no two of them may share, as ``2.png`` and ``02.png`` would."""
    found: dict[int, Path] = {}
    for number, path in files:
        if number in found:
            raise ValueError(
                f"{kind} {number} exists more than once in '{path.parent}', as {found[number].name} and {path.name}"
            )
        found[number] = path
    return found


def rescale_homography(homography: Tensor, scale0: Tensor, scale1: Tensor) -> Tensor:
    r"""The homography between two images after both were resized.

    A resize by :math:`s` moves a point from :math:`p` to :math:`s (p + \tfrac12) - \tfrac12`, since the
    centre of the first pixel is (0, 0) before and after.

    Args:
        homography: Homography from pixels of image 0 to pixels of image 1.
        scale0: Factors new / old of image 0 along x and y.
        scale1: Factors of image 1.

    Shapes:
        - **homography:** :math:`(3, 3)`
        - **scale0**, **scale1:** :math:`(2)`
        - **output:** :math:`(3, 3)`, double precision

    Raises:
        TypeError: If something does not consist of real numbers.
        ValueError: If a shape is not as expected, or a factor not positive.

    Example:
        >>> half = torch.tensor([0.5, 0.5])
        >>> rescale_homography(torch.eye(3), half, half).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    resize0, resize1 = _resize_matrix(scale0), _resize_matrix(scale1)
    matrix = torch.from_numpy(to_array(homography))
    if matrix.shape != (3, 3):
        raise ValueError(f"expected a homography of shape [3, 3], got {list(matrix.shape)}")
    rescaled: Tensor = resize1 @ matrix @ torch.linalg.inv(resize0)
    return rescaled


def _resize_matrix(scale: Tensor) -> Tensor:
    factors = torch.from_numpy(to_array(scale)).flatten()
    if factors.numel() != 2 or not bool((factors > 0).all()):
        raise ValueError(f"a resize has two positive factors for x and y, got {factors.tolist()}")
    matrix = torch.diag(torch.cat([factors, factors.new_ones(1)]))
    matrix[:2, 2] = (factors - 1) / 2
    return matrix
