"""Recordings of texts and of array files, kept in the cache folder under what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from regard.errors import OptionError
from regard.integrations.opening import open_model
from regard.recording.array_files import record_arrays
from regard.recording.reader import Recording
from regard.recording.recorder import record
from regard.recording.writer import Progress
from regard.system.cache_folder import cached
from regard.system.text_source import TextSource

MOST_TOKENS = 30_000
"""Up to so many tokens the recording of a text includes the inputs of each layer; beyond, it would be too large."""

_SUFFIX = ".safetensors"


def cached_text_recording(
    source: TextSource, model: str, progress: Callable[[Progress], None] | None = None
) -> Recording:
    """The recording of a text by a model, from the cache or new: with values and, up to `MOST_TOKENS`, layer inputs.

    Raises:
        RegardError: there is no such model; the text is too long for it; the disk is full.
    """
    key = [source.text, model, _modified(model), version("regard"), "inputs"]
    path = _cache_path(source.name, json.dumps(key).encode("utf-8", "surrogatepass"))
    if (recording := _open_if_whole(path)) is not None:
        return recording
    opened = open_model(model)
    tokens = opened.tokenize(source.text)
    if opened.positions is not None and len(tokens) > opened.positions:
        raise OptionError(
            "text",
            f"{len(tokens):,} tokens",
            f"up to {opened.positions:,}, the positions of {model}",
            "Give less of it.",
        )
    if not len(tokens):
        raise OptionError("text", "no tokens", "at least one", "Give it a word.")
    return record(
        opened.model,
        opened.inputs(tokens),
        to=path,
        text=source.text,
        tokens=tokens.texts,
        spans=tokens.spans,
        name=model,
        values=True,
        progress=progress,
        layer_inputs=len(tokens) <= MOST_TOKENS,
    )


def cached_array_recording(path: Path, name: str, causal: bool = False, scale: float | None = None) -> Recording:
    """The recording of a file of arrays (`array_files.record_arrays`), from the cache or new.

    Raises:
        RegardError: what is wrong with the file.
    """
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    to = _cache_path(name, json.dumps([content, causal, scale, version("regard"), "arrays"]).encode())
    recording = _open_if_whole(to)
    return record_arrays(path, to, name, causal, scale) if recording is None else recording


def _cache_path(name: str, key: bytes) -> Path:
    digest = hashlib.sha256(key).hexdigest()[:16]
    safe_name = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:40]
    return cached("recordings") / f"{safe_name}-{digest}{_SUFFIX}"


def _open_if_whole(path: Path) -> Recording | None:
    if not path.is_file():
        return None
    try:
        return Recording.open(path)
    except OptionError:
        path.unlink()  # a damaged file of the cache is written again
        return None


def _modified(model: str) -> int:
    """When a model's files last changed, in ns; 0 where it is not a folder."""
    folder = Path(model)
    if not folder.is_dir():
        return 0
    return max((path.stat().st_mtime_ns for path in folder.glob("*")), default=0)
