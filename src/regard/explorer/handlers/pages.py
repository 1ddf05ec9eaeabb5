"""The offline page of a recording, and how large it would be."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from regard.analysis.map_tiles import Check, NotBuilt
from regard.explorer.handlers.recordings import RecordingParameters
from regard.explorer.request_parameters import ChoiceKind, FlagKind, IntegerKind, in_query
from regard.explorer.responses import Pending
from regard.explorer.state import Explorer
from regard.export.offline_page import OfflinePage, OfflinePageSummary
from regard.export.options import ExportOptions
from regard.recording import DTYPES


@dataclass(frozen=True, kw_only=True)
class PageParameters(RecordingParameters):
    """What the page contains."""

    size: bool = in_query(FlagKind(), "1: only its size", False)
    dtype: str | None = in_query(ChoiceKind([*DTYPES]), "of its numbers; without it as recorded while it is small")
    layer: int | None = in_query(IntegerKind(most=10**6), "only this layer")
    head: int | None = in_query(IntegerKind(most=10**6), "only this head of each")
    values: bool = in_query(FlagKind(), "whether values are included", False)

    @property
    def options(self) -> ExportOptions:
        """As the export takes them."""
        layers, heads = (None if one is None else (one,) for one in (self.layer, self.head))
        return ExportOptions(layers, heads, self.dtype, self.values)


async def get_page(
    explorer: Explorer, parameters: PageParameters, request: Request
) -> OfflinePageSummary | Pending | Response:
    opened = explorer.recording(parameters.id)
    builder = explorer.builders[opened.id]
    if builder.heads() is None:
        return explorer.pending(opened)

    def job(check: Check) -> OfflinePage:
        key, last = (opened.id, parameters.options), explorer.offline_page
        if last is None or last[0] != key:
            last = explorer.offline_page = key, OfflinePage([builder], parameters.options, check)
        return last[1]

    try:
        page = await explorer.run(request, job)
    except NotBuilt:
        return explorer.pending(opened)
    if parameters.size:
        return page.summary
    return StreamingResponse(page.pieces(), headers=page.headers, media_type="text/html")
