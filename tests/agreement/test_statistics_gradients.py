"""Gradients of statistics, one at a time: native's against float64's, and chunked's against differences."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import regard
from agreement.budget import weighted
from cases import BF16, FP64, Call, Case, Shape
from regard import Causal, DistanceMass, Documents, Entropy, LogSumExp, MeanDistance, Received
from regard.backends import native
from regard.spec.biases import Dense
from regard.spec.normalizers import Softmax
from regard.spec.observers import Observer, SpanMass

pytestmark = [
    pytest.mark.skipif(native.available() is not None, reason=str(native.available())),
    pytest.mark.usefixtures("as_users_run_it"),
]


Q, K = 150, 300


class Longer(Case):
    """A case that crosses blocks of queries and of keys."""

    @property
    def sizes(self) -> Shape:
        return Shape(1, 4, 2, Q, K, 12, 6)


def observers_with_gradient(q: int, k: int) -> tuple[Observer[Any], ...]:
    """Every statistic that has a gradient."""
    return (
        Entropy(),
        LogSumExp(),
        MeanDistance(),
        MeanDistance(offset=q // 3),
        DistanceMass(1),
        DistanceMass(-2, k // 2),
        SpanMass((0, 1), (k // 3, k - 1), (2, 2), (k // 2, k)),
        SpanMass.by_label([(i * i // 3 + i) % 4 - 1 for i in range(k)]),
        Received(),
        Received((0, q), (1, q // 2), (3, 3), (q // 3, q - 1)),
    )


CALLS = {
    "plain": Longer("causal"),
    "sinks and soft-caps": Longer("sinks", score="soft-capped", normalizer="sink"),
    "windows": Longer("window both", "alibi"),
    "documents": Longer("documents of each", "relative"),
    "dropout": Longer("tensor", "sum", normalizer="sink", dropout=0.3),
    "dense": Longer("where", "dense", "euclidean"),
}


def loss(call: Call, observer: Observer[Any], backend: str, unit: float = 1) -> Tensor:
    return weighted(call.observe(observer, backend=backend)[observer], repr(observer)) / unit


def gradients(call: Call, observer: Observer[Any], backend: str) -> dict[str, Tensor]:
    call = call.requiring_gradients()
    leaves = call.leaves()
    unit = K if isinstance(observer, MeanDistance) else 1
    results = torch.autograd.grad(loss(call, observer, backend, unit), [*leaves.values()], allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), results, strict=True)
    }


@functools.cache
def exact(name: str, observer: Observer[Any]) -> dict[str, Tensor]:
    """Gradients in float64."""
    return gradients(CALLS[name].build(FP64), observer, "reference")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("observer", observers_with_gradient(Q, K), ids=lambda observer: repr(observer)[:40])
@pytest.mark.parametrize("name", CALLS)
def test_one_statistic_alone(name: str, observer: Observer[Any]) -> None:
    call = CALLS[name].build()
    got, want = gradients(call, observer, "native"), exact(name, observer)
    largest = max(float(grad.abs().max()) for grad in want.values())
    for leaf, grad in want.items():
        gap = float((got[leaf].double() - grad).abs().max())
        # An error grows with what a gradient is a sum of, which may cancel: all mass may be watched.
        size = max(float(grad.abs().max()), largest / 10, 0.1)
        assert gap <= 5e-5 * size, f"{leaf}: {gap:.3g} of {size:.3g}"
    assert not got["v"].any()


@pytest.mark.usefixtures("isa")
def test_one_statistic_in_half_precision() -> None:
    call = CALLS["plain"].build(BF16)
    wide = call.with_leaves(*(t.double() for t in call.leaves().values()))
    for observer in observers_with_gradient(Q, K):
        got, want = gradients(call, observer, "native"), gradients(wide, observer, "reference")
        for leaf, grad in want.items():
            assert float((got[leaf].double() - grad).abs().max()) <= 8e-3 * float(grad.abs().max()), (observer, leaf)


SCORE = regard.Dot(scale=0.25)


@pytest.mark.usefixtures("isa")
def test_gradients_of_one_hot_rows_and_of_rows_that_see_nothing() -> None:
    # Numbers of few bits, so that scores are the same in float32 and float64.
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randint(-8, 9, (2, 1, 2, 300, 8), generator=generator).float().div(8).unbind()
    q[:, :, ::3] *= 2.0**14
    sees = torch.rand(300, 300, generator=generator) < 0.7
    sees[::7] = False
    results: list[list[Tensor]] = []
    for backend, dtype in (("native", torch.float32), ("reference", FP64)):
        leaves = [t.to(dtype).requires_grad_() for t in (q, k)]
        grads: list[Tensor] = []
        for observer in observers_with_gradient(300, 300):
            values = leaves[0], leaves[1], leaves[1]
            seen = regard.observe(*values, observer, mask=sees, score=SCORE, backend=backend)[observer]
            unit = 300 if isinstance(observer, MeanDistance) else 1
            grads += torch.autograd.grad(weighted(seen, repr(observer)) / unit, leaves)
        results.append(grads)
    for i, (got, want) in enumerate(zip(*results, strict=True)):
        assert got.isfinite().all()
        # A gradient of scores that should be 0 is some 10⁻⁸, times the other side of the product.
        least = 1e-7 * float((k if i % 2 == 0 else q).detach().abs().max())
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5 * float(want.abs().max()) + least)


# ------------------------------------------------------------------ chunked, against differences

TINY: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"mask": Causal()},
    "documents": {"mask": Documents(torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])) & Causal()},
    "dropout": {"dropout": 0.4},
    "soft-cap": {"score": regard.Dot(softcap=1.3)},
}


@pytest.mark.parametrize("observer", observers_with_gradient(6, 9), ids=lambda observer: repr(observer)[:40])
@pytest.mark.parametrize("name", TINY)
def test_chunked_by_differences(name: str, observer: Observer[Any], small_chunks: None) -> None:
    generator = torch.Generator().manual_seed(len(name))
    leaves = [torch.randn(1, h, n, 3, generator=generator, dtype=FP64).requires_grad_() for h, n in ((4, 6), (2, 9))]
    bias, sink = (torch.randn(*n, generator=generator, dtype=FP64).requires_grad_() for n in ((4, 6, 9), (4,)))

    def statistic(q: Tensor, k: Tensor, bias: Tensor, sink: Tensor) -> Tensor:
        torch.manual_seed(3)
        parts = {"bias": Dense(bias), "normalizer": Softmax(sink), **TINY[name]}
        return regard.observe(q, k, k, observer, **parts, backend="chunked")[observer]

    assert gradcheck(statistic, (*leaves, bias, sink), fast_mode=True)


# ------------------------------------------------------------------ twice


@pytest.mark.parametrize("observer", observers_with_gradient(Q, K), ids=lambda observer: repr(observer)[:40])
@pytest.mark.parametrize("name", ["sinks and soft-caps", "dropout"])
def test_second_derivatives(name: str, observer: Observer[Any]) -> None:
    results: list[list[Tensor]] = []
    for backend in ("native", "chunked"):
        call = CALLS[name].build().requiring_gradients()
        leaves = [t for leaf, t in call.leaves().items() if leaf != "v"]
        unit = K if isinstance(observer, MeanDistance) else 1
        first = torch.autograd.grad(loss(call, observer, backend, unit), leaves, create_graph=True)
        total = torch.stack([grad.square().sum() for grad in first]).sum()
        results.append([*first, *torch.autograd.grad(total, leaves)])
    for got, want in zip(*results, strict=True):
        assert math.isfinite(float(got.detach().norm()))
        assert float((got - want).detach().norm()) <= 1e-4 * float(want.detach().norm() + 1e-3)
