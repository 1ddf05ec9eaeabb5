"""What the server refuses, in the four parts that every message of regard has."""

from __future__ import annotations

from regard.errors import RegardError


class HttpError(RegardError):
    """A request that is not answered, and the status that says of which kind it is."""

    def __init__(self, status: int, argument: str, given: object, allowed: str, remedy: str) -> None:
        super().__init__(argument, given, allowed, remedy)
        self.status = status


def parts(error: RegardError) -> dict[str, dict[str, str]]:
    """An error as JSON.

    >>> parts(HttpError(404, "head", "9", "0 to 5", "Heads are counted from 0."))["error"]["allowed"]
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
