"""Schemas of the JSON in OpenAPI, made of the types of Python."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from regard.explorer.request_parameters import Schema

_PLAIN: dict[Any, Schema] = {
    int: {"type": "integer", "minimum": 0},
    # Where a number is not finite, which JSON cannot express, it is null.
    float: {"type": ["number", "null"]},
    str: {"type": "string"},
    bool: {"type": "boolean"},
}


class Schemas:
    """The schemas of the TypedDicts that were met, by name, to which the others refer."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, type_: Any) -> Schema:
        """The schema of a type."""
        if type_ in _PLAIN:
            return _PLAIN[type_]
        origin, arguments = get_origin(type_), get_args(type_)
        if origin is Annotated:
            return self.of(arguments[0])
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is Literal:
            return {"type": "string", "enum": [*arguments]}
        if origin in (Union, types.UnionType):
            (other,) = (each for each in arguments if each is not types.NoneType)
            schema = self.of(other)
            if "$ref" in schema:
                return {"anyOf": [{"type": "null"}, schema]}
            kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            return {**schema, "type": [*dict.fromkeys([*kinds, "null"])]}
        assert is_typeddict(type_), f"{type_} has no schema"
        return self._of_typed_dict(type_)

    def _of_typed_dict(self, type_: Any) -> Schema:
        title = type_.__name__
        if title not in self.named:
            fields = fields_of(type_)
            self.named[title] = {}  # its place, should it refer to itself
            self.named[title] = {
                "type": "object",
                "required": [name for name, (_, required) in fields.items() if required],
                "properties": {name: self.of(hint) for name, (hint, _) in fields.items()},
            }
        return {"$ref": f"#/components/schemas/{title}"}


def fields_of(type_: Any) -> dict[str, tuple[Any, bool]]:
    """The fields of a TypedDict: for each its type, and whether it is required.

    `__required_keys__` does not know of `NotRequired` in annotations that are text.
    """
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True)
        for name, hint in get_type_hints(type_, include_extras=True).items()
    }
