"""Ways to run a `Problem`. Each runs the whole of it or says in one sentence why not.

`ORDER` is the order of preference of ``backend="auto"``. The reference is the float64 oracle, for tests and
for those who want to read what a call means; it is run only when asked for by name.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from regard.backends import chunked, native, reference
from regard.errors import BackendError, OptionError
from regard.problem import Answer, Problem


@runtime_checkable  # what checks signatures in tests asks isinstance
class Backend(Protocol):
    """What a backend module offers."""

    @property
    def name(self) -> str: ...
    def here(self) -> str | None: ...
    def why_not(self, problem: Problem) -> str | None: ...
    def run(self, problem: Problem) -> Answer: ...
    def held(self, problem: Problem) -> tuple[int, int]: ...


ORDER: tuple[Backend, ...] = (native, chunked)
ALL: tuple[Backend, ...] = (*ORDER, reference)
_BY_NAME = {backend.name: (backend,) for backend in ALL}


def choose(problem: Problem, wanted: str = "auto") -> tuple[Backend, dict[str, str]]:
    """The backend that runs a call, and for each that was passed over, why.

    A backend asked for by name never falls back: it runs, or raises `BackendError` with its reason.
    """
    reasons: dict[str, str] = {}
    if wanted == "auto":
        asked = ORDER
    elif not (asked := _BY_NAME.get(wanted)):
        allowed = ", ".join(repr(name) for name in ("auto", *(b.name for b in ALL)))
        raise OptionError("backend", repr(wanted), allowed, "'auto' takes the fastest that can run.")
    for backend in asked:
        reason = backend.why_not(problem)
        if reason is None:
            return backend, reasons
        reasons[backend.name] = reason
    raise BackendError(
        "backend",
        repr(wanted),
        "a backend that can run this call",
        "; ".join(f"{name}: {why}" for name, why in reasons.items()) + ". Use backend='auto'.",
    )
