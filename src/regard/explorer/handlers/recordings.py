"""Recordings, their tokens, and the statistics of their heads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from regard.analysis import descriptions
from regard.analysis.descriptions import RecordingDescription, RecordingLine
from regard.analysis.head_statistics import HeadSummary, Highlight
from regard.analysis.pyramid_builder import BuildProgress
from regard.explorer.http_errors import HttpError
from regard.explorer.request_parameters import IntegerKind, TextKind, in_path, in_query, limited, required_in_query
from regard.explorer.responses import Pending
from regard.explorer.state import Explorer

MOST_TOKENS = 20_000
"""In one response."""
MOST_MATCHES = 1000
"""Of a search."""
MOST_TEXT = 1000
"""Characters of a text to search for, or to compute an example of."""

_DEFAULT_TOKENS = 2000
_EVENT_INTERVAL = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class NoParameters:
    """Of a request without parameters."""


@dataclass(frozen=True, kw_only=True)
class RecordingParameters:
    """One recording."""

    id: str = in_path(TextKind(), "of a recording, as /api/recordings lists it")


@dataclass(frozen=True, kw_only=True)
class TokensParameters(RecordingParameters):
    """Some tokens of a recording."""

    start: int = in_query(IntegerKind(), "the first", 0)
    stop: int | None = in_query(IntegerKind(), "behind the last")


@dataclass(frozen=True, kw_only=True)
class SearchParameters(RecordingParameters):
    """A text to search for."""

    text: str = required_in_query(TextKind(MOST_TEXT), "what to look for")
    first: int = in_query(IntegerKind(), "from which token on", 0, name="from")


class Tokens(TypedDict):
    """The texts of some tokens, and where each begins in the whole text."""

    start: int
    texts: list[str]
    starts: list[int]


class SearchMatches(TypedDict):
    """The tokens in which a text begins."""

    tokens: list[int]


class Atlas(TypedDict):
    """Statistics of every head, and the heads that are worth showing."""

    heads: list[HeadSummary]
    highlights: list[Highlight]


async def list_recordings(explorer: Explorer, parameters: NoParameters, request: Request) -> list[RecordingLine]:
    return [descriptions.describe_line(opened) for opened in explorer.recordings.values()]


async def get_recording(explorer: Explorer, parameters: RecordingParameters, request: Request) -> RecordingDescription:
    return descriptions.describe_recording(explorer.recording(parameters.id))


async def get_tokens(explorer: Explorer, parameters: TokensParameters, request: Request) -> Tokens:
    opened = explorer.recording(parameters.id)
    count = descriptions.token_count(opened)
    start = limited("start", parameters.start, 0, max(count - 1, 0))
    stop = min(start + _DEFAULT_TOKENS, count)
    if parameters.stop is not None:
        stop = limited("stop", parameters.stop, start, count)
    if stop - start > MOST_TOKENS:
        raise HttpError(
            413, "stop", f"{stop - start} tokens", f"at most {MOST_TOKENS} at once", "Ask for some of them."
        )
    texts, starts = descriptions.token_texts(opened)
    return {"start": start, "texts": texts[start:stop], "starts": starts[start:stop]}


async def search(explorer: Explorer, parameters: SearchParameters, request: Request) -> SearchMatches:
    opened = explorer.recording(parameters.id)
    first = limited("from", parameters.first, 0, max(descriptions.token_count(opened) - 1, 0))
    tokens = await explorer.run(
        request, lambda check: descriptions.search_tokens(opened, parameters.text, first, MOST_MATCHES)
    )
    return {"tokens": tokens}


async def get_atlas(explorer: Explorer, parameters: RecordingParameters, request: Request) -> Atlas | Pending:
    opened = explorer.recording(parameters.id)
    builder = explorer.builders[opened.id]
    heads = builder.heads()
    return explorer.pending(opened) if heads is None else {"heads": heads, "highlights": builder.ranked_heads()}


async def stream_progress(explorer: Explorer, parameters: NoParameters, request: Request) -> Response:
    return StreamingResponse(progress_events(explorer), media_type="text/event-stream")


async def progress_events(explorer: Explorer) -> AsyncIterator[str]:
    """The progress of building and recording as events, whenever it changes, until nothing is under way."""
    sent: dict[str, BuildProgress] = {}
    while not explorer.ended.is_set():
        current = [("recording", name, builder.progress) for name, builder in explorer.builders.items()]
        job = explorer.jobs.running
        if job is not None:
            current.append(("job", job.id, job.progress))
        for kind, name, now in current:
            if sent.get(name) != now:
                sent[name] = now
                event = {kind: name, "doing": now.doing, "progress": now.progress}
                yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
        if job is None and all(builder.ended for builder in explorer.builders.values()):
            return
        await asyncio.sleep(_EVENT_INTERVAL)
