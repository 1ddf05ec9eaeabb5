"""Errors that name the argument, what was given, what is allowed and what to do."""

from __future__ import annotations


class RegardError(Exception):
    """A call that cannot be carried out.

    Every message has four parts: the argument's name, what was given, what is allowed, and what to do.

    >>> print(ShapeError("q", "3 dimensions", "4: (batch, heads, sequence, head size)", "Add a batch."))
    q: got 3 dimensions; allowed: 4: (batch, heads, sequence, head size). Add a batch.
    """

    def __init__(self, argument: str, given: object, allowed: str, remedy: str) -> None:
        super().__init__(argument, given, allowed, remedy)
        self.argument, self.given, self.allowed, self.remedy = argument, given, allowed, remedy

    def __str__(self) -> str:
        return f"{self.argument}: got {self.given}; allowed: {self.allowed}. {self.remedy}"


class ShapeError(RegardError, ValueError):
    """A tensor whose shape does not fit the call."""


class DtypeError(RegardError, TypeError):
    """A tensor of another dtype, or an argument of another type, than the call takes."""


class DeviceError(RegardError, ValueError):
    """A tensor on another device than the queries."""


class OptionError(RegardError, ValueError):
    """A number or a name outside what is allowed."""


class BackendError(RegardError, NotImplementedError):
    """A backend, chosen by name, that cannot run this call."""
