"""What is sent to the server: of the kind that was said, and no larger than is allowed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.requests import Request

from regard.explorer.http_errors import HttpError
from regard.recording.text import no_constant
from regard.system.atomic_files import disk_full
from regard.system.cache_folder import cached

MOST_CHARACTERS = 2_000_000
"""Of a text."""
MOST_JSON = 6 * MOST_CHARACTERS + 1024
"""Bytes of a text in JSON, of which every character may be written as six."""
MOST_FILE = 2 << 30
"""Bytes of a file of arrays."""


async def body(request: Request, kind: str, most: int) -> bytes:
    """All that is sent, of a kind.

    Raises:
        HttpError: it is of another kind, or too large.
    """
    return b"".join([part async for part in _parts(request, kind, most)])


async def file(request: Request, path: Path) -> None:
    """Write what is sent to a file, as it comes.

    Raises:
        HttpError: it is of another kind, too large, empty, or the disk is full.
    """
    size = 0
    try:
        with path.open("wb") as made:
            async for part in _parts(request, "application/octet-stream", MOST_FILE):
                size += made.write(part)
    except OSError as error:
        if not disk_full(error):
            raise
        raise HttpError(
            413,
            "file",
            "more than the disk holds",
            "a file for which there is room",
            "Free some, or set XDG_CACHE_HOME to a larger disk.",
        ) from error
    if not size:
        raise HttpError(400, "file", "nothing", "an .npz or .safetensors file", "Send its bytes.")


def folder() -> Path:
    """Where what is sent lies until it is read."""
    return cached("incoming")


def text(sent: bytes) -> tuple[str, str | None]:
    """A text to record, and the name of a model where one is given, of {"text": …, "model": …}.

    Raises:
        HttpError: it is something else, or too long.
    """
    try:
        found: Any = json.loads(sent.decode(), parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise _malformed("no JSON") from None
    if not isinstance(found, dict):
        raise _malformed("no object")
    if other := sorted(set(found) - {"text", "model"}):
        raise _malformed(f"a field {other[0][:40]!r}")
    given, model = found.get("text"), found.get("model", "")
    if not isinstance(given, str) or not given:
        raise _malformed("no text")
    if not isinstance(model, str):
        raise _malformed("a model that is no name")
    if len(given) > MOST_CHARACTERS:
        raise HttpError(
            413,
            "text",
            f"{len(given):,} characters",
            f"at most {MOST_CHARACTERS:,}",
            "Shorten it, or record it: regard record FILE -o run.safetensors.",
        )
    try:
        given.encode()
    except UnicodeEncodeError:
        raise _malformed("half of a pair of surrogates") from None
    return given, found.get("model")


def _malformed(what: str) -> HttpError:
    return HttpError(400, "body", what, '{"text": "…", "model": "…"}, or the text alone', "Send such an object.")


async def _parts(request: Request, kind: str, most: int) -> AsyncIterator[bytes]:
    given = request.headers.get("content-type", "")
    if given.split(";")[0].strip().lower() != kind:
        raise HttpError(415, "Content-Type", repr(given[:60]) if given else "none", kind, "Say what you send.")
    said, size = request.headers.get("content-length", ""), 0
    if said.isdecimal() and int(said[:20]) > most:
        raise _large(int(said[:20]), most)
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _large(size, most)
        yield part


def _large(size: int, most: int) -> HttpError:
    return HttpError(
        413,
        "body",
        f"{size:,} bytes or more",
        f"at most {most:,}",
        "Record it: regard record FILE -o run.safetensors; or regard.Recording.of.",
    )
