"""Values that nobody expects, and ones that nearly everybody does."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = [
    torch.float,
    torch.double,
    torch.half,
    torch.bfloat16,
    torch.long,
    torch.int,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
ODD = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e38, 1e-45]

# What a user may hand in where a number is wanted.
numbers = st.one_of(
    st.sampled_from(
        [0, 1, 2, 3, -1, 1.5, 2.0, math.nan, math.inf, -math.inf, 1e-300, 1e300, 10**12, 10**30, True, None]
    ),
    st.sampled_from(["", "3", "nan", "abc", b"3", [], [3], {}, (1, 2), 1j, object]),
    st.integers(-5, 40),
    st.floats(),
    st.sampled_from(
        [np.int64(3), np.uint8(2), np.float32(2.5), np.bool_(True), np.array(3), np.array([1, 2])]
    ),
    st.sampled_from([torch.tensor(3), torch.tensor(2.5), torch.tensor([1, 2]), torch.tensor(True)]),
)
counts = st.one_of(st.integers(1, 12), st.sampled_from([np.int64(3), 1, 2]), numbers)


@st.composite
def tensors(draw, max_side: int = 9, max_dim: int = 3):
    """Tensors of any type, shape, layout and content."""
    shape = draw(st.lists(st.integers(0, max_side), max_size=max_dim))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    out = (torch.randn(shape, generator=generator) * draw(st.sampled_from([1.0, 100.0]))).to(dtype)
    if out.numel() > 0 and out.is_floating_point() and draw(st.booleans()):
        out.view(-1)[draw(st.integers(0, out.numel() - 1))] = draw(st.sampled_from(ODD))
    return out.to("meta") if draw(st.integers(0, 30)) == 0 else out


# What a user may hand in where a tensor is wanted.
junk = st.one_of(
    tensors(),
    numbers,
    st.sampled_from(["text", [[0, 1], [1, 2]], [0.5, 1.5], (3, 4), np.ones((3, 2)), {"a": 1}, [], [None]]),
)


def either(draw, right, other=junk):
    """What is right, or what is not. (``st.just`` keeps what it is given, and takes new tensors for old ones.)"""
    return right if draw(st.booleans()) else draw(other)


@st.composite
def edges(draw, num_nodes: int):
    """Edges, now and then to nodes that do not exist, or no edges at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(junk)
    count = draw(st.integers(0, 20))
    low, high = draw(st.sampled_from([(0, num_nodes - 1)] * 6 + [(-1, num_nodes - 1), (0, num_nodes)]))
    if high < low:
        return torch.empty(2, 0, dtype=torch.long)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    out = torch.randint(low, high + 1, (2, count), generator=generator)
    out = out[:, out[1].argsort(stable=True)] if draw(st.booleans()) else out
    return out.int() if draw(st.integers(0, 5)) == 0 else out


def points(draw, count: int, channels: int = 2) -> torch.Tensor:
    """Finite numbers, equal ones among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    out = torch.rand(count, channels, generator=generator) * 64
    return out.round() if draw(st.booleans()) else out


def attributes(draw, count: int, channels: int = 4) -> dict[str, object]:
    """Attributes of keypoints, right ones."""
    made = {
        "pos": points(draw, count),
        "x": torch.nn.functional.normalize(points(draw, count, channels) - 32, dim=1),
        "score": torch.rand(count),
        "scale": torch.rand(count) + 1,
        "orientation": torch.rand(count),
    }
    return {name: value for name, value in made.items() if name in ("pos", "x") or draw(st.booleans())}
