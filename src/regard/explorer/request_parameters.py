"""The parameters of requests: dataclasses, whose fields say where each stands, what it means and how it is parsed.

    @dataclass(frozen=True)
    class RowParameters(HeadParameters):
        query: int = in_path(IndexKind(), "from 0")

`parse_parameters` fills them from a request. What only the recording can decide, such as how many heads there are, the
handlers check with `index`, `limited` and `span_within`. The OpenAPI description is made of the same fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from regard.explorer.http_errors import HttpError

MOST_DIGITS = 15

Schema = dict[str, Any]
"""A schema in OpenAPI 3.1, as JSON."""

Value = TypeVar("Value", covariant=True)
Parameters = TypeVar("Parameters")


@runtime_checkable
class ParameterKind(Protocol[Value]):
    """A kind of parameter: its schema, and how it is parsed from text."""

    def schema(self) -> Schema: ...
    def parse(self, name: str, text: str) -> Value: ...


@dataclass(frozen=True)
class Declaration(Generic[Value]):
    """Where a parameter stands, what it means, its kind, and whether the query must have it."""

    location: str
    description: str
    kind: ParameterKind[Value]
    required: bool = False
    name: str | None = None
    """In the request, where a keyword of Python is in the way."""


def in_path(kind: ParameterKind[Value], description: str) -> Value:
    """A field that is part of the path."""
    return field(metadata={"declaration": Declaration("path", description, kind, True)})


def in_query(kind: ParameterKind[Value], description: str, default: Any = None, name: str | None = None) -> Any:
    """A field of the query string that has a default."""
    return field(default=default, metadata={"declaration": Declaration("query", description, kind, False, name)})


def required_in_query(kind: ParameterKind[Value], description: str) -> Value:
    """A field that the query string must have."""
    return field(metadata={"declaration": Declaration("query", description, kind, True)})


def declarations(of: type) -> dict[str, tuple[str, Declaration[Any]]]:
    """The parameters of a class: by their names in the request, the field and its declaration."""
    result: dict[str, tuple[str, Declaration[Any]]] = {}
    for one in dataclasses.fields(of):
        declaration: Declaration[Any] = one.metadata["declaration"]
        result[declaration.name or one.name] = one.name, declaration
    return result


def parse_parameters(of: type[Parameters], path: Mapping[str, str], query: Mapping[str, str]) -> Parameters:
    """The parameters of a request.

    Raises:
        HttpError: one that is unknown, missing or malformed.
    """
    declared = declarations(of)
    allowed = [name for name, (_, declaration) in declared.items() if declaration.location == "query"]
    for name in query:
        if name not in allowed:
            names = ", ".join(allowed) or "no parameters"
            raise HttpError(400, repr(name[:40]), "an unknown parameter", names, "Leave it out.")
    values: dict[str, Any] = {}
    for name, (attribute, declaration) in declared.items():
        text = (path if declaration.location == "path" else query).get(name)
        if text is not None or declaration.required:
            values[attribute] = declaration.kind.parse(name, "" if text is None else text)
    return of(**values)


@dataclass(frozen=True)
class TextKind:
    """A text that is not empty, of `most` characters."""

    most: int | None = None
    empty: bool = False

    def schema(self) -> Schema:
        schema: Schema = {"type": "string"}
        return schema if self.most is None else {**schema, "minLength": 1, "maxLength": self.most}

    def parse(self, name: str, text: str) -> str:
        if not text and not self.empty:
            raise HttpError(400, name, "nothing", "a text", f"Add {name}=… to the query.")
        if self.most is not None and len(text) > self.most:
            raise HttpError(413, name, f"{len(text)} characters", f"at most {self.most}", "Shorten it.")
        return text


@dataclass(frozen=True)
class IntegerKind:
    """A whole number in decimal digits. One above `most` has status 413: the server could, but will not."""

    least: int = 0
    most: int | None = None

    def schema(self) -> Schema:
        schema: Schema = {"type": "integer", "minimum": self.least}
        return schema if self.most is None else {**schema, "maximum": self.most}

    def parse(self, name: str, text: str) -> int:
        if not _is_digits(text):
            allowed = f"from {self.least}" if self.most is None else f"from {self.least} to {self.most}"
            raise HttpError(400, name, repr(text), f"a whole number {allowed}", "Leave it out for the default.")
        return limited(name, int(text), self.least, 10**MOST_DIGITS if self.most is None else self.most)


@dataclass(frozen=True)
class IndexKind:
    """A number in a path, counted from 0; what is no number has status 404."""

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": 0}

    def parse(self, name: str, text: str) -> int:
        if not _is_digits(text):
            raise HttpError(404, name, repr(text), "a whole number from 0", "Count from 0.")
        return int(text)


@dataclass(frozen=True)
class SpanKind:
    """START,STOP: a half-open range that is not empty."""

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^[0-9]{{1,{MOST_DIGITS}}},[0-9]{{1,{MOST_DIGITS}}}$"}

    def parse(self, name: str, text: str) -> range:
        ends = text.split(",")
        if len(ends) != 2 or not all(map(_is_digits, ends)) or int(ends[0]) >= int(ends[1]):
            raise HttpError(400, name, repr(text), "START,STOP with 0 ≤ START < STOP", "Spans are half-open.")
        return range(int(ends[0]), int(ends[1]))


@dataclass(frozen=True)
class ChoiceKind:
    """One of some words."""

    words: Sequence[str]

    def schema(self) -> Schema:
        return {"type": "string", "enum": [*self.words]}

    def parse(self, name: str, text: str) -> str:
        if text not in self.words:
            raise HttpError(400, name, repr(text), " or ".join(self.words), "Choose one of them.")
        return text


@dataclass(frozen=True)
class FlagKind:
    """0 or 1."""

    def schema(self) -> Schema:
        return {"type": "string", "enum": ["0", "1"]}

    def parse(self, name: str, text: str) -> bool:
        return ChoiceKind(("0", "1")).parse(name, text) == "1"


@dataclass(frozen=True)
class NumberKind:
    """A number; `default` says what it is where it is left out."""

    default: str
    positive: bool = False

    def schema(self) -> Schema:
        return {"type": "number", "exclusiveMinimum": 0} if self.positive else {"type": "number"}

    def parse(self, name: str, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise HttpError(400, name, repr(text)[:40], "a number", f"Leave it out for {self.default}.") from None


class HeadReference(NamedTuple):
    """A head of a layer of a recording."""

    id: str
    layer: int
    head: int


@dataclass(frozen=True)
class HeadKind:
    """A head as ID/LAYER/HEAD."""

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^[^/]+/[0-9]+/[0-9]+$"}

    def parse(self, name: str, text: str) -> HeadReference:
        parts = text.split("/")
        if len(parts) != 3:
            raise HttpError(400, name, repr(text)[:60], "ID/LAYER/HEAD", "GET /api/recordings lists the IDs.")
        return HeadReference(parts[0], IndexKind().parse("layer", parts[1]), IndexKind().parse("head", parts[2]))


def index(name: str, value: int, count: int) -> int:
    """A number from the path, if it is below `count`."""
    if value >= count:
        raise HttpError(404, name, repr(value), f"a whole number from 0 to {count - 1}", "Count from 0.")
    return value


def limited(name: str, value: int, least: int, most: int) -> int:
    """A number from the query, if it is within bounds; one above `most` has status 413."""
    if not least <= value <= most:
        status, remedy = (413, "Ask for less.") if value > most else (400, f"Give {least} or more.")
        raise HttpError(status, name, repr(value), f"a whole number from {least} to {most}", remedy)
    return value


def span_within(name: str, span: range | None, count: int) -> range:
    """A span, if it ends within `count`; all of them where none was given."""
    if span is None:
        return range(count)
    if span.stop > count:
        given = repr(f"{span.start},{span.stop}")
        raise HttpError(400, name, given, f"START,STOP with 0 ≤ START < STOP ≤ {count}", "Spans are half-open.")
    return span


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
