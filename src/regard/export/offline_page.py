"""Recordings as one HTML file that fetches nothing: a worker in it computes what the server would.

It holds each layer in the kernels' canonical form (`lowering/canonical.py`), of which every weight follows:
``exp(softcap(q·k · scale) + table + pairs − lse)`` where the mask allows it. What is measured over all
weights comes along, and of large heads a coarse map, which a browser would take long to compute.
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
from typing import IO, Any, NamedTuple, Self
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from regard.analysis import descriptions
from regard.analysis.context_example import context_example
from regard.analysis.descriptions import json_safe
from regard.analysis.map_tiles import Check, NotBuilt, half
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import Damaged, Pyramid
from regard.analysis.pyramid_builder import BuildProgress, PyramidBuilder
from regard.analysis.weight_arithmetic import worked_example_json
from regard.analysis.worked_example import TEXT
from regard.errors import OptionError
from regard.export import front_end
from regard.export.options import (
    ExportOptions,
    canonical_weights,
    cell_of,
    coarse,
    dtype_of,
    estimated,
    in_words,
    rounded,
)
from regard.recording import Recording, Rounding, size_in_words
from regard.system.atomic_files import disk_full, writable_path, write_text

FORMAT = 1

SMALL = 16 << 20
"""Bytes up to which a page keeps numbers as they were recorded, where nothing else is asked for."""

SAVES = 0.95
"""An array is compressed where that leaves less of it than so much."""

_PIECE = 3 << 18  # bytes that are worked on at a time; base64 takes three together
_LESSONS = TEXT, "the money bank"

Progress = Callable[[BuildProgress], None]


class StoredArray(NamedTuple):
    """Where an array lies in the temporary file, and what it is."""

    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]
    gzip: bool


class OfflinePage:
    """A page that is ready to be written: its arrays lie in a temporary file, so that its size is known.

    Args:
        buildings: Of each recording, all that is built: statistics, and pyramids where they are large.
        options: What of them it holds.
        check: Called between pieces of work; what it raises ends it.

    Raises:
        OptionError: a layer or head that is not there; a layer whose weights are no softmax of a dot product;
            numbers that the dtype asked for does not hold; no room for the temporary file.
        NotBuilt: something that was built has changed on the disk: it is built again.
    """

    def __init__(
        self, buildings: Sequence[PyramidBuilder], options: ExportOptions, check: Check = lambda: None
    ) -> None:
        self._dtypes: dict[str, None] = {}
        self._rounding: list[Rounding] = []
        self.layers: list[int] = []
        self._arrays: dict[str, StoredArray] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="regard-page-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock, self._check = threading.Lock(), check
        try:
            self._title = " and ".join(one.opened.name for one in buildings)
            layers = [one.opened.layers[i] for one in buildings for i in options.layers_of(one.opened)]
            small = sum(estimated(layer, options) for layer in layers) <= SMALL
            runs = {one.opened.id: self._run(one, options, small) for one in buildings}
            self._errors = dict.fromkeys(one["recording"]["error"] for one in runs.values())
            self._about = json_safe(
                {
                    "transport": "worker",
                    "format": FORMAT,
                    "version": version("regard"),
                    "start": f"atlas?r={buildings[0].opened.id}",
                    "recordings": [descriptions.describe_line(one.opened) for one in buildings],
                    "runs": runs,
                    "lesson": _lessons(),
                    "context": context_example(),
                    "arrays": {
                        name: {"dtype": one.dtype, "shape": one.shape, "gzip": one.gzip}
                        for name, one in self._arrays.items()
                    },
                }
            )
            self._built = front_end.files()
            hollow = self._html((name, ()) for name in self._arrays)
            self.size: int = sum(len(piece.encode()) for piece in hollow) + sum(
                4 * -(-one.size // 3) for one in self._arrays.values()
            )
            """Bytes that the file has."""
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and disk_full(error):
                place = tempfile.gettempdir()
                raise OptionError(
                    "page",
                    f"more than the disk of {place} holds",
                    "a disk with room",
                    f"Free some, or set TMPDIR to another. {SMALLER}",
                ) from error
            raise

    @property
    def told(self) -> dict[str, Any]:
        """What there is to know before it is written."""
        return {
            "bytes": self.size,
            "dtype": ", ".join(self._dtypes),
            "error": "; ".join(self._errors),
            "layers": self.layers,
        }

    @property
    def headers(self) -> dict[str, str]:
        """Of the file as a download."""
        name = quote(f"{Path(self._title).stem}.html")
        return {"Content-Length": str(self.size), "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}

    def pieces(self) -> Iterator[str]:
        """The file, a piece at a time."""
        encoded = ((name, self._encoded(one)) for name, one in self._arrays.items())
        return self._html(encoded)

    def write(self, path: str | Path) -> None:
        """Write it beside its place, then put it there.

        Raises:
            OptionError: it cannot be written there, or the disk has no room.
        """
        place = writable_path(Path(path))
        free = shutil.disk_usage(place.parent).free
        if self.size > free:
            raise OptionError(
                "--out",
                f"{place}, where {size_in_words(free)} are free",
                f"a disk with the {size_in_words(self.size)} that the page takes",
                SMALLER,
            )
        write_text(self.pieces(), place)

    def close(self) -> None:
        """Let go of the temporary file, which goes with the last that reads it, too."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _html(self, data: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
        # Of the page as it was then: a size is told once.
        return front_end.html(self._about, data, title=self._title, built=self._built)

    def _encoded(self, one: StoredArray) -> Iterator[str]:
        for at in range(one.offset, one.offset + one.size, _PIECE):
            size = min(_PIECE, one.offset + one.size - at)
            with self._lock:  # of two readers at once neither moves the other's place
                self._file.seek(at)
                data = self._file.read(size)
            yield base64.b64encode(data).decode("ascii")

    def _run(self, building: PyramidBuilder, options: ExportOptions, small: bool) -> dict[str, Any]:
        book = building.opened
        recording, layers = descriptions.describe_recording(book), list[dict[str, Any]]()
        chosen = options.layers_of(book)
        self._rounding = []
        for number in chosen:
            pyramid = building.layer(number)
            if pyramid is None:
                raise NotBuilt
            try:
                layers.append(self._layer(book, number, pyramid, options, small))
            except Damaged:
                building.damaged(number)
                raise NotBuilt from None
        recording["layers"] = [one for one in recording["layers"] if one["index"] in chosen]
        for one in recording["layers"]:
            one |= {"values": one["values"] and options.values, "inputs": False}
        if self._rounding:
            was = "" if recording["exact"] else f"{recording['error']}; "
            recording |= {"exact": False, "error": was + in_words(self._rounding)}
        self.layers += [number for number in chosen if number not in self.layers]
        texts, starts = descriptions.token_texts(book)
        kept = {(one["index"], head) for one in layers for head in one["kept"]}
        heads = building.heads()
        if heads is None:  # what was built has changed on the disk since
            raise NotBuilt
        return {
            "recording": recording,
            "tokens": {"texts": texts, "starts": starts},
            "heads": [one for one in heads if (one["layer"], one["head"]) in kept],
            "telling": [one for one in building.ranked_heads() if (one["layer"], one["head"]) in kept],
            "layers": layers,
        }

    def _layer(
        self, book: OpenRecording, number: int, pyramid: Pyramid, options: ExportOptions, small: bool
    ) -> dict[str, Any]:
        layer, place = book.layers[number], f"{book.id}/{number}/"
        heads = options.of(layer)
        weights = canonical_weights(layer, number)
        canonical = weights.canonical
        assert canonical is not None, "canonical_weights checks it"
        form, tensors = canonical
        repeats = form.sizes.h // form.sizes.g
        groups = sorted({head // repeats for head in heads})
        v = layer.recorded.v if options.values else None
        dtype = dtype_of(tensors.q.dtype, options, small, (tensors.q, tensors.k, *([] if v is None else [v])))
        lse = layer.recorded.lse[:1]
        if dtype not in (tensors.q.dtype, torch.float32):
            lse, rounding = rounded(weights, dtype, heads)
            self._rounding.append(rounding)
        self._dtypes[str(dtype).removeprefix("torch.")] = None

        def keep(part: str, tensor: Tensor | None, of: Sequence[int] | None = heads) -> None:
            if tensor is None:
                return
            shared = of is None or tensor.shape[0] == 1
            self._put(place + part, tensor if shared else tensor[[*(of or ())]])

        keep("q", tensors.q[0].to(dtype))
        keep("k", tensors.k[0].to(dtype), groups)
        keep("v", None if v is None else v[0].to(dtype), groups)
        keep("lse", lse[0])
        keep("table", tensors.table)
        keep("pairs", None if tensors.bias is None else tensors.bias[0].float())
        keep("sink", tensors.sink)
        mask = canonical.tabled_mask()
        keep("runs", None if mask.runs is None else mask.runs[0])
        keep("kinds", None if mask.kinds is None else mask.kinds[0])
        keep("words", mask.words, None)
        keep("received", torch.from_numpy(np.array(pyramid.array("received"))))
        keep("entropy", torch.from_numpy(np.array(pyramid.array("entropy"))))
        cell = cell_of(layer)
        for how in ("max", "sum") if cell else ():
            drawn = np.stack([coarse(layer, head, how, cell, pyramid, self._check) for head in heads])
            self._put(f"{place}coarse_{how}", torch.from_numpy(half(drawn)))
        self._check()
        return {
            "index": number,
            "kept": heads,
            "group": [groups.index(h // repeats) for h in heads],
            "groups": len(groups),
            "scale": form.dot.scale,
            "softcap": form.dot.softcap or None,
            "shift": layer.shift,
            "values": v is not None,
            "cell": cell,
            "rows": -(-layer.queries // cell) if cell else 0,
            "cols": -(-layer.keys // cell) if cell else 0,
        }

    def _put(self, name: str, tensor: Tensor) -> None:
        """An array at the end of the temporary file, compressed where that is worth it."""
        plain = tensor.detach().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().data
        start = self._file.seek(0, os.SEEK_END)
        few = data[: 1 << 18]
        smaller = len(gzip.compress(few, 1)) < SAVES * len(few)
        packer = zlib.compressobj(6, wbits=31) if smaller else None
        for at in range(0, len(data), _PIECE):
            self._check()
            piece = data[at : at + _PIECE]
            self._file.write(piece if packer is None else packer.compress(piece))
        if packer is not None:
            self._file.write(packer.flush())
        self._file.flush()
        size = self._file.tell() - start
        dtype = str(plain.dtype).removeprefix("torch.").replace("int64", "uint64")
        self._arrays[name] = StoredArray(start, size, dtype, tuple(plain.shape), packer is not None)


SMALLER = "For a smaller page: some layers (--layer), or some heads of each (--head)."
"""What to do about a page that is too large."""


def prepare(
    books: Sequence[OpenRecording], options: ExportOptions, progress: Progress = lambda told: None
) -> OfflinePage:
    """A page of recordings, once their statistics are built; those that are kept on disk are not built anew.

    Raises:
        OptionError: as `OfflinePage` does; what is needed cannot be built.
    """
    front_end.ensure_built()
    for book in books:  # before anything that takes long
        for number in options.layers_of(book):
            options.of(book.layers[number])
            canonical_weights(book.layers[number], number)
    buildings = [PyramidBuilder(book) for book in books]
    try:
        for one in buildings:
            one.start()
        while True:
            for one in buildings:
                _await(one, progress)
            progress(BuildProgress("putting the page together", 1.0))
            with contextlib.suppress(NotBuilt):
                return OfflinePage(buildings, options)
    finally:
        for one in buildings:
            one.stop()


def _await(building: PyramidBuilder, progress: Progress) -> None:
    """Until all is built of a recording."""
    while not building.ended:
        building.wait(0.1)
        progress(building.progress)
    if building.failed is not None:
        raise OptionError(
            "page",
            f"statistics that could not be built: {building.failed}",
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
) -> dict[str, Any]:
    """Write a recording as one HTML file that shows all of its map, and needs neither network nor server.

    It holds queries, keys and one number per row, and computes every weight from them when it is looked at.

    Args:
        recording: Of which run; of a batch, its first row.
        path: Where the page will be; a file that is there is replaced.
        layers, heads: Only these, by their numbers; heads of every layer.
        dtype: "float32", "bfloat16" or "float16", for queries, keys and values. None is as they were recorded
            while the page stays under 16 MiB, and float16 then; the error of the weights is measured.
        values: Whether values come along, for outputs.

    Returns:
        What it is: its ``bytes``, the ``dtype`` and the ``error`` of its numbers, its ``layers``.

    Raises:
        OptionError: the page of `regard` is not built; a layer or head that is not there; a layer whose
            weights are no softmax of a dot product; a path that cannot be written to.

    >>> import tempfile
    >>> from regard import models, record
    >>> from regard.explorer import write_page
    >>> with tempfile.TemporaryDirectory() as folder:                       # doctest: +SKIP
    ...     run = record(models.load(), "def f(x):", to=f"{folder}/run.safetensors")
    ...     write_page(run, f"{folder}/run.html", layers=4)["layers"]
    [4]
    """
    place = writable_path(Path(path))
    options = ExportOptions(_several(layers), _several(heads), dtype, values)
    with prepare([OpenRecording.of(recording)], options) as made:
        made.write(place)
        return made.told


def _several(given: int | Sequence[int] | None) -> tuple[int, ...] | None:
    return (given,) if isinstance(given, int) else None if given is None else tuple(given)


def _lessons() -> dict[str, Any]:
    """The answers of the lesson on words that its switches ask for."""
    return {
        f"{text}|{int(tied)}|{int(causal)}|{'' if divisor is None else int(divisor)}": worked_example_json(
            text, tied, causal, divisor
        )
        for text in _LESSONS
        for tied in (False, True)
        for causal in (True, False)
        for divisor in (None, 1.0)
    }
