"""A worked example of self-attention, small enough to check by hand: every number, and what it was computed from.

The terminal (`regard learn`), the page and the notebook only show these numbers. Nothing here prints. All of it is
float64, one multiplication or sum at a time.

>>> lesson = Lesson.of("the river bank")
>>> bank = lesson.heads[0].scores[2][1]
>>> bank.name, bank.value, [(a.value, b.value) for a, b in bank.terms]
('score(bank → river)', 3.0, [(1.0, 1.0), (1.0, 2.0)])
>>> [round(weight.value, 3) for weight in lesson.heads[0].weights[2]]
[0.03, 0.721, 0.249]
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import OptionError, ShapeError
from regard.shapes import Sizes
from regard.spec.masks import Causal, Mask, dense

TEXT = "the river bank"
"""The example that the maps below were chosen for."""

SIZE = 2
"""Numbers in an embedding, and in a query, key or value."""

MOST_WORDS = 6
_PUNCTUATION = ".,;:!?\"'()"

FEATURES = ("water", "money")
"""What the two numbers of the chosen embeddings stand for."""

CHOSEN = {"the": (-0.5, -0.5), "river": (2.0, 0.0), "money": (0.0, 2.0), "bank": (0.5, 0.5)}
"""Embeddings chosen by hand: `bank` alone could mean either, `the` is about neither."""


class Role(StrEnum):
    """What a number is in an attention layer. Each role has one colour, wherever it is shown."""

    EMBEDDING = "embedding"
    MAP = "map"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    SCORE = "score"
    WEIGHT = "weight"
    OUTPUT = "output"


COLOURS = {
    Role.QUERY: "#3d8fe0",
    Role.KEY: "#d98a00",
    Role.VALUE: "#1f9e6e",
    Role.WEIGHT: "#c05fc0",
    Role.OUTPUT: "#e0524a",
}
"""One colour for each role that has one, readable on light and on dark; the rest is plain text."""


class How(StrEnum):
    """How a number was computed from its operands."""

    GIVEN = "given"
    PRODUCTS = "sum of products"
    ROOT = "square root"
    DIVIDE = "divide"
    MASK = "mask"
    MAXIMUM = "maximum"
    SUBTRACT = "subtract"
    EXP = "exp"
    SUM = "sum"


MEANING: dict[How, Callable[[Sequence[float]], float]] = {
    How.PRODUCTS: lambda of: sum(a * b for a, b in zip(of[::2], of[1::2], strict=True)),
    How.ROOT: lambda of: math.sqrt(of[0]),
    How.DIVIDE: lambda of: of[0] / of[1],
    How.MASK: lambda of: -math.inf,
    How.MAXIMUM: max,
    How.SUBTRACT: lambda of: of[0] - of[1],
    How.EXP: lambda of: math.exp(of[0]),
    How.SUM: sum,
}
"""What each does with its operands."""


@dataclass(frozen=True, eq=False)
class Number:
    """A number of the lesson, its name, and the numbers from which it was computed."""

    value: float
    name: str
    role: Role
    how: How = How.GIVEN
    operands: tuple[Number, ...] = ()

    @property
    def terms(self) -> tuple[tuple[Number, Number], ...]:
        """The pairs that are multiplied and added, where the number is a sum of products."""
        if self.how is not How.PRODUCTS:
            return ()
        return tuple(zip(self.operands[::2], self.operands[1::2], strict=True))

    def origins(self) -> Iterator[Number]:
        """This number and all from which it was computed, each once, back to those that were given."""
        waiting: list[Number] = [self]
        seen = set[int]()
        while waiting:
            number = waiting.pop()
            if id(number) not in seen:
                seen.add(id(number))
                waiting.extend(number.operands)
                yield number


Vector = tuple[Number, ...]
Matrix = tuple[Vector, ...]
Floats = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Maps:
    """The three learned maps of a head, as rows of numbers: q = x · query, k = x · key, v = x · value."""

    query: Floats
    key: Floats
    value: Floats

    def tied(self) -> Maps:
        """The same head with its keys for queries too: then the score of a on b is that of b on a.

        >>> head = Lesson.of(heads=(HEADS[0].tied(),)).heads[0]
        >>> head.scores[1][2].value == head.scores[2][1].value
        True
        """
        return Maps(self.key, self.key, self.value)


HEADS = (
    # `bank` finds the word that says which bank: `river` or `money`.
    Maps(((1, 0), (1, 2)), ((0.5, 1), (-0.5, 2)), ((1.5, -0.5), (-0.5, 1.5))),
    # Every noun finds its article.
    Maps(((1, 1), (1, 1)), ((-1, 0), (0, -3)), ((1, 0), (0, 1))),
)
"""The maps of the two heads: learned in a model, chosen here so that sums come out short."""

OUTPUT = ((1, 0), (0, 1), (0.5, 0), (0, 0.5))
"""The map from the concatenated heads back to the size of an embedding: head 1, and half of head 2."""


@dataclass(frozen=True, eq=False)
class WorkedHead:
    """One head, step by step. Matrices have a row for each query and a column for each key."""

    w_q: Matrix
    w_k: Matrix
    w_v: Matrix
    q: Matrix
    k: Matrix
    v: Matrix
    scores: Matrix
    """q · k."""
    divisor: Number
    """√d."""
    scaled: Matrix
    """Scores ÷ √d."""
    masked: Matrix
    """The same, −inf where a query may not see a key."""
    maxima: Vector
    """The greatest of each row."""
    shifted: Matrix
    """Less the greatest of the row, so that exp never grows past 1."""
    exps: Matrix
    sums: Vector
    weights: Matrix
    """exp ÷ the sum of the row: between 0 and 1, and each row sums to 1."""
    out: Matrix
    """For each query, Σ weight × value."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Self-attention over a few words, with all that is computed on the way."""

    words: tuple[str, ...]
    labels: tuple[str, ...]
    """The words as they are shown: long ones cut, and those that occur twice with their position."""
    chosen: bool
    """Whether every embedding was chosen by hand, so that `FEATURES` names its numbers."""
    x: Matrix
    heads: tuple[WorkedHead, ...]
    w_o: Matrix
    concat: Matrix
    """The outputs of all heads, side by side."""
    out: Matrix
    """concat · w_o: one vector for each word, as long as its embedding."""

    @classmethod
    def of(
        cls,
        text: str = TEXT,
        *,
        heads: Sequence[Maps] = HEADS,
        output: Floats | None = None,
        mask: Mask | None = None,
        divisor: float | None = None,
    ) -> Lesson:
        """Work the example through.

        Args:
            text: Two to six words, separated by spaces. Words other than the chosen ones get embeddings that
                are made up from their letters: always the same ones, but they mean nothing.
            heads: The maps of each head.
            output: The map of the concatenated heads; by default the rows of `OUTPUT` that they need.
            mask: Which keys a query may see; `Causal()` by default.
            divisor: What scores are divided by; √d by default. 1 shows what happens without; more than
                √d makes the weights more uniform, as a higher temperature does.

        Raises:
            OptionError, ShapeError: text, maps or a divisor that do not fit, and what to do about it.

        >>> Lesson.of("the money bank").out[2][1].value > Lesson.of("the river bank").out[2][1].value
        True
        """
        words = _words(text)
        output = OUTPUT[: SIZE * len(heads)] if output is None else output
        n = len(words)
        sizes = Sizes(1, len(heads), len(heads), n, n, SIZE, SIZE, torch.device("cpu"))
        seen = dense((Causal() if mask is None else mask).bind(sizes), sizes)
        visible = seen[0]
        _check(heads, output, divisor, visible)
        raw = [word.casefold().strip(_PUNCTUATION) for word in words]
        labels = _labels(words)
        x = tuple(
            tuple(Number(value, f"x{_sub(i)}({label})", Role.EMBEDDING) for i, value in enumerate(vector))
            for label, vector in zip(labels, map(embedding, raw), strict=True)
        )
        worked_heads = tuple(
            _head(labels, x, maps, visible[i], divisor, f" head {i + 1}" if len(heads) > 1 else "")
            for i, maps in enumerate(heads)
        )
        w_o = _given("W_o", output)
        concat = tuple(tuple(number for head in worked_heads for number in head.out[i]) for i in range(n))
        out = _projected("out", labels, concat, w_o, Role.OUTPUT)
        return cls(tuple(words), labels, all(word in CHOSEN for word in raw), x, worked_heads, w_o, concat, out)


def embedding(word: str) -> tuple[float, float]:
    """The two numbers of a word: chosen by hand, or else made up from its letters, in steps of a half.

    >>> embedding("river"), embedding("tea") == embedding("tea")
    ((2.0, 0.0), True)
    """
    if word in CHOSEN:
        return CHOSEN[word]
    digest = hashlib.sha256(word.encode()).digest()
    first, second = (digest[0] % 9 - 4) / 2, (digest[1] % 9 - 4) / 2
    return (first, second) if first or second else (1.0, 0.5)


def values(numbers: Matrix) -> Float[Tensor, "rows cols"]:
    """The values of a matrix of the lesson, in float64.

    >>> values(Lesson.of().x)
    tensor([[-0.5000, -0.5000],
            [ 2.0000,  0.0000],
            [ 0.5000,  0.5000]], dtype=torch.float64)
    """
    return torch.tensor([[number.value for number in row] for row in numbers], dtype=torch.float64)


def _head(labels: Sequence[str], x: Matrix, maps: Maps, visible: Tensor, divisor: float | None, tag: str) -> WorkedHead:
    w_q, w_k, w_v = (
        _given(f"W_{letter}{tag}", rows) for letter, rows in zip("qkv", (maps.query, maps.key, maps.value), strict=True)
    )
    q = _projected("q", labels, x, w_q, Role.QUERY)
    k = _projected("k", labels, x, w_k, Role.KEY)
    v = _projected("v", labels, x, w_v, Role.VALUE)
    by = (
        _computed("√d", Role.SCORE, How.ROOT, Number(SIZE, "d", Role.SCORE))
        if divisor is None
        else Number(divisor, "divisor", Role.SCORE)
    )

    def each(name: str, how: How, cells: Matrix, with_row: Vector | None = None, role: Role = Role.SCORE) -> Matrix:
        return tuple(
            tuple(
                _computed(f"{name}({a} → {b})", role, how, cell, *(with_row[i : i + 1] if with_row else ()))
                for b, cell in zip(labels, row, strict=True)
            )
            for i, (a, row) in enumerate(zip(labels, cells, strict=True))
        )

    scores = tuple(
        tuple(_dot(f"score({a} → {b})", Role.SCORE, query, key) for b, key in zip(labels, k, strict=True))
        for a, query in zip(labels, q, strict=True)
    )
    scaled = each("scaled", How.DIVIDE, scores, (by,) * len(labels))
    hidden = each("masked", How.MASK, scaled)
    masked = tuple(
        tuple(scaled[i][j] if visible[i, j] else hidden[i][j] for j in range(len(labels))) for i in range(len(labels))
    )
    maxima = tuple(
        _computed(f"maximum({a})", Role.SCORE, How.MAXIMUM, *row) for a, row in zip(labels, masked, strict=True)
    )
    shifted = each("shifted", How.SUBTRACT, masked, maxima)
    exps = each("exp", How.EXP, shifted)
    sums = tuple(_computed(f"sum({a})", Role.SCORE, How.SUM, *row) for a, row in zip(labels, exps, strict=True))
    weights = each("weight", How.DIVIDE, exps, sums, Role.WEIGHT)
    out = _projected("o", labels, weights, v, Role.OUTPUT)
    return WorkedHead(w_q, w_k, w_v, q, k, v, scores, by, scaled, masked, maxima, shifted, exps, sums, weights, out)


def _computed(name: str, role: Role, how: How, *operands: Number) -> Number:
    return Number(MEANING[how]([operand.value for operand in operands]), name, role, how, operands)


def _dot(name: str, role: Role, left: Sequence[Number], right: Sequence[Number]) -> Number:
    pairs = [number for pair in zip(left, right, strict=True) for number in pair]
    return _computed(name, role, How.PRODUCTS, *pairs)


def _projected(name: str, labels: Sequence[str], rows: Matrix, by: Matrix, role: Role) -> Matrix:
    """Each row times a matrix, one sum of products for each of its columns."""
    columns = list(zip(*by, strict=True))
    return tuple(
        tuple(_dot(f"{name}{_sub(i)}({label})", role, row, column) for i, column in enumerate(columns))
        for label, row in zip(labels, rows, strict=True)
    )


def _given(name: str, rows: Floats) -> Matrix:
    return tuple(
        tuple(Number(float(value), f"{name}[{i + 1},{j + 1}]", Role.MAP) for j, value in enumerate(row))
        for i, row in enumerate(rows)
    )


def _words(text: str) -> list[str]:
    words = "".join(c if c.isprintable() or c.isspace() else "�" for c in text).split()
    if not 2 <= len(words) <= MOST_WORDS:
        count = f"{len(words)} word{'' if len(words) == 1 else 's'}"
        raise OptionError(
            "text",
            count,
            f"2 to {MOST_WORDS} words, parted by spaces",
            f"Try {TEXT!r}; for whole files there is `regard look`.",
        )
    return words


def _labels(words: Sequence[str]) -> tuple[str, ...]:
    short = [word if len(word) <= 8 else word[:7] + "…" for word in words]
    often = Counter(short)
    return tuple(f"{word}{_sub(i)}" if often[word] > 1 else word for i, word in enumerate(short))


def _sub(i: int) -> str:
    return chr(ord("₁") + i)


def _check(heads: Sequence[Maps], output: Floats, divisor: float | None, visible: Tensor) -> None:
    square = (SIZE, SIZE)
    named = [("heads", rows, square) for maps in heads for rows in (maps.query, maps.key, maps.value)]
    if not heads:
        raise ShapeError(
            "heads", "none", "one `Maps` for each head, at least one", "Leave heads out for the two of the lesson."
        )
    for name, rows, shape in [*named, ("output", output, (SIZE * len(heads), SIZE))]:
        given = (len(rows), len(rows[0]) if rows else 0)
        if given != shape or any(len(row) != shape[1] for row in rows):
            raise ShapeError(
                name,
                f"{given[0]} rows of {given[1]}",
                f"{shape[0]} rows of {shape[1]}",
                "Embeddings have 2 numbers, and so has each head's output.",
            )
    if divisor is not None and not (math.isfinite(divisor) and divisor > 0):
        raise OptionError("divisor", repr(divisor), "a finite number above 0", "Leave it out for √d; 1 is no scaling.")
    if not bool(visible.any(-1).all()):
        raise OptionError(
            "mask",
            "a mask that hides every key from a query",
            "masks with a key for each query",
            "Let each word see itself.",
        )
