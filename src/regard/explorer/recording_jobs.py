"""Texts that are recorded in the background at the page's request, one at a time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

from regard.analysis.pyramid_builder import BuildProgress
from regard.errors import RegardError
from regard.explorer.http_errors import HttpError
from regard.models import EMBEDDED
from regard.recording import Progress, Recording
from regard.recording.cached import cached_text_recording
from regard.system.text_source import TextSource

_REMEMBERED = 20  # jobs whose outcome can still be requested after they ended


class Cancelled(Exception):
    """The job was cancelled."""


class Job:
    """A text that is being recorded."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.progress = BuildProgress("opening the model", 0.0)
        self.recording_id: str | None = None
        """The ID of the recording, once it is open."""
        self.error: Exception | None = None
        self.thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether the job is over, successfully or not."""
        return self.thread is None or not self.thread.is_alive()

    def cancel(self) -> bool:
        """End the job before its next layer; False where it has ended already."""
        with self._lock:
            if self.recording_id is not None or self.error is not None:
                return False
            self._stop.set()
            self.error = Cancelled()
        return True

    def run(self, source: TextSource, model: str, add: Callable[[Recording, str], str]) -> None:
        """Record the text, and open the recording."""

        def on_progress(now: Progress) -> None:
            if self._stop.is_set():
                raise Cancelled
            self.progress = BuildProgress(
                f"layer {now.done + 1} of {now.layers}", (now.done + 0.5) / (now.layers + 0.5)
            )

        try:
            recording = cached_text_recording(source, model, on_progress)
            with self._lock:
                if not self._stop.is_set():
                    self.recording_id = add(recording, source.name)
        except Exception as error:  # whatever a model raises is reported to the client
            self.error = self.error or error

    def outcome(self) -> str | None:
        """The ID of the recording; None while the job runs.

        Raises:
            RegardError: it failed, or was cancelled.
        """
        error = self.error
        if isinstance(error, Cancelled):
            raise HttpError(409, "job", "one that was cancelled", "jobs that go on", "Open the text again.")
        if isinstance(error, RegardError):
            raise error
        if error is not None:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise HttpError(
                400,
                "text",
                f"what the model failed on: {reason}",
                "a text that the model can read",
                "Try a shorter one, or another model.",
            ) from error
        return self.recording_id


class RecordingJobs:
    """The jobs of an explorer, of which one runs at a time.

    Args:
        models: The models that may be used besides the embedded one; the last is the default.
        add: Opens a recording under a name, and returns its ID.
    """

    def __init__(self, models: Sequence[str], add: Callable[[Recording, str], str]) -> None:
        self.models = tuple(dict.fromkeys((EMBEDDED, *models)))
        self.default = models[-1] if models else EMBEDDED
        self._add = add
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    @property
    def running(self) -> Job | None:
        """The job that runs."""
        return next((job for job in [*self._jobs.values()] if not job.ended), None)

    def start(self, text: str, model: str) -> Job:
        """Record a text in the background.

        Raises:
            HttpError: a model that is not allowed; another text is being recorded.
        """
        if model not in self.models:
            raise HttpError(
                400,
                "model",
                repr(model[:80]),
                ", ".join(self.models),
                "Name others when you start: regard explore --model NAME_OR_PATH.",
            )
        with self._lock:
            if (other := self.running) is not None:
                state = "that ends after its layer" if other.error else "that is being recorded"
                raise HttpError(
                    429,
                    "text",
                    f"a second text beside one {state}",
                    "one at a time",
                    "Wait until it has ended, or cancel it.",
                )
            for old in [*self._jobs][: -_REMEMBERED + 1]:
                del self._jobs[old]
            job = Job()
            source = TextSource(_title(text), text, len(text.encode()))
            job.thread = threading.Thread(
                target=job.run, args=(source, model, self._add), name="regard-open", daemon=True
            )
            self._jobs[job.id] = job
            job.thread.start()
        return job

    def job(self, id: str) -> Job:  # noqa: A002  the name of the path parameter
        """A job by its ID.

        Raises:
            HttpError: there is none.
        """
        job = self._jobs.get(id)
        if job is None:
            raise HttpError(404, "job", repr(id[:40]), "what POST /api/open answered", "Open the text again.")
        return job

    def close(self) -> None:
        """End the job that runs, before its next layer."""
        if (job := self.running) is not None:
            job.cancel()
            assert job.thread is not None, "it runs"
            job.thread.join()


def _title(text: str) -> str:
    """The beginning of a text, as its name."""
    beginning = " ".join(text[:200].split())
    return beginning if 0 < len(beginning) <= 32 else f"{beginning[:31]}…" if beginning else "blank"
