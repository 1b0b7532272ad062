"""What commands refuse, and how they end when something is wrong."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional, Union

import typer

from pyg_match.files import is_file, new_file, real_path, shown_path, temporary_name, user_path

_LONGEST_LINE, _LONGEST_WORD = 1000, 300  # letters of what is wrong, and of a name in it


@contextmanager
def error_line(needs: str = "", extra: str = "train") -> Iterator[None]:
    """What is wrong with the input ends the command with a line and not with a traceback.

    Args:
        needs: What of the command needs an extra, if anything.
        extra: The name of the extra.
    """
    try:
        yield
    except (ImportError, OSError, ValueError, TypeError, ArithmeticError, MemoryError, RuntimeError) as error:
        missing = needs and isinstance(error, ModuleNotFoundError)
        hint = f"; {needs} needs `pip install 'pyg-match[{extra}]'`" if missing else ""
        text = str(error) or type(error).__name__
        text = re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:_LONGEST_WORD]}...", text)
        text = text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."
        text = printable(text, but="\n\t")
        typer.echo(f"error: {text}{hint}", err=True)
        raise typer.Exit(1) from None


def printable(text: str, but: str = "") -> str:
    """Text with escapes in the place of what a terminal would take as commands, such as in names of files.

    Args:
        text: The text.
        but: Letters that stay.
    """
    return "".join(c if c.isprintable() or c in but else c.encode("unicode_escape").decode() for c in text)


def check_files(what: str, *paths: Path) -> None:
    """Refuse files that are not there, before anything is loaded.

    Args:
        what: What they are, such as ``"image"``.
        *paths: The files.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder.
    """
    for path in paths:
        if os.path.isdir(user_path(path)):
            raise ValueError(f"the {what} must be a file, got the folder {path}")
        if not is_file(path):
            raise FileNotFoundError(f"no {what} at {str(path)!r}")


def check_folder(name: str, path: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not os.path.isdir(user_path(path)):
        raise FileNotFoundError(f"{name}: there is no folder {str(path)!r}")


def check_outputs(outputs: dict[str, Optional[Path]], inputs: Sequence[Union[str, Path, None]] = ()) -> None:
    """Refuse files that cannot be written, or that are read.

    Args:
        outputs: The files to write, by the names of their options.
        inputs: The files to read, ``None`` for one that is not given; other words, such as names of weights, are no
            files.

    Raises:
        FileNotFoundError: If there is no folder for a file.
        OSError: If a file cannot be written in its folder.
        ValueError: If a file is a folder, or an input, under whatever name.
    """
    given = {name: file for name, file in outputs.items() if file is not None}
    read = [user_path(path) for path in inputs if path is not None and is_file(path)]
    for name, file in given.items():
        written = user_path(file)
        if is_file(written) and any(written.samefile(path) for path in read):
            raise ValueError(f"{name} would overwrite the input {written}; choose another file")
    for name, file in given.items():
        path = user_path(file)
        if not os.path.isdir(path.parent):
            raise FileNotFoundError(f"no folder '{file.parent}' to write {file.name} to")
        if os.path.isdir(path):
            raise ValueError(f"{name} must be a file to write, got the folder {file}")
        _check_writable(path)


def _check_writable(path: Path) -> None:
    """Write an empty file beside it, as will be done with the whole one."""
    probe = temporary_name(real_path(path))
    try:
        new_file(probe)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {shown_path(path)} ({error.strerror})") from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def check_ending(what: str, file: Path, *endings: str) -> None:
    """Refuse a file whose name ends otherwise.

    Raises:
        ValueError: If it does.
    """
    if file.suffix.lower() not in endings:
        raise ValueError(f"{what} {' or '.join(endings)}, got {file.name!r}")
