"""Settings as somebody wrote them, in YAML."""

import math
from typing import Any

from pyg_match.checks import shown

_MOST = 1_000_000  # letters and values, with every alias written out


def parse_yaml(text: str, what: str) -> Any:
    """The value that a YAML text describes.

    Raises:
        ValueError: If ``what``, as errors name it, is not YAML, or is far longer than it looks.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
        size = _size(value, {})
    except (
        Exception
    ) as error:  # a tag before what it does not fit raises KeyError, IndexError, AttributeError, ...
        reason = "too many brackets" if isinstance(error, RecursionError) else error
        raise ValueError(f"{_named(what)} is not YAML: {reason}") from None
    if size > _MOST:
        length = "without end" if math.isinf(size) else f"{size:.3g} letters"
        raise ValueError(f"{_named(what)} is {length} with its aliases written out, at most {_MOST} are read")
    return value


def _size(value: Any, known: dict[int, float]) -> float:
    """Letters and values of a value, infinite if it is part of itself; of what comes again they are counted again."""
    if not isinstance(value, dict | list | set | tuple):
        return 1 + len(value) if isinstance(value, str | bytes) else 1
    if id(value) not in known:
        known[id(value)] = math.inf
        items = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in items)
    return known[id(value)]


def _named(what: str) -> str:
    return what if len(what) < 200 else shown(what)
