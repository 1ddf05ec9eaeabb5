"""Dropout: how much it drops, how the rest grows, and that it is always the same weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regard
from cases import FP64, Case
from regard import Entropy, Rows
from regard.problem import Problem
from regard.shapes import Box
from regard.spec.dropout import keeps


def everything(seed: int, share: float, b: int = 2, h: int = 3, q: int = 40, k: int = 50) -> torch.Tensor:
    return keeps(seed, share, Box(range(b), range(h), range(q), range(0)), torch.arange(k))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_the_rate(share: float) -> None:
    kept = everything(7, share, q=200, k=200)
    n = kept.numel()
    slack = 4 * (share * (1 - share) / n) ** 0.5
    assert abs(float((~kept).double().mean()) - share) < slack
    for dims in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)):  # nor is any key, row, head or batch row favoured
        each = (~kept).double().mean(dims)
        limit = 5.5 * (share * (1 - share) / (n / each.numel())) ** 0.5
        assert (each - share).abs().max() < limit


def test_neighbours_are_independent() -> None:
    x = everything(3, 0.5, q=256, k=256).double() - 0.5
    n = x[..., 1:, 1:].numel()
    for shifted in (x.roll(1, 3), x.roll(1, 2), x.roll(1, 1), x.roll(1, 0), x.roll((1, 1), (2, 3))):
        correlation = float((x * shifted)[:, :, 1:, 1:].sum()) / n / 0.25
        assert abs(correlation) < 5 / n**0.5
    other = everything(4, 0.5, q=256, k=256).double() - 0.5
    assert abs(float((x * other).mean())) / 0.25 < 5 / n**0.5


@given(data=st.data())
def test_a_weights_fate_depends_on_its_place_only(data: st.DataObject) -> None:
    whole = everything(11, 0.4)

    def part(n: int) -> range:
        start = data.draw(st.integers(0, n - 1))
        return range(start, data.draw(st.integers(start + 1, n)))

    b, h, q = part(2), part(3), part(40)
    keys = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 49), min_size=1))))
    got = keeps(11, 0.4, Box(b, h, q, range(0)), keys)
    assert torch.equal(got, whole[b.start : b.stop, h.start : h.stop, q.start : q.stop][..., keys])


def test_nothing_dropped_and_far_places() -> None:
    assert everything(1, 0.0).all()
    far = keeps(
        2**31 - 1, 0.5, Box(range(1), range(1), range(2**31, 2**31 + 64), range(0)), torch.arange(2**33, 2**33 + 64)
    )
    assert 0.3 < float(far.double().mean()) < 0.7


def test_kept_weights_grow_and_dropped_ones_give_nothing() -> None:
    call = Case(mask="causal", dtype=FP64).build()
    s, share = Case().sizes, 0.25
    torch.manual_seed(5)
    problem = Problem.of(call.q, call.k, call.v, mask=call.mask, dropout=share)
    kept = everything(problem.seed, share, *s[:2], s.q, s.k)
    weights = regard.observe(call.q, call.k, call.v, rows := Rows(*range(s.q)), mask=call.mask)[rows]
    want = (weights * kept / (1 - share)) @ call.v
    torch.manual_seed(5)
    got = regard.attention(call.q, call.k, call.v, mask=call.mask, dropout=share)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_manual_seed_reproduces(backend: str) -> None:
    call = Case(dropout=0.5).build()

    def once() -> torch.Tensor:
        return regard.attention(call.q, call.k, call.v, dropout=0.5, backend=backend)

    torch.manual_seed(1)
    first, second = once(), once()
    torch.manual_seed(1)
    assert torch.equal(first, once())
    assert not torch.equal(first, second)
    assert torch.equal(second, once())


def test_no_dropout_takes_nothing_from_the_generator() -> None:
    call = Case().build()
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    regard.attention(call.q, call.k, call.v)
    assert torch.equal(torch.rand(3), want)


def test_statistics_are_of_the_weights_before_dropout() -> None:
    call = Case(mask="causal").build()
    a, b = (
        regard.observe(call.q, call.k, call.v, Entropy(), mask=call.mask, dropout=share)[Entropy()]
        for share in (0.0, 0.8)
    )
    assert torch.equal(a, b)


def test_backward_drops_what_forward_dropped(small_chunks: None) -> None:
    # The output is linear in v: its gradient holds the weights that were used.
    call = Case(dropout=0.5, mask="causal", dtype=FP64).build().requiring_gradients()
    out = call.attention("chunked")
    (dv,) = torch.autograd.grad(out.sum(), call.v)
    torch.testing.assert_close((dv * call.v).sum(), out.sum())
