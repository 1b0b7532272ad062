"""Folders with all that is in them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Union


def walk(folder: Union[str, Path]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those in it, with the names of subfolders and files, sorted; a folder before what is in it.

    Links to folders are followed, but not those to a folder that they are in. As with :func:`os.walk`, whoever takes
    names away from the list of subfolders leaves them out.

    Args:
        folder: Where to begin.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     os.mkdir(f"{root}/sub")
        ...     [(folder.name, files) for folder, _, files in walk(f"{root}/sub")]
        [('sub', [])]
    """
    yield from _walk(Path(folder), frozenset())


def _walk(folder: Path, above: frozenset[str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for _, subfolders, files in os.walk(folder):
        subfolders.sort()
        yield folder, subfolders, sorted(files)
        for name in subfolders:
            yield from _walk(folder / name, above | {real})
        return
