"""The native backend against the reference: every case that it takes, on every instruction set that is here.

Also cases of its own at the edges of its tiles, vectors and blocks, and fuzzers of shapes and masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import regard
from agreement.budget import by_backend, by_plain, hold, results
from cases import BF16, CASES, FP16, FP32, FP64, LAYOUTS, MASKS, SHAPES, Case, Shape, observers
from regard._native import core
from regard.backends import native
from regard.spec.masks import as_mask, dense
from regard.spec.observers import LogSumExp, Observer

pytestmark = [
    pytest.mark.skipif(native.available() is not None, reason=str(native.available())),
    pytest.mark.usefixtures("as_users_run_it", "any_isa"),
]


def asked(case: Case) -> tuple[Observer[Any], ...]:
    """What the backend can observe of a case: everything, or nothing."""
    return () if case.normalizer.startswith("sigmoid") else observers(case.sizes)


def keeps_within_the_budget(case: Case, granted: int = 0) -> None:
    exact = results(case, by_backend("reference"), FP64, asked(case))
    usual = results(case, by_plain, None, asked(case))
    for isa in core.kernels():
        core.use(isa)
        try:
            hold(results(case, by_backend("native"), None, asked(case)), exact, usual, case, granted)
        except AssertionError as error:
            raise AssertionError(f"{isa}: {error}") from None


# ------------------------------------------------------------------ the common cases

REFUSED = {
    "additive": "the score Additive is no dot product; chunked runs any score",
    "shaw": "the score Shaw is no dot product; chunked runs any score",
    "custom": "the score Custom is no dot product; chunked runs any score",
    "fire": "a bias that is computed for each pair would be in memory whole; chunked computes it by blocks",
    "sparsemax": "the kernels know Softmax and Sigmoid, not Sparsemax; chunked runs it",
    "entmax15": "the kernels know Softmax and Sigmoid, not Entmax15; chunked runs it",
}


def refusal(case: Case) -> str | None:
    """Why the backend may refuse a case: for these reasons and no others."""
    if case.dtype == FP64:
        return "the kernels compute in float32; chunked computes in float64"
    kinds = case.score.split()[0], case.bias, case.normalizer
    return next((REFUSED[kind] for kind in kinds if kind in REFUSED), None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_keeps_within_the_budget(case: Case) -> None:
    assert native.why_not(case.build().problem(*asked(case))) == refusal(case)
    if refusal(case) is None:
        keeps_within_the_budget(case)


# ------------------------------------------------------------------ edges

FEW = 12
"""More roundings than the budget's, for gradients of few numbers: the plain formula may hit them by luck."""


@dataclass(frozen=True)
class Sized(Case):
    """A case of other sizes than those that have a name."""

    size: Shape = SHAPES["square"]

    @property
    def sizes(self) -> Shape:
        return self.size

    def __str__(self) -> str:
        return f"{super().__str__()}, {' '.join(map(str, self.size))}"


def edges() -> Iterator[Case]:
    heads = {1: (1, 1, 1), 2: (1, 2, 1), 3: (2, 2, 2)}
    for i, (d, dv) in enumerate(
        [
            (1, 1),
            (3, 5),
            (16, 16),
            (17, 15),
            (32, 32),
            (64, 64),
            (72, 72),
            (80, 80),
            (96, 96),
            (128, 128),
            (192, 128),
            (256, 256),
            (64, 128),
            (128, 40),
            (255, 1),
            (1, 256),
        ]
    ):
        for dtype in (FP32, BF16, FP16):
            yield Sized("causal", dtype=dtype, size=Shape(*heads[1 + i % 3], 70, 90, d, dv))
            yield Sized("tensor", "relative", dtype=dtype, size=Shape(*heads[1], 33, 130, d, dv))
    ends = (1, 2, 5, 15, 16, 17, 63, 64, 65, 127, 129, 255, 256, 257, 300, 513)
    for i, q in enumerate(ends):
        for j, mask in enumerate(("no mask", "causal", "window both", "where causal", "sinks")):
            k = ends[(3 * i + 5 * j) % len(ends)]
            dtype = (FP32, BF16, FP16)[(i + j) % 3]
            bias = ("no bias", "alibi", "dense", "forbidding", "sum")[(2 * i + j) % 5]
            normalizer = ("softmax", "sink", "sigmoid")[(i + 2 * j) % 3]
            score = ("dot", "soft-capped", "plain dot", "cosine")[(i + j) % 4]
            layout = list(LAYOUTS)[(i + j) % len(LAYOUTS)]
            # The weight of an only key has no gradient: what the plain formula finds exactly.
            share = 0.2 if (i * j) % 3 == 1 and k > 1 else 0.0
            size = Shape(*heads[1 + j % 3], q, k, 24, 20)
            parts = mask, bias, score, normalizer
            yield Sized(*parts, dtype=dtype, layout=layout, dropout=share, size=size)
    # Decoding: few queries against many keys, heads grouped.
    for q in (1, 2, 4, 5):
        for mask in ("no mask", "causal", "window", "causal left padding", "blocks"):
            for h, g in ((8, 2), (3, 1), (2, 2)):
                dtype = (FP32, BF16, FP16)[(q + h) % 3]
                size = Shape(2, h, g, q, 700, 40, 40)
                yield Sized(mask, "relative", normalizer="sink", dtype=dtype, size=size)


@pytest.mark.parametrize("case", dict.fromkeys(edges()), ids=str)
def test_edges_keep_within_the_budget(case: Case) -> None:
    keeps_within_the_budget(case, FEW)


# ------------------------------------------------------------------ fuzzers


def sized(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    def size(drawn: tuple[int, ...]) -> Shape:
        b, repeats, g, q, k, d, dv = drawn
        return Shape(b, repeats * g, g, q, max(q, k), d, dv)

    small, lengths, columns = st.integers(1, 3), st.integers(1, 150), st.integers(1, 70)
    sizes = st.tuples(small, small, small, lengths, lengths, columns, columns).map(size)
    return st.builds(Sized, dtype=st.sampled_from([FP32, BF16, FP16]), size=sizes, **parts)


@given(
    case=sized(
        layout=st.sampled_from(list(LAYOUTS)),
        mask=st.sampled_from(["causal", "no mask"]),
        bias=st.sampled_from(["no bias", "relative", "dense"]),
        score=st.sampled_from(["dot", "soft-capped", "euclidean"]),
    )
)
def test_any_shape_and_layout(case: Case) -> None:
    keeps_within_the_budget(case, FEW)


@given(
    case=sized(
        mask=st.sampled_from(list(MASKS)),
        dropout=st.sampled_from([0.0, 0.3]),
        normalizer=st.sampled_from(["softmax", "sink", "sigmoid shifted"]),
    )
)
def test_any_mask(case: Case) -> None:
    keeps_within_the_budget(case, FEW)


# ------------------------------------------------------------------ what is not finite


@pytest.mark.parametrize("learns", [False, True], ids=["", "with gradients"])
@pytest.mark.parametrize("normalizer", ["softmax", "sink", "sigmoid"])
@pytest.mark.parametrize("shape", ["grouped", "one query", "long"])
def test_what_is_seen_spoils_those_who_see_it_and_nobody_else(shape: str, normalizer: str, learns: bool) -> None:
    case = Case("causal", "alibi", normalizer=normalizer, shape=shape)
    call, s = case.build(), case.sizes
    q, k, v = (t.clone() for t in (call.q, call.k, call.v))
    q[0, 0, s.q // 2, 1] = torch.inf
    k[0, -1, s.k // 2, 0] = torch.nan
    v[0, 0, s.k - 1, -1] = -torch.inf
    there = call.with_leaves(q, k, v, *list(call.leaves().values())[3:])
    if learns:
        there = there.requiring_gradients()
    for isa in core.kernels():
        core.use(isa)
        got, want, clean = (there.attention("native"), there.attention("chunked"), call.attention("native"))
        assert torch.equal(got.isnan(), want.isnan())
        assert got.isnan().any()
        # Whoever sees none of it is as it was.
        torch.testing.assert_close(got[~got.isnan()], clean[~got.isnan()], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("mask", ["right padding", "left padding", "tensor of keys", "nothing"])
def test_what_is_masked_never_leaks(mask: str, value: float) -> None:
    case = Case(mask, "relative", normalizer="sink", shape="fewer queries")
    call, s = case.build(), case.sizes
    unseen = ~dense(as_mask(call.mask), s.sizes()).any(2)[:, :: s.h // s.g]
    results: list[list[Tensor]] = []
    for held in (value, 0.0):
        k, v = (t.masked_fill(unseen[..., None], held) for t in (call.k, call.v))
        there = call.with_leaves(call.q, k, v, *list(call.leaves().values())[3:])
        results.append([there.attention("native")])
        learned = there.requiring_gradients()
        out = learned.attention("native")
        leaves = list(learned.leaves().values())
        results[-1] += [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_scores_beyond_all_numbers_are_no_reason_to_stop() -> None:
    q = torch.full((1, 1, 70, 8), 1e30)
    for learns in (False, True):
        out = regard.attention(q.requires_grad_(learns), q, q, backend="native")
        assert out.shape == q.shape


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("needed", ["q", "k", "v", "bias 0", "normalizer 0"])
def test_one_gradient_alone(needed: str) -> None:
    call = Case("causal", "relative", normalizer="sink", shape="grouped").build()
    every = call.requiring_gradients()
    want = torch.autograd.grad(every.attention("native").square().sum(), every.leaves()[needed])[0]
    mixed = [t.detach().requires_grad_(n == needed) for n, t in call.leaves().items()]
    one = call.with_leaves(*mixed)
    one.attention("native").square().sum().backward()
    assert [t.grad is not None for t in mixed] == [n == needed for n in call.leaves()]
    assert torch.equal(one.leaves()[needed].grad, want)  # pyright: ignore[reportArgumentType]


SECOND = [
    Case("causal", "relative", normalizer="sink", shape="grouped"),
    Case("tensor", "sum", "soft-capped", dropout=0.2),
    Case("window both", "dense", "cosine per head", "sigmoid"),
    Case("documents", "t5", "euclidean", shape="fewer queries"),
]


@pytest.mark.parametrize("case", SECOND, ids=str)
def test_second_derivatives(case: Case) -> None:
    results: list[list[Tensor]] = []
    for backend in ("native", "chunked"):
        call = case.build().requiring_gradients()
        leaves = list(call.leaves().values())
        grads = torch.autograd.grad(call.attention(backend).square().sum(), leaves, create_graph=True)
        total = torch.stack([grad.square().sum() for grad in grads]).sum()
        results.append([*grads, *torch.autograd.grad(total, leaves)])
    for got, want in zip(*results, strict=True):
        assert float((got - want).detach().norm()) <= 1e-4 * float(want.detach().norm() + 1)


def test_a_statistic_alone_has_a_gradient() -> None:
    results: list[list[Tensor]] = []
    for backend in ("native", "chunked"):
        call = Case("tensor", "relative", normalizer="sink").build().requiring_gradients()
        lse = call.observe(LogSumExp(), backend=backend)[LogSumExp()]
        leaves = [t for name, t in call.leaves().items() if name != "v"]
        seen = torch.where(lse.isinf(), 0, lse)
        # Rows that see nothing are asked for nonsense, too.
        nonsense = (lse - lse).nan_to_num().sum()
        results.append([lse, *torch.autograd.grad(seen.square().sum() + nonsense, leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ from run to run


@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_the_same_from_run_to_run_and_over_threads(case: Case) -> None:
    if refusal(case):
        pytest.skip("chunked runs it")
    run = by_backend("native")
    first, again = (results(case, run, None, asked(case)) for _ in range(2))
    torch.set_num_threads(2)
    try:
        two = results(case, run, None, asked(case))
    finally:
        torch.set_num_threads(1)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert torch.equal(tensor, two[name]), name


# ------------------------------------------------------------------ tensors as they come


def test_the_output_lies_as_the_queries_do() -> None:
    call = Case(layout="projected", shape="grouped").build()
    out = call.attention("native")
    assert out.transpose(1, 2).is_contiguous()
    assert Case(shape="grouped").build().attention("native").is_contiguous()


def test_a_tensor_that_is_stored_negated() -> None:
    x = torch.view_as_complex(torch.randn(1, 2, 40, 8, 2)).conj().imag
    assert x.is_neg()
    got = regard.attention(x, x, x, backend="native")
    y = x.resolve_neg().clone()
    assert torch.equal(got, regard.attention(y, y, y, backend="native"))


@pytest.mark.parametrize("shape", [name for name in SHAPES if name.startswith("no ")])
def test_nothing_to_do_is_done(shape: str) -> None:
    call = Case("causal", "relative", shape=shape).build().requiring_gradients()
    out = call.attention("native")
    assert torch.equal(out, call.attention("chunked"))
    out.sum().backward()


def test_an_instruction_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_ISA", "abacus")
    native.available.cache_clear()
    try:
        said = native.available()
    finally:
        monkeypatch.delenv("REGARD_ISA")
        native.available.cache_clear()
    assert said == (f"REGARD_ISA=abacus: no kernels for 'abacus' here; allowed: {', '.join(core.kernels())}")
