"""One token in two texts of the embedded model: how attention makes its vectors depend on the context.

Before the first layer the two vectors are equal. `context_example` shows which tokens each head attends to from the
token in either text, and how the vectors move apart, layer by layer.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from regard import models
from regard.errors import OptionError
from regard.spec.observers import Rows

TEXT_A = "from time import time\nstart = time"
TEXT_B = "def wait(time):\n    return time"
"""In the first text `time` is an imported function, in the second a parameter."""

MOST_CHARACTERS = 1000
"""Of each text."""


class ContextText(TypedDict):
    """A text, its tokens, and the index of the token that both texts share."""

    text: str
    tokens: list[str]
    at: int


class ContextHead(TypedDict):
    """The weights of the shared token in both texts, and the share of them that is on different tokens."""

    layer: int
    head: int
    a: list[float]
    b: list[float]
    apart: float


class ChosenHead(TypedDict):
    """The head to show first."""

    layer: int
    head: int


class ContextExample(TypedDict):
    """One token in two texts; `cosine` is the similarity of its vectors before the first layer and after each."""

    model: str
    token: str
    a: ContextText
    b: ContextText
    cosine: list[float]
    heads: list[ContextHead]
    chosen: ChosenHead


class _Run(NamedTuple):
    """A text, and the model's states at one of its tokens."""

    ids: list[int]
    texts: list[str]
    hidden: list[Tensor]
    """The token's vector before the first layer, and after each."""
    rows: list[Tensor]
    """The token's weights in each layer, (heads, tokens)."""


def context_example(
    a: str = TEXT_A, b: str = TEXT_B, layer: int | None = None, head: int | None = None
) -> ContextExample:
    """A token that two texts share: its weights in each, and how similar its vectors are.

    Args:
        a, b: The texts. The longest token that both have is compared, at its last place in each.
        layer, head: The head to show first, both or neither: by default the one whose weights differ most.

    Raises:
        OptionError: texts that are empty, too long, or share no token; a head that does not exist.

    >>> example = context_example()
    >>> example["token"], example["chosen"], [round(similarity, 2) for similarity in example["cosine"]]
    (' time', {'layer': 2, 'head': 2}, [1.0, 0.95, 0.93, 0.89, 0.83, 0.79])
    >>> first = next(head for head in example["heads"] if (head["layer"], head["head"]) == (2, 2))
    >>> for side in ("a", "b"):
    ...     row = first[side]
    ...     example[side]["tokens"][row.index(max(row))], round(max(row), 2)
    (' import', 0.69)
    ('):', 0.97)
    """
    example = _compare(a, b)
    heads = example["heads"]
    if layer is None and head is None:
        most = max(heads, key=lambda each: each["apart"])
        chosen = ChosenHead(layer=most["layer"], head=most["head"])
    elif layer is None or head is None or not any((each["layer"], each["head"]) == (layer, head) for each in heads):
        last = heads[-1]
        raise OptionError(
            "layer, head",
            f"{layer}, {head}",
            f"both, from 0, 0 to {last['layer']}, {last['head']}",
            "Leave both out for the head that is most apart.",
        )
    else:
        chosen = ChosenHead(layer=layer, head=head)
    return {**example, "chosen": chosen}


@functools.lru_cache(maxsize=32)
def _compare(a: str, b: str) -> ContextExample:
    embedded = _embedded()
    encoded = [_encode(embedded, name, text) for name, text in (("a", a), ("b", b))]
    token = _shared_token(*encoded)
    at_a, at_b = (len(ids) - 1 - ids[::-1].index(token) for ids, _ in encoded)
    run_a, run_b = (_run(embedded, *text, at) for text, at in zip(encoded, (at_a, at_b), strict=True))
    cosine = [
        min(float(cosine_similarity(x.double(), y.double(), 0)), 1.0)
        for x, y in zip(run_a.hidden, run_b.hidden, strict=True)
    ]
    heads: list[ContextHead] = [
        {
            "layer": layer,
            "head": head,
            "a": row_a.tolist(),
            "b": row_b.tolist(),
            "apart": _difference((run_a.texts, row_a), (run_b.texts, row_b)),
        }
        for layer, rows in enumerate(zip(run_a.rows, run_b.rows, strict=True))
        for head, (row_a, row_b) in enumerate(zip(*rows, strict=True))
    ]
    return {
        "model": "python",
        "token": run_a.texts[at_a],
        "a": {"text": a, "tokens": run_a.texts, "at": at_a},
        "b": {"text": b, "tokens": run_b.texts, "at": at_b},
        "cosine": cosine,
        "heads": heads,
        "chosen": {"layer": 0, "head": 0},
    }


@functools.cache
def _embedded() -> models.Embedded:
    return models.load()


def _encode(embedded: models.Embedded, name: str, text: str) -> tuple[list[int], list[str]]:
    if not text.strip() or len(text) > MOST_CHARACTERS:
        raise OptionError(
            name,
            f"{len(text)} characters",
            f"1 to {MOST_CHARACTERS}, some of them letters",
            "A line or two are enough.",
        )
    tokens = embedded.tokenizer.encode_file(text)
    return tokens.ids, tokens.texts


def _shared_token(a: tuple[list[int], list[str]], b: tuple[list[int], list[str]]) -> int:
    """The longest token that both texts have, the last of several in the first text."""

    def priority(at: int) -> tuple[bool, int, int]:
        text = a[1][at].strip()
        return any(c.isalnum() for c in text), len(text), at

    shared = [i for i, token in enumerate(a[0]) if i and token in b[0][1:] and a[1][i].strip()]
    if not shared:
        raise OptionError(
            "a, b",
            "texts that share no token",
            "two texts with one word in both",
            "A word with a space before it is another token than one without.",
        )
    return a[0][max(shared, key=priority)]


def _run(embedded: models.Embedded, ids: list[int], texts: list[str], at: int) -> _Run:
    """Run the model, and keep its states at one token."""
    model = embedded.model
    hidden, rows = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        x = model.embedding_norm(model.embedding(torch.tensor([ids])))
        hidden.append(x[0, at])
        for block in model.blocks:
            x, seen = block.observe(x, Rows(at))  # pyright: ignore[reportCallIssue]
            hidden.append(x[0, at])
            rows.append(seen[Rows(at)][0, :, 0, : at + 1])
    return _Run(ids, texts, hidden, rows)


def _difference(a: tuple[Sequence[str], Tensor], b: tuple[Sequence[str], Tensor]) -> float:
    """The share of the weight that is on different tokens: 0 where each token has the same, 1 where none has."""
    mass_a, mass_b = (Counter[str]() for _ in range(2))
    for mass, (texts, row) in ((mass_a, a), (mass_b, b)):
        for text, weight in zip(texts, row.tolist(), strict=False):
            mass[text] += weight
    return min(sum(abs(mass_a[text] - mass_b[text]) for text in {*mass_a, *mass_b}) / 2, 1.0)
