"""Each score against its formula, or against PyTorch's own attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import regard
from cases import FP32, FP64, Case, Draw
from regard.scores import Additive, Cosine, Custom, Dot, Euclidean


def pairs(h: int = 4, g: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    draw = Draw("scores")
    return draw.normal(2, h, 3, 5), draw.normal(2, g, 4, 5)


@pytest.mark.parametrize(
    ("causal", "scale"),
    # PyTorch scales after it has masked, so that it answers NaN for a causal call of no positive scale.
    [(True, None), (True, 1.0), (False, None), (False, 1.0), (False, -0.5), (False, 0.0)],
)
@pytest.mark.parametrize("dtype", [FP32, FP64], ids=str)
def test_dot_is_pytorchs_attention(dtype: torch.dtype, causal: bool, scale: float | None) -> None:
    draw = Draw("sdpa")
    q, k, v = (draw.normal(2, h, n, 8).to(dtype) for h, n in ((4, 21), (2, 33), (2, 33)))
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
    mask = regard.Causal(offset=0) if causal else None
    score = None if scale is None else Dot(scale=scale)
    got = regard.attention(q, k, v, mask=mask, score=score)
    torch.testing.assert_close(got, want)


def test_a_soft_cap_bounds_and_keeps_small_scores() -> None:
    q, k = pairs()
    plain, capped = Dot().of(q, k), Dot(softcap=0.7).of(q, k)
    want = [0.7 * math.tanh(x / 0.7) for x in plain.flatten().tolist()]
    assert capped.flatten().tolist() == pytest.approx(want, rel=1e-12)
    assert capped.abs().max() < 0.7


@pytest.mark.parametrize("scale", [10.0, torch.tensor([1.0, 2.0, -3.0, 0.5], dtype=FP64)])
def test_cosine(scale: float | torch.Tensor) -> None:
    q, k = pairs()
    k[0, 0, 1] = 0
    got = Cosine(scale).of(q, k)
    for b, h, i, j in ((0, 0, 0, 0), (1, 3, 2, 3), (0, 2, 1, 1), (0, 1, 2, 1)):
        x, y = q[b, h, i], k[b, h // 2, j]
        angle = 0.0 if not y.any() else float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
        factor = float(scale[h]) if isinstance(scale, torch.Tensor) else scale
        assert float(got[b, h, i, j]) == pytest.approx(factor * angle, rel=1e-12)
    doubled = Cosine(scale).of(2 * q, k * 5)
    torch.testing.assert_close(doubled, got)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_euclidean(scale: float | None) -> None:
    q, k = pairs()
    got = Euclidean(scale).of(q, k)
    factor = 1 / math.sqrt(5) if scale is None else scale
    want = -factor * torch.cdist(q, k.repeat_interleave(2, 1)).square() / 2
    torch.testing.assert_close(got, want)


def test_euclidean_weights_of_unit_vectors_are_those_of_dot() -> None:
    q, k = (F.normalize(x, dim=-1) for x in pairs())
    a, b = (torch.softmax(score.of(q, k), -1) for score in (Euclidean(), Dot()))
    torch.testing.assert_close(a, b)


def test_additive() -> None:
    q, k = pairs()
    weight = Draw("additive").normal(4, 5)
    got = Additive(weight).of(q, k)
    for b, h, i, j in ((0, 0, 0, 0), (1, 3, 2, 3), (0, 2, 1, 1)):
        terms = [
            math.tanh(x + y)
            for x, y in zip(q[b, h, i].tolist(), k[b, h // 2, j].tolist(), strict=True)
        ]
        want = sum(w * t for w, t in zip(weight[h].tolist(), terms, strict=True))
        assert float(got[b, h, i, j]) == pytest.approx(want, rel=1e-12)
    part = Additive(weight).heads(range(2, 4)).of(q[:, 2:], k[:, 1:])
    torch.testing.assert_close(part, got[:, 2:])


def test_a_function_gets_keys_for_every_query_head() -> None:
    q, k = pairs()
    shapes: list[tuple[int, ...]] = []

    def function(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(k.shape))
        return q @ k.mT

    got = Custom(function).of(q, k)
    assert shapes == [(2, 4, 4, 5)]
    torch.testing.assert_close(got, Dot(scale=1.0).of(q, k))


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_what_a_function_captures_gets_its_gradient(backend: str, small_chunks: None) -> None:
    call = Case(mask="causal", dtype=FP64).build().requiring_gradients()
    learned = torch.tensor(0.4, dtype=FP64, requires_grad=True)
    out = regard.attention(
        call.q,
        call.k,
        call.v,
        mask=call.mask,
        score=lambda q, k: learned * (q @ k.mT),
        backend=backend,
    )
    (got,) = torch.autograd.grad(out.square().sum(), learned)
    step = 1e-6
    high, low = (
        regard.attention(call.q, call.k, call.v, mask=call.mask, score=Dot(scale=x))
        .square()
        .sum()
        .item()
        for x in (0.4 + step, 0.4 - step)
    )
    assert float(got) == pytest.approx((high - low) / (2 * step), rel=1e-6)


def test_a_functions_own_result_is_never_written_to(small_chunks: None) -> None:
    call = Case(mask="causal", shape="square").build()
    kept: list[torch.Tensor] = []

    def function(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        kept.append(q @ k.mT)
        return kept[-1]

    regard.attention(call.q, call.k, call.v, mask=call.mask, score=function, backend="chunked")
    assert all(bool(torch.isfinite(scores).all()) for scores in kept)
