"""What a backend prepares: every method agrees with the reference, and one planner decides the passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import Case
from regard import Entropy, LogSumExp, Observer, Pooled, Received, Rows, TopK
from regard.backends import Backend, chunked, native, prepare, reference
from regard.backends.planner import plan
from regard.backends.prepared import Prepared
from regard.problem import Problem
from regard.shapes import Box

CASES = [
    Case("causal", shape="grouped"),
    Case("sinks", "relative", "cosine per head", "sink", shape="grouped"),
    Case("documents", "dense", "soft-capped", shape="fewer queries"),
]
CLOSE = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
OBSERVERS: tuple[Observer, ...] = (
    Entropy(),
    Received(),
    Pooled(3, 4, "max"),
    Rows(0, 2),
    LogSumExp(),
    Pooled(2, 2, "mean", queries=(1, 4), keys=(0, 5)),
)


def problem_of(case: Case, dtype: torch.dtype = torch.float32) -> Problem:
    call = case.build(dtype)
    return Problem.of(call.q, call.k, call.v, **{name: part for name, part in call.parts.items() if name != "seed"})


def exact_weights(problem: Problem) -> Tensor:
    every = Rows(*range(problem.sizes.q))
    return reference.prepare(problem.cast(torch.float64)).statistics((every,))[0]


@pytest.mark.parametrize("backend", [native, chunked, reference], ids=lambda backend: backend.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_statistics_weights_and_lse_agree_with_the_reference(case: Case, backend: Backend) -> None:
    problem = problem_of(case)
    prepared, exact = backend.prepare(problem), reference.prepare(problem.cast(torch.float64))
    assert isinstance(prepared, Prepared)
    for result, expected in zip(prepared.statistics(OBSERVERS), exact.statistics(OBSERVERS), strict=True):
        torch.testing.assert_close(result, expected, **CLOSE)
    torch.testing.assert_close(prepared.forward().out, exact.forward().out, **CLOSE)
    torch.testing.assert_close(prepared.lse(), exact.lse(), **CLOSE)
    torch.testing.assert_close(prepared.save()[0], exact.forward().out, **CLOSE)
    sizes = problem.sizes
    box = Box(range(sizes.b), range(1, sizes.h), range(1, sizes.q - 1), range(2, sizes.k))
    expected = exact_weights(problem)[:, 1:, 1 : sizes.q - 1, 2:]
    torch.testing.assert_close(prepared.weights(box), expected, **CLOSE)


def test_a_part_is_that_of_the_whole() -> None:
    problem = problem_of(CASES[0])
    prepared, sizes = native.prepare(problem), problem.sizes
    part = prepared.part(range(sizes.b), range(1, 2), range(sizes.q))
    assert part is not None
    observers = Entropy(), Received(), Pooled(3, 4, "max")
    for result, whole in zip(part.statistics(observers), prepared.statistics(observers), strict=True):
        torch.testing.assert_close(result, whole[:, 1:2], **CLOSE)
    assert chunked.prepare(problem).part(range(sizes.b), range(1, 2), range(sizes.q)) is None


def test_a_known_log_sum_exp_needs_no_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(CASES[0])
    prepared = prepare(problem, lse=prepare(problem).lse())

    def no_pass(*arguments: object) -> None:
        raise AssertionError("a forward pass ran")

    monkeypatch.setattr(native, "_forward", no_pass)
    observers = Received(), Pooled(3, 4, "max"), Rows(0, 2)
    exact = reference.prepare(problem.cast(torch.float64)).statistics(observers)
    for result, expected in zip(prepared.statistics(observers), exact, strict=True):
        torch.testing.assert_close(result, expected, **CLOSE)
    with pytest.raises(AssertionError, match="a forward pass ran"):
        prepared.statistics((Entropy(),))


def test_the_planner_splits_observers_by_pass() -> None:
    sizes = problem_of(CASES[0]).sizes
    part, whole = Pooled(2, 2, "max", queries=(1, 3)).bind(sizes), Pooled(2, 2, "max").bind(sizes)
    observers = (Entropy(), Received(), part, TopK(2), whole, Rows(1))
    assert plan(observers, sizes, recorded=False) == ((Entropy(), TopK(2)), (Received(), part, whole, Rows(1)))
    # What covers all weights of a recorded run, and what costs a pass in any case, comes from the forward pass.
    assert plan(observers, sizes, recorded=True) == ((Entropy(), Received(), TopK(2), whole, Rows(1)), (part,))
