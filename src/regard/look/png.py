"""A PNG of a few colours, written with zlib alone."""

from __future__ import annotations

import struct
import zlib

from jaxtyping import UInt8
from numpy import ndarray

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(levels: UInt8[ndarray, "rows cols"], colours: UInt8[ndarray, "n 3"]) -> bytes:
    """A picture with a palette: level 0 is transparent, level i has the i-th colour, counted from 1.

    The format is the PNG specification's (W3C, third edition), section 11: header, palette,
    transparency, data, end; each line of data begins with filter 0, none.
    """
    rows, cols = levels.shape
    header = struct.pack(">IIBBBBB", cols, rows, 8, 3, 0, 0, 0)  # 8 bits, palette
    lines = b"".join(b"\0" + line.tobytes() for line in levels)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", b"\0\0\0" + colours.tobytes()),
        (b"tRNS", b"\0"),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
