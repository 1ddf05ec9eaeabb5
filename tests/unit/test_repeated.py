"""The short way of a call like one before: the same bits, and the long way where more is asked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from regard import Blocks, Causal, Cosine, Dot, Padding, Prefix, Window, attention
from regard.backends import call_cache
from regard.errors import DeviceError, OptionError, RegardError

MASKS = [None, Causal(), Causal() & (Window(3) | Prefix(2)), Padding(torch.tensor([5, 9]))]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_cache, "_calls", {})


def tensors(seed: int = 0, n: int = 11, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, h, n, 8, generator=draw).to(dtype) for h in (4, 2, 2)]


def short(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, score: Any = None) -> Tensor | None:
    return call_cache.lookup(q, k, v, mask, score)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("score", [None, Dot(0.3, softcap=2.0)], ids=str)
def test_the_same_bits(dtype: torch.dtype, mask: Any, score: Any) -> None:
    options = {"mask": mask, "score": score}
    assert short(*tensors(dtype=dtype), **options) is None
    attention(*tensors(dtype=dtype), **options)
    for seed in (1, 2):
        given = tensors(seed, dtype=dtype)
        want = attention(*given, **options, backend="native")
        got = short(*given, **options)
        if isinstance(mask, Padding):
            assert got is None, "a value that holds tensors is never known"
            got = attention(*given, **options)
        assert got is not None
        assert torch.equal(got, want)
        assert got.stride() == want.stride()


def test_strides_may_be_others() -> None:
    attention(*tensors())
    given = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(1)]
    got = short(*given)
    assert got is not None
    assert torch.equal(got, attention(*given, backend="native"))


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_goes_the_long_way(place: int, bad: float) -> None:
    attention(*tensors(), mask=Causal())
    given = tensors(1)
    given[place][0, 0, 4] = bad
    assert short(*given, mask=Causal()) is None
    want = attention(*given, mask=Causal(), backend="chunked")
    torch.testing.assert_close(attention(*given, mask=Causal()), want, equal_nan=True)
    assert bool(want.isnan().any())


def test_gradients_go_the_long_way() -> None:
    attention(*tensors())
    q, k, v = tensors(1)
    k.requires_grad_()
    assert short(q, k, v) is None
    assert attention(q, k, v).requires_grad
    with torch.no_grad():
        assert short(q, k, v) is not None


def test_other_sizes_dtypes_masks_and_scores_are_other_calls() -> None:
    attention(*tensors(), mask=Window(3))
    assert short(*tensors(), mask=Window(3)) is not None
    assert short(*tensors(), mask=Window(4)) is None
    assert short(*tensors(), mask=Window(3), score=Dot(0.5)) is None
    assert short(*tensors(n=12), mask=Window(3)) is None
    assert short(*tensors(dtype=torch.bfloat16), mask=Window(3)) is None


def test_transforms_go_the_long_way() -> None:
    given = tensors()
    attention(*given)
    many = [torch.stack([t, t + 1]) for t in given]
    got = torch.vmap(lambda q, k, v: attention(q, k, v))(*many)
    torch.testing.assert_close(got[1], attention(*(t + 1 for t in given)))
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # PyTorch compiles what it has for this by torch.jit
        q = forward_ad.make_dual(given[0], torch.ones_like(given[0]))
        tangent = forward_ad.unpack_dual(attention(q, *given[1:])).tangent
    assert tangent is not None
    assert bool(tangent.any())


def test_negated_views_are_read_rightly() -> None:
    attention(*tensors())
    q, k, v = tensors(1)
    negated = torch.complex(q, q).conj().imag
    assert negated.is_neg()
    torch.testing.assert_close(attention(negated, k, v), attention(-q, k, v))


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_wrong_stays_wrong() -> None:
    q, k, v = tensors()
    attention(q, k, v)
    with pytest.raises(OptionError, match="dropout"):
        attention(q, k, v, dropout=False)
    with pytest.raises(RegardError, match="q: got"):
        attention(None, k, v)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DeviceError):
        attention(q, k.to("meta"), v)
    with pytest.raises(RegardError):
        attention(q, k, v, mask=Blocks(torch.ones(3, 1) > 0, 4))


def test_few_calls_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_cache, "_MOST_CALLS", 4)
    for n in range(1, 11):
        attention(*tensors(n=n))
        assert short(*tensors(n=n)) is not None
        assert len(call_cache._calls) <= 4


def test_other_scores_are_never_known() -> None:
    attention(*tensors(), score=Cosine())
    attention(*tensors(), score=lambda q, k: q @ k.mT)
    assert not call_cache._calls
