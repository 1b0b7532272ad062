"""Writing of files that are whole or as they were before, and their names and folders."""

import contextlib
import errno
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Union


def _host() -> str:
    """This machine, or the container of it in which the numbers of processes count."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not on Linux
        numbers = ""
    return re.sub(r"\W+", "-", f"{socket.gethostname()} {numbers}").strip("-")


_HOST = _host()
_TEMPORARY = re.compile(r".+\.(?P<host>[\w-]+)\.(?P<process>\d+)\.tmp")  # see temporary_name
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # where file systems do not sync folders
_ABANDONED = 3600.0  # seconds; files are written within a few


def process_name() -> str:
    """A name that no other process has which shares a folder with this one."""
    return f"{_HOST}.{os.getpid()}"


def temporary_name(path: Path) -> Path:
    """Another name for a file while it is written, which no other process that shares the folder takes."""
    return path.with_name(f"{path.name}.{process_name()}.tmp")


def new_file(path: Path, mode: int = 0o666) -> None:
    """Make an empty file for writing; what another user may have put there is not written to.

    In a folder of all users a link there could lead to any file of this one.

    Args:
        path: The file; one that is there is deleted.
        mode: Its permissions, less those that the process withholds.

    Raises:
        OSError: If it cannot be made.
    """
    path.unlink(missing_ok=True)
    path.touch(mode, exist_ok=False)


def allow_open_files() -> None:
    """Allow as many open files as the system does: each tensor of a batch from another process is one."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def sweep(folder: Union[str, Path], everything: bool = False, name: str = "") -> None:
    """Delete temporary files of writers that were killed: of this machine, or of others after an hour.

    Args:
        folder: Where to look.
        everything: Whether other temporary files that are an hour old go, too; for folders that are ours alone.
        name: Only those of the file of this name, if given.
    """
    for file in Path(folder).glob("*.tmp"):
        if not file.name.startswith(name):
            continue
        written = _TEMPORARY.fullmatch(file.name)
        if written is None and not everything:
            continue
        with contextlib.suppress(OSError):  # another process was faster
            killed = written is not None and written["host"] == _HOST and not _runs(int(written["process"]))
            if killed or time.time() - file.stat().st_mtime > _ABANDONED:
                file.unlink()


def _runs(process: int) -> bool:
    if os.name == "nt":  # where this would end it
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def readable_folder(path: Union[str, "os.PathLike[str]"]) -> Path:
    """A folder, as a user gave it, whose safetensors files that library can open.

    Raises:
        ValueError: If its name is not UTF-8.
    """
    folder = user_path(path)
    if shown_path(folder.absolute()) != str(folder.absolute()):
        raise ValueError(
            f"safetensors files cannot be read from {shown_path(folder)!r}, whose name is not UTF-8"
        )
    return folder


def real_path(path: Union[str, "os.PathLike[str]"]) -> Path:
    """The path that a link points to, there or not; any other path as the user gave it."""
    path = user_path(path)
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def is_file(path: Union[str, "os.PathLike[str]"]) -> bool:
    """Whether there is such a file; also of a name that no file can have, such as one too long."""
    return os.path.isfile(user_path(path))


def user_path(path: Union[str, "os.PathLike[str]"]) -> Path:
    """A path as a user gave it, ``~`` being the home folder; a name as it is where there is no such user."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def whole_path(path: Union[str, Path]) -> Iterator[Path]:
    """The name of a file to write, which takes the place of ``path`` when the block ends.

    A crash at any moment leaves the old file or the new one; an error leaves the old one and nothing else. Of a link,
    the file that it points to is written.

    Raises:
        OSError: If it cannot be written, for example onto a full disk; it says whether there is an old file.
    """
    path = real_path(path)
    temporary = temporary_name(path)
    try:
        with _replacing(path, temporary):
            yield temporary
    except OSError as error:
        if error.filename not in (None, str(temporary)):  # of another file, which the block reads
            raise
        kept = "the one written before is intact" if path.exists() else "there is none from before"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {path} ({reason}); {kept}") from error
    if hasattr(os, "O_DIRECTORY"):  # the new name is on disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            os.close(folder)


@contextlib.contextmanager
def _replacing(path: Path, temporary: Path) -> Iterator[None]:
    """Put the file that the block writes in the place of another once all of it is on disk, with its permissions."""
    mode = None
    with contextlib.suppress(OSError):  # there is no other
        mode = stat.S_IMODE(path.stat().st_mode)
    try:
        new_file(temporary, 0o666 if mode is None else mode | stat.S_IWUSR)
        yield
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        if mode is not None:
            with contextlib.suppress(OSError):  # some file systems have no permissions
                os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of a file, which is the old one until all of the new one is on disk.

    Unlike :func:`write_whole`, it replaces a link itself, and a crash soon after may bring the old file back: it is
    for what can be made again.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    temporary = temporary_name(path)
    with _replacing(path, temporary):
        temporary.write_bytes(content)


def write_whole(path: Union[str, Path], content: bytes) -> None:
    """Write a file such that a crash at any moment leaves the old one or the new one.

    Raises:
        OSError: If it cannot be written, for example onto a full disk; it says whether there is an old file.
    """
    with whole_path(path) as temporary:
        temporary.write_bytes(content)


def shown_path(path: Union[str, Path]) -> str:
    """A path to be shown, with marks in the place of what is not UTF-8.

    Example:
        >>> shown_path("photos/a.jpg")
        'photos/a.jpg'
    """
    return os.fsencode(path).decode(errors="replace")


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


def check_format(path: Union[str, Path]) -> str:
    """The format that the ending of a figure's file stands for.

    Raises:
        ValueError: If there is none.

    Example:
        >>> check_format("matches.PNG")
        'png'
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    ending = Path(path).suffix[1:].lower()
    if ending not in known:
        raise ValueError(f"figures are saved as {', '.join(known)}, got {Path(path).name!r}")
    return ending
