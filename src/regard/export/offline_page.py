"""Recordings as one HTML file that fetches nothing: a worker in it computes what the server would.

It contains each layer in canonical form (`lowering.canonical`), from which every weight follows:
``exp(softcap(q·k · scale) + table + pairs − lse)`` where the mask allows it. Statistics over all weights are
included, and for large heads a coarse map, which a browser would take long to compute.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self, TypedDict
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from regard.analysis import descriptions
from regard.analysis.context_example import ContextExample, context_example
from regard.analysis.descriptions import RecordingDescription, RecordingLine, json_safe
from regard.analysis.head_statistics import HeadSummary, Highlight
from regard.analysis.map_tiles import Check, NotBuilt, half
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import Damaged, Pyramid
from regard.analysis.pyramid_builder import BuildProgress, PyramidBuilder
from regard.analysis.weight_arithmetic import WorkedExample, worked_example_json
from regard.analysis.worked_example import TEXT
from regard.errors import OptionError
from regard.export import front_end
from regard.export.options import (
    ExportOptions,
    canonical_weights,
    cell_of,
    choose_dtype,
    coarse_map,
    describe_rounding,
    estimate_bytes,
    rounding_error,
)
from regard.recording import Recording, Rounding, size_in_words
from regard.system import file_formats
from regard.system.atomic_files import disk_full, writable_path, write_text

SMALL = 16 << 20
"""Bytes up to which a page has numbers as they were recorded, unless a dtype is given."""

_LEAST_SAVING = 0.95
"""An array is compressed if its compressed size is below this share of its size."""

_PIECE = 3 << 18  # bytes that are processed at a time; base64 takes three together
_LESSON_TEXTS = TEXT, "the money bank"

OnProgress = Callable[[BuildProgress], None]


class StoredArray(NamedTuple):
    """Where an array is in the temporary file, and its dtype and shape."""

    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]
    gzip: bool


class OfflinePageSummary(TypedDict):
    """An offline page: its size in bytes, dtype and error of its numbers, and its layers."""

    bytes: int
    dtype: str
    error: str
    layers: list[int]


class ArrayEntry(TypedDict):
    """An array of the manifest: its dtype and shape, and whether it is compressed."""

    dtype: str
    shape: tuple[int, ...]
    gzip: bool


class LayerFacts(TypedDict):
    """A layer in canonical form, without its arrays.

    `kept` are the heads that the page contains and `group` the row of k and v of each; `shift` is the key at the
    position of query 0, `cell` the weights along a cell of the coarse maps, or 0.
    """

    index: int
    kept: list[int]
    group: list[int]
    groups: int
    scale: float
    softcap: float | None
    shift: int
    values: bool
    cell: int
    rows: int
    cols: int


class TokenTexts(TypedDict):
    """The text of each token, and where it begins in the whole text."""

    texts: list[str]
    starts: list[int]


class OfflineRecording(TypedDict):
    """A recording of the manifest."""

    recording: RecordingDescription
    tokens: TokenTexts
    heads: list[HeadSummary]
    highlights: list[Highlight]
    layers: list[LayerFacts]


class Manifest(TypedDict):
    """What the page's script reads first."""

    transport: str
    format: int
    version: str
    start: str
    recordings: list[RecordingLine]
    runs: dict[str, OfflineRecording]
    lesson: dict[str, WorkedExample]
    context: ContextExample
    arrays: dict[str, ArrayEntry]


class OfflinePage:
    """A page that is ready to be written: its arrays are in a temporary file, so that its size is known.

    Args:
        builders: Of each recording, all that is built: statistics, and pyramids where they are large.
        options: What of them the page contains.
        check: Called between pieces of work; what it raises ends the work.

    Raises:
        OptionError: a layer or head that does not exist; a layer whose weights are no softmax of a dot product;
            numbers that the given dtype cannot represent; no room for the temporary file.
        NotBuilt: a file of a builder has changed on the disk, and is rebuilt.
    """

    def __init__(self, builders: Sequence[PyramidBuilder], options: ExportOptions, check: Check = lambda: None) -> None:
        self._dtypes: dict[str, None] = {}
        self._rounding: list[Rounding] = []
        self.layers: list[int] = []
        self._arrays: dict[str, StoredArray] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="regard-page-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock, self._check = threading.Lock(), check
        try:
            self._title = " and ".join(builder.opened.name for builder in builders)
            layers = [builder.opened.layers[i] for builder in builders for i in options.layers_of(builder.opened)]
            small = sum(estimate_bytes(layer, options) for layer in layers) <= SMALL
            runs = {builder.opened.id: self._add_recording(builder, options, small) for builder in builders}
            self._errors = dict.fromkeys(run["recording"]["error"] for run in runs.values())
            manifest: Manifest = {
                "transport": "worker",
                "format": file_formats.OFFLINE_PAGE,
                "version": version("regard"),
                "start": f"atlas?r={builders[0].opened.id}",
                "recordings": [descriptions.describe_line(builder.opened) for builder in builders],
                "runs": runs,
                "lesson": _lessons(),
                "context": context_example(),
                "arrays": {
                    name: {"dtype": array.dtype, "shape": array.shape, "gzip": array.gzip}
                    for name, array in self._arrays.items()
                },
            }
            self._manifest = json_safe(manifest)
            self._front_end = front_end.files()
            without_arrays = self._html((name, ()) for name in self._arrays)
            self.size: int = sum(len(piece.encode()) for piece in without_arrays) + sum(
                4 * -(-array.size // 3) for array in self._arrays.values()
            )
            """Bytes of the file."""
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and disk_full(error):
                folder = tempfile.gettempdir()
                raise OptionError(
                    "page",
                    f"more than the disk of {folder} holds",
                    "a disk with room",
                    f"Free some, or set TMPDIR to another. {SMALLER}",
                ) from error
            raise

    @property
    def summary(self) -> OfflinePageSummary:
        """What is known of the page before it is written."""
        return {
            "bytes": self.size,
            "dtype": ", ".join(self._dtypes),
            "error": "; ".join(self._errors),
            "layers": self.layers,
        }

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the file as a download."""
        name = quote(f"{Path(self._title).stem}.html")
        return {"Content-Length": str(self.size), "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}

    def pieces(self) -> Iterator[str]:
        """The file, a piece at a time."""
        return self._html((name, self._encode(array)) for name, array in self._arrays.items())

    def write(self, path: str | Path) -> None:
        """Write the file atomically.

        Raises:
            OptionError: it cannot be written there, or the disk has no room.
        """
        target = writable_path(Path(path))
        free = shutil.disk_usage(target.parent).free
        if self.size > free:
            raise OptionError(
                "--out",
                f"{target}, where {size_in_words(free)} are free",
                f"a disk with the {size_in_words(self.size)} that the page takes",
                SMALLER,
            )
        write_text(self.pieces(), target)

    def close(self) -> None:
        """Close the temporary file, which is removed when its last reader is done."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _html(self, arrays: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
        # Of the front end as it was when the size was computed.
        return front_end.html(self._manifest, arrays, title=self._title, built=self._front_end)

    def _encode(self, array: StoredArray) -> Iterator[str]:
        for at in range(array.offset, array.offset + array.size, _PIECE):
            size = min(_PIECE, array.offset + array.size - at)
            with self._lock:  # two readers share the file's position
                self._file.seek(at)
                data = self._file.read(size)
            yield base64.b64encode(data).decode("ascii")

    def _add_recording(self, builder: PyramidBuilder, options: ExportOptions, small: bool) -> OfflineRecording:
        opened = builder.opened
        recording, layers = descriptions.describe_recording(opened), list[LayerFacts]()
        numbers = options.layers_of(opened)
        self._rounding = []
        for number in numbers:
            pyramid = builder.layer(number)
            if pyramid is None:
                raise NotBuilt
            try:
                layers.append(self._add_layer(opened, number, pyramid, options, small))
            except Damaged:
                builder.damaged(number)
                raise NotBuilt from None
        recording["layers"] = [
            {**layer, "values": layer["values"] and options.values, "inputs": False}
            for layer in recording["layers"]
            if layer["index"] in numbers
        ]
        if self._rounding:
            recorded = "" if recording["exact"] else f"{recording['error']}; "
            recording["exact"], recording["error"] = False, recorded + describe_rounding(self._rounding)
        self.layers += [number for number in numbers if number not in self.layers]
        texts, starts = descriptions.token_texts(opened)
        included = {(layer["index"], head) for layer in layers for head in layer["kept"]}
        heads = builder.heads()
        if heads is None:  # a file has changed on the disk meanwhile
            raise NotBuilt
        return {
            "recording": recording,
            "tokens": {"texts": texts, "starts": starts},
            "heads": [head for head in heads if (head["layer"], head["head"]) in included],
            "highlights": [head for head in builder.ranked_heads() if (head["layer"], head["head"]) in included],
            "layers": layers,
        }

    def _add_layer(
        self, opened: OpenRecording, number: int, pyramid: Pyramid, options: ExportOptions, small: bool
    ) -> LayerFacts:
        layer, prefix = opened.layers[number], f"{opened.id}/{number}/"
        heads = options.heads_of(layer)
        weights = canonical_weights(layer, number)
        canonical = weights.canonical
        assert canonical is not None, "canonical_weights checks it"
        form, tensors = canonical
        scale = form.dot.scale
        assert scale is not None, "the canonical form has it"
        repeats = form.sizes.h // form.sizes.g
        groups = sorted({head // repeats for head in heads})
        v = layer.recorded.v if options.values else None
        dtype = choose_dtype(tensors.q.dtype, options, small, (tensors.q, tensors.k, *([] if v is None else [v])))
        lse = layer.recorded.lse[:1]
        if dtype not in (tensors.q.dtype, torch.float32):
            lse, rounding = rounding_error(weights, dtype, heads)
            self._rounding.append(rounding)
        self._dtypes[str(dtype).removeprefix("torch.")] = None

        def add(part: str, tensor: Tensor | None, indices: Sequence[int] | None = heads) -> None:
            if tensor is None:
                return
            shared = indices is None or tensor.shape[0] == 1
            self._add_array(prefix + part, tensor if shared else tensor[[*(indices or ())]])

        add("q", tensors.q[0].to(dtype))
        add("k", tensors.k[0].to(dtype), groups)
        add("v", None if v is None else v[0].to(dtype), groups)
        add("lse", lse[0])
        add("table", tensors.table)
        add("pairs", None if tensors.bias is None else tensors.bias[0].float())
        add("sink", tensors.sink)
        mask = canonical.tabled_mask()
        add("runs", None if mask.runs is None else mask.runs[0])
        add("kinds", None if mask.kinds is None else mask.kinds[0])
        add("words", mask.words, None)
        add("received", torch.from_numpy(np.array(pyramid.array("received"))))
        add("entropy", torch.from_numpy(np.array(pyramid.array("entropy"))))
        cell = cell_of(layer)
        for how in ("max", "sum") if cell else ():
            maps = np.stack([coarse_map(layer, head, how, cell, pyramid, self._check) for head in heads])
            self._add_array(f"{prefix}coarse_{how}", torch.from_numpy(half(maps)))
        self._check()
        return {
            "index": number,
            "kept": heads,
            "group": [groups.index(h // repeats) for h in heads],
            "groups": len(groups),
            "scale": scale,
            "softcap": form.dot.softcap or None,
            "shift": layer.shift,
            "values": v is not None,
            "cell": cell,
            "rows": -(-layer.queries // cell) if cell else 0,
            "cols": -(-layer.keys // cell) if cell else 0,
        }

    def _add_array(self, name: str, tensor: Tensor) -> None:
        """Append an array to the temporary file, compressed where that saves space."""
        contiguous = tensor.detach().cpu().contiguous()
        data = contiguous.reshape(-1).view(torch.uint8).numpy().data
        start = self._file.seek(0, os.SEEK_END)
        sample = data[: 1 << 18]
        compresses = len(gzip.compress(sample, 1)) < _LEAST_SAVING * len(sample)
        compressor = zlib.compressobj(6, wbits=31) if compresses else None
        for at in range(0, len(data), _PIECE):
            self._check()
            piece = data[at : at + _PIECE]
            self._file.write(piece if compressor is None else compressor.compress(piece))
        if compressor is not None:
            self._file.write(compressor.flush())
        self._file.flush()
        size = self._file.tell() - start
        dtype = str(contiguous.dtype).removeprefix("torch.").replace("int64", "uint64")
        self._arrays[name] = StoredArray(start, size, dtype, tuple(contiguous.shape), compressor is not None)


SMALLER = "For a smaller page: some layers (--layer), or some heads of each (--head)."
"""What to do about a page that is too large."""


def prepare_page(
    recordings: Sequence[OpenRecording], options: ExportOptions, on_progress: OnProgress = lambda now: None
) -> OfflinePage:
    """A page of recordings, once their statistics are built or read from the disk.

    Raises:
        OptionError: as `OfflinePage` does; statistics cannot be built.
    """
    front_end.ensure_built()
    for opened in recordings:  # before anything that takes long
        for number in options.layers_of(opened):
            options.heads_of(opened.layers[number])
            canonical_weights(opened.layers[number], number)
    builders = [PyramidBuilder(opened) for opened in recordings]
    try:
        for builder in builders:
            builder.start()
        while True:
            for builder in builders:
                _wait(builder, on_progress)
            on_progress(BuildProgress("putting the page together", 1.0))
            with contextlib.suppress(NotBuilt):
                return OfflinePage(builders, options)
    finally:
        for builder in builders:
            builder.stop()


def _wait(builder: PyramidBuilder, on_progress: OnProgress) -> None:
    """Wait until all of a recording is built."""
    while not builder.ended:
        builder.wait(0.1)
        on_progress(builder.progress)
    if builder.failed is not None:
        raise OptionError(
            "page",
            f"statistics that could not be built: {builder.failed}",
            "what can be built",
            "Mend that, and try again.",
        )


def write_page(
    recording: Recording,
    path: str | Path,
    *,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    dtype: str | None = None,
    values: bool = False,
) -> OfflinePageSummary:
    """Write a recording as one HTML file that shows all of its maps, and needs neither network nor server.

    It contains queries, keys and one number per row, and computes every weight from them when it is shown.

    Args:
        recording: The recording; of a batch, its first row.
        path: Where the page is written; an existing file is replaced.
        layers, heads: Only these, by their numbers; heads of every layer.
        dtype: "float32", "bfloat16" or "float16", for queries, keys and values. None is as they were recorded
            while the page stays under 16 MiB, and float16 then; the error of the weights is measured.
        values: Whether values are included, for outputs.

    Returns:
        The page's ``bytes``, the ``dtype`` and the ``error`` of its numbers, and its ``layers``.

    Raises:
        OptionError: the page of `regard` is not built; a layer or head that does not exist; a layer whose
            weights are no softmax of a dot product; a path that cannot be written to.

    >>> import tempfile
    >>> from regard import models, record
    >>> from regard.explorer import write_page
    >>> with tempfile.TemporaryDirectory() as folder:                       # doctest: +SKIP
    ...     run = record(models.load(), "def f(x):", to=f"{folder}/run.safetensors")
    ...     write_page(run, f"{folder}/run.html", layers=4)["layers"]
    [4]
    """
    target = writable_path(Path(path))
    options = ExportOptions(_as_tuple(layers), _as_tuple(heads), dtype, values)
    with prepare_page([OpenRecording.of(recording)], options) as page:
        page.write(target)
        return page.summary


def _as_tuple(given: int | Sequence[int] | None) -> tuple[int, ...] | None:
    return (given,) if isinstance(given, int) else None if given is None else tuple(given)


def _lessons() -> dict[str, WorkedExample]:
    """The worked examples of every combination of the lesson's switches, by text|tied|causal|divisor."""
    return {
        f"{text}|{int(tied)}|{int(causal)}|{'' if divisor is None else int(divisor)}": worked_example_json(
            text, tied, causal, divisor
        )
        for text in _LESSON_TEXTS
        for tied in (False, True)
        for causal in (True, False)
        for divisor in (None, 1.0)
    }
