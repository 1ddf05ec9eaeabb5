"""What a picture is made of: values as levels, levels as colours, and a PNG written with zlib alone."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

DECADES = 4
"""How many powers of ten the colours of a logarithmic scale span."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Viridis (van der Walt and Smith, CC0) at 16 even places.
_VIRIDIS = (
    "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
)
# Of the explorer's page (web/src/pure/ramps.ts): blue below 0, red above, as light as dark on both sides.
_SIGNED = "2a63b0 4f93cf 94c0e2 d3e3ee f4f3f0 f5dccb eeaf88 d97550 b43a32"


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as levels from 1 to `levels`, evenly in their logarithm.

    Level 0 is for what is below `low`, which on these maps is mostly what may not be seen.
    """

    high: float
    levels: int = 255
    decades: int = DECADES

    @property
    def low(self) -> float:
        """The least value with a colour of its own."""
        return self.high / 10**self.decades

    def of(self, values: Float[ndarray, "*s"]) -> UInt8[ndarray, "*s"]:
        """The level of each value."""
        with np.errstate(divide="ignore"):
            share = 1 + np.log10(values / self.high) / self.decades
        level = np.ceil(np.clip(share, 0, 1) * self.levels)
        return np.where(values >= self.low, np.maximum(level, 1), 0).astype(np.uint8)


def viridis(levels: int = 255) -> UInt8[ndarray, "levels 3"]:
    """The colours of level 1 to `levels`, from dark to light.

    >>> viridis()[0].tolist(), viridis()[-1].tolist()
    ([68, 1, 84], [253, 231, 37])
    """
    return _between(_VIRIDIS, levels)


def signed(levels: int = 255) -> UInt8[ndarray, "levels 3"]:
    """The colours of differences: blue for the least, red for the greatest, almost white between.

    >>> signed()[127].tolist()
    [244, 243, 240]
    """
    return _between(_SIGNED, levels)


def png(levels: UInt8[ndarray, "rows cols"], colours: UInt8[ndarray, "n 3"]) -> bytes:
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


def uri(levels: UInt8[ndarray, "rows cols"], colours: UInt8[ndarray, "n 3"]) -> str:
    """The same picture as the address of an image in a page."""
    return f"data:image/png;base64,{base64.b64encode(png(levels, colours)).decode('ascii')}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _between(stops: str, levels: int) -> UInt8[ndarray, "levels 3"]:
    """Colours evenly mixed between stops."""
    known = np.frombuffer(bytes.fromhex(stops), np.uint8).reshape(-1, 3)
    places = np.linspace(0, len(known) - 1, levels)
    each = [np.interp(places, np.arange(len(known)), known[:, i]) for i in range(3)]
    return np.stack(each, -1).round().astype(np.uint8)
