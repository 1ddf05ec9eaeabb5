"""Whole models in the bench: the methods compute the same, and ratios are the right way up."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from regard import models
from regard_benchmarks import models as lab
from regard_benchmarks.measure import Timing
from regard_benchmarks.models import ModelCase, ModelRow, attention_in_pytorch

FAST, SLOW = Timing((1.0, 1.0, 1.0)), Timing((3.0, 3.0, 3.0))


def test_sdpa_computes_what_the_embedded_model_does() -> None:
    model, words = models.load().model, torch.arange(300)[None].repeat(2, 1) % 4000
    results = list[tuple[torch.Tensor, ...]]()
    for by_sdpa in (False, True):
        if by_sdpa:
            with attention_in_pytorch():
                hidden = model.hidden(words)
        else:
            hidden = model.hidden(words)
        grads = torch.autograd.grad(hidden.square().mean(), list(model.parameters()))
        results.append((hidden.detach(), *grads))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5 * float(ours.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(("ours", "expected"), [(FAST, ["3.00", "1.50", "yes"]), (SLOW, ["0.33", "1.50", "no"])])
def test_above_1_is_faster_and_a_goal_is_the_least(ours: Timing, expected: list[str]) -> None:
    other = SLOW if ours is FAST else FAST
    case = ModelCase("a model", dict, "regard", "sdpa", 1.5)
    assert ModelRow(case, {"sdpa": other, "regard": ours}).cells()[-3:] == expected


def test_what_watching_costs_is_above_1_where_it_takes_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ready() -> dict[str, lab.Call]:
        return {}

    timings = {"sdpa": SLOW, "regard": FAST, "regard, watched": SLOW}
    monkeypatch.setattr(lab, "CASES", (ModelCase("a model", ready, "regard", "sdpa", 1.5),))
    monkeypatch.setattr(lab, "time_in_turns", lambda calls, seconds: timings)
    monkeypatch.setattr(lab, "_watched_growth", lambda: 5 << 20)
    lab.main(1.0, Console(width=300), only="model")
    printed = capsys.readouterr().out
    assert "3.00 times the time unwatched" in printed
    assert "5 MiB in all" in printed
    assert "16 GiB" in printed
