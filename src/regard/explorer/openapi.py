"""The description of the server in OpenAPI 3.1, made of its table of routes."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Any

from regard.explorer.http_errors import ErrorBody
from regard.explorer.request_parameters import Schema, declarations
from regard.explorer.routes import ARRAY, BYTES, EVENTS, ROUTES, Route
from regard.explorer.schemas import Schemas
from regard.explorer.uploads import MOST_CHARACTERS, TextUpload
from regard.explorer.work_queue import MOST_REQUESTS

PATH = "/api/openapi.json"
"""Where the description is served."""

_STATUSES = 400, 401, 403, 404, 405, 409, 413, 429
_ARRAY_HEADERS = "X-Regard-Shape", "X-Regard-Dtype", "X-Regard-Exact", "X-Regard-Pixel"
_BINARY: Schema = {"type": "string", "contentEncoding": "binary"}
_ERROR: Schema = {"$ref": "#/components/responses/Refused"}


@functools.cache
def description() -> Schema:
    """The whole description."""
    schemas = Schemas()
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    own = {"operationId": "described", "summary": "this description", "parameters": []}
    paths[PATH] = {"get": {**own, "responses": {"200": _json({"type": "object"}, "the description"), **_errors("GET")}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "regard explore",
            "version": version("regard"),
            "description": "On this machine only. Arrays are sent as bytes; everything else is JSON, with null in "
            f"place of numbers that are not finite. At most {MOST_REQUESTS} requests wait at a time.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Regard-Token"}},
            "responses": {"Refused": _json(schemas.of(ErrorBody), "an error, and what to do")},
            "schemas": schemas.named,
        },
    }


def _operation(route: Route, schemas: Schemas) -> Schema:
    parameters = [
        {
            "name": name,
            "in": declaration.location,
            "required": declaration.required,
            "description": declaration.description,
            "schema": declaration.kind.schema(),
        }
        for name, (_, declaration) in declarations(route.parameters).items()
    ]
    responses: Schema = {} if route.response is None else {"200": _response(route, schemas)}
    if route.pending is not None:
        responses["202"] = _json(schemas.of(route.pending), "it is being computed: ask again")
    operation: Schema = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {**responses, **_errors(route.method)},
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body(route.body, schemas)}
    return operation


def _response(route: Route, schemas: Schemas) -> Schema:
    if route.response == ARRAY:
        return {
            "description": "numbers, row by row, little-endian; headers say their shape and what they are",
            "headers": {name: {"schema": {"type": "string"}} for name in _ARRAY_HEADERS},
            "content": {"application/octet-stream": {"schema": _BINARY}},
        }
    if route.response == EVENTS:
        content = {"text/event-stream": {"schema": {"type": "object"}}}
        return {"description": "events {recording or job, doing, progress}", "content": content}
    response = _json(schemas.of(route.response), "the result")
    if route.html:
        response["content"] = {"text/html": {"schema": {"type": "string"}}, **response["content"]}
        response["description"] = "the file, or with size=1 what it would be"
    return response


def _body(body: Any, schemas: Schemas) -> Schema:
    if body == BYTES:
        return {"application/octet-stream": {"schema": _BINARY}}
    schemas.of(body)
    schema = schemas.named[body.__name__]
    schema["additionalProperties"] = False
    if body is TextUpload:
        schema["properties"]["text"] = {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}


def _json(schema: Schema, text: str) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _errors(method: str) -> Schema:
    return {str(status): _ERROR for status in (*_STATUSES, *((415,) if method == "POST" else ()))}
