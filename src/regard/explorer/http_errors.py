"""Errors with an HTTP status, in the four parts that every message of regard has."""

from __future__ import annotations

from typing import TypedDict

from regard.errors import RegardError


class HttpError(RegardError):
    """A request that cannot be answered, and its HTTP status."""

    def __init__(self, status: int, argument: str, given: object, allowed: str, remedy: str) -> None:
        super().__init__(argument, given, allowed, remedy)
        self.status = status


class ErrorParts(TypedDict):
    """What was wrong, what was given, what is allowed, and what to do."""

    argument: str
    given: str
    allowed: str
    remedy: str


class ErrorBody(TypedDict):
    """The body of every response of status 400 and above."""

    error: ErrorParts


def error_body(error: RegardError) -> ErrorBody:
    """An error as JSON.

    >>> error_body(HttpError(404, "head", "9", "0 to 5", "Heads are counted from 0."))["error"]["allowed"]
    '0 to 5'
    """
    given = str(error.given)
    return {
        "error": {
            "argument": error.argument,
            "given": given if len(given) <= 200 else given[:199] + "…",
            "allowed": error.allowed,
            "remedy": error.remedy,
        }
    }
