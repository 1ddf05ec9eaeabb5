"""Recordings as text and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from regard.display import repr_html
from regard.display.text import printable


@dataclass(frozen=True)
class Rounding:
    """How far weights of a recording are from those of the run, over some whole rows of every head."""

    greatest: float
    rms: float
    """The root of the mean square, over all pairs of these rows."""
    rows: int
    """Of each head."""


class LayerRow(NamedTuple):
    """A layer in the table of a recording."""

    number: str
    name: str
    heads: str
    pairs: str
    """Queries × keys."""
    dtype: str
    rounding: str


_HEADS = LayerRow("layer", "module", "heads", "queries × keys", "kept in", "weights")


def as_text(summary: str, rows: Sequence[LayerRow]) -> str:
    """A recording as a terminal shows it."""
    width = max(len(row.name) for row in rows)
    return "\n".join(
        (
            summary,
            *(
                f"{row.number:>4}  {row.name:<{width}}  {row.heads}, {row.pairs}, {row.dtype}: {row.rounding}"
                for row in rows
            ),
        )
    )


def as_html(summary: str, rows: Sequence[LayerRow], *below: str) -> str:
    """A recording as a notebook shows it."""
    return repr_html.section(summary, repr_html.table(_HEADS, rows), *below)


def shown(word: str) -> str:
    """A word from a file, without what would move a terminal's cursor.

    >>> shown("blocks.0\\x1b[2J\\n")
    'blocks.0␛[2J␊'
    """
    return printable(word).replace("\n", "␊")


def rounding_in_words(rounding: Rounding | None) -> str:
    """What a reader should know of a layer's numbers."""
    if rounding is None:
        return "exact"
    return (
        f"weights within {rounding.greatest:.1e} of the run's, {rounding.rms:.1e} root mean square, "
        f"in {rounding.rows} rows of each head"
    )


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
