"""Lists of pairs of images: a line "name0 name1" for each."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from pyg_match.checks import whole_number
from pyg_match.collections.feature_file import FeatureFile
from pyg_match.files import shown_path, user_path, whole_path

Pair = tuple[str, str]


def exhaustive_pairs(names: Sequence[str]) -> Iterator[Pair]:
    """Every image with every other one.

    Example:
        >>> list(exhaustive_pairs(["a", "b", "c"]))
        [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    return combinations(names, 2)


def sequential_pairs(names: Sequence[str], window: int = 10, loop_step: int | None = None) -> Iterator[Pair]:
    """Every image with the next ones, as of a video.

    Args:
        names: Names in the order in which the images were taken.
        window: With how many of the following images each is paired.
        loop_step: If given, every so many-th image is also paired with all other such images, so that a camera
            that comes back to a place finds it.

    Raises:
        ValueError: If ``window`` or ``loop_step`` is no positive whole number.

    Example:
        >>> list(sequential_pairs("abcde", window=1, loop_step=2))
        [('a', 'b'), ('a', 'c'), ('a', 'e'), ('b', 'c'), ('c', 'd'), ('c', 'e'), ('d', 'e')]
    """
    window = whole_number("window", window)
    step = None if loop_step is None else whole_number("loop_step", loop_step)
    count = len(names)
    for i in range(count):
        near = range(i + 1, min(i + window + 1, count))
        far = range(i + step, count, step) if step is not None and i % step == 0 else range(0)
        for j in sorted({*near, *far}):
            yield names[i], names[j]


def read_pairs(path: str | Path) -> Iterator[tuple[int, Pair]]:
    """The pairs of a list and their line numbers, one after the other; empty lines are left out.

    Args:
        path: The list, a line ``name0 name1`` for each pair.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line does not hold two names, or is no text.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     count = write_pairs(f"{folder}/pairs.txt", [("a.jpg", "b.jpg"), ("a.jpg", "c.jpg")])
        ...     list(read_pairs(f"{folder}/pairs.txt"))
        [(1, ('a.jpg', 'b.jpg')), (2, ('a.jpg', 'c.jpg'))]
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list of pairs at {path}")
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                words = line.split()
                if len(words) == 2:
                    yield number, (words[0], words[1])
                elif words:
                    raise ValueError(
                        f"line {number} of {path} must hold two names of images without spaces in them, got "
                        f"{line.strip()[:200]!r}"
                    )
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a list of pairs in UTF-8: {error}") from None


def listed_pairs(path: str | Path, features: FeatureFile) -> Iterator[Pair]:
    """The pairs of a list of which both images have features, each once and in one order.

    Args:
        path: See :func:`read_pairs`.
        features: The features of the collection.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If it is no list of pairs.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from pyg_match.collections import open_features
        >>> arrays = {
        ...     "keypoints": np.zeros((3, 2)),
        ...     "descriptors": np.ones((3, 8)),
        ...     "image_size": np.array([64, 48]),
        ... }
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.jpg", "b.jpg"):
        ...         np.savez(f"{folder}/{name}.npz", **arrays)
        ...     _ = write_pairs(
        ...         f"{folder}/pairs.txt", [("a.jpg", "b.jpg"), ("b.jpg", "a.jpg"), ("a.jpg", "c.jpg")]
        ...     )
        ...     with open_features(folder) as features:
        ...         list(listed_pairs(f"{folder}/pairs.txt", features))
        [('a.jpg', 'b.jpg')]
    """
    seen: set[Pair] = set()
    for _, (first, second) in read_pairs(path):
        known = all(features.num_keypoints(name) is not None for name in (first, second))
        if known and first != second and (first, second) not in seen:
            seen |= {(first, second), (second, first)}
            yield first, second


def check_listable(names: Iterable[str]) -> None:
    """Refuse names of images that a list of pairs cannot hold.

    Raises:
        ValueError: If a name is empty, has a space in it or is not UTF-8.

    Example:
        >>> check_listable(["left/a.jpg", "b.jpg"])
    """
    for name in names:
        if not name or re.search(r"\s", name) or shown_path(name) != name:
            raise ValueError(
                f"a list of pairs cannot hold the name {shown_path(name)!r}, as it has a space or is not UTF-8; rename "
                "the image"
            )


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> int:
    """Write a list of pairs, whole or not at all, and return their number.

    Args:
        path: The file.
        pairs: Two names of images each.

    Raises:
        ValueError: If a list cannot hold a name, or if there is no pair.
        OSError: If it cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_pairs(f"{folder}/pairs.txt", exhaustive_pairs(["a", "b", "c"]))
        3
    """
    count = 0
    with whole_path(path) as temporary, open(temporary, "wb") as file:
        for first, second in pairs:
            check_listable((first, second))
            file.write(f"{first} {second}\n".encode())
            count += 1
        if count == 0:
            raise ValueError(f"there is no pair to write to {path}; a pair needs two images")
    return count
