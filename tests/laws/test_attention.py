"""Laws of attention itself, over the reference and every backend that `auto` may choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import regard
from cases import BIASES, FP32, FP64, MASKS, NORMALIZERS, SCORES, Call, Case, Draw, observers
from regard import Causal, Entropy, LogSumExp, MaxScore, Received, Rows, Softmax
from regard.backends import ALL, native
from regard.spec.masks import as_mask, dense
from regard.spec.observers import Observer

# Native gives neither float64 nor most statistics: its laws stand in tests/agreement/test_native.py.
BACKENDS = [b.name for b in ALL if b is not native and b.available() is None]
pytestmark = pytest.mark.usefixtures("small_chunks")


def close(a: Tensor, b: Tensor, eps: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=eps, atol=eps)


# ------------------------------------------------------------------ permutations


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("score", "normalizer"),
    [(s, "softmax") for s in SCORES if s.split()[0] not in ("additive", "shaw")] + [("dot", n) for n in NORMALIZERS],
)
def test_permuting_anything_permutes_the_answer(score: str, normalizer: str, backend: str) -> None:
    call = Case(score=score, normalizer=normalizer, shape="grouped", dtype=FP64).build()
    s = Case(shape="grouped").sizes
    draw = Draw("permutation")
    out, received, entropy = _seen(call, backend)
    b, q, k = (torch.randperm(n, generator=draw.generator) for n in (s.b, s.q, s.k))

    batch = _seen(_with(call, call.q[b], call.k[b], call.v[b]), backend)
    for got, want in zip(batch, (out, received, entropy), strict=True):
        close(got, want[b])
    queries = _seen(_with(call, call.q[:, :, q], call.k, call.v), backend)
    for got, want in zip(queries, (out[:, :, q], received, entropy[:, :, q]), strict=True):
        close(got, want)
    keys = _seen(_with(call, call.q, call.k[:, :, k], call.v[:, :, k]), backend)
    for got, want in zip(keys, (out, received[:, :, k], entropy), strict=True):
        close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", ["no bias", "alibi", "relative", "t5", "kerple"])
def test_permuting_heads_permutes_the_answer(bias: str, backend: str) -> None:
    case = Case(bias=bias, score="cosine per head", normalizer="sink", mask="causal", dtype=FP64, shape="many heads")
    call, s = case.build(), case.sizes
    repeats = s.h // s.g
    groups = torch.tensor([2, 0, 1])
    heads = (groups[:, None] * repeats + torch.arange(repeats).flip(0)).flatten()
    moved = _with(call, call.q[:, heads], call.k[:, groups], call.v[:, groups])
    by_head = 1 if bias == "t5" else 0
    moved = moved.with_leaves(
        moved.q,
        moved.k,
        moved.v,
        *(t.index_select(by_head, heads) for t in call.bias.tensors()),
        *(t[heads] for t in (*call.score.tensors(), *call.normalizer.tensors())),
    )
    for got, want in zip(_seen(moved, backend), _seen(call, backend), strict=True):
        close(got, want[:, heads])


def _seen(call: Call, backend: str) -> Iterator[Tensor]:
    seen = call.observe(Received(), Entropy(), backend=backend)
    return iter((seen.out, seen[Received()], seen[Entropy()]))


def _with(call: Call, q: Tensor, k: Tensor, v: Tensor) -> Call:
    return call.with_leaves(q, k, v, *list(call.leaves().values())[3:])


# ------------------------------------------------------------------ the future


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", ["square", "fewer queries", "grouped"])
@settings(max_examples=8)
@given(data=st.data())
def test_the_future_never_leaks(shape: str, backend: str, data: st.DataObject) -> None:
    case = Case(mask="causal", bias="relative", normalizer="entmax15", shape=shape)
    s = case.sizes
    t = data.draw(st.integers(s.k - s.q, s.k - 2))  # a key position at which a query stands
    draw = Draw(str(t))
    now = t - (s.k - s.q) + 1  # queries at or before t
    call = case.build().requiring_gradients()
    noise = draw.normal(s.b, s.g, s.k - t - 1, s.d).float() * 9
    later_k = torch.cat((call.k[:, :, : t + 1], noise), 2)
    later_v = torch.cat((call.v[:, :, : t + 1], call.v[:, :, t + 1 :] * 100 - 7), 2)
    changed = _with(call, call.q, later_k.detach(), later_v.detach()).requiring_gradients()
    leaves = [
        torch.autograd.grad(c.attention(backend)[:, :, :now].square().sum(), [c.q, c.k, c.v]) for c in (call, changed)
    ]
    assert torch.equal(call.attention(backend)[:, :, :now], changed.attention(backend)[:, :, :now])
    for got, want in zip(*leaves, strict=True):
        assert torch.equal(got, want)
    (dq, dk, dv) = leaves[0]
    assert not dq[:, :, now:].any()
    assert not dk[:, :, t + 1 :].any()
    assert not dv[:, :, t + 1 :].any()
    a, b = (c.observe(*observers(s), backend=backend) for c in (call, changed))
    for observer in observers(s):
        if observer.by_row and not isinstance(observer, Rows) and isinstance(a[observer], Tensor):
            assert torch.equal(a[observer][:, :, :now], b[observer][:, :, :now]), observer


# ------------------------------------------------------------------ rows


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("normalizer", "mask"),
    [("softmax", m) for m in MASKS]
    + [(n, m) for n in ("sparsemax", "entmax15", "sink") for m in ("no mask", "sinks", "tensor")],
)
def test_rows_sum_to_one_or_less(normalizer: str, mask: str, backend: str) -> None:
    case = Case(mask=mask, normalizer=normalizer)
    s, call = case.sizes, case.build()
    weights = call.observe(rows := Rows(*range(s.q)), backend=backend)[rows]
    sees = dense(as_mask(call.mask), s.sizes()).any(-1)
    assert (weights >= 0).all()
    total = weights.double().sum(-1)
    assert not total[~sees].any()
    if normalizer == "sink":
        assert (total[sees] < 1).all()
        assert (total[sees] > 0).all()
    else:
        close(total[sees], torch.ones_like(total[sees]), 1e-6)
    # The weights of keys that may not be seen are exactly 0.
    assert not weights[~dense(as_mask(call.mask), s.sizes())].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "entmax15"])
@settings(max_examples=15)
@given(shift=st.floats(-1e4, 1e4), mask=st.sampled_from(sorted(MASKS)))
def test_adding_a_constant_to_a_row_of_scores_changes_nothing(
    normalizer: str, backend: str, shift: float, mask: str
) -> None:
    case = Case(mask=mask, normalizer=normalizer, dtype=FP64)
    s, call = case.sizes, case.build()
    constant = Draw("rows").normal(s.b, s.h, s.q, 1) * shift
    plain, moved = (
        regard.observe(
            call.q,
            call.k,
            call.v,
            LogSumExp(),
            MaxScore(),
            Entropy(),
            mask=call.mask,
            bias=bias,
            normalizer=call.normalizer,
            backend=backend,
        )
        for bias in (None, constant)
    )
    close(moved.out, plain.out, 1e-8)
    close(moved[Entropy()], plain[Entropy()], 1e-8)
    for observer in (LogSumExp(), MaxScore()):
        close(moved[observer], plain[observer] + constant[..., 0], 1e-8)


# ------------------------------------------------------------------ what is masked


def _poisoned(tensor: Tensor, unseen: Tensor, value: float) -> Tensor:
    """With `value` at the keys (b, g, k) that nobody sees."""
    return tensor.detach().masked_fill(unseen[..., None], value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("mask", "normalizer", "value"),
    [
        ("right padding", "softmax", torch.nan),
        ("right padding", "softmax", torch.inf),
        ("right padding", "softmax", -torch.inf),
        ("left padding", "sink", torch.nan),
        ("left padding", "entmax15", torch.inf),
        ("shared padding", "sigmoid", torch.nan),
        ("prefix", "sparsemax", torch.nan),
        ("tensor of keys", "sink", torch.inf),
        ("tensor of keys", "entmax15", torch.nan),
        ("nothing", "softmax", torch.nan),
    ],
)
def test_what_is_masked_never_leaks(normalizer: str, mask: str, value: float, backend: str) -> None:
    case = Case(mask=mask, normalizer=normalizer, bias="relative", shape="fewer queries")
    call, asked = case.build(), observers(case.sizes)
    s = case.sizes
    unseen = ~dense(as_mask(call.mask), s.sizes()).any(2)[:, :: s.h // s.g]
    assert unseen.any()
    results: list[list[Tensor]] = []
    for held in (value, 0.0):
        there = _with(call, call.q, _poisoned(call.k, unseen, held), _poisoned(call.v, unseen, held))
        there = there.requiring_gradients()
        results.append(_everything(there, asked, backend))
    for got, want in zip(*results, strict=True):
        assert not got.isnan().any()
        close(got, want, 2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_forbidden_by_the_bias_never_leaks(backend: str) -> None:
    call = Case(dtype=FP64).build()
    s = Case().sizes
    bias = torch.zeros(s.k, dtype=FP64)
    bias[5] = -torch.inf
    unseen = torch.zeros(s.b, s.g, s.k, dtype=torch.bool)
    unseen[:, :, 5] = True
    results: list[list[Tensor]] = []
    for held in (torch.nan, 0.0):
        k, v = (_poisoned(t, unseen, held).requires_grad_() for t in (call.k, call.v))
        q, tensor = call.q.detach().requires_grad_(), bias.clone().requires_grad_()
        out = regard.attention(q, k, v, bias=tensor, backend=backend)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v, tensor))])
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_seen_spoils_those_who_see_it_and_nobody_else(backend: str) -> None:
    call = Case(mask="causal", shape="grouped").build()
    s = Case(shape="grouped").sizes
    k = call.k.clone()
    k[1, 0, 20, 3] = torch.nan
    spoilt = regard.observe(call.q, k, call.v, Entropy(), mask=Causal(), backend=backend)
    clean = regard.observe(call.q, call.k, call.v, Entropy(), mask=Causal(), backend=backend)
    sees = torch.zeros(s.b, s.h, s.q, dtype=torch.bool)
    sees[1, : s.h // s.g, 20 - (s.k - s.q) :] = True
    assert torch.equal(spoilt.out.isnan().any(-1), sees)
    assert torch.equal(spoilt[Entropy()].isnan(), sees)
    assert torch.equal(spoilt.out[~sees], clean.out[~sees])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("normalizer", "dtype"), [(n, FP32) for n in NORMALIZERS] + [("softmax", torch.bfloat16), ("sink", FP64)]
)
@pytest.mark.parametrize("blinded_by", ["mask", "bias", "no keys"])
def test_a_row_that_sees_nothing_is_zero_and_so_are_its_gradients(
    blinded_by: str, normalizer: str, dtype: torch.dtype, backend: str
) -> None:
    shape = "no keys" if blinded_by == "no keys" else "square"
    case = Case(normalizer=normalizer, shape=shape, dtype=dtype)
    s, call = case.sizes, case.build().requiring_gradients()
    blind = torch.zeros(s.q, dtype=torch.bool)
    blind[3:6] = True
    blind |= blinded_by == "no keys"
    mask = (~blind[:, None]).expand(s.q, s.k) if blinded_by == "mask" else None
    bias = torch.zeros(s.q, 1).masked_fill(blind[:, None], -torch.inf) if blinded_by == "bias" else None
    asked = (LogSumExp(), MaxScore(), Entropy())
    seen = regard.observe(
        call.q, call.k, call.v, *asked, mask=mask, bias=bias, normalizer=call.normalizer, backend=backend
    )
    assert not seen.out[:, :, blind].any()
    assert (seen[LogSumExp()][:, :, blind] == -torch.inf).all()
    assert (seen[MaxScore()][:, :, blind] == -torch.inf).all()
    assert not seen[Entropy()][:, :, blind].any()
    loss = (seen.out + 1).square().sum() + seen[Entropy()].sum()
    loss = loss + seen[LogSumExp()].masked_fill(blind, 0).sum()
    leaves = list(call.leaves().values())
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    for leaf, grad in zip(leaves, grads, strict=True):
        assert grad is None or bool(torch.isfinite(grad).all()), leaf.shape
    if grads[0] is not None:
        assert not grads[0][:, :, blind].any()


def _everything(call: Call, asked: tuple[Observer[Any], ...], backend: str) -> list[Tensor]:
    seen = call.observe(*asked, backend=backend)
    found = [seen.out]
    loss = seen.out.square().sum()
    for observer in asked:
        result = seen[observer]
        found += list(result) if isinstance(result, tuple) else [result]
        if observer.differentiable and isinstance(result, Tensor) and result.requires_grad:
            loss = loss + torch.where(result.isinf(), 0, result).sum()
    grads = torch.autograd.grad(loss, list(call.leaves().values()), allow_unused=True)
    return [*found, *(g for g in grads if g is not None)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", BIASES)
def test_a_bias_is_as_good_as_its_tensor(bias: str, backend: str) -> None:
    call = Case(bias=bias, mask="causal", dtype=FP64).build()
    s = Case().sizes
    from regard.shapes import Box

    whole = Box(*(range(n) for n in (s.b, s.h, s.q, s.k)))
    tensor = call.problem().bias.block(whole).expand(s.b, s.h, s.q, s.k)
    given_as_tensor = regard.attention(call.q, call.k, call.v, mask=Causal(), bias=tensor, backend=backend)
    close(call.attention(backend), given_as_tensor)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sink_is_a_key_that_gives_nothing(backend: str) -> None:
    call = Case(dtype=FP64).build()
    s, sink = Case().sizes, Draw("sink").normal(Case().sizes.h)
    with_sink = call.observe(LogSumExp(), backend=backend)
    got = regard.observe(call.q, call.k, call.v, LogSumExp(), normalizer=Softmax(sink=sink), backend=backend)
    extra = torch.zeros(s.b, s.g, 1, s.d, dtype=FP64)
    bias = torch.zeros(s.h, 1, s.k + 1, dtype=FP64)
    bias[..., -1] = sink[:, None]
    k, v = torch.cat((call.k, extra), 2), torch.cat((call.v, extra), 2)
    want = regard.observe(call.q, k, v, LogSumExp(), bias=bias, backend=backend)
    close(got.out, want.out)
    close(got[LogSumExp()], want[LogSumExp()])
    assert (got[LogSumExp()] > with_sink[LogSumExp()]).all()
