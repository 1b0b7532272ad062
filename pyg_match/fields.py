"""Fields of dataclasses, converted from values in files, on the command line or of a call."""

import dataclasses
import functools
import inspect
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Optional, Union

from pyg_match.checks import nearest_name, shown


def build(cls: type[Any], values: Any, prefix: str = "") -> Any:
    """A dataclass of nested mappings.

    Args:
        cls: The dataclass, whose fields may be dataclasses.
        values: Its fields by name; those that are not named have their defaults.
        prefix: What messages put before names.

    Raises:
        ValueError: If a name is unknown or a value does not fit.
    """
    values = mapping(values, f"'{prefix[:-1]}'" if prefix else "the settings")
    hints = field_types(cls)
    check_names(values, hints, prefix)
    return cls(**{name: convert(value, hints[name], prefix + name) for name, value in values.items()})


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Settings by name; none for nothing.

    Raises:
        ValueError: If ``what``, as errors name it, holds anything else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} must hold settings by name, got {shown(value)}")
    return value


def check_names(values: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> None:
    """Refuse names that nobody knows.

    Raises:
        ValueError: If there is one; it is named with the nearest one that exists.
    """
    known = list(known)
    for name in values:
        if name not in known:
            hint = nearest_name(str(name), known, prefix)
            raise ValueError(f"unknown setting '{prefix}{name}'; {hint}")


def field_types(cls: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    return _field_types(cls)


# Apart, as mypy takes classes for hashable only where they are untyped.
@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def convert(value: Any, hint: Any, name: str, words: bool = True) -> Any:
    """A value as the type of a field wants it: lists as tuples, whole numbers as numbers, numpy's as Python's.

    Args:
        value: The value.
        hint: The type.
        name: What messages call it.
        words: Whether numbers may be written as text, as ``1e-4`` is to YAML.

    Raises:
        ValueError: If it does not fit.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for choice in arguments:
            try:
                return convert(value, choice, name, words)
            except ValueError:
                continue
    elif hint is Any:
        return value
    elif origin is Literal:
        if value in arguments:
            return value
    elif dataclasses.is_dataclass(hint) and inspect.isclass(hint):
        return value if isinstance(value, hint) else build(hint, value, name + ".")
    elif origin is tuple:
        if isinstance(value, list | tuple):
            kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
            if len(value) == len(kinds):
                return tuple(
                    convert(item, kind, name, words) for item, kind in zip(value, kinds, strict=True)
                )
    elif origin is list:
        if isinstance(value, list):
            return [convert(item, arguments[0], name, words) for item in value]
    elif origin is dict:
        if isinstance(value, dict):
            return value
    elif hint in (float, int):
        number = _number(value, hint, words)
        if number is not None:
            return number
    elif hint is type(None):
        if value is None:
            return None
    elif isinstance(value, hint):
        return value
    raise ValueError(f"'{name}' must be {describe(hint)}, got {shown(value)}")


def describe(hint: Any) -> str:
    """A type as messages name it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(choice) for choice in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return "a list of whole numbers" if arguments[1:] == (...,) else f"a list of {len(arguments)} values"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint) or ("a list" if origin is list else "settings by name")


def _number(value: Any, hint: type[Any], words: bool) -> Optional[Any]:
    if isinstance(value, bool):
        return None
    if hint is int:
        return operator.index(value) if isinstance(value, numbers.Integral) else None
    if not isinstance(value, numbers.Real) and not (words and isinstance(value, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
