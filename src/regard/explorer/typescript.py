"""The types of the page's requests and responses in TypeScript, made of the table of routes.

python -m regard.explorer.typescript > web/src/client/types.ts
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, is_typeddict

from regard.explorer.http_errors import ErrorBody
from regard.explorer.routes import ROUTES
from regard.explorer.schemas import fields_of

_HEADER = """\
// The JSON of the server's requests and responses. Generated from the table of routes, regard.explorer.routes:
//   python -m regard.explorer.typescript > web/src/client/types.ts
// A number may be null, too, where it is not finite: that is declared where masks make it so.
"""

_PLAIN = {int: "number", float: "number", str: "string", bool: "boolean"}


def types_file() -> str:
    """The file's text."""
    named: dict[str, str] = {}
    for route in ROUTES:
        for type_ in (route.response, route.pending, route.body):
            if not isinstance(type_, str | None):
                _expression(type_, named)
    _expression(ErrorBody, named)
    return "\n".join([_HEADER, *named.values()])


def _expression(type_: Any, named: dict[str, str]) -> str:
    """A type in TypeScript; the interfaces to which it refers are added to `named`."""
    if type_ in _PLAIN:
        return _PLAIN[type_]
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:  # NonFinite
        return f"{_expression(arguments[0], named)} | null"
    if origin is list:
        item = _expression(arguments[0], named)
        return f"({item})[]" if "|" in item else f"{item}[]"
    if origin is dict:
        return f"Record<string, {_expression(arguments[1], named)}>"
    if origin is Literal:
        return " | ".join(f'"{value}"' for value in arguments)
    if origin in (Union, types.UnionType):
        (other,) = (each for each in arguments if each is not types.NoneType)
        return f"{_expression(other, named)} | null"
    assert is_typeddict(type_), f"{type_} has no type in TypeScript"
    if type_.__name__ not in named:
        named[type_.__name__] = ""  # its place, before those to which it refers
        lines = [
            f"  {name}{'' if required else '?'}: {_expression(hint, named)};"
            for name, (hint, required) in fields_of(type_).items()
        ]
        comment = (inspect.getdoc(type_) or "").split("\n\n")[0].replace("\n", " ")
        named[type_.__name__] = f"/** {comment} */\nexport interface {type_.__name__} {{\n" + "\n".join(lines) + "\n}\n"
    return type_.__name__


if __name__ == "__main__":
    sys.stdout.write(types_file())
