"""What is refused where it enters, and how messages name it."""

import math

import numpy as np
import pytest
import torch

from pyg_match.checks import (
    check_batch,
    check_finite,
    nearest_name,
    real_number,
    shown,
    usable_device,
    whole_number,
)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_all_kinds(value):
    number = whole_number("k", value, most=3)
    assert number == 3 and type(number) is int


@pytest.mark.parametrize(
    "value", [0, -1, 2.0, 2.5, math.nan, "12", True, None, [3], np.float64(3), 5, 10**30]
)
def test_what_is_no_count_is_named(value):
    with pytest.raises(ValueError, match="'k' must be a whole number from 1 to 4, got ") as error:
        whole_number("k", value, most=4)
    assert repr(value)[:20] in str(error.value)
    with pytest.raises(ValueError, match="'k' must be a whole number of at least 11, got "):
        whole_number("k", 10.0 if value is None else value if value != 10**30 else 10, least=11)


def test_real_numbers():
    assert real_number("t", np.float32(0.5)) == 0.5 and type(real_number("t", 3)) is float
    for value in (math.nan, math.inf, -math.inf, "3", None, True, 1j, [1.0], 10**400):
        with pytest.raises(ValueError, match="'t' must be a finite number, got "):
            real_number("t", value)
    with pytest.raises(ValueError, match="'t' must be a positive number, got 0"):
        real_number("t", 0, positive=True)
    with pytest.raises(ValueError, match="'t' must be a finite number of at least 0 and at most 1, got 2"):
        real_number("t", 2, least=0, most=1)


def test_long_values_are_shortened():
    assert shown("a" * 5000).endswith("(5002 characters)") and len(shown("a" * 5000)) < 300
    assert shown(torch.zeros(3, 2)) == "a tensor of shape [3, 2]" and shown(3) == "3"


def test_the_nearest_name():
    assert (
        nearest_name("filter_treshold", ["filter_threshold", "heads"]) == "did you mean 'filter_threshold'?"
    )
    assert nearest_name("xyz", ["a", "b"]) == "expected one of a, b"


def test_batches():
    assert check_batch(torch.tensor([0, 0, 2], dtype=torch.int32), 3).tolist() == [0, 0, 2]
    assert check_batch(torch.empty(0, dtype=torch.long), 0).shape == (0,)
    for batch, error, message in (
        (torch.tensor([0.0, 1.0]), TypeError, "whole numbers, got torch.float32"),
        (torch.tensor([True, True]), TypeError, "whole numbers, got torch.bool"),
        ([0, 1], TypeError, "whole numbers, got list"),
        (torch.tensor([-1, 0]), ValueError, "start at 0 or above, got -1"),
        (torch.tensor([1, 0]), ValueError, "0 follows 1 at node 1"),
        (torch.tensor([0]), ValueError, r"shape \[2\], got \[1\]"),
        (torch.tensor([0, 1, 2]), ValueError, r"shape \[2\], got \[3\]"),
        (torch.tensor([[0], [1]]), ValueError, r"shape \[2\], got \[2, 1\]"),
    ):
        with pytest.raises(error, match=message):
            check_batch(batch, 2)


def test_tensors_that_are_not_finite():
    check_finite({"a": torch.ones(2), "n": torch.tensor([1])}, "the file holds")
    with pytest.raises(ValueError, match="the file holds NaN or infinite values, 1 of 2 in 'b'"):
        check_finite({"a": torch.ones(2), "b": torch.tensor([1.0, math.inf])}, "the file holds")


def test_devices():
    assert usable_device(torch.device("cpu")) == usable_device("cpu") == torch.device("cpu")
    unknown = ["nonsense", 3.5, None, "meta", "xpu:99"] + ([] if torch.cuda.is_available() else ["cuda"])
    for device in unknown:
        with pytest.raises(ValueError, match="'device' must be one that"):
            usable_device(device)
