"""How far long work is: a bar on a terminal, now and then a line elsewhere."""

import sys
import time

from rich.progress import Progress, TextColumn

from pyg_match.datasets.progress import rich_bar

_EVERY = 30.0  # seconds between lines where there is no terminal


class ProgressReport:
    """Progress of long work with its rate and the time left, on standard error; a context manager.

    Args:
        what: What is counted, such as ``"pairs"``.
        total: How many there are.
        shown: Whether to report at all.
    """

    def __init__(self, what: str, total: int, shown: bool = True) -> None:
        self.what, self.total, self.done = what, total, 0
        self._shown = shown
        self._skipped = 0
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            self._bar = rich_bar(TextColumn("{task.fields[rate]:.1f}/s"), speed_estimate_period=120)
            self._task = self._bar.add_task(what, total=total, rate=0.0)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """How many were done in a second so far."""
        return (self.done - self._skipped) / max(self.seconds, 1e-9)

    def skip(self, count: int) -> None:
        """Count what had been done before."""
        self._skipped += count
        self.done += count

    def advance(self, count: int = 1) -> None:
        """Count what has been done since."""
        self.done += count
        # The total of a share of the work is an estimate.
        self.total = max(self.total, self.done)
        if self._bar is not None:
            self._bar.update(self._task, total=self.total, completed=self.done, rate=self.rate)
        elif self._shown and (time.monotonic() - self._last > _EVERY or self.done >= self.total):
            self._last = time.monotonic()
            left = (self.total - self.done) / max(self.rate, 1e-9)
            line = f"{self.done:,} of {self.total:,} {self.what}, {self.rate:.1f}/s, {_duration(left)} left"
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> _duration(4000)
        '1 h 07 min'
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
