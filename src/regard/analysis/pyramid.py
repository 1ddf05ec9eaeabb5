"""A layer's maps at resolutions that are powers of two apart, computed once and stored in a file.

Cells of level 0 are `cell` × `cell` weights, those of each next level twice as high and wide. The file has the
maximum and the sum of each cell, float32. They are stored in strips of queries, as they were computed: for each
strip and head the columns that are not all 0, so that the file grows with what a window or a causal mask leaves.
Every block has a checksum, which is compared when the block is first read.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
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
"""Tokens up to which a pyramid is not worth its size: at 16 weights for a pixel the map has 256 pixels."""

MOST_CELLS = 4096
"""The most rows of cells; for longer texts cells grow."""

_TAIL = struct.Struct("<QQI8s")
_MAGIC = b"regardpy"
_PARTS = 2  # a maximum and a sum

Cells = Float32[ndarray, "parts h rows cols"]
FileIdentity = Mapping[str, str | int | bool]
"""What a file is computed from, and its format: a reader opens only a file of the same identity."""


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
    """A pyramid file that is not what it was when it was written."""


@dataclass(frozen=True)
class CellBlock:
    """Where in the file the cells of one strip, head and level are: their columns that are not all 0."""

    offset: int
    first: int
    last: int
    rows: int
    checksum: int


class PyramidWriter(AtomicFile):
    """A pyramid file that is being written.

    Args:
        path: Where it will be.
        identity: What it is computed from.
    """

    def __init__(self, path: Path, identity: FileIdentity) -> None:
        super().__init__(path)
        self.identity = dict(identity)
        self.blocks: list[list[int]] = []
        self.arrays: dict[str, list[Any]] = {}

    def strip(self, number: int, left: int, cells: Cells) -> None:
        """Write the next strip of queries: the cells of level 0 from column `left` on, maxima and sums.

        Rows and columns are multiples of `STRIP`, padded with zeros.
        """
        for level in range(LEVELS):
            cells = halved(cells) if level else cells
            for head in range(cells.shape[1]):
                of_head = cells[:, head]
                columns = np.flatnonzero(of_head[0].any(0))
                if len(columns):
                    first, last = int(columns[0]), int(columns[-1]) + 1
                    data = np.ascontiguousarray(of_head[:, :, first:last], "<f4").data
                    offset = left >> level
                    block = [self.file.tell(), offset + first, offset + last, of_head.shape[1]]
                    self.blocks.append([level, number, head, *block, zlib.crc32(data)])
                    self.file.write(data)

    def put(self, name: str, array: ndarray) -> None:
        """Write an array under a name."""
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        location = [self.file.tell(), len(data), zlib.crc32(data)]
        self.arrays[name] = [array.dtype.str.replace(">", "<"), list(array.shape), *location]
        self.file.write(data)

    def finish(self) -> None:
        """Write the index and move the file to its path."""
        index = {"about": self.identity, "blocks": self.blocks, "arrays": self.arrays}
        data = json.dumps(index).encode()
        start = self.file.tell()
        self.file.write(data)
        self.file.write(_TAIL.pack(start, len(data), zlib.crc32(data), _MAGIC))
        self.commit()


def halved(cells: Cells) -> Float32[ndarray, "parts h half_rows half_cols"]:
    """Cells twice as high and wide; rows and columns must be divisible by 2."""
    cells = _merged(cells[..., ::2, :], cells[..., 1::2, :])
    return _merged(cells[..., ::2], cells[..., 1::2])


def _merged(left: Cells, right: Cells) -> Cells:
    result = np.empty(left.shape, np.float32)
    np.maximum(left[0], right[0], out=result[0])
    np.add(left[1], right[1], out=result[1])
    return result


class Pyramid:
    """A file that a `PyramidWriter` wrote.

    Args:
        path: Where it is.
        identity: What it must be computed from.

    Raises:
        Damaged: it is incomplete, has changed, or has another identity.
        FileNotFoundError: it is not there.
    """

    def __init__(self, path: Path, identity: FileIdentity) -> None:
        self.path = path
        try:
            index = self._index()
            if index["about"] != dict(identity):
                raise Damaged("it is of something else")
            self._blocks = {(level, strip, head): CellBlock(*block) for level, strip, head, *block in index["blocks"]}
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
        """An array that was written under a name."""
        try:
            dtype, shape, offset, size, checksum = self._arrays[name]
            return self._data(offset, size, checksum).view(dtype).reshape(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{name}: {error}") from error

    def level(self, head: int, level: int, part: int, rows: range, cols: range) -> Float32[ndarray, "rows cols"]:
        """Some cells of a level: their maxima (part 0) or sums (part 1)."""
        height = STRIP >> level
        result = np.zeros((len(rows), len(cols)), np.float32)
        for strip in range(rows.start // height, -(-rows.stop // height)):
            block = self._blocks.get((level, strip, head))
            if block is None:
                continue
            top, left = strip * height, max(block.first, cols.start)
            first, last = max(top, rows.start), min(top + block.rows, rows.stop)
            right = min(block.last, cols.stop)
            if first < last and left < right:
                cells = self._cells(block, part, range(first - top, last - top))
                target = result[first - rows.start : last - rows.start]
                target[:, left - cols.start : right - cols.start] = cells[:, left - block.first : right - block.first]
        return result

    def _cells(self, block: CellBlock, part: int, rows: range) -> ndarray:
        """Whole rows of a part of a block; once its checksum was compared, no more of it is read."""
        width = block.last - block.first
        whole = 4 * _PARTS * block.rows * width
        start, size = 4 * (part * block.rows + rows.start) * width, 4 * len(rows) * width
        if block.offset in self._checked:
            data = self._read(block.offset + start, size)
        else:
            data = self._data(block.offset, whole, block.checksum)[start : start + size]
        return data.view("<f4").reshape(len(rows), width)

    def _index(self) -> Any:
        with self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            if end < _TAIL.size:
                raise Damaged("it is too short")
            file.seek(end - _TAIL.size)
            start, size, checksum, magic = _TAIL.unpack(file.read(_TAIL.size))
            if magic != _MAGIC or start + size + _TAIL.size != end:
                raise Damaged("its end is missing")
            file.seek(start)
            data = file.read(size)
        if zlib.crc32(data) != checksum:
            raise Damaged("its index has changed")
        return json.loads(data)

    def _data(self, offset: int, size: int, checksum: int) -> ndarray:
        """Bytes, whose checksum is compared when they are first read."""
        data = self._read(offset, size)
        if offset not in self._checked:
            if zlib.crc32(data.data) != checksum:
                raise Damaged(f"the bytes at {offset} have changed")
            self._checked.add(offset)
        return data

    def _read(self, offset: int, size: int) -> ndarray:
        """Read, not mapped: what was read of a mapped file would count as memory of this process."""
        data = np.empty(size, np.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                complete = file.readinto(data.data) == size
        except OSError as error:
            raise Damaged(str(error)) from error
        if not complete:
            raise Damaged(f"of {size} bytes at {offset} some are missing")
        return data


def open_pyramid(paths: Iterable[Path], identity: FileIdentity) -> Pyramid | None:
    """The first of some files that is there, undamaged, and of what it should be; None if there is none."""
    for path in paths:
        try:
            return Pyramid(path, identity)
        except (Damaged, FileNotFoundError):
            continue
    return None
