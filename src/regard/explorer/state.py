"""The state of an explorer: open recordings, their pyramids, the work of requests, and recording jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from starlette.requests import Request

from regard.analysis.layers import Layer
from regard.analysis.map_tiles import Check
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid_builder import PyramidBuilder
from regard.explorer.http_errors import HttpError
from regard.explorer.recording_jobs import RecordingJobs
from regard.explorer.request_parameters import index
from regard.explorer.responses import Pending, ProgressReport
from regard.explorer.work_queue import WorkQueue
from regard.export.offline_page import OfflinePage
from regard.export.options import ExportOptions
from regard.recording import Recording

Result = TypeVar("Result")


class OpenLayer(NamedTuple):
    """A layer of an open recording."""

    opened: OpenRecording
    number: int
    layer: Layer


class Explorer:
    """Open recordings and all that computes for them; `close` ends its threads.

    Args:
        recordings: The recordings that are open from the start, by their IDs.
        threads: How many requests are worked on at a time.
        models: Models that may record texts, besides the embedded one.
    """

    def __init__(self, recordings: Mapping[str, OpenRecording], threads: int = 2, models: Sequence[str] = ()) -> None:
        self.recordings = dict(recordings)
        self.work = WorkQueue(threads)
        self.builders = {name: self._builder(opened) for name, opened in self.recordings.items()}
        self.ended = threading.Event()
        self.jobs = RecordingJobs(models, self.add)
        self.offline_page: tuple[tuple[str, ExportOptions], OfflinePage] | None = None
        """The last page that was prepared: its size is requested first, then the page itself."""
        self._lock = threading.Lock()

    def add(self, recording: Recording, name: str | None = None) -> str:
        """Open another recording under a name, and build its pyramids; its ID."""
        opened = OpenRecording.of(recording, name)
        with self._lock:
            if opened.id not in self.recordings:
                builder = self._builder(opened)
                # Other threads may be iterating over the dicts: they are replaced.
                self.builders = {**self.builders, opened.id: builder}
                self.recordings = {**self.recordings, opened.id: opened}
                builder.start()
        return opened.id

    def close(self) -> None:
        """End all work."""
        self.ended.set()
        self.jobs.close()
        for builder in self.builders.values():
            builder.stop()
        self.work.close()
        self.offline_page = None

    def recording(self, id: str) -> OpenRecording:  # noqa: A002  the name of the path parameter
        """An open recording.

        Raises:
            HttpError: there is none of this ID, or its file was overwritten.
        """
        opened = self.recordings.get(id)
        if opened is None:
            allowed = ", ".join(self.recordings) or "none is open yet"
            raise HttpError(404, "recording", repr(id[:40]), allowed, "GET /api/recordings lists them.")
        if opened.recording.overwritten:
            raise HttpError(
                409,
                "recording",
                f"{opened.name}, which was written over since it was opened",
                "a file that stays as it is",
                "Start regard explore again.",
            )
        return opened

    def layer(self, id: str, layer: int, head: int = 0) -> OpenLayer:  # noqa: A002
        """A layer, if it has this head.

        Raises:
            HttpError: there is no such recording, layer or head.
        """
        opened = self.recording(id)
        result = opened.layers[index("layer", layer, len(opened.layers))]
        index("head", head, result.heads)
        return OpenLayer(opened, layer, result)

    async def run(self, request: Request, job: Callable[[Check], Result]) -> Result:
        """The result of a job in a thread, as long as the client waits for it."""

        async def disconnected() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return await self.work.run(job, disconnected)

    def pending(self, *opened: OpenRecording) -> Pending:
        """The progress of building, of the recording for which most is left.

        Raises:
            HttpError: building has failed.
        """
        builder = min((self.builders[each.id] for each in opened), key=lambda each: each.progress.progress)
        if builder.failed is not None:
            raise HttpError(
                404, "atlas", f"not built: {builder.failed}", "what could be built", "Mend that, and start again."
            )
        now = builder.progress
        return Pending(ProgressReport(progress=min(now.progress, 0.999), doing=now.doing))

    def _builder(self, opened: OpenRecording) -> PyramidBuilder:
        return PyramidBuilder(opened, lambda: self.work.waiting > 0)
