"""Each score against its formula, or against PyTorch's own attention."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import Wav2Vec2BertConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

import regard
from cases import FP32, FP64, Case, Draw
from regard.backends import chunked
from regard.errors import OptionError, ShapeError
from regard.nn import MultiHeadAttention
from regard.problem import Problem
from regard.spec.scores import Additive, Cosine, Custom, Dot, Euclidean, Shaw


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
        terms = [math.tanh(x + y) for x, y in zip(q[b, h, i].tolist(), k[b, h // 2, j].tolist(), strict=True)]
        want = sum(w * t for w, t in zip(weight[h].tolist(), terms, strict=True))
        assert float(got[b, h, i, j]) == pytest.approx(want, rel=1e-12)
    part = Additive(weight).heads(range(2, 4)).of(q[:, 2:], k[:, 1:])
    torch.testing.assert_close(part, got[:, 2:])


@pytest.mark.parametrize("each", [False, True], ids=["shared", "per head"])
@pytest.mark.parametrize(("scale", "offset"), [(None, None), (0.7, 0), (None, 2)])
def test_shaw_by_pairs(scale: float | None, offset: int | None, each: bool) -> None:
    q, k = pairs()  # 3 queries and 4 keys
    table = Draw("shaw").normal(4, 5, 5) if each else Draw("shaw").normal(5, 5)
    got = Shaw(table, scale, offset=offset).of(q, k)
    for b, h, i, j in itertools.product(range(2), range(4), range(3), range(4)):
        distance = i + (1 if offset is None else offset) - j
        row = (table[h] if each else table)[2 + max(-2, min(2, distance))].tolist()
        parts = zip(q[b, h, i].tolist(), k[b, h // 2, j].tolist(), row, strict=True)
        want = sum(x * (y + r) for x, y, r in parts) * (1 / math.sqrt(5) if scale is None else scale)
        assert float(got[b, h, i, j]) == pytest.approx(want, rel=1e-12, abs=1e-12)


def test_shaw_is_the_relative_key_of_transformers() -> None:
    config = Wav2Vec2BertConfig(
        hidden_size=32,
        num_attention_heads=4,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=3,
        right_max_position_embeddings=3,
        attention_dropout=0.0,
    )
    torch.manual_seed(0)
    module = Wav2Vec2BertSelfAttention(config).eval()
    x = Draw("relative key").normal(2, 9, 32).float()
    q, k, v = (
        linear(x).unflatten(-1, (4, 8)).transpose(1, 2)
        for linear in (module.linear_q, module.linear_k, module.linear_v)
    )
    # They count key − query.
    score = Shaw(module.distance_embedding.weight.flip(0))
    out = module.linear_out(regard.attention(q, k, v, score=score).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(out, module(x)[0], rtol=1e-5, atol=1e-6)


def test_shaw_runs_in_blocks_of_queries() -> None:
    call = Case(score="shaw", shape="long", mask="window").build()
    plan = regard.explain(call.q, call.k, call.v, **call.parts)
    assert plan.backend == "chunked"
    assert "the score Shaw is no dot product; chunked runs any score" in str(plan)
    x = torch.zeros(1, 1, 50_000, 8)
    rows, _ = chunked.block_rows(Problem.of(x, x, x, score=Shaw(torch.zeros(33, 8))))
    assert rows * 50_000 <= chunked.BUDGET
    weights = regard.Weights.of(call.q, call.k, mask=call.mask, score=call.score)
    seen = call.observe(regard.Rows(100, 289))
    rows_seen = seen[regard.Rows(100, 289)]
    torch.testing.assert_close(weights[0, :, 289, 300:], rows_seen[0, :, 1, 300:])
    torch.testing.assert_close(weights[0, 1, 100:101], rows_seen[0, 1, :1])


def test_shaw_in_a_layer() -> None:
    layer = MultiHeadAttention(16, 2, mask=regard.Causal(), score=Shaw.learned(8, max_distance=3))
    assert layer.get_parameter("score.table").shape == (7, 8)
    layer(Draw("layer").normal(1, 11, 16).float()).square().sum().backward()
    assert layer.get_parameter("score.table").grad is not None
    wide = Shaw.learned(8, 3, heads=2, scale=1.0, offset=0)
    assert (wide.table.shape, wide.scale, wide.offset) == ((2, 7, 8), 1.0, 0)


def test_shaw_says_what_it_takes() -> None:
    q = torch.zeros(1, 2, 3, 8)
    with pytest.raises(ShapeError, match="an odd number of distances"):
        Shaw(torch.zeros(4, 8))
    with pytest.raises(OptionError, match="a finite number or None"):
        Shaw(torch.zeros(5, 8), scale=math.nan)
    for shape in ((5, 4), (3, 5, 8)):
        with pytest.raises(ShapeError, match=r"allowed: \(5, 8\) or \(2, 5, 8\). Its rows are added"):
            regard.attention(q, q, q, score=Shaw(torch.zeros(shape)))


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
        call.q, call.k, call.v, mask=call.mask, score=lambda q, k: learned * (q @ k.mT), backend=backend
    )
    (got,) = torch.autograd.grad(out.square().sum(), learned)
    step = 1e-6
    high, low = (
        regard.attention(call.q, call.k, call.v, mask=call.mask, score=Dot(scale=x)).square().sum().item()
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
