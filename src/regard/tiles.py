"""Which parts of the map there is anything to do for: a mask as EMPTY, FULL and MIXED tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from regard.masks import Mask, Tile
from regard.shapes import Box

KEYS = 256
"""Keys in a tile, at most: small enough to skip, large enough that asking is cheap."""


@dataclass(frozen=True)
class Run:
    """Neighbouring keys that some queries of a block may see; FULL where all may see all of them."""

    keys: range
    kind: Tile


def runs(mask: Mask, b: range, h: range, q: range, keys: int) -> tuple[Run, ...]:
    """The keys that a block of queries may see, as few runs as possible, from the first key to the last."""
    found: list[Run] = []
    for k, kind in _kinds(mask, b, h, q, keys):
        if kind is Tile.EMPTY:
            continue
        if found and found[-1].keys.stop == k.start and found[-1].kind is kind:
            found[-1] = Run(range(found[-1].keys.start, k.stop), kind)
        else:
            found.append(Run(k, kind))
    return tuple(found)


def count(mask: Mask, b: range, h: range, queries: int, keys: int, rows: int) -> dict[Tile, int]:
    """How many pairs of one head lie in tiles of each kind."""
    pairs = dict.fromkeys(Tile, 0)
    for start in range(0, queries, rows):
        q = range(start, min(start + rows, queries))
        for k, kind in _kinds(mask, b, h, q, keys):
            pairs[kind] += len(q) * len(k)
    return pairs


def _kinds(mask: Mask, b: range, h: range, q: range, keys: int) -> Iterator[tuple[range, Tile]]:
    if not (len(b) and len(h) and len(q)):
        return
    for start in range(0, keys, KEYS):
        k = range(start, min(start + KEYS, keys))
        yield k, mask.tile(Box(b, h, q, k))
