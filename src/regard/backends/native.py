"""The C++ core as a backend. In this version the core holds the CPU probe only, and says so."""

from __future__ import annotations

from regard.problem import Answer, Problem

name = "native"

_REASON = "the compiled core holds only the CPU probe in this version; its kernels come next"


def here() -> str | None:
    """Why this backend cannot run on this machine, or None."""
    return _REASON


def why_not(problem: Problem) -> str | None:
    """Why this backend cannot run the call, or None."""
    del problem
    return _REASON


def run(problem: Problem) -> Answer:
    """Never reached: `why_not` refuses every call."""
    raise NotImplementedError(_REASON)
