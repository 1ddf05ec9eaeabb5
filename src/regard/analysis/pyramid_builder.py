"""Pyramids and statistics are built once, in the background, and kept on disk under the recording's key."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regard.analysis import head_statistics, layer_pyramid
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import FORMAT, Damaged, Pyramid, PyramidWriter, cell_for, open_pyramid
from regard.errors import RegardError
from regard.system.cache_folder import cache_folder

_REST = 0.25  # seconds that a strip waits at most for requests to be done


class Stopped(Exception):
    """The server ends."""


class BuildProgress(NamedTuple):
    """Where building stands."""

    doing: str
    progress: float


class PyramidBuilder:
    """Builds what is missing for one recording, a layer at a time, those first that are asked for."""

    def __init__(self, book: OpenRecording, busy: Callable[[], bool] = lambda: False) -> None:
        self.book, self.busy = book, busy
        self.failed: str | None = None
        """Why nothing more is built, in words."""
        self._lock = threading.Lock()
        self._working = False
        self._stop = threading.Event()
        self._wanted: list[int] = []
        self._told = BuildProgress("looking for what is kept", 0.0)
        self._made: dict[int, Pyramid] = {}
        self._spoilt: set[int] = set()  # layers whose file is not to be believed again
        self._heads: list[dict[str, Any]] | None = None
        self._telling: list[dict[str, Any]] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread of its own; once is enough while it works."""
        with self._lock:
            if self._working:
                return
            self._working, self.failed = True, None
            self._thread = threading.Thread(target=self._run, name="regard-build", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End between two strips."""
        self._stop.set()
        self.wait()

    def wait(self, seconds: float | None = None) -> None:
        """Until it has ended, or so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def progress(self) -> BuildProgress:
        """Where it stands; 1.0 where nothing is left to do."""
        return self._told

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._heads is not None or self.failed is not None

    def heads(self) -> list[dict[str, Any]] | None:
        """What the atlas tells; None until all is built."""
        return self._heads

    def ranked_heads(self) -> list[dict[str, Any]]:
        """The heads that tell most, and why, once all is built."""
        return self._telling

    def layer(self, number: int) -> Pyramid | None:
        """What was built of a layer; None while it is not, and then it comes first."""
        with self._lock:
            found = self._made.get(number)
            if found is None and number not in self._wanted:
                self._wanted.append(number)
            return found

    def damaged(self, number: int) -> None:
        """A layer's file has changed since it was opened: it is built again."""
        with self._lock:
            self._made.pop(number, None)
            self._spoilt.add(number)
            self._heads = None
        self.start()

    def _run(self) -> None:
        # Long texts take a while to read: no first request shall wait for it. Who asks is told of damage.
        with contextlib.suppress(RegardError):
            _ = self.book.recording.tokens, self.book.recording.spans
        try:
            self._complete()
            while not self._tell():
                self._pause()
                self._complete()
        except Stopped:
            self._working = False
        except Exception as error:
            # The disk is full, a layer cannot be observed …: told to whoever asks.
            self.failed = str(error) or type(error).__name__
            self._told = BuildProgress(f"stopped: {self.failed}", 1.0)
            self._working = False

    def _complete(self) -> None:
        """Have every layer, those that are kept first."""
        with self._lock:
            left = [i for i in range(len(self.book.layers)) if i not in self._made]
        left = [i for i in left if i in self._spoilt or not self._found(i)]
        total = len(left)
        while left:
            number = self._next(left)
            left.remove(number)
            self._build(number, total - len(left) - 1, total)

    def _tell(self) -> bool:
        """Have what the atlas tells; False where a layer is damaged meanwhile, and to be built again."""
        with self._lock:
            made = dict(self._made)
        if len(made) < len(self.book.layers):
            return False
        heads, scores = list[dict[str, Any]](), list[np.ndarray]()
        for i in range(len(made)):
            try:
                heads += head_statistics.head_summaries(i, made[i])
                scores.append(made[i].array("telling"))
            except Damaged:
                self.damaged(i)
                return False
        told, telling = head_statistics.with_redundancy(heads, self._alike()), head_statistics.highlights(scores)
        with self._lock:
            if len(self._made) < len(self.book.layers):
                return False
            self._telling, self._heads, self._told = telling, told, BuildProgress("", 1.0)
            self._working = False
        return True

    def _next(self, left: list[int]) -> int:
        with self._lock:
            return next((i for i in self._wanted if i in left), left[0])

    def _found(self, number: int) -> bool:
        found = open_pyramid(self._path(number), self._about(number), lambda: self._path(number, False))
        if found is not None:
            self._made[number] = found
        return found is not None

    def _build(self, number: int, done: int, total: int) -> None:
        layer = self.book.layers[number]
        doing = f"layer {number + 1} of {len(self.book.layers)}"

        def progress(part: float) -> None:
            self._told = BuildProgress(doing, 0.95 * (done + part) / total)
            self._pause()

        progress(0.0)
        about = self._about(number)
        with self._writer(number) as writer:
            layer_pyramid.write_layer(layer, about["cell"], writer, progress, self._ids)
            writer.finish()
        with self._lock:
            self._made[number] = Pyramid(writer.path, about)

    def _alike(self) -> np.ndarray:
        """How alike heads are, kept in a file beside those of the layers."""
        path = self._path(len(self.book.layers))
        about = {"format": FORMAT, "key": self.book.recording.key, "alike": True, "cell": 0, "queries": 0, "keys": 0}
        kept = open_pyramid(path, about, lambda: self._path(len(self.book.layers), False))
        if kept is not None:
            with contextlib.suppress(Damaged):
                return np.array(kept.array("alike"))

        def progress(part: float) -> None:
            self._told = BuildProgress("comparing heads", 0.95 + 0.05 * part)
            self._pause()

        alike = head_statistics.head_similarity(self.book.layers, progress)
        with self._writer(len(self.book.layers), about) as writer:
            writer.put("alike", alike)
            writer.finish()
        return alike

    @functools.cached_property
    def _ids(self) -> np.ndarray | None:
        """A number for each token of the text, the same where they are."""
        return head_statistics.token_ids(self.book.recording.tokens)

    def _pause(self) -> None:
        until = time.monotonic() + _REST
        while self.busy() and time.monotonic() < until and not self._stop.is_set():
            time.sleep(0.005)
        if self._stop.is_set():
            raise Stopped

    def _about(self, number: int) -> dict[str, Any]:
        layer = self.book.layers[number]
        return {
            "format": FORMAT,
            "key": self.book.recording.key,
            "layer": number,
            "heads": layer.heads,
            "queries": layer.queries,
            "keys": layer.keys,
            "cell": cell_for(layer.queries, layer.keys),
        }

    def _path(self, number: int, beside: bool = True) -> Path:
        recording = self.book.recording
        folder = recording.path.with_name(f"{recording.path.name}.explorer") if beside else cache_folder() / "pyramids"
        return folder / f"{recording.key}-{number}.pyramid"

    def _writer(self, number: int, about: dict[str, Any] | None = None) -> PyramidWriter:
        """Beside the recording or, where that may not be written to, in the cache folder."""
        about = self._about(number) if about is None else about
        try:
            path = self._path(number)
            path.parent.mkdir(exist_ok=True)
            return PyramidWriter(path, about)
        except OSError:
            path = self._path(number, False)
            path.parent.mkdir(parents=True, exist_ok=True)
            return PyramidWriter(path, about)
