"""What all reports have in common: safe text, packed numbers, and a file put in its place whole."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from regard.errors import OptionError

# Control characters would move a terminal's cursor, and marks of direction would reorder text on screen.
_SHOWN = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_SHOWN |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_SHOWN |= dict.fromkeys(
    (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD
)

LEAST, DECADES = -9, 15
"""Two-byte numbers run from 10^−9 to 10^6 in even steps of their logarithm: within 0.03 %."""


def printable(text: str) -> str:
    """A text with a picture in place of each character that would act instead of being shown.

    >>> printable("a\\x1b[2Jb")
    'a␛[2Jb'
    """
    return text.translate(_SHOWN)


def packed(data: bytes) -> str:
    """Bytes as text: deflated, in base64; the browser's DecompressionStream undoes it."""
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def numbers(values: Float[ndarray, "*s"]) -> str:
    """Numbers from 0 up, of two bytes each."""
    with np.errstate(divide="ignore"):
        share = (np.log10(values) - LEAST) / DECADES
    codes = np.where(values > 0, 1 + np.round(np.clip(share, 0, 1) * 65534), 0)
    return packed(codes.astype("<u2").tobytes())


def writable(path: Path) -> Path:
    """The path, if a report can be written there: better known before a long run than after it."""
    if path.is_dir():
        raise OptionError(
            "--out", f"{path}, a folder", "the name of a file", "Add page.html to it."
        )
    if not path.parent.is_dir():
        raise OptionError("--out", f"{path}, in a folder that is not there", "a file in a folder that is",
                          f"Make it first: mkdir -p {path.parent}")  # fmt: skip
    if not os.access(path.parent, os.W_OK):
        raise OptionError("--out", f"{path}, in a folder that may not be written to",
                          "a file in one that may", "Choose another folder.")  # fmt: skip
    return path


def put(page: str | Iterable[str], path: Path) -> int:
    """Write a page, whole or in pieces, beside its place, then put it there, and return its bytes."""
    beside, size = path.with_name(f".{path.name}.{os.getpid()}"), 0
    try:
        with beside.open("wb") as file:
            for piece in (page,) if isinstance(page, str) else page:
                size += file.write(piece.encode("utf-8"))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return size
