"""Maps of weights and other arrays: tiles, thumbnails, differences, rows and marginals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from starlette.requests import Request

from regard.analysis.layers import Layer
from regard.analysis.map_tiles import Check, MapTile, MapView, NotBuilt, half, map_tile
from regard.analysis.pyramid import Damaged
from regard.explorer.handlers.recordings import RecordingParameters
from regard.explorer.http_errors import HttpError
from regard.explorer.request_parameters import (
    ChoiceKind,
    HeadKind,
    HeadReference,
    IndexKind,
    IntegerKind,
    SpanKind,
    in_path,
    in_query,
    index,
    required_in_query,
    span_within,
)
from regard.explorer.responses import ArrayValues, Pending
from regard.explorer.state import Explorer, OpenLayer

MOST_PIXELS = 1024
"""Along each side of a map."""
THUMBNAIL = 128
"""Pixels along each side of a thumbnail, at most."""
POOLINGS = ("max", "mean", "sum")

_DEFAULT_PIXELS = 256


@dataclass(frozen=True, kw_only=True)
class HeadParameters(RecordingParameters):
    """One head."""

    layer: int = in_path(IndexKind(), "from 0")
    head: int = in_path(IndexKind(), "from 0")


@dataclass(frozen=True, kw_only=True)
class RectangleParameters:
    """A rectangle of weights, and how it is pooled."""

    q: range | None = in_query(SpanKind(), "queries, START,STOP; all by default")
    k: range | None = in_query(SpanKind(), "keys, START,STOP; all by default")
    rows: int | None = in_query(IntegerKind(1, MOST_PIXELS), "of the map, at most as many as queries")
    cols: int | None = in_query(IntegerKind(1, MOST_PIXELS), "of the map, at most as many as keys")
    how: str = in_query(ChoiceKind(POOLINGS), "how the weights of a pixel are pooled", "max")


@dataclass(frozen=True, kw_only=True)
class MapParameters(RectangleParameters, HeadParameters):
    """A rectangle of a head's weights."""


@dataclass(frozen=True, kw_only=True)
class CompareParameters(RectangleParameters):
    """The same rectangle of two heads."""

    a: HeadReference = required_in_query(HeadKind(), "ID/LAYER/HEAD")  # noqa: RUF009
    b: HeadReference = required_in_query(HeadKind(), "ID/LAYER/HEAD")  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class RowParameters(HeadParameters):
    """One query of a head."""

    query: int = in_path(IndexKind(), "from 0")


async def get_thumbnail(explorer: Explorer, parameters: HeadParameters, request: Request) -> ArrayValues | Pending:
    opened = _layer(explorer, parameters)
    q, k = range(opened.layer.queries), range(opened.layer.keys)
    view = MapView(parameters.head, q, k, min(THUMBNAIL, len(q)), min(THUMBNAIL, len(k)), "max")
    result = await _maps(explorer, request, [(opened, view)])
    return result if isinstance(result, Pending) else _array(half(_float32(result[0].values)), view, result)


async def get_map(explorer: Explorer, parameters: MapParameters, request: Request) -> ArrayValues | Pending:
    opened = _layer(explorer, parameters)
    view = _view(parameters, opened.layer, parameters.head)
    result = await _maps(explorer, request, [(opened, view)])
    return result if isinstance(result, Pending) else _array(_float32(result[0].values), view, result)


async def compare(explorer: Explorer, parameters: CompareParameters, request: Request) -> ArrayValues | Pending:
    pairs: list[tuple[OpenLayer, MapView]] = []
    for reference in (parameters.a, parameters.b):
        opened = explorer.layer(*reference)
        pairs.append((opened, _view(parameters, opened.layer, reference.head)))
    (_, view), (_, other) = pairs
    if (view.q, view.k) != (other.q, other.k):
        raise HttpError(400, "q, k", "two recordings of other lengths", "spans that both have", "Give q and k.")
    result = await _maps(explorer, request, pairs)
    if isinstance(result, Pending):
        return result
    return _array(_float32(result[0].values - result[1].values), view, result)


async def get_row(explorer: Explorer, parameters: RowParameters, request: Request) -> ArrayValues:
    layer = _layer(explorer, parameters).layer
    at = index("query", parameters.query, layer.queries)

    def job(check: Check) -> np.ndarray:
        return layer.box(parameters.head, range(at, at + 1), range(layer.keys)).numpy()

    return ArrayValues(await explorer.run(request, job), exact=True, pixel="1x1 exact")


async def get_marginals(explorer: Explorer, parameters: HeadParameters, request: Request) -> ArrayValues | Pending:
    opened = _layer(explorer, parameters)
    builder = explorer.builders[opened.opened.id]
    pyramid = builder.layer(opened.number)
    if pyramid is None:
        return explorer.pending(opened.opened)

    def job(check: Check) -> np.ndarray:
        parts = [pyramid.array("received")[parameters.head], pyramid.array("entropy")[parameters.head]]
        length = max(map(len, parts))
        return np.stack([np.pad(part, (0, length - len(part))) for part in parts])

    try:
        return ArrayValues(await explorer.run(request, job), exact=True, pixel="1 token")
    except Damaged:
        builder.damaged(opened.number)
        return explorer.pending(opened.opened)


def _layer(explorer: Explorer, parameters: HeadParameters) -> OpenLayer:
    return explorer.layer(parameters.id, parameters.layer, parameters.head)


def _view(parameters: RectangleParameters, layer: Layer, head: int) -> MapView:
    q, k = span_within("q", parameters.q, layer.queries), span_within("k", parameters.k, layer.keys)
    rows = min(_DEFAULT_PIXELS, len(q)) if parameters.rows is None else parameters.rows
    cols = min(_DEFAULT_PIXELS, len(k)) if parameters.cols is None else parameters.cols
    for name, pixels, span in (("rows", rows, q), ("cols", cols, k)):
        if pixels > len(span):
            raise HttpError(
                400, name, pixels, f"at most the {len(span)} of the span", "A weight is the smallest pixel."
            )
    return MapView(head, q, k, rows, cols, parameters.how)


async def _maps(
    explorer: Explorer, request: Request, views: Sequence[tuple[OpenLayer, MapView]]
) -> list[MapTile] | Pending:
    """The map of each view."""

    def job(check: Check) -> list[MapTile]:
        return [_tile(explorer, opened, view, check) for opened, view in views]

    try:
        return await explorer.run(request, job)
    except NotBuilt:
        return explorer.pending(*(opened.opened for opened, _ in views))


def _tile(explorer: Explorer, opened: OpenLayer, view: MapView, check: Check) -> MapTile:
    builder = explorer.builders[opened.opened.id]
    for _ in range(2):  # a second time without the pyramid, where that is damaged
        pyramid = builder.layer(opened.number)
        try:
            return map_tile(opened.layer, view, pyramid, pyramid is None and not builder.ended, check)
        except Damaged:
            builder.damaged(opened.number)
    raise NotBuilt


def _array(values: np.ndarray, view: MapView, tiles: Sequence[MapTile]) -> ArrayValues:
    return ArrayValues(values, view.exact, view.pixel, max(tile.snapped for tile in tiles))


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
