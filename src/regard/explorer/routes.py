"""The table of routes: for each its method, path, parameters, response and handler.

The application (`api`), the OpenAPI description (`openapi`) and the types of the page (`typescript`) are made of it.
A new route is a handler and a row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from regard.analysis.context_example import ContextExample
from regard.analysis.descriptions import RecordingDescription, RecordingLine
from regard.analysis.weight_arithmetic import WorkedExample
from regard.explorer.handlers import lessons, maps, new_recordings, pages, recordings, weights
from regard.explorer.handlers.recordings import MOST_MATCHES, MOST_TOKENS
from regard.explorer.responses import ProgressReport
from regard.explorer.state import Explorer
from regard.explorer.uploads import TextUpload
from regard.export.offline_page import OfflinePageSummary

ARRAY = "array"
"""A response of numbers, row by row, little-endian; headers say their shape and what they are."""

EVENTS = "events"
"""A stream of server-sent events."""

BYTES = "bytes"
"""A request whose body is a file."""


@dataclass(frozen=True)
class Route:
    """A row of the table."""

    method: str
    path: str
    name: str
    """Of the operation."""
    summary: str
    handler: Callable[[Explorer, Any, Request], Awaitable[Any]]
    parameters: type
    """A dataclass (`request_parameters`), which the handler is given."""
    response: Any
    """The type of the JSON with status 200, or `ARRAY` or `EVENTS`; None: it is always pending."""
    pending: type | None = None
    """The type of the JSON with status 202, where the response may have to be computed first."""
    body: Any = None
    """The type of the JSON that is sent, or `BYTES`."""
    html: bool = False
    """Whether the response may be an HTML file, too."""


_OF = "/api/recordings/{id}"
_HEAD = "{layer}/{head}"

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/recordings",
        "recordings",
        "the recordings that are open",
        recordings.list_recordings,
        recordings.NoParameters,
        list[RecordingLine],
    ),
    Route(
        "GET",
        _OF,
        "recording",
        "one of them",
        recordings.get_recording,
        recordings.RecordingParameters,
        RecordingDescription,
    ),
    Route(
        "GET",
        f"{_OF}/tokens",
        "tokens",
        f"tokens and where they begin in the text; at most {MOST_TOKENS} at once",
        recordings.get_tokens,
        recordings.TokensParameters,
        recordings.Tokens,
    ),
    Route(
        "GET",
        f"{_OF}/search",
        "search",
        f"tokens in which a text begins, the first {MOST_MATCHES}",
        recordings.search,
        recordings.SearchParameters,
        recordings.SearchMatches,
    ),
    Route(
        "GET",
        f"{_OF}/atlas",
        "atlas",
        "statistics of every head, and the heads that are worth showing",
        recordings.get_atlas,
        recordings.RecordingParameters,
        recordings.Atlas,
        ProgressReport,
    ),
    Route(
        "GET",
        f"{_OF}/thumbnail/{_HEAD}",
        "thumbnail",
        "the whole map, 128 × 128 maxima, float16",
        maps.get_thumbnail,
        maps.HeadParameters,
        ARRAY,
        ProgressReport,
    ),
    Route(
        "GET",
        f"{_OF}/map/{_HEAD}",
        "map",
        "a rectangle of the weights at some size, float32",
        maps.get_map,
        maps.MapParameters,
        ARRAY,
        ProgressReport,
    ),
    Route(
        "GET",
        f"{_OF}/row/{_HEAD}/{{query}}",
        "row",
        "all weights of a query, float32",
        maps.get_row,
        maps.RowParameters,
        ARRAY,
    ),
    Route(
        "GET",
        f"{_OF}/marginals/{_HEAD}",
        "marginals",
        "what each key receives, and each query's entropy in nats, float32",
        maps.get_marginals,
        maps.HeadParameters,
        ARRAY,
        ProgressReport,
    ),
    Route(
        "GET",
        f"{_OF}/strongest/{_HEAD}",
        "strongest",
        "the strongest weights of a head",
        weights.get_strongest,
        weights.StrongestParameters,
        weights.StrongestLinks,
        ProgressReport,
    ),
    Route(
        "GET",
        f"{_OF}/cell/{_HEAD}/{{query}}/{{key}}",
        "cell",
        "how one weight is computed",
        weights.get_cell,
        weights.CellParameters,
        weights.CellDescription,
    ),
    Route(
        "GET",
        f"{_OF}/heads/{{layer}}/{{query}}",
        "heads",
        "the output of every head at a query, and a component of the layer's output as a sum over heads",
        weights.get_heads,
        weights.HeadsParameters,
        weights.HeadOutputsAtQuery,
    ),
    Route(
        "GET",
        f"{_OF}/page",
        "page",
        "one HTML file of it that needs no server, or how large it would be",
        pages.get_page,
        pages.PageParameters,
        OfflinePageSummary,
        ProgressReport,
        html=True,
    ),
    Route(
        "GET",
        "/api/compare",
        "compare",
        "the difference of two maps, float32",
        maps.compare,
        maps.CompareParameters,
        ARRAY,
        ProgressReport,
    ),
    Route(
        "GET",
        "/api/progress",
        "progress",
        "the progress of building and recording, as events, until nothing is under way",
        recordings.stream_progress,
        recordings.NoParameters,
        EVENTS,
    ),
    Route(
        "GET",
        "/api/lesson/words",
        "words",
        "the worked example of `regard learn`: a table of numbers, and matrices of indices into it",
        lessons.get_worked_example,
        lessons.WordsParameters,
        WorkedExample,
    ),
    Route(
        "GET",
        "/api/lesson/context",
        "context",
        "a token that two texts share, in the embedded model: its weights in each, head by head, "
        "and the similarity of its vectors, layer by layer",
        lessons.get_context,
        lessons.ContextParameters,
        ContextExample,
    ),
    Route(
        "GET",
        "/api/models",
        "models",
        "the models that may record a text",
        new_recordings.list_models,
        recordings.NoParameters,
        new_recordings.Models,
    ),
    Route(
        "GET",
        "/api/open/{job}",
        "opened",
        "the outcome of a text that was sent",
        new_recordings.get_job,
        new_recordings.JobParameters,
        new_recordings.JobResult,
        new_recordings.JobProgress,
    ),
    Route(
        "POST",
        "/api/open",
        "open",
        "record a text, one at a time, and open the recording",
        new_recordings.record_text,
        recordings.NoParameters,
        None,
        new_recordings.JobProgress,
        TextUpload,
    ),
    Route(
        "POST",
        "/api/open/{job}/cancel",
        "cancel",
        "end a job before its next layer",
        new_recordings.cancel_job,
        new_recordings.JobParameters,
        new_recordings.JobCancelled,
    ),
    Route(
        "POST",
        "/api/arrays",
        "arrays",
        "open queries and keys: an .npz or .safetensors file with q and k, and v, mask, bias and "
        "tokens if there are some",
        new_recordings.open_arrays,
        new_recordings.ArraysParameters,
        new_recordings.NewRecording,
        body=BYTES,
    ),
)
"""All routes but that of the description itself, /api/openapi.json, which is made of them."""
