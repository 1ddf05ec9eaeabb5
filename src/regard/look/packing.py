"""Numbers as short strings for a page: a byte or two each, deflated, in base64.

A page's script undoes it with the browser's own DecompressionStream.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from regard.look.study import Head

LEAST, DECADES = -9, 15
"""Two-byte numbers run from 10^−9 to 10^6 in even steps of their logarithm: within 0.03 %."""

WEIGHT_DECADES = 4
"""One-byte weights run from 10^−4 to 1: within 2 %."""


def packed(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def numbers(values: Float[ndarray, "*s"]) -> str:
    """Numbers from 0 up, of two bytes each."""
    with np.errstate(divide="ignore"):
        share = (np.log10(values) - LEAST) / DECADES
    codes = np.where(values > 0, 1 + np.round(np.clip(share, 0, 1) * 65534), 0)
    return packed(codes.astype("<u2").tobytes())


def links(head: Head) -> str:
    """The strongest keys of every query: how far back each lies, then its weight, in planes of bytes.

    Distances are signed, of four bytes; plane after plane, since neighbours in a plane are alike.
    """
    distance = np.arange(len(head.keys))[:, None] - head.keys
    with np.errstate(divide="ignore"):
        share = 1 + np.log10(head.weights) / WEIGHT_DECADES
    code = np.where((share >= 0) & (head.keys >= 0), 1 + np.round(share * 254), 0).astype(np.uint8)
    places = np.where(code > 0, distance, 0).T.astype("<i4")
    planes = np.frombuffer(places.tobytes(), np.uint8).reshape(-1, 4).T
    return packed(planes.tobytes() + code.T.tobytes())
