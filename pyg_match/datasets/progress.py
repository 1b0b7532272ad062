"""Progress of work whose length is known."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


@contextmanager
def progress_bar(what: str, total: int, done: int, show: bool) -> Iterator[Callable[[], None]]:
    """A progress bar, or a line for each tenth where there is no terminal, moved on by calling what it yields."""
    if not show or done == total:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        yield _lines(what, total, done)
        return
    with rich_bar() as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda: bar.advance(task)


def rich_bar(*columns: "ProgressColumn", **options: Any) -> "Progress":
    """A bar on standard error with what is done, of how much, further columns, and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
    )
    return Progress(*shown, console=Console(stderr=True), **options)


def _lines(what: str, total: int, done: int) -> Callable[[], None]:
    """Tell what is done, now and whenever another tenth is."""
    found = count(done)

    def advance() -> None:
        number = next(found)
        if number == done or number * 10 // total > (number - 1) * 10 // total:
            print(f"{what} {number}/{total}", file=sys.stderr, flush=True)

    advance()
    return advance
