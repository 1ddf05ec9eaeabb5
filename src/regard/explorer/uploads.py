"""Bodies of requests, whose type and size are checked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from starlette.requests import Request

from regard.explorer.http_errors import HttpError
from regard.recording.text import no_constant
from regard.system.atomic_files import disk_full
from regard.system.cache_folder import cached

MOST_CHARACTERS = 2_000_000
"""Of a text."""
MOST_JSON = 6 * MOST_CHARACTERS + 1024
"""Bytes of a text in JSON, in which every character may be an escape of six bytes."""
MOST_FILE = 2 << 30
"""Bytes of a file of arrays."""


class TextUpload(TypedDict):
    """A text to record, and the name of one of /api/models."""

    text: str
    model: NotRequired[str]


async def read_body(request: Request, media_type: str, most: int) -> bytes:
    """The whole body.

    Raises:
        HttpError: it is of another type, or too large.
    """
    return b"".join([part async for part in _parts(request, media_type, most)])


async def write_file(request: Request, path: Path) -> None:
    """Write the body to a file as it arrives.

    Raises:
        HttpError: it is of another type, too large, empty, or the disk is full.
    """
    size = 0
    try:
        with path.open("wb") as file:
            async for part in _parts(request, "application/octet-stream", MOST_FILE):
                size += file.write(part)
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
    """The folder of uploaded files, until they are read."""
    return cached("incoming")


def parse_text(body: bytes) -> tuple[str, str | None]:
    """The text and, where it is given, the model's name of a `TextUpload`.

    Raises:
        HttpError: the body is something else, or the text is too long.
    """
    try:
        upload: Any = json.loads(body.decode(), parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise _malformed("no JSON") from None
    if not isinstance(upload, dict):
        raise _malformed("no object")
    if unknown := sorted(set(upload) - {"text", "model"}):
        raise _malformed(f"a field {unknown[0][:40]!r}")
    text, model = upload.get("text"), upload.get("model", "")
    if not isinstance(text, str) or not text:
        raise _malformed("no text")
    if not isinstance(model, str):
        raise _malformed("a model that is no name")
    if len(text) > MOST_CHARACTERS:
        raise HttpError(
            413,
            "text",
            f"{len(text):,} characters",
            f"at most {MOST_CHARACTERS:,}",
            "Shorten it, or record it: regard record FILE -o run.safetensors.",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _malformed("half of a pair of surrogates") from None
    return text, upload.get("model")


def _malformed(given: str) -> HttpError:
    return HttpError(400, "body", given, '{"text": "…", "model": "…"}, or the text alone', "Send such an object.")


async def _parts(request: Request, media_type: str, most: int) -> AsyncIterator[bytes]:
    given = request.headers.get("content-type", "")
    if given.split(";")[0].strip().lower() != media_type:
        raise HttpError(415, "Content-Type", repr(given[:60]) if given else "none", media_type, "Say what you send.")
    length, size = request.headers.get("content-length", ""), 0
    if length.isdecimal() and int(length[:20]) > most:
        raise _too_large(int(length[:20]), most)
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(size, most)
        yield part


def _too_large(size: int, most: int) -> HttpError:
    return HttpError(
        413,
        "body",
        f"{size:,} bytes or more",
        f"at most {most:,}",
        "Record it: regard record FILE -o run.safetensors; or regard.Recording.of.",
    )
