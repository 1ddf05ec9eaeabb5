"""The chunked backend against the reference, on every case: output, statistics and all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agreement.budget import by_backend, by_plain, hold, results
from cases import CASES, FP64, Case, observers
from conftest import shrink


@pytest.mark.parametrize("case", CASES, ids=str)
def test_chunked_keeps_within_the_budget(case: Case, monkeypatch: pytest.MonkeyPatch, as_users_run_it: None) -> None:
    exact = results(case, by_backend("reference"), FP64)
    usual = results(case, by_plain)
    hold(results(case, by_backend("chunked")), exact, usual, case)
    shrink(monkeypatch)
    hold(results(case, by_backend("chunked")), exact, usual, case)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_signatures_are_true(case: Case) -> None:
    # With every signature checked: it raises where a shape is not what its annotation says.
    found = results(case, by_backend("chunked"))
    assert found["out"].shape == (*case.sizes[:2], case.sizes.q, case.sizes.dv)


@pytest.mark.parametrize("case", CASES[::9], ids=str)
def test_the_same_from_run_to_run_and_over_threads(case: Case, small_chunks: None) -> None:
    run = by_backend("chunked")
    first, again = results(case, run), results(case, run)
    torch.set_num_threads(2)
    try:
        two, two_again = results(case, run), results(case, run)
    finally:
        torch.set_num_threads(1)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert torch.equal(two[name], two_again[name]), name
        if tensor.is_floating_point():
            eps = torch.finfo(tensor.dtype).eps
            # The gradients of one loss share a scale: one of a few numbers is a sum that nearly cancels.
            loss = name.partition(" / ")[0]
            scale = max(_greatest(t) for n, t in first.items() if n.partition(" / ")[0] == loss)
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=8 * eps * scale, msg=name)


def _greatest(t: Tensor) -> float:
    return float(torch.where(t.isinf(), 0, t).abs().amax()) if t.numel() else 0.0


@pytest.mark.parametrize("observer", observers(Case().sizes), ids=repr)
def test_an_observer_alone_sees_what_it_sees_among_others(observer) -> None:
    case = Case(mask="causal", bias="alibi", dropout=0.2)
    alone = case.build().observe(observer, backend="chunked")
    among = case.build().observe(*observers(case.sizes), backend="chunked")
    mine, theirs = alone[observer], among[observer]
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (mine, theirs)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(alone.out, among.out)
