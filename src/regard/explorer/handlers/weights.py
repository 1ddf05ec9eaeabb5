"""Single weights: the strongest of a head, how one is computed, and the outputs of all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from starlette.requests import Request

from regard.analysis.descriptions import TokenDescription, describe_token
from regard.analysis.map_tiles import DIRECT, Check
from regard.analysis.pyramid import Damaged
from regard.analysis.strongest_links import StrongLink, strongest_links
from regard.analysis.weight_arithmetic import HeadOutputs, WeightDerivation, head_outputs, weight_derivation
from regard.explorer.handlers.maps import HeadParameters, RowParameters
from regard.explorer.handlers.recordings import RecordingParameters
from regard.explorer.request_parameters import ChoiceKind, IndexKind, IntegerKind, in_path, in_query, index, limited
from regard.explorer.responses import Pending
from regard.explorer.state import Explorer

MOST_LINKS = 1000
"""In one response."""


@dataclass(frozen=True, kw_only=True)
class StrongestParameters(HeadParameters):
    """How many of the strongest weights of a head, and which are left out."""

    count: int = in_query(IntegerKind(1, MOST_LINKS), "how many", 100)
    skip: str = in_query(ChoiceKind(("nothing", "diagonal")), "what does not count", "nothing")


@dataclass(frozen=True, kw_only=True)
class CellParameters(RowParameters):
    """One weight."""

    key: int = in_path(IndexKind(), "from 0")
    component: int | None = in_query(
        IntegerKind(), "of q, k and v, whose products are given; that of the largest product by default"
    )


@dataclass(frozen=True, kw_only=True)
class HeadsParameters(RecordingParameters):
    """One query of a layer."""

    layer: int = in_path(IndexKind(), "from 0")
    query: int = in_path(IndexKind(), "from 0")
    component: int | None = in_query(IntegerKind(), "of the output; the largest by default")


class StrongestLinks(TypedDict):
    """The strongest weights of a head, strongest first."""

    cells: list[StrongLink]


class CellDescription(WeightDerivation):
    """One weight, and how it is computed."""

    query: TokenDescription
    key: TokenDescription


class HeadOutputsAtQuery(HeadOutputs):
    """The outputs of all heads at a query."""

    query: TokenDescription


async def get_strongest(
    explorer: Explorer, parameters: StrongestParameters, request: Request
) -> StrongestLinks | Pending:
    opened, number, layer = explorer.layer(parameters.id, parameters.layer, parameters.head)
    builder = explorer.builders[opened.id]
    pyramid = builder.layer(number)
    if pyramid is None and layer.queries * layer.keys > DIRECT and not builder.ended:
        return explorer.pending(opened)
    diagonal = parameters.skip == "nothing"

    def job(check: Check) -> list[StrongLink]:
        return strongest_links(layer, parameters.head, parameters.count, diagonal, pyramid, check)

    try:
        return {"cells": await explorer.run(request, job)}
    except Damaged:
        builder.damaged(number)
        return explorer.pending(opened)


async def get_cell(explorer: Explorer, parameters: CellParameters, request: Request) -> CellDescription:
    opened, _, layer = explorer.layer(parameters.id, parameters.layer, parameters.head)
    at_query, at_key = index("query", parameters.query, layer.queries), index("key", parameters.key, layer.keys)
    component = parameters.component
    if component is not None:
        component = limited("component", component, 0, layer.recorded.q.shape[3] - 1)
    derivation = await explorer.run(
        request, lambda check: weight_derivation(layer, parameters.head, at_query, at_key, component)
    )
    return {
        "query": describe_token(opened, at_query, max(layer.shift, 0)),
        "key": describe_token(opened, at_key),
        **derivation,
    }


async def get_heads(explorer: Explorer, parameters: HeadsParameters, request: Request) -> HeadOutputsAtQuery:
    opened, _, layer = explorer.layer(parameters.id, parameters.layer)
    at = index("query", parameters.query, layer.queries)
    outputs = await explorer.run(request, lambda check: head_outputs(layer, at, parameters.component))
    return {"query": describe_token(opened, at, max(layer.shift, 0)), **outputs}
