"""Values of fields that somebody wrote."""

from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import numpy as np
import pytest

from pyg_match.fields import build, convert


@dataclass(frozen=True)
class Inner:
    number: float = 1.0


@dataclass(frozen=True)
class Outer:
    count: int = 1
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1,)
    size: tuple[int, int] = (1, 2)
    name: Optional[str] = None
    kind: Literal["a", "b"] = "a"
    options: dict[str, Any] = field(default_factory=dict)


def test_values_become_what_fields_are():
    made = build(
        Outer, {"count": np.int32(4), "inner": {"number": "1e-4"}, "sizes": [1, 2, 3], "size": [3, 4]}
    )
    assert made == Outer(4, Inner(1e-4), (1, 2, 3), (3, 4)) and type(made.count) is int
    assert build(Outer, None) == Outer() and build(Outer, {"inner": Inner(2)}).inner == Inner(2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, "unknown setting 'cuont'; did you mean 'count'?"),
        ({"inner": {"numbr": 3}}, "unknown setting 'inner.numbr'; did you mean 'inner.number'?"),
        ({"count": 2.0}, "'count' must be a whole number, got 2.0"),
        ({"count": True}, "'count' must be a whole number, got True"),
        ({"inner": {"number": "x"}}, "'inner.number' must be a number, got 'x'"),
        ({"inner": 5}, "'inner' must hold settings by name, got 5"),
        ({"sizes": 5}, "'sizes' must be a list of whole numbers, got 5"),
        ({"size": [1]}, r"'size' must be a list of 2 values, got \[1\]"),
        ({"name": 5}, "'name' must be text or null, got 5"),
        ({"kind": "c"}, "'kind' must be one of 'a', 'b', got 'c'"),
        ({"options": "x"}, "'options' must be settings by name, got 'x'"),
        ([1], r"the settings must hold settings by name, got \[1\]"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        build(Outer, values)


def test_numbers_as_words_only_where_files_write_them():
    assert convert("0.5", float, "t") == 0.5
    with pytest.raises(ValueError, match=r"'t' must be a number, got '0\.5'"):
        convert("0.5", float, "t", words=False)
