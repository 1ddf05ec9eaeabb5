"""The strongest links of a head as a short string for a page."""

from __future__ import annotations

import numpy as np

from regard.look.study import Head
from regard.pages import packed

WEIGHT_DECADES = 4
"""One-byte weights run from 10^−4 to 1: within 2 %."""


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
