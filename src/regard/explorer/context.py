"""How attention helps a model understand context: one word in two texts of the embedded model, side by side.

Before the first layer a token is the same vector wherever it stands. What it becomes depends on which tokens
each head looks at from there: `context` tells both, head by head and layer by layer.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from regard import models
from regard.explorer.refusals import Refused
from regard.models.tokens import START
from regard.spec.observers import Rows

A = "from time import time\nstart = time"
B = "def wait(time):\n    return time"
"""In one `time` is what was imported, in the other it is what the function is given."""

MOST_TEXT = 1000
"""Characters of each text."""


class _Read(NamedTuple):
    """A text, and what each layer made of it."""

    ids: list[int]
    texts: list[str]
    hidden: list[Tensor]
    """Of the one token that is looked at: before the first layer, and after each."""
    rows: list[Tensor]
    """The same token's weights in each layer, (heads, tokens)."""


def context(a: str = A, b: str = B, layer: int | None = None, head: int | None = None) -> dict[str, Any]:
    """A token that two texts share: which weights it gives in each, and how far it comes apart.

    Args:
        a, b: The texts. The longest token that both have is looked at, where it stands last in each.
        layer, head: The head to begin with, both or neither: by default the one whose weights are most apart.

    Raises:
        Refused: texts that are empty, too long, or share no token; a head that is not there.

    >>> told = context()
    >>> told["token"], told["chosen"], [round(one, 2) for one in told["cosine"]]
    (' time', {'layer': 2, 'head': 2}, [1.0, 0.95, 0.93, 0.89, 0.83, 0.79])
    >>> first = next(one for one in told["heads"] if (one["layer"], one["head"]) == (2, 2))
    >>> for side in ("a", "b"):
    ...     row = first[side]
    ...     told[side]["tokens"][row.index(max(row))], round(max(row), 2)
    (' import', 0.69)
    ('):', 0.97)
    """
    told = dict(_told(a, b))
    heads: list[dict[str, Any]] = told["heads"]
    if layer is None and head is None:
        most = max(heads, key=lambda one: one["apart"])
        layer, head = most["layer"], most["head"]
    elif not any((one["layer"], one["head"]) == (layer, head) for one in heads):
        last = heads[-1]
        raise Refused(
            400,
            "layer, head",
            f"{layer}, {head}",
            f"both, from 0, 0 to {last['layer']}, {last['head']}",
            "Leave both out for the head that is most apart.",
        )
    return told | {"chosen": {"layer": layer, "head": head}}


@functools.lru_cache(maxsize=32)
def _told(a: str, b: str) -> dict[str, Any]:
    embedded = _embedded()
    both = [_encoded(embedded, name, text) for name, text in (("a", a), ("b", b))]
    token = _shared(*both)
    places = [len(ids) - 1 - ids[::-1].index(token) for ids, _ in both]
    read = [_read(embedded, *one, at) for one, at in zip(both, places, strict=True)]
    one, two = read
    cosine = [
        min(float(cosine_similarity(x.double(), y.double(), 0)), 1.0)
        for x, y in zip(one.hidden, two.hidden, strict=True)
    ]
    heads = [
        {
            "layer": layer,
            "head": head,
            "a": rows[0].tolist(),
            "b": rows[1].tolist(),
            "apart": _apart((one.texts, rows[0]), (two.texts, rows[1])),
        }
        for layer, pair in enumerate(zip(one.rows, two.rows, strict=True))
        for head, rows in enumerate(zip(*pair, strict=True))
    ]
    told: dict[str, Any] = {"model": "python", "token": one.texts[places[0]]}
    for name, text, side, at in zip("ab", (a, b), read, places, strict=True):
        told[name] = {"text": text, "tokens": side.texts, "at": at}
    return told | {"cosine": cosine, "heads": heads}


@functools.cache
def _embedded() -> models.Embedded:
    return models.load()


def _encoded(embedded: models.Embedded, name: str, text: str) -> tuple[list[int], list[str]]:
    if not text.strip() or len(text) > MOST_TEXT:
        raise Refused(
            413 if text.strip() else 400,
            name,
            f"{len(text)} characters",
            f"1 to {MOST_TEXT}, some of them letters",
            "A line or two are enough.",
        )
    found = embedded.encode(text)
    return [embedded.tokens.start, *found.ids], [START, *found.texts]


def _shared(a: tuple[list[int], list[str]], b: tuple[list[int], list[str]]) -> int:
    """The token to look at: the longest that both have, the last of several in the first text."""

    def weight(at: int) -> tuple[bool, int, int]:
        text = a[1][at].strip()
        return any(c.isalnum() for c in text), len(text), at

    places = [i for i, token in enumerate(a[0]) if i and token in b[0][1:] and a[1][i].strip()]
    if not places:
        raise Refused(
            400,
            "a, b",
            "texts that share no token",
            "two texts with one word in both",
            "A word with a space before it is another token than one without.",
        )
    return a[0][max(places, key=weight)]


def _read(embedded: models.Embedded, ids: list[int], texts: list[str], at: int) -> _Read:
    """Run the model, and keep what there is of one token."""
    model = embedded.model
    hidden, rows = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        x = model.embedding_norm(model.embedding(torch.tensor([ids])))
        hidden.append(x[0, at])
        for block in model.blocks:
            x, seen = block.observe(x, Rows(at))  # pyright: ignore[reportCallIssue]
            hidden.append(x[0, at])
            rows.append(seen[Rows(at)][0, :, 0, : at + 1])
    return _Read(ids, texts, hidden, rows)


def _apart(a: tuple[Sequence[str], Tensor], b: tuple[Sequence[str], Tensor]) -> float:
    """The share of the weight that lies on other words: 0 where each word has the same, 1 where none has."""
    one, two = (Counter[str]() for _ in range(2))
    for mass, (texts, row) in ((one, a), (two, b)):
        for text, weight in zip(texts, row.tolist(), strict=False):
            mass[text] += weight
    return min(sum(abs(one[word] - two[word]) for word in {*one, *two}) / 2, 1.0)
