"""Statistics of the native backend at the edges of blocks, vectors and partitions of keys, against float64.

Runs of −∞, one-hot rows, spans and rectangles across the kernels' blocks, numbers that are not finite;
on every instruction set that is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from cases import FP32, Draw, Shape, observers
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
    Window,
)
from regard._native import core
from regard.backends import native
from regard.spec.masks import Mask
from regard.spec.observers import Observer

pytestmark = [
    pytest.mark.skipif(native.available() is not None, reason=str(native.available())),
    pytest.mark.usefixtures("as_users_run_it", "any_isa"),
]


def close(got: Tensor, want: Tensor, label: object = "") -> None:
    """Equal up to rounding, with ∞ and NaN at the same places."""
    assert got.dtype == (want.dtype if want.dtype == torch.int64 else FP32)
    torch.testing.assert_close(
        got.double(), want.double(), rtol=2e-5, atol=2e-6, equal_nan=True, msg=lambda m: f"{label}: {m}"
    )


def tensors(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def observe(x: Sequence[Tensor], *requested: Observer[Any], **parts: Any) -> regard.Seen:
    q, k, v = x
    return regard.observe(q, k, v, *requested, **{"backend": "native", **parts})


def agree(requested: tuple[Observer[Any], ...], *qkv: Tensor, **parts: Any) -> list[regard.Seen]:
    """Native's results on each instruction set, which are those of float64."""
    want = observe(qkv, *requested, **parts, backend="reference")
    results: list[regard.Seen] = []
    for isa in core.kernels():
        core.use(isa)
        results.append(observe(qkv, *requested, **parts))
        for observer in requested:
            for result, expected in zip(tensors(results[-1][observer]), tensors(want[observer]), strict=True):
                close(result, expected, f"{isa}, {observer}")
    return results


def qkv(b: int, h: int, g: int, q: int, k: int, d: int = 8, name: str = "") -> list[Tensor]:
    draw = Draw(f"sight {name} {b} {h} {g} {q} {k} {d}")
    return [draw.normal(b, n, m, d).float() for n, m in ((h, q), (g, k), (g, k))]


# ------------------------------------------------------------------ keys that are not seen, and keys of little weight

OBSERVERS = observers(Shape(1, 2, 2, 100, 1000, 8, 8))


@pytest.mark.parametrize("how", ["bias", "mask"])
def test_runs_of_keys_that_rows_do_not_see(how: str) -> None:
    q, k, v = qkv(1, 2, 1, 100, 1000)
    seen = torch.ones(1, 1, 100, 1000, dtype=torch.bool)
    seen[..., :256] = False  # a block of keys for all rows
    seen[..., 8:30, 256:768] = False  # two blocks for some
    seen[..., 40:, 900:] = False
    seen[..., 64:72, :] = seen[..., 99, :] = seen[..., 3, :] = False
    seen[..., 50, :] = False
    seen[..., 50, 511] = True
    bias = torch.zeros(1, 1, 100, 1000).masked_fill(~seen, -torch.inf)
    nothing = [3, *range(64, 72), 99]
    for got in agree(OBSERVERS, q, k, v, **({"bias": bias} if how == "bias" else {"mask": seen})):
        assert not got[Entropy()][:, :, [*nothing, 50]].any()
        assert (got[LogSumExp()][:, :, nothing] == -torch.inf).all()
        assert (got[MaxScore()][:, :, nothing] == -torch.inf).all()
        assert (got[TopK(60)].keys[:, :, nothing] == -1).all()
        assert (got[TopK(60)].keys[:, :, 50, 0] == 511).all()
        assert (got[TopK(60)].weights[:, :, 50, 0] == 1).all()


def test_the_least_float_as_a_bias() -> None:
    q, k, v = qkv(1, 2, 2, 100, 1000)
    bias = torch.zeros(1, 1, 100, 1000)
    bias[..., :300] = torch.finfo(FP32).min
    bias[..., 20:30, 256:] = torch.finfo(FP32).min
    # A row that sees nothing else weighs all keys alike; its scores are as low as float32 goes.
    far = (LogSumExp(), MaxScore())
    agree(tuple(observer for observer in OBSERVERS if observer not in far), q, k, v, bias=bias)
    want = regard.observe(q, k, v, *far, bias=bias, backend="reference")
    others = [*range(20), *range(30, 100)]
    for isa in core.kernels():
        core.use(isa)
        seen = regard.observe(q, k, v, *far, bias=bias, backend="native")
        for observer in far:
            assert (seen[observer][:, :, 20:30] < -2e38).all()
            assert seen[observer].isfinite().all()
            close(seen[observer][:, :, others], want[observer][:, :, others])


@pytest.mark.parametrize("sink", [None, -50.0])
def test_all_weight_on_one_key(sink: float | None) -> None:
    q, k, v = qkv(1, 2, 2, 100, 1000)
    q = q * 1e5
    q[:, :, 7] = 0  # but here on all alike
    normalizer = None if sink is None else regard.Softmax(torch.full((2,), sink))
    # In float64 a second key may have a weight that float32 has no number for.
    plain = tuple(observer for observer in OBSERVERS if not isinstance(observer, LogSumExp | MaxScore | TopK))
    products = q.double() @ k.double().mT
    others = [i for i in range(100) if i != 7]
    for isa, seen in zip(core.kernels(), agree(plain, q, k, v, normalizer=normalizer), strict=True):
        spread = seen[Entropy()].ne(0)
        assert spread[:, :, 7].all()
        assert spread.sum() == 2  # exactly 0 elsewhere
        core.use(isa)
        requested = TopK(20), LogSumExp(), MaxScore()
        far = regard.observe(q, k, v, *requested, normalizer=normalizer, backend="native")
        top = far[TopK(20)]
        assert torch.equal(top.keys[:, :, others, 0], products.argmax(-1)[:, :, others])
        assert (top.weights[:, :, others, 0] - 1).abs().max() <= torch.finfo(FP32).eps
        assert (top.weights[:, :, others, 1:] < 1e-8).all()
        assert torch.equal(top.keys == -1, top.weights == 0)
        best = products.amax(-1)[:, :, others] * 8**-0.5
        for observer in (LogSumExp(), MaxScore()):
            result = far[observer][:, :, others].double()
            torch.testing.assert_close(result, best, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("size", [1e7, 1e9, 1e20, 1e30])
def test_scores_of_any_size_leave_one_key(size: float) -> None:
    q, k, v = qkv(1, 1, 1, 20, 300)
    products = size * (q.double() @ k.double().mT)
    best, greatest = products.argmax(-1), products.amax(-1) * 8**-0.5
    requested = TopK(2), Entropy(), LogSumExp(), MaxScore(), Received()
    seen = regard.observe(q * size, k, v, *requested, backend="native")
    assert torch.equal(seen[TopK(2)].keys[..., 0], best)
    close(seen[TopK(2)].weights, torch.tensor([1.0, 0.0]).expand(1, 1, 20, 2))
    assert not seen[Entropy()].any()
    for observer in (LogSumExp(), MaxScore()):
        torch.testing.assert_close(seen[observer].double(), greatest, rtol=1e-6, atol=0)
    close(seen[Received()], torch.zeros(1, 1, 300).index_add(2, best[0, 0], torch.ones(1, 1, 20)))
    close(seen.out, v[:, :, best[0, 0]])


# ------------------------------------------------------------------ spans, rectangles


def test_spans_of_keys_of_any_kind() -> None:
    q, k, v = qkv(1, 2, 1, 70, 1100)
    crossing = [(a, b) for a in (0, 1, 255, 256, 257, 300, 511) for b in (256, 257, 512, 513, 800, 1100) if a <= b]
    requested = (
        SpanMass((0, 0), (256, 256), (1100, 1100)),
        SpanMass(*crossing, (40, 40)),
        SpanMass((1, 1100)),
        SpanMass.by_label([(i * 7 // 5) % 11 - 3 for i in range(1100)]),
        SpanMass.by_label([-1] * 1100),
        SpanMass.by_label([-2] * 500 + [3] * 100 + [-1] * 500),
    )
    for mask in (None, Causal(), Window(40, 40)):
        for seen in agree(requested, q, k, v, mask=mask):
            assert not seen[requested[0]].any()
            assert seen[requested[4]].shape[-1] == 0
            assert not seen[requested[5]][..., :3].any()


def test_thousands_of_spans_of_one_key_are_the_rows() -> None:
    n = 3000
    q, k, v = qkv(1, 1, 1, 20, n)
    each, every = SpanMass(*((i, i + 1) for i in range(n))), Rows(*range(20))
    for seen in agree((each, every), q, k, v, mask=Causal()):
        torch.testing.assert_close(seen[each], seen[every], rtol=1e-6, atol=1e-9)


SPANS = ((0, 1), (1, 7), (7, 8), (5, 5), (8, 63), (60, 70), (63, 65), (64, 128), (100, 150), (0, 150), (149, 150))


@pytest.mark.parametrize("mask", [None, Causal(), Window(9, 300)], ids=repr)
def test_spans_of_queries_cut_vectors_and_blocks(mask: Mask | None) -> None:
    x = qkv(2, 4, 2, 150, 600)
    each = tuple(Received((i, i + 1)) for i in (0, 63, 64, 149))
    requested = (Received(*SPANS), Received((3, 3)), Received(), *each)
    for seen in agree(requested, *x, mask=mask):
        assert not seen[requested[1]].any()
        assert torch.equal(seen[requested[0]][:, :, 0], seen[each[0]][:, :, 0])
    ones = Received(*((i, i + 1) for i in range(150)))  # each query is a group of its own: the map
    every = Rows(*range(150))
    for isa in core.kernels():
        core.use(isa)
        alone = observe(x, ones, every, mask=mask)
        assert torch.equal(alone[ones], alone[every])


@pytest.mark.parametrize("how", ["sum", "max", "mean"])
def test_pooled_rectangles(how: str) -> None:
    q, k = 150, 1100
    requested = (
        Pooled(q, k, how),
        Pooled(1, 1, how),
        Pooled(7, 3, how),  # columns of more than 256 keys
        Pooled(149, 5, how),
        Pooled(64, 64, how),
        Pooled(3, k - 1, how),
        Pooled(5, 4, how, queries=(63, 65), keys=(255, 257)),
        Pooled(9, 2, how, queries=(1, q - 1), keys=(100, 900)),
        Pooled(9, 7, how, queries=(7, 130), keys=(250, 1099)),
        Pooled(300, 300, how, queries=(60, 70), keys=(256, 512)),
        Pooled(2, 3, how, keys=(513, 520)),
        Pooled(4, 4, how, queries=(9, 9)),
        Pooled(4, 4, how, keys=(k, k)),
        Pooled(1, 9, how, queries=(149, 150)),
    )
    x = qkv(1, 3, 1, q, k)
    for mask in (None, Causal(), Causal() & Window(200)):
        agree(requested, *x, mask=mask)
    pairs = Draw("pairs").bools(0.3, q, k)  # as bits, of 64 keys each: rectangles begin between
    pairs[:64, :128] = False
    pairs[64:128, 256:] = True
    agree(requested, *x, mask=pairs)


def test_distances_across_blocks() -> None:
    requested = (
        *(MeanDistance(offset=i) for i in (-2000, -1, 0, 63, 255, 3000)),
        *(DistanceMass(*i) for i in ((0, 0), (1, 256), (-256, -1), (250, 260), (-2000, 2000), (3000, 4000))),
        *(DistanceMass(0, 7, offset=i) for i in (-3, 0, 250, 1090, 1200)),
    )
    x = qkv(1, 2, 2, 150, 1100)
    for mask in (None, Causal(offset=0), Window(30, 5)):
        agree(requested, *x, mask=mask)


# ------------------------------------------------------------------ what is not finite

FINITE = tuple(
    observer
    for observer in observers(Shape(1, 2, 1, 100, 700, 8, 8))
    if observer.by_row and not isinstance(observer, Rows)
)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("where", ["key", "value", "query"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_who_sees_what_is_not_finite_is_nan_and_others_are_as_before(where: str, value: float) -> None:
    q, k, v = qkv(1, 2, 1, 100, 700)
    bad = [t.clone() for t in (q, k, v)]
    if where == "query":
        bad[0][0, :, 40, 3] = value
        non_finite = torch.arange(100) == 40
    else:
        bad[1 if where == "key" else 2][0, 0, 650, 2] = value  # query i sees the keys to 600 + i
        non_finite = torch.arange(100) >= 50
    early, late = Received((0, 40)), Received((50, 100))
    maps = [Pooled(10, 7, how) for how in ("sum", "max", "mean")]
    requested = (*FINITE, early, late, *maps, Rows(*range(100)))
    got, want = (observe(x, *requested, mask=Causal()) for x in (bad, (q, k, v)))
    for observer in FINITE:
        for result, expected in zip(tensors(got[observer]), tensors(want[observer]), strict=True):
            assert torch.equal(result[:, :, ~non_finite], expected[:, :, ~non_finite]), observer
            if result.dtype == torch.int64:
                assert (result[:, :, non_finite] == -1).all()
            else:
                assert result[:, :, non_finite].isnan().all(), observer
    assert torch.equal(got[early], want[early])
    if where != "query":
        assert got[late][..., :651].isnan().all()
    for observer in maps:  # of ten rows of queries each
        hit = non_finite.view(10, 10).any(1)
        assert torch.equal(got[observer][:, :, ~hit], want[observer][:, :, ~hit])
        assert got[observer][:, :, hit, :6].isnan().all()
    rows = got[requested[-1]]
    assert torch.equal(rows[:, :, ~non_finite], want[requested[-1]][:, :, ~non_finite])
    seen = torch.arange(700) <= 600 + torch.arange(100)[:, None]
    assert rows[:, :, seen & non_finite[:, None]].isnan().all()
    assert torch.equal(got.out[:, :, ~non_finite], want.out[:, :, ~non_finite])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_masked_leaks_into_no_statistic(value: float) -> None:
    q, k, v = qkv(2, 2, 1, 100, 700)
    hidden = Draw("hidden").bools(0.3, 700)
    hidden[256:512] = True
    for mask in (~hidden[None, None, None], (~hidden).expand(2, 1, 100, 700) & Draw("x").bools(0.8, 2, 1, 100, 700)):
        inputs = [[q, *(t.masked_fill(hidden[:, None], x) for t in (k, v))] for x in (value, 0.0)]
        got, want = (observe(x, *OBSERVERS_OF_TWO_ROWS, mask=mask) for x in inputs)
        for observer in OBSERVERS_OF_TWO_ROWS:
            for result, expected in zip(tensors(got[observer]), tensors(want[observer]), strict=True):
                assert torch.equal(result, expected), observer
        assert torch.equal(got.out, want.out)
    blind = q.masked_fill((torch.arange(100) == 5)[:, None], value)  # a query that sees nothing
    sees = (torch.arange(100) != 5)[:, None].expand(100, 700)
    seen = regard.observe(blind, k, v, *OBSERVERS_OF_TWO_ROWS, mask=sees, backend="native")
    assert not any(t.isnan().any() for observer in OBSERVERS_OF_TWO_ROWS for t in tensors(seen[observer]))


OBSERVERS_OF_TWO_ROWS = observers(Shape(2, 2, 1, 100, 700, 8, 8))
