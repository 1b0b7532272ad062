"""Files that are whole or as they were before."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Union


def write_whole(path: Union[str, Path], content: bytes) -> None:
    """Write a file such that a crash at any moment leaves the old one or the new one.

    Raises:
        OSError: If it cannot be written, for example onto a full disk; the old file is intact then.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        kept = "the one written before is intact" if path.exists() else "there is none from before"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {path} ({reason}); {kept}") from error
    if hasattr(os, "O_DIRECTORY"):  # the new name is on disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def append_json(path: Union[str, Path], record: dict[str, Any]) -> None:
    """Append a record as one line, in a single write."""
    line = json.dumps(record).encode() + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def read_json_lines(path: Union[str, Path]) -> list[dict[str, Any]]:
    """The records of a file of :func:`append_json`, without a line that was cut off."""
    records = []
    path = Path(path)
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
