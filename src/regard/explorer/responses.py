"""Responses of the server: JSON, arrays of numbers as bytes, and 202 for what is still being computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from starlette.responses import JSONResponse, Response

from regard.analysis.descriptions import json_safe


@dataclass(frozen=True)
class ArrayValues:
    """An array, row by row.

    `exact` is whether each number is one weight, `pixel` says as text what a number is, and `snapped` is the multiple
    of weights to which edges of pixels were moved, or 0.
    """

    values: np.ndarray
    exact: bool
    pixel: str
    snapped: int = 0


class ProgressReport(TypedDict):
    """The progress of what is being computed, from 0 to 1, and the current step."""

    progress: float
    doing: str


@dataclass(frozen=True)
class Pending:
    """The response is not there yet: the client may ask again."""

    body: Any
    """As JSON: a `ProgressReport`, or more."""


def to_response(result: Any) -> Response:
    """What a handler returned, as a response."""
    if isinstance(result, Response):
        return result
    if isinstance(result, ArrayValues):
        return _array_response(result)
    if isinstance(result, Pending):
        return JSONResponse(json_safe(result.body), 202)
    return JSONResponse(json_safe(result))


def _array_response(array: ArrayValues) -> Response:
    values = array.values
    headers = {
        "X-Regard-Shape": ",".join(map(str, values.shape)),
        "X-Regard-Dtype": values.dtype.name,
        "X-Regard-Exact": "1" if array.exact else "0",
        "X-Regard-Pixel": array.pixel,
    }
    if array.snapped:
        headers["X-Regard-Edges"] = str(array.snapped)
    little_endian = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return Response(little_endian.tobytes(), 200, headers, "application/octet-stream")
