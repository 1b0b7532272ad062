"""Spinner while something is done that takes long."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_FRESH = 5.0  # seconds since a file that is being downloaded was last written


@contextlib.contextmanager
def spinner(text: str, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Say on standard error what is being done, next to a spinner; nothing where that is no terminal.

    Args:
        text: What is being done, such as ``"loading weights"``.
        shown: Whether to say anything at all.

    Yields:
        A function that takes what is being done from now on.

    Example:
        >>> with spinner("loading weights") as say:
        ...     say("finding keypoints")
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(_Activity(text)) as status:
        yield lambda text: status.update(_Activity(text))


class _Activity:
    """A text of what is being done, drawn anew several times a second."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich__(self) -> "Text":
        from rich.text import Text

        return Text(f"{self.text}{_download()} …")


def _download() -> str:
    """The size of what torch has downloaded of a file of weights, while it downloads it."""
    torch = sys.modules.get("torch")
    # Another thread may be importing it.
    hub = getattr(torch, "hub", None)
    if hub is None or not hasattr(hub, "get_dir"):
        return ""
    for file in Path(hub.get_dir(), "checkpoints").glob("*.partial"):
        with contextlib.suppress(OSError):
            status = file.stat()
            if time.time() - status.st_mtime < _FRESH:
                return f", downloading them: {status.st_size / 1e6:.1f} MB"
    return ""
