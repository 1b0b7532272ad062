"""Records of a run, one to a line."""

import contextlib
import json
from pathlib import Path
from typing import Any, Union


def append_json(path: Union[str, Path], record: dict[str, Any]) -> None:
    """Append a record as one line, in a single write."""
    line = json.dumps(record).encode() + b"\n"
    with open(path, "ab", buffering=0) as file:
        file.write(line)


def read_json_lines(path: Union[str, Path]) -> list[dict[str, Any]]:
    """The records of a file of :func:`append_json`, without a line that was cut off."""
    records = []
    path = Path(path)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
