"""What the server answers: each route asks the library, and none computes anything itself."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from regard.analysis import descriptions
from regard.analysis.context_example import MOST_CHARACTERS, TEXT_A, TEXT_B, context_example
from regard.analysis.layers import Layer
from regard.analysis.map_tiles import DIRECT, Check, MapTile, MapView, NotBuilt, half, map_tile
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import Damaged
from regard.analysis.pyramid_builder import PyramidBuilder
from regard.analysis.strongest_links import StrongLink, strongest_links
from regard.analysis.weight_arithmetic import head_outputs, weight_derivation, worked_example_json
from regard.explorer import openapi, uploads
from regard.explorer import request_parameters as asking
from regard.explorer.http_errors import HttpError
from regard.explorer.recording_jobs import Job, RecordingJobs
from regard.explorer.responses import as_json, raw
from regard.explorer.work_queue import WorkQueue
from regard.export.offline_page import OfflinePage
from regard.export.options import ExportOptions
from regard.models import EMBEDDED
from regard.recording import Recording
from regard.recording.cached import cached_array_recording

Made = TypeVar("Made")

THUMBNAIL = 128
_EVERY = 0.1  # seconds between looks at what is being built


class Explorer:
    """The recordings that are open, and what is asked about them."""

    def __init__(self, books: Mapping[str, OpenRecording], threads: int = 2, models: Sequence[str] = ()) -> None:
        self.books = dict(books)
        self.work = WorkQueue(threads)
        self.building = {name: self._builds(book) for name, book in self.books.items()}
        self.ended = threading.Event()
        self.jobs = RecordingJobs(models, self.add)
        self._lock = threading.Lock()
        self._page: tuple[tuple[str, ExportOptions], OfflinePage] | None = None

    def add(self, recording: Recording, name: str | None = None) -> str:
        """Open a recording too, under a name, and build what it lacks; its ID."""
        book = OpenRecording.of(recording, name)
        with self._lock:
            if book.id not in self.books:
                building = self._builds(book)
                # Others may be going through them: new ones take their place.
                self.building = {**self.building, book.id: building}
                self.books = {**self.books, book.id: book}
                building.start()
        return book.id

    def _builds(self, book: OpenRecording) -> PyramidBuilder:
        return PyramidBuilder(book, lambda: self.work.waiting > 0)

    def close(self) -> None:
        """End all that is under way."""
        self.ended.set()
        self.jobs.close()
        for one in self.building.values():
            one.stop()
        self.work.close()
        self._page = None

    async def recordings(self, request: Request) -> Response:
        _parameters(request)
        return as_json([descriptions.describe_line(book) for book in self.books.values()])

    async def recording(self, request: Request) -> Response:
        _parameters(request)
        return as_json(descriptions.describe_recording(self._book(request)))

    async def tokens(self, request: Request) -> Response:
        _parameters(request, "start", "stop")
        book, query = self._book(request), request.query_params
        count = descriptions.token_count(book)
        start = asking.number(query, "start", 0, 0, max(count - 1, 0))
        stop = asking.number(query, "stop", min(start + 2000, count), start, count)
        if stop - start > asking.MOST_TOKENS:
            raise HttpError(
                413, "stop", f"{stop - start} tokens", f"at most {asking.MOST_TOKENS} at once", "Ask for some of them."
            )
        texts, starts = descriptions.token_texts(book)
        return as_json({"start": start, "texts": texts[start:stop], "starts": starts[start:stop]})

    async def search(self, request: Request) -> Response:
        _parameters(request, "text", "from")
        book, wanted = self._book(request), asking.text(request.query_params, "text")
        first = asking.number(request.query_params, "from", 0, 0, max(descriptions.token_count(book) - 1, 0))
        return as_json(
            await self._work(
                request, lambda check: {"tokens": descriptions.search_tokens(book, wanted, first, asking.MOST_CELLS)}
            )
        )

    async def atlas(self, request: Request) -> Response:
        _parameters(request)
        building = self.building[self._book(request).id]
        heads = building.heads()
        return self._later(building) if heads is None else as_json({"heads": heads, "telling": building.ranked_heads()})

    async def thumbnail(self, request: Request) -> Response:
        _parameters(request)
        book, number, layer, head = self._head(request)
        q, k = range(layer.queries), range(layer.keys)
        rows, cols = min(THUMBNAIL, len(q)), min(THUMBNAIL, len(k))
        view = MapView(head, q, k, rows, cols, "max")
        return await self._map(request, book, [(number, layer, view)], half)

    async def map(self, request: Request) -> Response:
        _parameters(request, "q", "k", "rows", "cols", "how")
        book, number, layer, head = self._head(request)
        view = asking.view(request.query_params, layer, head)
        return await self._map(request, book, [(number, layer, view)])

    async def compare(self, request: Request) -> Response:
        _parameters(request, "a", "b", "q", "k", "rows", "cols", "how")
        query = request.query_params
        found: list[tuple[OpenRecording, int, Layer, MapView]] = []
        for name in ("a", "b"):
            book, number, layer, head = asking.part(self.books, query, name)
            found.append((book, number, layer, asking.view(query, layer, head)))
        sides = [(view.q, view.k) for *_, view in found]
        if sides[0] != sides[1]:
            raise HttpError(400, "q, k", "two recordings of other lengths", "spans that both have", "Give q and k.")
        return await self._map(request, None, [one[1:] for one in found], books=[one[0] for one in found])

    async def row(self, request: Request) -> Response:
        _parameters(request)
        _, _, layer, head = self._head(request)
        query = asking.whole("query", request.path_params["query"], 0, layer.queries - 1, 404)

        def job(check: Check) -> np.ndarray:
            return layer.box(head, range(query, query + 1), range(layer.keys)).numpy()

        return raw(await self._work(request, job), exact=True, pixel="1x1 exact")

    async def marginals(self, request: Request) -> Response:
        _parameters(request)
        book, number, _, head = self._head(request)
        building = self.building[book.id]
        found = building.layer(number)
        if found is None:
            return self._later(building)

        def job(check: Check) -> np.ndarray:
            parts = [found.array("received")[head], found.array("entropy")[head]]
            wide = max(len(one) for one in parts)
            return np.stack([np.pad(one, (0, wide - len(one))) for one in parts])

        values = await self._checked(request, book, number, job)
        return self._later(building) if values is None else raw(values, exact=True, pixel="1 token")

    async def strongest(self, request: Request) -> Response:
        _parameters(request, "count", "skip")
        book, number, layer, head = self._head(request)
        query = request.query_params
        count = asking.number(query, "count", 100, 1, asking.MOST_CELLS)
        diagonal = asking.chosen(query, "skip", "nothing", ("nothing", "diagonal")) == "nothing"
        building = self.building[book.id]
        found = building.layer(number)
        if found is None and layer.queries * layer.keys > DIRECT and not building.ended:
            return self._later(building)

        def job(check: Check) -> list[StrongLink]:
            return strongest_links(layer, head, count, diagonal, found, check)

        cells = await self._checked(request, book, number, job)
        return self._later(building) if cells is None else as_json({"cells": cells})

    async def cell(self, request: Request) -> Response:
        _parameters(request, "component")
        book, _, layer, head = self._head(request)
        query, key = (
            asking.whole(name, request.path_params[name], 0, most - 1, 404)
            for name, most in (("query", layer.queries), ("key", layer.keys))
        )
        size = layer.recorded.q.shape[3]
        component = asking.optional(request.query_params, "component", 0, size - 1)
        told = {
            "query": descriptions.describe_token(book, query, max(layer.shift, 0)),
            "key": descriptions.describe_token(book, key),
        }
        return as_json(
            told | await self._work(request, lambda check: weight_derivation(layer, head, query, key, component))
        )

    async def heads(self, request: Request) -> Response:
        _parameters(request, "component")
        book, path = self._book(request), request.path_params
        _, layer, _ = asking.head(book, path["layer"], "0")
        query = asking.whole("query", path["query"], 0, layer.queries - 1, 404)
        component = asking.optional(request.query_params, "component", 0, 10**asking.MOST_DIGITS)
        told = {"query": descriptions.describe_token(book, query, max(layer.shift, 0))}
        return as_json(told | await self._work(request, lambda check: head_outputs(layer, query, component)))

    async def page(self, request: Request) -> Response:
        _parameters(request, "size", "dtype", "layer", "head", "values")
        book, query = self._book(request), request.query_params
        wanted, building = asking.wanted(query), self.building[book.id]
        told_only = asking.chosen(query, "size", "0", ("0", "1")) == "1"
        if building.heads() is None:
            return self._later(building)

        def job(check: Check) -> OfflinePage:
            # Its size is asked for first, and then the page itself: of several at once, the last is kept.
            key, kept = (book.id, wanted), self._page
            if kept is None or kept[0] != key:
                kept = self._page = key, OfflinePage([building], wanted, check)
            return kept[1]

        try:
            made = await self._work(request, job)
        except NotBuilt:
            return self._later(building)
        if told_only:
            return as_json(made.told)
        return StreamingResponse(made.pieces(), headers=made.headers, media_type="text/html")

    async def progress(self, request: Request) -> Response:
        _parameters(request)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def words(self, request: Request) -> Response:
        _parameters(request, "text", "tied", "causal", "divisor")
        query = request.query_params
        tied, causal = (
            asking.chosen(query, name, default, ("0", "1")) == "1" for name, default in (("tied", "0"), ("causal", "1"))
        )
        by = asking.real(query, "divisor", "√d")
        return as_json(worked_example_json(asking.text(query, "text"), tied, causal, by))

    async def context(self, request: Request) -> Response:
        _parameters(request, "a", "b", "layer", "head")
        query = request.query_params
        a, b = (query.get(name, text) for name, text in (("a", TEXT_A), ("b", TEXT_B)))
        for name, text in (("a", a), ("b", b)):
            if text.strip() and len(text) > MOST_CHARACTERS:
                raise HttpError(
                    413, name, f"{len(text)} characters", f"1 to {MOST_CHARACTERS}", "A line or two are enough."
                )
        at = [asking.optional(query, name, 0, 10**asking.MOST_DIGITS) for name in ("layer", "head")]
        return as_json(await self._work(request, lambda check: context_example(a, b, *at)))

    async def models(self, request: Request) -> Response:
        _parameters(request)
        opening = self.jobs
        told = [
            {
                "name": name,
                "told": ("the embedded model of Python code" if name == EMBEDDED else "named on the command line"),
            }
            for name in opening.models
        ]
        return as_json({"models": told, "default": opening.default})

    async def open(self, request: Request) -> Response:
        _parameters(request)
        text, model = uploads.text(await uploads.body(request, "application/json", uploads.MOST_JSON))
        used = self.jobs.default if model is None else model
        return _working(self.jobs.start(text, used))

    async def opened(self, request: Request) -> Response:
        _parameters(request)
        job = self.jobs.job(request.path_params["job"])
        opened = job.outcome()
        return _working(job) if opened is None else as_json({"job": job.id, "id": opened})

    async def cancel(self, request: Request) -> Response:
        _parameters(request)
        job = self.jobs.job(request.path_params["job"])
        return as_json({"job": job.id, "cancelled": job.cancel()})

    async def arrays(self, request: Request) -> Response:
        _parameters(request, "causal", "scale", "name")
        query = request.query_params
        causal = asking.chosen(query, "causal", "0", ("0", "1")) == "1"
        scale = asking.real(query, "scale", "1/√d")
        name = asking.text(query, "name") if "name" in query else "arrays"
        with tempfile.TemporaryDirectory(dir=uploads.folder()) as folder:
            path = Path(folder) / "arrays"
            await uploads.file(request, path)
            found = await self._work(request, lambda check: cached_array_recording(path, name, causal, scale))
        return as_json({"id": self.add(found, name)})

    async def described(self, request: Request) -> Response:
        _parameters(request)
        return as_json(openapi.described())

    def _book(self, request: Request) -> OpenRecording:
        return asking.book(self.books, request.path_params["id"])

    def _head(self, request: Request) -> tuple[OpenRecording, int, Layer, int]:
        book, path = self._book(request), request.path_params
        return book, *asking.head(book, path["layer"], path["head"])

    async def _map(
        self,
        request: Request,
        book: OpenRecording | None,
        views: list[tuple[int, Layer, MapView]],
        kept: Callable[[np.ndarray], np.ndarray] = np.asarray,
        books: list[OpenRecording] | None = None,
    ) -> Response:
        """The map of one view, or the difference of two."""
        owners = [book] if books is None else books

        def job(check: Check) -> list[MapTile]:
            return [
                self._tile(owner, number, layer, view, check)
                for owner, (number, layer, view) in zip(owners, views, strict=True)
                if owner is not None
            ]

        try:
            first, *second = await self._work(request, job)
        except NotBuilt:
            waiting = [self.building[one.id] for one in owners if one is not None]
            return self._later(min(waiting, key=lambda one: one.progress.progress))
        values = first.values - second[0].values if second else first.values
        view = views[0][2]
        snapped = max(one.snapped for one in (first, *second))
        return raw(kept(values.astype(np.float32)), view.exact, view.pixel, snapped)

    def _tile(self, book: OpenRecording, number: int, layer: Layer, view: MapView, check: Check) -> MapTile:
        building = self.building[book.id]
        for _ in range(2):
            pyramid = building.layer(number)
            try:
                return map_tile(layer, view, pyramid, pyramid is None and not building.ended, check)
            except Damaged:
                building.damaged(number)
        raise NotBuilt

    async def _checked(
        self, request: Request, book: OpenRecording, number: int, job: Callable[[Check], Made]
    ) -> Made | None:
        """What a job gives that reads what was built; None where that has changed, and is built again."""
        try:
            return await self._work(request, job)
        except Damaged:
            self.building[book.id].damaged(number)
            return None

    async def _work(self, request: Request, job: Callable[[Check], Made]) -> Made:
        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return await self.work.run(job, gone)

    def _later(self, building: PyramidBuilder) -> Response:
        if building.failed is not None:
            raise HttpError(
                404, "atlas", f"not built: {building.failed}", "what could be built", "Mend that, and start again."
            )
        told = building.progress
        return as_json({"progress": min(told.progress, 0.999), "doing": told.doing}, 202)

    async def _events(self) -> AsyncIterator[str]:
        """What is being built, as often as it changes, until nothing is."""
        said: dict[str, Any] = {}
        while not self.ended.is_set():
            for name, building in self.building.items():
                told = building.progress
                if said.get(name) != told:
                    said[name] = told
                    event = {"recording": name, "doing": told.doing, "progress": told.progress}
                    yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
            job = self.jobs.running
            if job is not None and said.get(job.id) != job.progress:
                said[job.id] = told = job.progress
                event = {"job": job.id, "doing": told.doing, "progress": told.progress}
                yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
            if job is None and all(one.ended for one in self.building.values()):
                return
            await asyncio.sleep(_EVERY)


def _parameters(request: Request, *names: str) -> None:
    asking.known(request.query_params, names)


def _working(job: Job) -> Response:
    return as_json({"job": job.id, "progress": job.progress.progress, "doing": job.progress.doing}, 202)
