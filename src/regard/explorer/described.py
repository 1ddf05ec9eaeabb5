"""What is said of a recording, as JSON has it: by the server, and in a page that is opened by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from regard.analysis.layers import Layer
from regard.analysis.open_recording import OpenRecording
from regard.explorer import asking
from regard.recording import rounding_in_words
from regard.spec.masks import And, Or
from regard.spec.values import Value

_NO_BOUND = 1 << 30
"""A distance that no text reaches: how a window without an end is written (`regard.huggingface`)."""


def line(book: OpenRecording) -> dict[str, Any]:
    """A recording in a list."""
    run = book.recording
    return {"id": book.id, "name": book.name, "model": run.model, "tokens": length(book), "bytes": run.size}


def recording(book: OpenRecording) -> dict[str, Any]:
    """A recording and its layers."""
    run = book.recording
    told = dict.fromkeys(rounding_in_words(layer.rounding) for layer in run)
    return {
        "id": book.id,
        "name": book.name,
        "model": run.model,
        "versions": run.versions,
        "tokens": length(book),
        "batch": run.layer(0).q.shape[0],
        "exact": run.exact,
        "error": "; ".join(told),
        "layers": [_layer(i, layer) for i, layer in enumerate(book.layers)],
    }


def length(book: OpenRecording) -> int:
    """How many tokens there are."""
    tokens = book.recording.tokens
    return max(layer.keys for layer in book.layers) if tokens is None else len(tokens)


def token(book: OpenRecording, at: int, shift: int = 0) -> dict[str, Any]:
    """A query or key by its number, and its text, which stands `shift` further on."""
    found, _ = texts(book)
    return {"index": at, "text": found[at + shift] if at + shift < len(found) else ""}


def texts(book: OpenRecording) -> tuple[list[str], list[int]]:
    """Each token, and where it begins in the text; what is not known is empty, and 0."""
    run = book.recording
    found = [""] * length(book) if run.tokens is None else list(run.tokens)
    spans = run.spans
    return found, [start for start, _ in spans] if spans is not None else [0] * len(found)


def search(book: OpenRecording, wanted: str, first: int) -> list[int]:
    """The tokens in which a text begins: in the whole text, or where it is not there in single tokens."""
    run, found = book.recording, list[int]()
    if run.text is None or run.spans is None:
        words, _ = texts(book)
        found = [i for i in range(first, len(words)) if wanted in words[i]]
        return found[: asking.MOST_CELLS]
    starts = np.array([start for start, _ in run.spans])
    ends = np.array([stop for _, stop in run.spans])
    at = int(starts[first])
    while len(found) < asking.MOST_CELLS and (at := run.text.find(wanted, at)) >= 0:
        token = int(np.searchsorted(ends, at, "right"))
        if token >= first and token < len(ends) and (not found or found[-1] != token):
            found.append(token)
        at += 1
    return found


def _layer(number: int, layer: Layer) -> dict[str, Any]:
    one = layer.recorded
    names = {name: type(getattr(one, name)).__name__ for name in ("mask", "bias")}
    return {
        "index": number,
        "name": one.name,
        "heads": one.heads,
        "groups": one.k.shape[1],
        "queries": one.queries,
        "keys": one.keys,
        "size": one.q.shape[3],
        "mask": None if names["mask"] == "Everything" else _short(one.mask),
        "bias": None if names["bias"] == "Nothing" else _short(one.bias),
        "score": _short(one.score),
        "values": one.v is not None,
        "inputs": one.inputs is not None,
    }


def _said(value: Any) -> str:
    """A mask, bias or score as one would write it, without what it is by default."""
    signs = {And: " & ", Or: " | "}
    if sign := signs.get(type(value)):
        return f"{_said(value.left)}{sign}{_said(value.right)}"
    given = [
        f"{one.name}={_short(getattr(value, one.name))}"
        for one in dataclasses.fields(value)
        if one.init and not _is_default(getattr(value, one.name), one.default)
    ]
    return f"{type(value).__name__}({', '.join(given)})"


def _is_default(value: object, default: object) -> bool:
    return value is None or (isinstance(value, int | float | str) and value == default)


def _short(value: object) -> str:
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, int) and value >= _NO_BOUND:
        return "any"
    if isinstance(value, Tensor):
        return "×".join(map(str, value.shape)) + " numbers"
    said = _said(value) if isinstance(value, Value) else " ".join(repr(value).split())
    return said if len(said) <= 120 else said[:119] + "…"
