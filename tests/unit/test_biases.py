"""Each bias against its paper's formula, written in another way."""

from __future__ import annotations

import copy
import inspect
import itertools
import math

import pytest
import torch
from torch import Tensor

import regard
from cases import FP64, Draw
from regard.backends import chunked
from regard.errors import OptionError, ShapeError
from regard.problem import Problem
from regard.shapes import Box, Sizes
from regard.spec.biases import FIRE, T5, ALiBi, Bias, Dense, Kerple, Relative


def sizes(h: int, q: int, k: int, b: int = 1) -> Sizes:
    return Sizes(b, h, h, q, k, 1, 1, torch.device("cpu"))


def table(bias: Bias, h: int, q: int, k: int, b: int = 1) -> Tensor:
    whole = Box(range(b), range(h), range(q), range(k))
    return bias.bind(sizes(h, q, k, b)).block(whole).expand(b, h, q, k)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (2, [2**-4, 2**-8]),
        (8, [2**-1, 2**-2, 2**-3, 2**-4, 2**-5, 2**-6, 2**-7, 2**-8]),
        # The paper's code for 12 heads (its geometric series for 8, then every second of that for 16).
        (12, [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_alibi_slopes_are_those_of_the_paper(heads: int, slopes: list[float]) -> None:
    assert ALiBi(heads).slopes.tolist() == pytest.approx(slopes, rel=1e-6)


def test_alibi_by_pairs() -> None:
    slopes = [0.5, -2.0]
    got = table(ALiBi(slopes=torch.tensor(slopes)), 2, 3, 5)
    for h in range(2):
        for q in range(3):
            for k in range(5):
                assert got[0, h, q, k] == -slopes[h] * abs(q + 2 - k)
    first = table(ALiBi(slopes=torch.tensor(slopes), offset=0), 2, 3, 5)
    assert first[0, 0, 2].tolist() == [-1.0, -0.5, 0.0, -0.5, -1.0]


def t5_bucket_of_transformers(relative_position: Tensor, bidirectional: bool, n: int, most: int) -> Tensor:
    """As T5's own code has it (in its float32); relative_position = key − query."""
    buckets = torch.zeros_like(relative_position)
    if bidirectional:
        n //= 2
        buckets += (relative_position > 0).long() * n
        relative_position = relative_position.abs()
    else:
        relative_position = -torch.min(relative_position, torch.zeros_like(relative_position))
    exact = n // 2
    large = (
        exact
        + (torch.log(relative_position.float() / exact) / math.log(most / exact) * (n - exact))
        .nan_to_num(0, 0, 0)
        .long()
    )
    large = torch.min(large, torch.full_like(large, n - 1))
    return buckets + torch.where(relative_position < exact, relative_position, large)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (16, 40), (8, 20), (32, 1000)])
def test_t5_buckets(buckets: int, most: int, causal: bool) -> None:
    bias = T5(torch.arange(float(buckets))[:, None], max_distance=most, causal=causal)
    distance = torch.arange(-1500, 1500)
    want = t5_bucket_of_transformers(-distance, not causal, buckets, most)
    got = bias.bucket(distance)
    # At the edge of a bucket the logarithm is a whole number and float32 may fall on either side of it.
    unlike = got != want
    assert unlike.sum() <= 2
    assert (got - want).abs().max() <= 1
    past = got[distance >= 0]
    assert torch.equal(past, past.sort().values)
    assert got.min() == 0
    assert got.max() == buckets - 1
    assert torch.equal(table(bias, 1, 9, 9)[0, 0, 8], bias.bucket(torch.arange(8, -1, -1)).float())


def test_kerple_by_pairs() -> None:
    a, c = torch.tensor([0.5, 2.0], dtype=FP64), torch.tensor([1.0, 0.25], dtype=FP64)
    got = table(Kerple(a, c), 2, 4, 6)
    for h, q, k in ((0, 0, 0), (1, 3, 0), (0, 2, 5), (1, 1, 3)):
        want = -float(a[h]) * math.log(1 + float(c[h]) * abs(q + 2 - k))
        assert float(got[0, h, q, k]) == pytest.approx(want, rel=1e-14, abs=1e-15)


def fire(heads: int, hidden: int, offset: int | None = None) -> FIRE:
    draw = Draw("fire")
    c, multiplier = torch.tensor(-0.3, dtype=FP64), torch.tensor(0.5, dtype=FP64)
    layers = (draw.normal(*shape) for shape in ((hidden,), (hidden,), (heads, hidden), (heads,)))
    return FIRE(c, multiplier, *layers, length=10.0, offset=offset)


@pytest.mark.parametrize("offset", [None, 0, 7])
def test_fire_by_pairs(offset: int | None) -> None:
    bias = fire(2, 3, offset)
    got = table(bias, 2, 9, 12)
    first, second = bias.hidden_weight.tolist(), bias.weight.tolist()

    def psi(x: float) -> float:
        return math.log(0.3 * x + 1)

    shares: list[float] = []
    for h, q, k in itertools.product(range(2), range(9), range(12)):
        i = q + (3 if offset is None else offset)
        x = psi(abs(i - k)) / psi(max(0.5 * 10.0, i))
        hidden = [max(w * x + float(b), 0) for w, b in zip(first, bias.hidden_bias, strict=True)]
        want = sum(w * u for w, u in zip(second[h], hidden, strict=True)) + float(bias.bias[h])
        assert float(got[0, h, q, k]) == pytest.approx(want, rel=1e-12, abs=1e-12)
        shares += [x] if k <= i else []
    assert 0 == min(shares) < max(shares) == 1


def test_fire_is_taken_by_blocks_in_little_memory() -> None:
    q = torch.zeros(1, 2, 4096, 8)
    plan = regard.explain(q, q, q, bias=FIRE.learned(2) + ALiBi(2))
    assert plan.backend == "chunked"
    assert "a bias that is computed for each pair would be in memory whole" in str(plan)
    rows = chunked.block_rows(Problem.of(q, q, q, bias=FIRE.learned(2) + ALiBi(2)))[0]
    assert rows == chunked.LEAST_ROWS
    assert chunked.block_rows(Problem.of(q, q, q, bias=ALiBi(2)))[0] > rows


def test_fire_learns_all_that_it_holds() -> None:
    bias = FIRE.learned(2, hidden=16, length=4.0)
    q, k, v = (Draw(name).normal(1, 2, 12, 4).float() for name in "qkv")
    out = regard.attention(q, k, v, mask=regard.Causal(), bias=bias)
    gradients = torch.autograd.grad(out.square().sum(), bias.tensors()[:-1])  # a softmax sees no constant
    assert all(float(grad.abs().sum()) > 0 for grad in gradients)


def test_fire_says_what_it_takes() -> None:
    with pytest.raises(OptionError, match=r"FIRE\(length=…\): got 0.0; allowed: a number above 0"):
        FIRE.learned(2, length=0.0)
    with pytest.raises(ShapeError, match=r"FIRE\(weight=…\): got 2 heads; allowed: 3"):
        table(FIRE.learned(2), 3, 2, 2)
    good = FIRE.learned(2, hidden=3)
    short = copy.copy(good)
    short.__dict__.update(hidden_bias=torch.zeros(2))
    with pytest.raises(ShapeError, match=r"FIRE.learned makes them"):
        inspect.unwrap(FIRE.__post_init__)(short)  # past the shape checks of tests


def test_relative_by_pairs() -> None:
    numbers = torch.arange(10.0).reshape(2, 5)  # distances −2 … 2
    got = table(Relative(numbers), 2, 4, 4)
    for h in range(2):
        for q in range(4):
            for k in range(4):
                assert got[0, h, q, k] == numbers[h, 2 + max(-2, min(2, q - k))]


def test_learned_biases_start_as_parameters_and_do_nothing_much() -> None:
    for bias in (T5.learned(3), Relative.learned(3, 8)):
        assert not table(bias, 3, 5, 5).any()
        assert all(isinstance(t, torch.nn.Parameter) for t in bias.tensors())
    assert (table(Kerple.learned(3), 3, 5, 5) <= 0).all()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 5), (4, 1), (5,), (), (1, 1, 1, 1), (2, 1, 1, 5)])
def test_dense_biases_broadcast_and_cut(shape: tuple[int, ...]) -> None:
    x = Draw("dense").normal(*shape)
    assert torch.equal(table(Dense(x), 3, 4, 5, b=2), x.expand(2, 3, 4, 5))
    box = Box(range(1, 2), range(1, 3), range(2, 4), range(1, 4))
    want = x.expand(2, 3, 4, 5)[1:2, 1:3, 2:4, 1:4]
    bound = Dense(x).bind(sizes(3, 4, 5, b=2))
    assert torch.equal(bound.block(box).expand_as(want), want)
    assert torch.equal(bound.cut(box.b, box.h, box.q).block(box).expand_as(want), want)


def test_biases_add_up() -> None:
    x, relative = Draw("x").normal(4, 4), Relative(Draw("r").normal(2, 3))
    both = relative + x + ALiBi(2)
    want = table(relative, 2, 4, 4) + x + table(ALiBi(2), 2, 4, 4)
    assert torch.allclose(table(both, 2, 4, 4), want, rtol=1e-12)
    box = Box(range(1), range(2), range(1, 3), range(2, 4))
    bound = both.bind(sizes(2, 4, 4))
    assert torch.allclose(bound.cut(range(1), range(2), range(1, 3)).block(box), want[:, :, 1:3, 2:4])
