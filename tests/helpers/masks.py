"""Random masks, and what to ask of them."""

import torch
from hypothesis import strategies as st

SHAPES = {"a.weight": (3, 5), "b.weight": (2, 2, 3, 3), "c.weight": (1,)}


@st.composite
def partitions(draw, least=2, most=4):
    count = draw(st.integers(least, most))
    seed = draw(st.integers(0, 2**32 - 1))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()} for _ in range(count)
    ]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def inside(one, other):
    return not any(bool((one[name] & ~other[name]).any()) for name in one)
