"""A layer's maps at zoom-outs that powers of two part, computed once and kept in a file.

Cells of level 0 are `cell` × `cell` weights, those of each next level twice as high and wide. Of each cell
the file has the maximum and the sum, float32. They lie in strips of queries, as they were computed: of each
strip and head the columns in which anything is, so that windows and causal halves cost what they show. Every
block has its checksum and is held against it when it is first read.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from regard.system.atomic_files import AtomicFile

STRIP = 64
"""Rows of cells of level 0 in a strip."""

LEVELS = 7
"""Of a strip: its rows halve from 64 to 1."""

LEAST = 4096
"""Tokens up to which no pyramid is worth its place: at 16 weights for a pixel the map has 256 pixels."""

MOST_CELLS = 4096
"""The most rows of cells; from there on cells grow."""

FORMAT = 2
_TAIL = struct.Struct("<QQI8s")
_MAGIC = b"regardpy"
_PARTS = 2  # a maximum and a sum

Cells = Float32[ndarray, "parts h rows cols"]
Stored = Mapping[str, ndarray]


def cell_for(queries: int, keys: int) -> int:
    """Weights along the side of a cell of level 0; 0 where the text is short enough to do without.

    >>> cell_for(4000, 4000), cell_for(20_000, 20_000), cell_for(100_000, 100_000)
    (0, 16, 32)
    """
    n = max(queries, keys)
    if n <= LEAST:
        return 0
    cell = 16
    while -(-n // cell) > MOST_CELLS:
        cell *= 2
    return cell


class Damaged(Exception):
    """A file of ours that is not what it was when it was written."""


@dataclass(frozen=True)
class CellBlock:
    """Where of a strip of one head and level the cells lie that are not all 0."""

    offset: int
    first: int
    last: int
    rows: int
    check: int


class PyramidWriter(AtomicFile):
    """A pyramid file that is being written.

    Args:
        path: Where it will be.
        about: What it is a pyramid of; a reader must ask for the same.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        super().__init__(path)
        self.about = dict(about)
        self.blocks: list[list[int]] = []
        self.arrays: dict[str, list[Any]] = {}

    def strip(self, number: int, left: int, cells: Cells) -> None:
        """The next strip of queries: the cells of level 0 from column `left` on, maxima and sums.

        Rows and columns are multiples of `STRIP`, with zeros where nothing is any more.
        """
        for level in range(LEVELS):
            cells = halved(cells) if level else cells
            for head in range(cells.shape[1]):
                here = cells[:, head]
                some = np.flatnonzero(here[0].any(0))
                if len(some):
                    first, last = int(some[0]), int(some[-1]) + 1
                    data = np.ascontiguousarray(here[:, :, first:last], "<f4").data
                    at = left >> level
                    place = [self.file.tell(), at + first, at + last, here.shape[1]]
                    self.blocks.append([level, number, head, *place, zlib.crc32(data)])
                    self.file.write(data)

    def put(self, name: str, array: ndarray) -> None:
        """An array by its name."""
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        place = [self.file.tell(), len(data), zlib.crc32(data)]
        self.arrays[name] = [array.dtype.str.replace(">", "<"), list(array.shape), *place]
        self.file.write(data)

    def finish(self) -> None:
        """Write the index and move the file to its path."""
        index = {"about": self.about, "blocks": self.blocks, "arrays": self.arrays}
        data = json.dumps(index).encode()
        start = self.file.tell()
        self.file.write(data)
        self.file.write(_TAIL.pack(start, len(data), zlib.crc32(data), _MAGIC))
        self.commit()


def halved(cells: Cells) -> Float32[ndarray, "parts h half_rows half_cols"]:
    """Cells twice as high and wide, of an even number of rows and columns."""
    cells = _joined(cells[..., ::2, :], cells[..., 1::2, :])
    return _joined(cells[..., ::2], cells[..., 1::2])


def _joined(one: Cells, other: Cells) -> Cells:
    found = np.empty(one.shape, np.float32)
    np.maximum(one[0], other[0], out=found[0])
    np.add(one[1], other[1], out=found[1])
    return found


class Pyramid:
    """A file that a `PyramidWriter` wrote.

    Args:
        path: Where it is.
        about: What it must be of.

    Raises:
        Damaged: it is not whole, or of something else.
        FileNotFoundError: it is not there.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        try:
            index = self._index()
            if index["about"] != json.loads(json.dumps(dict(about))):
                raise Damaged("it is of something else")
            self._blocks = {(level, strip, head): CellBlock(*place) for level, strip, head, *place in index["blocks"]}
            self._arrays: dict[str, list[Any]] = index["arrays"]
            self.cell: int = index["about"]["cell"]
            self.cells: tuple[int, int] = (
                -(-index["about"]["queries"] // self.cell) if self.cell else 0,
                -(-index["about"]["keys"] // self.cell) if self.cell else 0,
            )
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(str(error)) from error
        self._checked: set[int] = set()

    def array(self, name: str) -> ndarray:
        """An array that was put."""
        try:
            dtype, shape, offset, size, check = self._arrays[name]
            return self._data(offset, size, check).view(dtype).reshape(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{name}: {error}") from error

    def level(self, head: int, level: int, part: int, rows: range, cols: range) -> Float32[ndarray, "rows cols"]:
        """Some cells of a level: their maxima (part 0) or sums (part 1)."""
        high = STRIP >> level
        found = np.zeros((len(rows), len(cols)), np.float32)
        for strip in range(rows.start // high, -(-rows.stop // high)):
            block = self._blocks.get((level, strip, head))
            if block is None:
                continue
            top, left = strip * high, max(block.first, cols.start)
            first, last = max(top, rows.start), min(top + block.rows, rows.stop)
            right = min(block.last, cols.stop)
            if first < last and left < right:
                cells = self._cells(block, part, range(first - top, last - top))
                into = found[first - rows.start : last - rows.start]
                into[:, left - cols.start : right - cols.start] = cells[:, left - block.first : right - block.first]
        return found

    def _cells(self, block: CellBlock, part: int, rows: range) -> ndarray:
        """Whole rows of a part of a block, of which no more is read once it was checked."""
        wide = block.last - block.first
        whole = 4 * _PARTS * block.rows * wide
        start, size = 4 * (part * block.rows + rows.start) * wide, 4 * len(rows) * wide
        if block.offset in self._checked:
            data = self._read(block.offset + start, size)
        else:
            data = self._data(block.offset, whole, block.check)[start : start + size]
        return data.view("<f4").reshape(len(rows), wide)

    def _index(self) -> Any:
        with self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            if end < _TAIL.size:
                raise Damaged("it is too short")
            file.seek(end - _TAIL.size)
            start, size, check, magic = _TAIL.unpack(file.read(_TAIL.size))
            if magic != _MAGIC or start + size + _TAIL.size != end:
                raise Damaged("its end is missing")
            file.seek(start)
            data = file.read(size)
        if zlib.crc32(data) != check:
            raise Damaged("its index has changed")
        return json.loads(data)

    def _data(self, offset: int, size: int, check: int) -> ndarray:
        """Bytes, held against their checksum when they are first read."""
        data = self._read(offset, size)
        if offset not in self._checked:
            if zlib.crc32(data.data) != check:
                raise Damaged(f"what lies at {offset} has changed")
            self._checked.add(offset)
        return data

    def _read(self, offset: int, size: int) -> ndarray:
        """Read, not mapped: of a file that is mapped, what was looked at counts as this process's memory."""
        data = np.empty(size, np.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                whole = file.readinto(data.data) == size
        except OSError as error:
            raise Damaged(str(error)) from error
        if not whole:
            raise Damaged(f"of {size} bytes at {offset} some are missing")
        return data


def open_pyramid(path: Path, about: Mapping[str, Any], elsewhere: Callable[[], Path] | None = None) -> Pyramid | None:
    """The file, if it is there and whole; `elsewhere` is where it may be if it could not be written there."""
    for place in (path, *(() if elsewhere is None else (elsewhere(),))):
        try:
            return Pyramid(place, about)
        except (Damaged, FileNotFoundError):
            continue
    return None
