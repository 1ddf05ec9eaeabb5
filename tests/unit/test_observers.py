"""Each observer against its words, on weights that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import regard
from cases import FP32, FP64, Case, Draw
from plain import pooled
from regard import (
    Causal,
    DistanceMass,
    Entropy,
    LogSumExp,
    MaxScore,
    MeanDistance,
    Pooled,
    Received,
    Rows,
    SpanMass,
    TopK,
)
from regard.spec.observers import _top_k


def see(weights: Tensor, *observers: Any, **more: Any) -> regard.Seen:
    """Observe a map of weights that is given: scores are its logarithms."""
    b, h, q, k = weights.shape
    nothing = torch.zeros(b, h, q, 1, dtype=weights.dtype)
    return regard.observe(
        nothing, nothing.new_zeros(b, h, k, 1), nothing.new_zeros(b, h, k, 1), *observers, bias=weights.log(), **more
    )


def weights(b: int = 1, h: int = 2, q: int = 6, k: int = 9, dtype: torch.dtype = FP64) -> Tensor:
    x = Draw("weights").normal(b, h, q, k).exp().to(dtype)
    return x / x.sum(-1, keepdim=True)


def test_entropy() -> None:
    w = weights()
    w[0, 0, 0] = 0
    w[0, 0, 0, 3] = 1
    w[0, 1, 2] = 1 / 9
    got = see(w, Entropy())[Entropy()]
    want = [-sum(x * math.log(x) for x in row if x) for row in w[0].flatten(0, 1).tolist()]
    assert got.flatten().tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert float(got[0, 0, 0]) == 0
    assert float(got[0, 1, 2].exp()) == pytest.approx(9)


def test_received_distance_and_spans() -> None:
    w = weights()
    spans = SpanMass((0, 3), (2, 9), (4, 4))
    seen = see(w, Received(), MeanDistance(), spans, DistanceMass(1), DistanceMass(-2, 0), DistanceMass(0, 20))
    torch.testing.assert_close(seen[Received()], w.sum(2))
    for q in range(6):
        place = q + 3
        row = w[0, :, q]
        distance = [abs(place - k) for k in range(9)]
        want = sum(row[:, k] * distance[k] for k in range(9))
        torch.testing.assert_close(seen[MeanDistance()][0, :, q], want)
        torch.testing.assert_close(seen[DistanceMass(1)][0, :, q], row[:, place - 1])
        near = row[:, place : min(place + 3, 9)].sum(-1)
        torch.testing.assert_close(seen[DistanceMass(-2, 0)][0, :, q], near)
        torch.testing.assert_close(seen[DistanceMass(0, 20)][0, :, q], row[:, : place + 1].sum(-1))
    torch.testing.assert_close(seen[spans][..., 0], w[..., :3].sum(-1))
    torch.testing.assert_close(seen[spans][..., 1], w[..., 2:].sum(-1))
    assert not seen[spans][..., 2].any()


def test_distances_beyond_the_keys_hold_nothing() -> None:
    w = weights()
    seen = see(w, DistanceMass(9), DistanceMass(-9), DistanceMass(5))
    assert not seen[DistanceMass(9)].any()
    assert not seen[DistanceMass(-9)].any()
    assert not seen[DistanceMass(5)][:, :, :2].any()
    assert seen[DistanceMass(5)][:, :, 2:].all()


@given(
    q=st.integers(1, 23),
    k=st.integers(1, 23),
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    how=st.sampled_from(["mean", "max", "sum"]),
)
def test_pooled_by_a_loop(q: int, k: int, rows: int, cols: int, how: str) -> None:
    w, observer = weights(1, 2, q, k), Pooled(rows, cols, how)
    want = pooled(w, observer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regard.backends.chunked.MOST_ROWS", 4)
        patch.setattr("regard.backends.chunked.LEAST_ROWS", 2)
        got = see(w, observer, backend="chunked")[observer]
    torch.testing.assert_close(got, want)
    if how == "sum":
        torch.testing.assert_close(got.sum((-1, -2)), w.sum((-1, -2)))


def test_rows_come_in_the_order_asked_for(small_chunks: None) -> None:
    w = weights(1, 2, 30, 9)
    for order in ((29, 0, 7), (3, 3), (), (12, 29, 11, 12, 0)):
        for backend in ("chunked", "reference"):
            got = see(w, Rows(*order), backend=backend)[Rows(*order)]
            torch.testing.assert_close(got, w[:, :, list(order)])


def test_lse_and_max_score_with_every_score_part() -> None:
    call = Case(mask="causal", bias="alibi", score="soft-capped", dtype=FP64).build()
    seen = call.observe(LogSumExp(), MaxScore(), rows := Rows(*range(33)))
    weights = seen[rows]
    # With softmax, a weight is exp(score − lse): the greatest score gives the greatest weight.
    torch.testing.assert_close((seen[MaxScore()] - seen[LogSumExp()]).exp(), weights.amax(-1))


# ------------------------------------------------------------------ the strongest keys


def stable(row: list[float], count: int) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:count]


few = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])
wide = st.floats(0, 1, width=32)


@pytest.mark.parametrize("dtype", [FP32, FP64], ids=str)
@given(data=st.data())
def test_the_strongest_are_those_of_a_stable_sort(dtype: torch.dtype, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 420))
    count = data.draw(st.integers(1, min(n, 4)))
    numbers = data.draw(st.sampled_from([few, wide]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    row = data.draw(st.lists(numbers, min_size=1, max_size=8))
    rows = torch.tensor(row)[torch.randint(len(row), (3, n), generator=generator)].to(dtype)
    found, where = _top_k(rows, count)
    assert where.tolist() == [stable(one, count) for one in rows.tolist()]
    assert torch.equal(found, rows.gather(-1, where))


@pytest.mark.parametrize("dtype", [FP32, FP64], ids=str)
@pytest.mark.parametrize("n", [20, 32, 129, 500, 1000])
def test_of_equal_weights_the_lower_key_comes_first(n: int, dtype: torch.dtype) -> None:
    w = torch.full((1, 1, 4, n), 0.125, dtype=dtype)
    w[0, 0, 1, [n - 1, n // 2, 3]] = 0.5  # planted ties, in the last incomplete group too
    w[0, 0, 2] = 0
    w[0, 0, 2, n - 2 :] = 0.25
    w[0, 0, 3, n // 3] = 1.0
    found, where = _top_k(w, 3)
    assert where[0, 0].tolist() == [stable(row, 3) for row in w[0, 0].tolist()]
    assert found[0, 0, 1].tolist() == [0.5] * 3


def test_uniform_attention_names_the_first_keys(small_chunks: None) -> None:
    q = torch.zeros(1, 2, 600, 4)
    for backend in ("chunked", "reference"):
        top = regard.observe(q, q, q, TopK(3), mask=Causal(), backend=backend)[TopK(3)]
        assert top.keys[0, 0, :4].tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 2], [0, 1, 2]]
        assert (top.keys[:, :, 3:] == torch.arange(3)).all()
        assert top.weights[0, 0, 1].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_more_are_asked_for_than_there_are() -> None:
    top = see(weights(1, 1, 2, 3), TopK(5))[TopK(5)]
    assert top.keys.shape == (1, 1, 2, 5)
    assert (top.keys[..., 3:] == -1).all()
    assert not top.weights[..., 3:].any()
    assert (top.keys[..., :3].sort().values == torch.arange(3)).all()


# ------------------------------------------------------------------ what observe returns


def test_seen_answers_by_observer() -> None:
    w = weights()
    seen = see(w, Entropy(), TopK(2), Entropy())
    assert list(seen) == [Entropy(), TopK(2)]
    assert seen[Entropy()] is seen[Entropy()]
    assert seen[TopK(2)].keys.shape == (1, 2, 6, 2)
    assert repr(seen) == "Seen(out=(1, 2, 6, 1), Entropy(), TopK(count=2))"


def test_a_pooled_map_answers_under_the_name_that_was_asked() -> None:
    # It is bound to fewer rows than asked for; the caller's own value is the key.
    seen = see(weights(), Pooled(64, 64))
    assert seen[Pooled(64, 64)].shape == (1, 2, 6, 9)


def test_pooled_maps_that_bind_to_the_same_both_answer() -> None:
    seen = see(weights(), Pooled(64, 64), Pooled(100, 100))
    assert torch.equal(seen[Pooled(64, 64)], seen[Pooled(100, 100)])
