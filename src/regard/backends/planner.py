"""Which pass computes a statistic: the forward pass over the keys, or a second one over final weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from regard.lowering.reductions import LOG_SUM_EXP, row_of
from regard.shapes import Sizes
from regard.spec.observers import Observer, Pooled, Received


class PassPlan(NamedTuple):
    """The observers of a request by the pass that computes them."""

    forward: tuple[Observer[Any], ...]
    """Reductions over a forward pass, log-sum-exp, and what only a backend in PyTorch knows."""
    second: tuple[Observer[Any], ...]
    """What needs final weights: its cost is that of the part it reads, if the log-sum-exp of the rows is known."""


def plan(observers: Sequence[Observer[Any]], sizes: Sizes, recorded: bool) -> PassPlan:
    """One pass or two. Where all observers are of the second pass, the forward pass need not run at all.

    Args:
        observers: Bound observers.
        sizes: Of the call.
        recorded: Whether the call is that of a recorded run, whose log-sum-exp is known. Weights that follow from it
            differ from the run's by rounding; so what covers all weights, and costs a pass in any case, then comes
            from a forward pass and what it leaves of the rows.
    """
    second = tuple(observer for observer in observers if _of_second_pass(observer))
    if recorded:
        second = tuple(observer for observer in second if not isinstance(observer, Received))
        if len(second) < len(observers):
            whole = range(sizes.q), range(sizes.k)
            second = tuple(o for o in second if isinstance(o, Pooled) and o.rectangle != whole)
    return PassPlan(tuple(observer for observer in observers if observer not in second), second)


def _of_second_pass(observer: Observer[Any]) -> bool:
    row = row_of(observer)
    return row is not None and row.kind is not LOG_SUM_EXP and row.kind.allocate is None
