"""A text as tokens, with the characters that each covers and the line on which it stands."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

START = "⟨start⟩"


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens that a model reads. Those that cover no characters, such as [CLS], the model adds itself."""

    ids: Int[ndarray, " n"]
    texts: list[str]
    spans: list[tuple[int, int]]
    lines: Int[ndarray, " n"]
    """The line, from 1, on which each token's first visible character stands."""
    whole: int
    """How many tokens the whole text has: more than these, if only the first were asked for."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def added(self) -> Bool[ndarray, " n"]:
        """Which tokens cover no characters."""
        return np.array([start == stop for start, stop in self.spans])


def words(
    text: str, ids: list[int], spans: list[tuple[int, int]], names: dict[int, str], whole: int | None = None
) -> Words:
    """Tokens by their ids and spans; `names` are of those, by their places, that cover no characters."""
    breaks = [i for i, character in enumerate(text) if character == "\n"]
    lines = list[int]()
    for start, stop in spans:
        piece = text[start:stop]
        # Line breaks belong to the line that they end; a word after them to its own.
        blank = len(piece) - len(piece.lstrip()) if piece.strip() else 0
        lines.append(bisect.bisect_left(breaks, start + blank) + 1)
    texts = [names.get(i, text[start:stop]) for i, (start, stop) in enumerate(spans)]
    return Words(np.array(ids), texts, spans, np.array(lines), len(ids) if whole is None else whole)
