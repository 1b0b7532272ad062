"""Files that are whole or as they were before."""

import contextlib
import os
from pathlib import Path
from typing import Union


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of a file, which is the old one until all of the new one is on disk.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    # The process id keeps two processes that share the folder from writing the same temporary file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Union[str, Path], content: bytes) -> None:
    """Write a file such that a crash at any moment leaves the old one or the new one.

    Raises:
        OSError: If it cannot be written, for example onto a full disk; it says whether there is an old file.
    """
    path = Path(path)
    try:
        replace_file(path, content)
    except OSError as error:
        kept = "the one written before is intact" if path.exists() else "there is none from before"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {path} ({reason}); {kept}") from error
    if hasattr(os, "O_DIRECTORY"):  # the new name is on disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
