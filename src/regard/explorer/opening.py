"""A text or arrays become a recording, which is kept for the next time: for the command, and for the page."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regard import models
from regard.analysis.pyramid_builder import BuildProgress
from regard.errors import OptionError, RegardError
from regard.explorer import arrays
from regard.explorer.refusals import Refused
from regard.integrations.pretrained import open_pretrained
from regard.recording import Progress, Recording, record
from regard.system.cache_folder import cached
from regard.system.text_source import Source

EMBEDDED = "python"
"""What the embedded model is called."""

MOST_TOKENS = 30_000
"""Of a text of which what each layer read is kept too; of longer ones it would be too large."""

_SUFFIX = ".safetensors"
_KEPT = 20  # jobs that are still told of after they have ended


class Cancelled(Exception):
    """Nobody wants the recording any more."""


def of_text(source: Source, model: str, progress: Callable[[Progress], None] | None = None) -> Recording:
    """The recording of a text, made now or before: with values and, of all but long ones, what layers read.

    Raises:
        RegardError: there is no such model; the text is too long for it; the disk has no room.
    """
    on = [source.text, model, _changed(model), version("regard"), "inputs"]
    place = _place(source.name, json.dumps(on).encode("utf-8", "surrogatepass"))
    if (kept := _kept(place)) is not None:
        return kept
    opened, tokenizer, count = _opened(model, source.text)
    return record(
        opened,
        source.text,
        to=place,
        name=model,
        values=True,
        tokenizer=tokenizer,
        progress=progress,
        layer_inputs=count <= MOST_TOKENS,
    )


def of_arrays(path: Path, name: str, causal: bool = False, scale: float | None = None) -> Recording:
    """The recording of the arrays of a file (`arrays.recorded`), made now or before.

    Raises:
        RegardError: what is wrong with the file.
    """
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    place = _place(name, json.dumps([content, causal, scale, version("regard"), "arrays"]).encode())
    kept = _kept(place)
    return arrays.recorded(path, place, name, causal, scale) if kept is None else kept


class Job:
    """A text that is being recorded."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.told = BuildProgress("opening the model", 0.0)
        self.opened: str | None = None
        """The recording's ID, once it is open."""
        self.failed: Exception | None = None
        self.thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.thread is None or not self.thread.is_alive()

    def cancel(self) -> bool:
        """Have it end before its next layer; False where it has ended already."""
        with self._lock:
            if self.opened is not None or self.failed is not None:
                return False
            self._stop.set()
            self.failed = Cancelled()
        return True

    def run(self, source: Source, model: str, add: Callable[[Recording, str], str]) -> None:
        """Record, and open what was recorded."""

        def progress(now: Progress) -> None:
            if self._stop.is_set():
                raise Cancelled
            doing = f"layer {now.done + 1} of {now.layers}"
            self.told = BuildProgress(doing, (now.done + 0.5) / (now.layers + 0.5))

        try:
            found = of_text(source, model, progress)
            with self._lock:
                if not self._stop.is_set():
                    self.opened = add(found, source.name)
        except Exception as error:  # whatever a model raises: told to whoever asks
            self.failed = self.failed or error


class Opening:
    """Texts that are recorded for the page, one at a time, by models that were named beforehand.

    Args:
        named: The models that may be used; the last is the one that is used by default.
        add: Opens a recording under a name, and returns its ID.
    """

    def __init__(self, named: Sequence[str], add: Callable[[Recording, str], str]) -> None:
        self.models = tuple(dict.fromkeys((EMBEDDED, *named)))
        self.default = named[-1] if named else EMBEDDED
        self._add = add
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    @property
    def running(self) -> Job | None:
        """The text that is being recorded."""
        return next((job for job in [*self._jobs.values()] if not job.ended), None)

    def begin(self, text: str, model: str) -> Job:
        """Record a text in the background.

        Raises:
            Refused: a model that was not named; another text is being recorded.
        """
        if model not in self.models:
            raise Refused(
                400,
                "model",
                repr(model[:80]),
                ", ".join(self.models),
                "Name others when you start: regard explore --model NAME_OR_PATH.",
            )
        with self._lock:
            if (other := self.running) is not None:
                still = "that ends after its layer" if other.failed else "that is being recorded"
                raise Refused(
                    429,
                    "text",
                    f"a second text beside one {still}",
                    "one at a time",
                    "Wait until it has ended, or cancel it.",
                )
            for old in [*self._jobs][: -_KEPT + 1]:
                del self._jobs[old]
            job = Job()
            source = Source(_named(text), text, len(text.encode()))
            job.thread = threading.Thread(
                target=job.run, args=(source, model, self._add), name="regard-open", daemon=True
            )
            self._jobs[job.id] = job
            job.thread.start()
        return job

    def job(self, id: str) -> Job:  # noqa: A002  it is what the route calls it
        """A job by its ID.

        Raises:
            Refused: there is none.
        """
        found = self._jobs.get(id)
        if found is None:
            raise Refused(404, "job", repr(id[:40]), "what POST /api/open answered", "Open the text again.")
        return found

    def close(self) -> None:
        """End what is being recorded, before its next layer."""
        if (job := self.running) is not None:
            job.cancel()
            assert job.thread is not None, "it runs"
            job.thread.join()


def outcome(job: Job) -> str | None:
    """The ID of the recording that a job opened; None while it works.

    Raises:
        RegardError: it failed, or was cancelled.
    """
    error = job.failed
    if isinstance(error, Cancelled):
        raise Refused(409, "job", "one that was cancelled", "jobs that go on", "Open the text again.")
    if isinstance(error, RegardError):
        raise error
    if error is not None:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Refused(
            400,
            "text",
            f"what the model failed on: {reason}",
            "a text that the model can read",
            "Try a shorter one, or another model.",
        ) from error
    return job.opened


def model_in_words(model: str) -> str:
    """What a model is, for people."""
    return "the embedded model of Python code" if model == EMBEDDED else "named on the command line"


def _named(text: str) -> str:
    """A name for a text that has none: its first words."""
    words = " ".join(text[:200].split())
    return words if 0 < len(words) <= 32 else f"{words[:31]}…" if words else "blank"


def _place(name: str, on: bytes) -> Path:
    """Where a recording is kept: under a name, and what it depends on."""
    digest = hashlib.sha256(on).hexdigest()[:16]
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:40]
    return cached("recordings") / f"{plain}-{digest}{_SUFFIX}"


def _kept(place: Path) -> Recording | None:
    """What was recorded before, if it is whole."""
    if not place.is_file():
        return None
    try:
        return Recording.open(place)
    except OptionError:
        place.unlink()  # ours, in the cache, and damaged: it is made again
        return None


def _changed(model: str) -> int:
    """When a model's files were last written, where it is a folder."""
    folder = Path(model)
    if not folder.is_dir():
        return 0
    return max((path.stat().st_mtime_ns for path in folder.glob("*")), default=0)


def _opened(model: str, text: str) -> tuple[Any, Any, int]:
    """A model, its tokenizer where it does not bring one, and how many tokens a text has for it."""
    folder = Path(model)
    ours = (folder / models.TOKENIZER).is_file() and not (folder / "config.json").is_file()
    if model == EMBEDDED or ours:
        embedded = models.load(None if model == EMBEDDED else folder)
        return embedded, None, len(embedded.encode(text).ids) + 1
    found = open_pretrained(model)
    count = len(found.tokenizer(text, verbose=False)["input_ids"])
    if found.positions is not None and count > found.positions:
        raise OptionError(
            "text", f"{count:,} tokens", f"up to {found.positions:,}, the positions of {model}", "Give less of it."
        )
    if not count:
        raise OptionError("text", "no tokens", "at least one", "Give it a word.")
    return found.model, found.tokenizer, count
