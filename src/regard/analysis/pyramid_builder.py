"""Pyramids and statistics of a recording, built once in the background and stored on disk under its key."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from regard.analysis import head_statistics, layer_pyramid
from regard.analysis.head_statistics import HeadSummary, Highlight
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import Damaged, FileIdentity, Pyramid, PyramidWriter, cell_for, open_pyramid
from regard.errors import RegardError
from regard.system import file_formats
from regard.system.cache_folder import cache_folder

_LONGEST_PAUSE = 0.25
"""Seconds that building waits at most, at each step, for requests to be done."""


class Stopped(Exception):
    """Building was told to end."""


class BuildProgress(NamedTuple):
    """Where building is: what it does, and the fraction that is done."""

    doing: str
    progress: float


class PyramidBuilder:
    """Builds what is missing for one recording, a layer at a time; layers that are requested come first.

    Args:
        opened: The recording.
        busy: Whether requests wait, so that building should pause.
    """

    def __init__(self, opened: OpenRecording, busy: Callable[[], bool] = lambda: False) -> None:
        self.opened, self.busy = opened, busy
        self.failed: str | None = None
        """Why nothing more is built."""
        self._lock = threading.Lock()
        self._working = False
        self._stop = threading.Event()
        self._requested: list[int] = []
        self._progress = BuildProgress("looking for what is kept", 0.0)
        self._pyramids: dict[int, Pyramid] = {}
        self._damaged: set[int] = set()
        """Layers whose file is not to be opened again, but rebuilt."""
        self._heads: list[HeadSummary] | None = None
        self._highlights: list[Highlight] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread of its own; while it works this does nothing."""
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
        """Wait until it has ended, or so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def progress(self) -> BuildProgress:
        """Where it is; 1.0 where nothing is left to do."""
        return self._progress

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._heads is not None or self.failed is not None

    def heads(self) -> list[HeadSummary] | None:
        """The summaries of all heads; None until all is built."""
        return self._heads

    def ranked_heads(self) -> list[Highlight]:
        """The heads that are most worth showing, once all is built."""
        return self._highlights

    def layer(self, number: int) -> Pyramid | None:
        """The pyramid of a layer; None while it is not built, and then it comes first."""
        with self._lock:
            pyramid = self._pyramids.get(number)
            if pyramid is None and number not in self._requested:
                self._requested.append(number)
            return pyramid

    def damaged(self, number: int) -> None:
        """Rebuild a layer whose file has changed since it was opened."""
        with self._lock:
            self._pyramids.pop(number, None)
            self._damaged.add(number)
            self._heads = None
        self.start()

    def _run(self) -> None:
        # Long texts take a while to read: no first request shall wait for it. What is damaged is reported there.
        with contextlib.suppress(RegardError):
            _ = self.opened.recording.tokens, self.opened.recording.spans
        try:
            self._build_missing()
            while not self._summarize():
                self._pause()
                self._build_missing()
        except Stopped:
            self._working = False
        except Exception as error:
            # The disk is full, a layer cannot be observed …: every request that needs it gets this as its answer.
            self.failed = str(error) or type(error).__name__
            self._progress = BuildProgress(f"stopped: {self.failed}", 1.0)
            self._working = False

    def _build_missing(self) -> None:
        """Open the pyramid of every layer that has one on disk, then build the others."""
        with self._lock:
            missing = [i for i in range(len(self.opened.layers)) if i not in self._pyramids]
        missing = [i for i in missing if i in self._damaged or not self._open(i)]
        total = len(missing)
        while missing:
            number = self._next(missing)
            missing.remove(number)
            self._build(number, total - len(missing) - 1, total)

    def _summarize(self) -> bool:
        """Set the summaries of all heads; False where a layer turns out damaged and has to be rebuilt."""
        with self._lock:
            pyramids = dict(self._pyramids)
        if len(pyramids) < len(self.opened.layers):
            return False
        heads, scores = list[HeadSummary](), list[ndarray]()
        for i in range(len(pyramids)):
            try:
                heads += head_statistics.head_summaries(i, pyramids[i])
                scores.append(pyramids[i].array("telling"))
            except Damaged:
                self.damaged(i)
                return False
        heads = head_statistics.with_redundancy(heads, self._similarity())
        highlights = head_statistics.highlights(scores)
        with self._lock:
            if len(self._pyramids) < len(self.opened.layers):
                return False
            self._highlights, self._heads, self._progress = highlights, heads, BuildProgress("", 1.0)
            self._working = False
        return True

    def _next(self, missing: list[int]) -> int:
        with self._lock:
            return next((i for i in self._requested if i in missing), missing[0])

    def _open(self, number: int) -> bool:
        pyramid = open_pyramid(self._paths(number), self._identity(number))
        if pyramid is not None:
            self._pyramids[number] = pyramid
        return pyramid is not None

    def _build(self, number: int, done: int, total: int) -> None:
        layer = self.opened.layers[number]
        doing = f"layer {number + 1} of {len(self.opened.layers)}"

        def on_fraction(fraction: float) -> None:
            self._progress = BuildProgress(doing, 0.95 * (done + fraction) / total)
            self._pause()

        on_fraction(0.0)
        identity = self._identity(number)
        cell = cell_for(layer.queries, layer.keys)
        with self._writer(number, identity) as writer:
            layer_pyramid.write_layer(layer, cell, writer, on_fraction, self._ids)
            writer.finish()
        with self._lock:
            self._pyramids[number] = Pyramid(writer.path, identity)

    def _similarity(self) -> Float[ndarray, "heads heads"]:
        """How similar heads are, stored in a file next to those of the layers."""
        number = len(self.opened.layers)
        identity: FileIdentity = {
            "format": file_formats.PYRAMID,
            "key": self.opened.recording.key,
            "alike": True,
            "cell": 0,
            "queries": 0,
            "keys": 0,
        }
        stored = open_pyramid(self._paths(number), identity)
        if stored is not None:
            with contextlib.suppress(Damaged):
                return np.array(stored.array("alike"))

        def on_fraction(fraction: float) -> None:
            self._progress = BuildProgress("comparing heads", 0.95 + 0.05 * fraction)
            self._pause()

        similarity = head_statistics.head_similarity(self.opened.layers, on_fraction)
        with self._writer(number, identity) as writer:
            writer.put("alike", similarity)
            writer.finish()
        return similarity

    @functools.cached_property
    def _ids(self) -> Int[ndarray, " n"] | None:
        return head_statistics.token_ids(self.opened.recording.tokens)

    def _pause(self) -> None:
        until = time.monotonic() + _LONGEST_PAUSE
        while self.busy() and time.monotonic() < until and not self._stop.is_set():
            time.sleep(0.005)
        if self._stop.is_set():
            raise Stopped

    def _identity(self, number: int) -> FileIdentity:
        layer = self.opened.layers[number]
        return {
            "format": file_formats.PYRAMID,
            "key": self.opened.recording.key,
            "layer": number,
            "heads": layer.heads,
            "queries": layer.queries,
            "keys": layer.keys,
            "cell": cell_for(layer.queries, layer.keys),
        }

    def _paths(self, number: int) -> tuple[Path, Path]:
        """Where a file belongs: next to the recording or, where that may not be written to, in the cache folder."""
        recording = self.opened.recording
        folders = recording.path.with_name(f"{recording.path.name}.explorer"), cache_folder() / "pyramids"
        first, second = (folder / f"{recording.key}-{number}.pyramid" for folder in folders)
        return first, second

    def _writer(self, number: int, identity: FileIdentity) -> PyramidWriter:
        beside_recording, in_cache = self._paths(number)
        try:
            beside_recording.parent.mkdir(exist_ok=True)
            return PyramidWriter(beside_recording, identity)
        except OSError:
            in_cache.parent.mkdir(parents=True, exist_ok=True)
            return PyramidWriter(in_cache, identity)
