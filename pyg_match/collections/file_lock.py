"""Files that one process at a time works with."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# Of file systems that cannot lock, such as some of clusters.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Keep other processes out that ask the same; where the file system has no locks, nobody is kept out.

    Args:
        file: A file that may be written to; it is not changed.
        wait: Whether to wait for a process that has the lock.

    Yields:
        Whether the lock is held: not if the file is gone by then, or if another process has it and nobody waits.
    """
    try:
        # NFS locks only what may be written to.
        opened = file.open("r+b")
    except FileNotFoundError:
        yield False
        return
    with opened:
        number = opened.fileno()
        yield (fcntl is None or _lock(number, wait)) and _is_there(file, number)


def _lock(number: int, wait: bool) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_there(file: Path, number: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
