"""The server's interface as OpenAPI 3.1, beside its routes: a test holds that each route is here."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Any

from regard.explorer.request_parameters import HOW, MOST_CELLS, MOST_DIGITS, MOST_PIXELS, MOST_TEXT, MOST_TOKENS
from regard.explorer.uploads import MOST_CHARACTERS
from regard.explorer.work_queue import MOST_REQUESTS
from regard.recording import DTYPES

Schema = dict[str, Any]

_INTEGER: Schema = {"type": "integer", "minimum": 0}
_BOOLEAN: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": ["number", "null"]}
_TEXT: Schema = {"type": "string"}
_INTEGERS: Schema = {"type": "array", "items": _INTEGER}
_NUMBERS: Schema = {"type": "array", "items": _NUMBER}


def described() -> Schema:
    """All that the server answers."""
    return _described()


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "required": [*fields], "properties": fields}


def _or_null(of: Schema) -> Schema:
    return {"anyOf": [{"type": "null"}, of]}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


_LINE = _object(id=_TEXT, name=_TEXT, model=_TEXT, tokens=_INTEGER, bytes=_INTEGER)
_MAYBE: Schema = {"type": ["string", "null"]}
_LAYER = _object(
    index=_INTEGER,
    name=_TEXT,
    heads=_INTEGER,
    groups=_INTEGER,
    queries=_INTEGER,
    keys=_INTEGER,
    size=_INTEGER,
    mask=_MAYBE,
    bias=_MAYBE,
    score=_TEXT,
    values=_BOOLEAN,
    inputs=_BOOLEAN,
)
_RECORDING = _object(
    id=_TEXT,
    name=_TEXT,
    model=_TEXT,
    versions={"type": "object"},
    tokens=_INTEGER,
    batch=_INTEGER,
    exact=_BOOLEAN,
    error=_TEXT,
    layers=_list(_LAYER),
)
_TELLING = _object(layer=_INTEGER, head=_INTEGER, title=_TEXT, why=_TEXT)
_NEAREST = _object(layer=_INTEGER, head=_INTEGER, similarity={"type": "number"})
_HEAD = _object(
    layer=_INTEGER,
    head=_INTEGER,
    **dict.fromkeys(("entropy", "support", "first", "previous", "distance", "top", "received"), _NUMBER),
    redundancy=_or_null(_NEAREST),
)
_PLACE = _object(index=_INTEGER, text=_TEXT)
_OBJECT_OR_NULL: Schema = {"type": ["object", "null"]}
_ROWS = _list(_NUMBERS)
_VALUES = _object(v=_NUMBERS, out=_NUMBERS, keys=_INTEGERS, vs=_ROWS, rest=_NUMBERS)
_PART = _object(
    component=_INTEGER,
    x=_NUMBERS,
    w=_NUMBERS,
    between=_list(_TEXT),
    **dict.fromkeys(("sum", "bias", "projected", "recorded"), _NUMBER),
)
_INPUTS = _object(component=_INTEGER, q=_PART, k=_PART, v=_PART)
_CELL = _object(
    query=_PLACE,
    key=_PLACE,
    allowed=_BOOLEAN,
    q=_NUMBERS,
    k=_NUMBERS,
    products=_NUMBERS,
    **dict.fromkeys(("dot", "scale", "scaled"), _NUMBER),
    softcap=_OBJECT_OR_NULL,
    **dict.fromkeys(("bias", "score", "max", "exp", "sum", "sink", "weight", "lse"), _NUMBER),
    row=_object(keys=_INTEGERS, scores=_NUMBERS, weights=_NUMBERS),
    values=_or_null(_VALUES),
    inputs=_or_null(_INPUTS),
)
_PROJECTED = _object(component=_INTEGER, size=_INTEGER, w=_ROWS, parts=_NUMBERS, bias=_NUMBER, out=_NUMBER)
_BESIDE = _object(query=_PLACE, heads=_or_null(_ROWS), projected=_or_null(_PROJECTED))
_WORDS = _object(
    words=_list(_TEXT),
    labels=_list(_TEXT),
    chosen=_BOOLEAN,
    numbers=_list(_object(value=_NUMBER, name=_TEXT, role=_TEXT, how=_TEXT, of=_INTEGERS)),
    **dict.fromkeys(("x", "w_o", "concat", "out"), _list(_INTEGERS)),
    heads=_list({"type": "object"}),
)
_SIDE = _object(text=_TEXT, tokens=_list(_TEXT), at=_INTEGER)
_CONTEXT = _object(
    model=_TEXT,
    token=_TEXT,
    a=_SIDE,
    b=_SIDE,
    cosine=_NUMBERS,
    heads=_list(_object(layer=_INTEGER, head=_INTEGER, a=_NUMBERS, b=_NUMBERS, apart=_NUMBER)),
    chosen=_object(layer=_INTEGER, head=_INTEGER),
)
_MODELS = _object(models=_list(_object(name=_TEXT, told=_TEXT)), default=_TEXT)
_OPENED = _object(job=_TEXT, id=_TEXT)
_WORKING = _object(job=_TEXT, progress={"type": "number"}, doing=_TEXT)
_PROGRESS = _object(progress={"type": "number"}, doing=_TEXT)
_REFUSAL = _object(error=_object(argument=_TEXT, given=_TEXT, allowed=_TEXT, remedy=_TEXT))


def _path(name: str, told: str, schema: Schema = _INTEGER) -> Schema:
    return {"name": name, "in": "path", "required": True, "description": told, "schema": schema}


def _query(name: str, told: str, schema: Schema, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "description": told, "schema": schema}


_ID = _path("id", "of a recording, as /api/recordings lists it", _TEXT)
_JOB = _path("job", "as POST /api/open tells it", _TEXT)
_TO_READ: Schema = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
        "model": {"type": "string", "description": "one that /api/models lists"},
    },
    "additionalProperties": False,
}
_OF_HEAD = [_ID, _path("layer", "from 0"), _path("head", "from 0")]
_SPAN: Schema = {"type": "string", "pattern": f"^[0-9]{{1,{MOST_DIGITS}}},[0-9]{{1,{MOST_DIGITS}}}$"}
_PIXELS: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_PIXELS}
_OF_MAP = [
    _query("q", "queries, START,STOP; all by default", _SPAN),
    _query("k", "keys, START,STOP; all by default", _SPAN),
    _query("rows", "of the map, at most as many as queries", _PIXELS),
    _query("cols", "of the map, at most as many as keys", _PIXELS),
    _query("how", "how the weights of a pixel are pooled", {"type": "string", "enum": [*HOW]}),
]
_SEARCHED: Schema = {"type": "string", "minLength": 1, "maxLength": MOST_TEXT}
_FLAG: Schema = {"type": "string", "enum": ["0", "1"]}
_OF_ALL: Schema = {"type": "string", "pattern": "^[^/]+/[0-9]+/[0-9]+$"}

_TEXT_HEADER = {"schema": _TEXT}
_RAW: Schema = {
    "description": "numbers, row by row, little-endian; headers tell their shape and what they are",
    "headers": dict.fromkeys(("X-Regard-Shape", "X-Regard-Dtype", "X-Regard-Exact", "X-Regard-Pixel"), _TEXT_HEADER),
    "content": {"application/octet-stream": {"schema": {"type": "string", "contentEncoding": "binary"}}},
}


def _as_json(schema: Schema, told: str = "what was asked for") -> Schema:
    return {"description": told, "content": {"application/json": {"schema": schema}}}


_PAGE: Schema = {
    "description": "the file, or with size=1 what it is",
    "content": {
        "text/html": {"schema": _TEXT},
        "application/json": {"schema": _object(bytes=_INTEGER, dtype=_TEXT, error=_TEXT, layers=_INTEGERS)},
    },
}
_REFUSED = {"$ref": "#/components/responses/HttpError"}
_LATER = _as_json(_PROGRESS, "it is being built: ask again")


def _get(name: str, told: str, parameters: list[Schema], answer: Schema, later: bool | Schema = False) -> Schema:
    return {"get": _operation(name, told, parameters, answer, later, _STATUSES)}


def _post(
    name: str,
    told: str,
    parameters: list[Schema],
    kind: str | None,
    sent: Schema,
    answer: Schema | None,
    later: bool | Schema = False,
) -> Schema:
    """What opens something; `kind` is what is sent, as `sent` describes."""
    made = _operation(name, told, parameters, answer, later, (*_STATUSES, 415))
    if kind is not None:
        made["requestBody"] = {"required": True, "content": {kind: {"schema": sent}}}
    return {"post": made}


_STATUSES = 400, 401, 403, 404, 405, 409, 413, 429


def _operation(
    name: str,
    told: str,
    parameters: list[Schema],
    answer: Schema | None,
    later: bool | Schema,
    statuses: tuple[int, ...],
) -> Schema:
    responses: Schema = {} if answer is None else {"200": answer}
    if later:
        responses["202"] = _LATER if later is True else later
    responses |= {str(status): _REFUSED for status in statuses}
    return {"operationId": name, "summary": told, "parameters": parameters, "responses": responses}


_PATHS: dict[str, Schema] = {
    "/api/recordings": _get("recordings", "the recordings that are open", [], _as_json(_list(_LINE))),
    "/api/recordings/{id}": _get("recording", "one of them", [_ID], _as_json(_RECORDING)),
    "/api/recordings/{id}/tokens": _get(
        "tokens",
        f"tokens and where they begin in the text; at most {MOST_TOKENS} at once",
        [_ID, _query("start", "the first", _INTEGER), _query("stop", "behind the last", _INTEGER)],
        _as_json(_object(start=_INTEGER, texts=_list(_TEXT), starts=_INTEGERS)),
    ),
    "/api/recordings/{id}/search": _get(
        "search",
        f"tokens in which a text begins, the first {MOST_CELLS}",
        [_ID, _query("text", "what to look for", _SEARCHED, True), _query("from", "from which token on", _INTEGER)],
        _as_json(_object(tokens=_INTEGERS)),
    ),
    "/api/recordings/{id}/atlas": _get(
        "atlas",
        "statistics of every head, and which heads tell most",
        [_ID],
        _as_json(_object(heads=_list(_HEAD), telling=_list(_TELLING))),
        True,
    ),
    "/api/recordings/{id}/thumbnail/{layer}/{head}": _get(
        "thumbnail", "the whole map, 128 × 128 maxima, float16", _OF_HEAD, _RAW, True
    ),
    "/api/recordings/{id}/map/{layer}/{head}": _get(
        "map", "a rectangle of the weights at some size, float32", [*_OF_HEAD, *_OF_MAP], _RAW, True
    ),
    "/api/recordings/{id}/row/{layer}/{head}/{query}": _get(
        "row", "all weights of a query, float32", [*_OF_HEAD, _path("query", "from 0")], _RAW
    ),
    "/api/recordings/{id}/marginals/{layer}/{head}": _get(
        "marginals", "what each key receives, and each query's entropy in nats, float32", _OF_HEAD, _RAW, True
    ),
    "/api/recordings/{id}/strongest/{layer}/{head}": _get(
        "strongest",
        "the strongest weights of a head",
        [
            *_OF_HEAD,
            _query("count", "how many", {"type": "integer", "minimum": 1, "maximum": MOST_CELLS}),
            _query("skip", "what does not count", {"type": "string", "enum": ["nothing", "diagonal"]}),
        ],
        _as_json(_object(cells=_list(_object(query=_INTEGER, key=_INTEGER, weight=_NUMBER)))),
        True,
    ),
    "/api/recordings/{id}/cell/{layer}/{head}/{query}/{key}": _get(
        "cell",
        "how one weight comes about",
        [
            *_OF_HEAD,
            _path("query", "from 0"),
            _path("key", "from 0"),
            _query(
                "component", "of q, k and v, whose making is told; that of the largest product by default", _INTEGER
            ),
        ],
        _as_json(_CELL),
    ),
    "/api/recordings/{id}/heads/{layer}/{query}": _get(
        "heads",
        "what every head gives to a query, and a component of the output as a sum over heads",
        [
            _ID,
            _path("layer", "from 0"),
            _path("query", "from 0"),
            _query("component", "of the output; the largest by default", _INTEGER),
        ],
        _as_json(_BESIDE),
    ),
    "/api/recordings/{id}/page": _get(
        "page",
        "one HTML file of it that needs no server, or how large it would be",
        [
            _ID,
            _query("size", "1: only tell", _FLAG),
            _query(
                "dtype",
                "of its numbers; without it as recorded while it is small",
                {"type": "string", "enum": [*DTYPES]},
            ),
            _query("layer", "only this layer", _INTEGER),
            _query("head", "only this head of each", _INTEGER),
            _query("values", "whether values come along", _FLAG),
        ],
        _PAGE,
        True,
    ),
    "/api/compare": _get(
        "compare",
        "the difference of two maps, float32",
        [_query("a", "ID/LAYER/HEAD", _OF_ALL, True), _query("b", "ID/LAYER/HEAD", _OF_ALL, True), *_OF_MAP],
        _RAW,
        True,
    ),
    "/api/progress": _get(
        "progress",
        "what is being built, as events, until nothing is",
        [],
        {
            "description": "events {recording, doing, progress}",
            "content": {"text/event-stream": {"schema": {"type": "object"}}},
        },
    ),
    "/api/lesson/words": _get(
        "words",
        "the worked example of `regard learn`: one table of numbers, and which is where",
        [
            _query("text", "two to six words", _SEARCHED, True),
            _query("tied", "whether keys serve as queries", _FLAG),
            _query("causal", "whether words see those behind them only", _FLAG),
            _query("divisor", "what scores are divided by; √d by default", {"type": "number", "exclusiveMinimum": 0}),
        ],
        _as_json(_WORDS),
    ),
    "/api/lesson/context": _get(
        "context",
        "a token that two texts share, in the embedded model: its weights in each, head by head, "
        "and how alike it is in both, layer by layer",
        [
            _query("a", "a text", _SEARCHED),
            _query("b", "another", _SEARCHED),
            _query("layer", "of the head to begin with; the one most apart by default", _INTEGER),
            _query("head", "with layer", _INTEGER),
        ],
        _as_json(_CONTEXT),
    ),
    "/api/models": _get("models", "the models that may record a text", [], _as_json(_MODELS)),
    "/api/open/{job}": _get(
        "opened",
        "what became of a text that was sent",
        [_JOB],
        _as_json(_OPENED),
        _as_json(_WORKING, "it is being recorded: ask again"),
    ),
    "/api/openapi.json": _get("described", "this description", [], _as_json({"type": "object"})),
    "/api/open": _post(
        "open",
        "record a text, one at a time, and open it",
        [],
        "application/json",
        _TO_READ,
        None,
        _as_json(_WORKING, "it has begun: ask for the job"),
    ),
    "/api/open/{job}/cancel": _post(
        "cancel",
        "have it end before its next layer",
        [_JOB],
        None,
        {},
        _as_json(_object(job=_TEXT, cancelled=_BOOLEAN)),
    ),
    "/api/arrays": _post(
        "arrays",
        "open queries and keys: an .npz or .safetensors file with q and k, and v, mask, bias and "
        "tokens if there are some",
        [
            _query("causal", "whether queries see no later keys", _FLAG),
            _query("scale", "what q·k is multiplied with; 1/√d by default", {"type": "number"}),
            _query("name", "what they are called", _SEARCHED),
        ],
        "application/octet-stream",
        {"type": "string", "contentEncoding": "binary"},
        _as_json(_object(id=_TEXT)),
    ),
}


@functools.cache
def _described() -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "regard explore",
            "version": version("regard"),
            "description": "On this machine only. Answers in numbers are raw arrays; every other is JSON. "
            f"At most {MOST_REQUESTS} requests wait at a time.",
        },
        "security": [{"token": []}],
        "paths": _PATHS,
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Regard-Token"}},
            "responses": {"HttpError": _as_json(_REFUSAL, "refused, and what to do")},
        },
    }
