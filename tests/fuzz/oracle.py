"""The one oracle of all fuzz tests: a right answer, or an error that names the value."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

import pyg_match

CASES = int(os.environ.get("PYG_MATCH_FUZZ", "0"))  # in all; 0 for the few of the ordinary suite
TESTS = 35  # that share them
FEW = 12
SECONDS = 20.0  # after which a case counts as a hang
MEGABYTES = 1500.0  # of growth, from which on a case counts as greedy

PACKAGE = str(Path(pyg_match.__file__).parent)
# What messages of torch, numpy and Python say when they meet what nobody checked.
UNCLEAR = (
    "'NoneType' object",
    "object has no attribute",
    "not implemented for",
    "out of bounds",
    "unsupported operand",
    "not supported between",
    "Boolean value of Tensor",
    "only one element tensors",
    "ambiguous",
    "object is not",
    "positional argument",
)


class RefusedError(Exception):
    """A case was refused, clearly."""


class UnclearError(AssertionError):
    """A case ended with an error that nobody can make sense of, or did not end."""


fuzz = settings(
    max_examples=FEW if CASES == 0 else max(1, CASES // TESTS),
    deadline=None,
    database=None,
    derandomize=CASES == 0,  # the ordinary suite sees the same cases each time
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def attempt(call: Callable[[], Any]) -> Any:
    """What ``call`` gives.

    Raises:
        RefusedError: If it raises an error that is clear.
        UnclearError: If it raises another one, takes for ever, or memory without end.
    """
    before, start = memory(), time.monotonic()
    try:
        with _alarm():
            result = call()
    except (ValueError, TypeError, FileNotFoundError) as error:
        check_clear(error)
        raise RefusedError(str(error)) from None
    except UnclearError:
        raise
    except Exception as error:
        raise UnclearError(f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}") from error
    grown = memory() - before
    if grown > MEGABYTES:
        raise UnclearError(f"{grown:.0f} MB more after {time.monotonic() - start:.1f} s")
    return result


def accepted(call: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether ``call`` gives an answer, and the answer, or the message with which it is refused."""
    try:
        return True, attempt(call)
    except RefusedError as refusal:
        return False, str(refusal)


def check_clear(error: BaseException) -> None:
    """A clear error is raised by this package itself, in a few words that are its own."""
    text = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = frames[-1].filename.startswith(PACKAGE)
    quoted = "is not a readable" in text  # what a library says of damaged bytes, after what we say
    unclear = [words for words in UNCLEAR if words in text and not quoted]
    if not ours or unclear or not 10 <= len(text) <= 1500:
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        raise UnclearError(
            f"{type(error).__name__} from {where}: {text[:500]}\n{traceback.format_exc(limit=-6)}"
        )


def memory() -> float:
    """The most megabytes that the process has had, 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextmanager
def _alarm() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise UnclearError(
            f"still running after {SECONDS:g} s\n" + "".join(traceback.format_stack(frame)[-6:])
        )

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
