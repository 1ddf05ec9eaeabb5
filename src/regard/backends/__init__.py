"""Ways to run a `Problem`. Each runs the whole of it or says in one sentence why not.

`ORDER` is the order of preference of ``backend="auto"``. The reference is the float64 oracle, for tests and
for reading what a call means; it runs only when requested by name.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from regard.backends import chunked, native, reference
from regard.backends.prepared import Prepared
from regard.errors import BackendError, OptionError
from regard.problem import Problem


@runtime_checkable  # tests check signatures with isinstance
class Backend(Protocol):
    """What a backend module offers."""

    @property
    def name(self) -> str: ...
    def available(self) -> str | None: ...
    def why_not(self, problem: Problem) -> str | None: ...
    def prepare(self, problem: Problem, lse: Tensor | None = None, recorded: bool = False) -> Prepared: ...


ORDER: tuple[Backend, ...] = (native, chunked)
ALL: tuple[Backend, ...] = (*ORDER, reference)
_BY_NAME = {backend.name: (backend,) for backend in ALL}


def choose(problem: Problem, name: str = "auto") -> tuple[Backend, dict[str, str]]:
    """The backend that runs a call, and for each that was passed over, why.

    A backend requested by name never falls back: it runs, or raises `BackendError` with its reason.
    """
    reasons: dict[str, str] = {}
    candidates = ORDER if name == "auto" else _BY_NAME.get(name)
    if candidates is None:
        allowed = ", ".join(repr(backend) for backend in ("auto", *(b.name for b in ALL)))
        raise OptionError("backend", repr(name), allowed, "'auto' takes the fastest that can run.")
    for backend in candidates:
        reason = backend.why_not(problem)
        if reason is None:
            return backend, reasons
        reasons[backend.name] = reason
    raise BackendError(
        "backend",
        repr(name),
        "a backend that can run this call",
        "; ".join(f"{backend}: {why}" for backend, why in reasons.items()) + ". Use backend='auto'.",
    )


def prepare(problem: Problem, name: str = "auto", lse: Tensor | None = None, recorded: bool = False) -> Prepared:
    """The call, prepared by the backend that runs it.

    Args:
        problem: The call.
        name: Of the backend, or "auto".
        lse: The log-sum-exp of its rows, (b, h, q), where it is known; it may be of more keys than the call has.
        recorded: Whether `lse` is that of a recorded run of the same call, whose statistics are to be reproduced.
    """
    return choose(problem, name)[0].prepare(problem, lse, recorded)
