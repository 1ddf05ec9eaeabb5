"""A new observer: `of(block)` is enough, and one row of the table of reductions brings it to the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from regard import Causal, Entropy, Weights, explain, observe
from regard.lowering import reductions
from regard.lowering.reductions import ENTROPY, ReductionRow
from regard.spec.observers import Observer, WeightRows


@dataclass(frozen=True)
class EffectiveKeys(Observer[Tensor]):
    """The exponential of each row's entropy, (b, h, q)."""

    differentiable = True

    def of(self, block: WeightRows) -> tuple[Tensor, ...]:
        return (Entropy().of(block)[0].exp(),)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 70, 8, generator=draw) for _ in range(3))
    return q.requires_grad_(), k, v


def test_an_observer_with_of_alone_runs_and_is_shown() -> None:
    q, k, v = inputs()
    assert explain(q, k, v, EffectiveKeys(), mask=Causal()).backend == "chunked"
    seen = observe(q, k, v, EffectiveKeys(), Entropy(), mask=Causal())
    torch.testing.assert_close(seen[EffectiveKeys()], seen[Entropy()].exp())
    assert "EffectiveKeys()" in seen._repr_html_()
    assert "polyline" in seen._repr_html_(), "numbers of queries are drawn as lines"
    reference = observe(q, k, v, EffectiveKeys(), mask=Causal(), backend="reference")[EffectiveKeys()]
    torch.testing.assert_close(seen[EffectiveKeys()], reference.float())


def test_a_row_of_the_table_brings_it_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs()
    (by_chunked,) = torch.autograd.grad(observe(q, k, v, EffectiveKeys(), mask=Causal())[EffectiveKeys()].sum(), q)
    row = ReductionRow(EffectiveKeys, ENTROPY, lambda reductions, observer, buffers: (buffers[0].exp(),))
    monkeypatch.setattr(reductions, "TABLE", (*reductions.TABLE, row))
    assert explain(q, k, v, EffectiveKeys(), Entropy(), mask=Causal()).backend == "native"
    seen = observe(q, k, v, EffectiveKeys(), Entropy(), mask=Causal())
    torch.testing.assert_close(seen[EffectiveKeys()], seen[Entropy()].exp())
    (by_kernels,) = torch.autograd.grad(seen[EffectiveKeys()].sum(), q)
    torch.testing.assert_close(by_kernels, by_chunked, rtol=1e-4, atol=1e-5)
    weights = Weights.of(q, k, mask=Causal())
    torch.testing.assert_close(weights.see(EffectiveKeys()), seen[EffectiveKeys()].detach())
