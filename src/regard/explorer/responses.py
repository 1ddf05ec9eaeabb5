"""How answers are sent: in JSON, or as raw numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response

from regard.analysis.descriptions import json_safe


def as_json(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return JSONResponse(json_safe(value), status)


def raw(values: np.ndarray, exact: bool, pixel: str, snapped: int = 0) -> Response:
    """An answer in numbers, with what they are in its headers, and where its edges fell."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    headers = {
        "X-Regard-Shape": ",".join(map(str, values.shape)),
        "X-Regard-Dtype": values.dtype.name,
        "X-Regard-Exact": "1" if exact else "0",
        "X-Regard-Pixel": pixel,
    }
    if snapped:
        headers["X-Regard-Edges"] = str(snapped)
    return Response(little.tobytes(), 200, headers, "application/octet-stream")
