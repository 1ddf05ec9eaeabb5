"""Descriptions of a recording, its layers and its tokens, as the server and the offline page send them."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import numpy as np
from torch import Tensor

from regard.analysis.layers import Layer
from regard.analysis.open_recording import OpenRecording
from regard.recording import rounding_in_words
from regard.spec.masks import And, Or
from regard.spec.values import Value

_UNBOUNDED = 1 << 30
"""A distance beyond every text, which `regard.huggingface` writes for a window without an end."""


class RecordingLine(TypedDict):
    """A recording in the list of those that are open."""

    id: str
    name: str
    model: str
    tokens: int
    bytes: int


class LayerDescription(TypedDict):
    """A layer: its sizes and, as text, its mask, bias and score; None is no mask or bias."""

    index: int
    name: str
    heads: int
    groups: int
    queries: int
    keys: int
    size: int
    mask: str | None
    bias: str | None
    score: str
    values: bool
    inputs: bool


class RecordingDescription(TypedDict):
    """A recording and its layers."""

    id: str
    name: str
    model: str
    versions: dict[str, str]
    tokens: int
    batch: int
    exact: bool
    error: str
    layers: list[LayerDescription]


class TokenDescription(TypedDict):
    """The index of a query or key, and the text of its token."""

    index: int
    text: str


def describe_line(opened: OpenRecording) -> RecordingLine:
    """A recording in a list."""
    recording = opened.recording
    return {
        "id": opened.id,
        "name": opened.name,
        "model": recording.model,
        "tokens": token_count(opened),
        "bytes": recording.size,
    }


def describe_recording(opened: OpenRecording) -> RecordingDescription:
    """A recording and its layers."""
    recording = opened.recording
    errors = dict.fromkeys(rounding_in_words(layer.rounding) for layer in recording)
    return {
        "id": opened.id,
        "name": opened.name,
        "model": recording.model,
        "versions": dict(recording.versions),
        "tokens": token_count(opened),
        "batch": recording.layer(0).q.shape[0],
        "exact": recording.exact,
        "error": "; ".join(errors),
        "layers": [_describe_layer(i, layer) for i, layer in enumerate(opened.layers)],
    }


def token_count(opened: OpenRecording) -> int:
    """How many tokens the recording has."""
    tokens = opened.recording.tokens
    return max(layer.keys for layer in opened.layers) if tokens is None else len(tokens)


def describe_token(opened: OpenRecording, index: int, shift: int = 0) -> TokenDescription:
    """The index of a query or key and the text of its token, whose index in the text is larger by `shift`."""
    texts, _ = token_texts(opened)
    return {"index": index, "text": texts[index + shift] if index + shift < len(texts) else ""}


def token_texts(opened: OpenRecording) -> tuple[list[str], list[int]]:
    """The text of each token and where it begins in the whole text; "" and 0 where that is not recorded."""
    recording = opened.recording
    texts = [""] * token_count(opened) if recording.tokens is None else list(recording.tokens)
    spans = recording.spans
    return texts, [start for start, _ in spans] if spans is not None else [0] * len(texts)


def search_tokens(opened: OpenRecording, pattern: str, first: int, most: int) -> list[int]:
    """The tokens from `first` on in which the pattern begins, `most` at most.

    Without a recorded text, the single tokens that contain it.
    """
    recording, matches = opened.recording, list[int]()
    if recording.text is None or recording.spans is None:
        texts, _ = token_texts(opened)
        matches = [i for i in range(first, len(texts)) if pattern in texts[i]]
        return matches[:most]
    starts = np.array([start for start, _ in recording.spans])
    ends = np.array([stop for _, stop in recording.spans])
    at = int(starts[first])
    while len(matches) < most and (at := recording.text.find(pattern, at)) >= 0:
        token = int(np.searchsorted(ends, at, "right"))
        if token >= first and token < len(ends) and (not matches or matches[-1] != token):
            matches.append(token)
        at += 1
    return matches


def json_safe(value: Any) -> Any:
    """A value as JSON can express it: null in place of numbers that are not finite."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def _describe_layer(index: int, layer: Layer) -> LayerDescription:
    recorded = layer.recorded
    names = {name: type(getattr(recorded, name)).__name__ for name in ("mask", "bias")}
    return {
        "index": index,
        "name": recorded.name,
        "heads": recorded.heads,
        "groups": recorded.k.shape[1],
        "queries": recorded.queries,
        "keys": recorded.keys,
        "size": recorded.q.shape[3],
        "mask": None if names["mask"] == "Everything" else _format(recorded.mask),
        "bias": None if names["bias"] == "Nothing" else _format(recorded.bias),
        "score": _format(recorded.score),
        "values": recorded.v is not None,
        "inputs": recorded.inputs is not None,
    }


def _format_value(value: Any) -> str:
    """A mask, bias or score as its constructor call, without arguments that have their default."""
    operators = {And: " & ", Or: " | "}
    if operator := operators.get(type(value)):
        return f"{_format_value(value.left)}{operator}{_format_value(value.right)}"
    arguments = [
        f"{field.name}={_format(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if field.init and not _is_default(getattr(value, field.name), field.default)
    ]
    return f"{type(value).__name__}({', '.join(arguments)})"


def _is_default(value: object, default: object) -> bool:
    return value is None or (isinstance(value, int | float | str) and value == default)


def _format(value: object) -> str:
    """A value as short text."""
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, int) and value >= _UNBOUNDED:
        return "any"
    if isinstance(value, Tensor):
        return "×".join(map(str, value.shape)) + " numbers"
    text = _format_value(value) if isinstance(value, Value) else " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:119] + "…"
