"""What is said of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rounding:
    """How far weights of a recording are from those of the run, over some whole rows of every head."""

    greatest: float
    rms: float
    """The root of the mean square, over all pairs of these rows."""
    rows: int
    """Of each head."""


def rounding_in_words(rounding: Rounding | None) -> str:
    """What a reader should know of a layer's numbers."""
    if rounding is None:
        return "exact"
    return (f"weights within {rounding.greatest:.1e} of the run's, {rounding.rms:.1e} root mean square, "
            f"in {rounding.rows} rows of each head")  # fmt: skip


def size_in_words(size: float) -> str:
    """Bytes for people.

    >>> size_in_words(1.2 * 2**30)
    '1.2 GiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def no_constant(word: str) -> Any:
    """For a reader of JSON: NaN and infinities, which Python would take, are none of its numbers."""
    raise ValueError(f"{word} is no number of JSON")
