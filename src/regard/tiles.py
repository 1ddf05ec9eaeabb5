"""Which parts of the map there is anything to do for: a mask as tiles that are EMPTY, FULL or MIXED.

The chunked backend asks for `runs` of keys. The kernels take a mask `lower`ed: as spans of keys for each
query where it has few of them, otherwise as tiles of bits (`native/kernel.h`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, UInt64

from regard import spans
from regard.masks import And, Everything, Mask, Tile
from regard.shapes import Box, Sizes
from regard.spans import Spans

KEYS = 256
"""Keys in a tile, at most: small enough to skip, large enough that asking is cheap."""

SIDE = 64
"""Queries and keys in a tile of bits."""

_STRIP = (
    16 * SIDE
)  # keys that are asked about pair by pair, where a mask does not say EMPTY or FULL
_SLAB = 1 << 23  # pairs that are asked about at a time


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


@dataclass(frozen=True, eq=False)
class Lowered:
    """A mask as the kernels take it; where there are spans and tiles, both must allow a pair."""

    spans: Int32[np.ndarray, "#b #h q _ 2"] | None = None
    tiles: Int32[np.ndarray, "#b #h rows cols"] | None = None
    """0: no pair, 1: all pairs that there are, n ≥ 2: bitmap n − 2."""
    bitmaps: UInt64[np.ndarray, "n 64"] | None = None
    """A word for each key of a tile; its bit i says whether the tile's query i may see that key."""

    @functools.cached_property
    def spans_at(self) -> tuple[int, int, int, int] | None:
        """The spans' address, how many there are of each query, and strides, as `core.Call` takes them."""
        if self.spans is None:
            return None
        return self.spans.ctypes.data, self.spans.shape[3], *_strides(self.spans)

    @functools.cached_property
    def tiles_at(self) -> tuple[int, int, int, int] | None:
        """The tiles' address, their strides, and the bitmaps' address, as `core.Call` takes them."""
        if self.tiles is None or self.bitmaps is None:
            return None
        return self.tiles.ctypes.data, *_strides(self.tiles), self.bitmaps.ctypes.data


def _strides(array: np.ndarray) -> tuple[int, int]:
    """In elements, from batch row to batch row and from head to head; 0 where they share."""
    b, h = (
        s // array.itemsize if n > 1 else 0
        for s, n in zip(array.strides[:2], array.shape, strict=False)
    )
    return b, h


def lower(mask: Mask, sizes: Sizes) -> Lowered:
    """A bound mask as spans and tiles, for a call that is not empty."""
    if isinstance(mask, Everything):
        return _ALL
    return _remembered(mask, sizes) if mask.plain() else _lower(mask, sizes)


def bits(mask: Mask, sizes: Sizes) -> int:
    """Bytes that the bitmaps of a bound mask may take at most; 0 where it needs none."""
    rest = _divided(mask, sizes)[1]
    tiles = -(-sizes.q // SIDE) * -(-sizes.k // SIDE)
    return 0 if rest is None else int(np.prod(_own(rest, sizes))) * tiles * SIDE * SIDE // 8


def _lower(mask: Mask, sizes: Sizes) -> Lowered:
    found, rest = _divided(mask, sizes)
    if found is not None:
        everywhere = (
            found.shape[3] == 1 and not found[..., 0].any() and (found[..., 1] == sizes.k).all()
        )
        shape = (*found.shape[:2], sizes.q, *found.shape[3:])
        found = None if everywhere else np.ascontiguousarray(np.broadcast_to(found, shape))
    tiles, bitmaps = (None, None) if rest is None else _tiles(mask, rest, sizes)
    return Lowered(found, tiles, bitmaps)


_ALL = Lowered()
_remembered = functools.lru_cache(maxsize=16)(_lower)  # the same small arrays call after call


def _divided(mask: Mask, sizes: Sizes) -> tuple[Spans | None, Mask | None]:
    """What of a mask is spans, and what must be tiles: a pair may meet where both allow it."""
    whole = mask.spans(sizes)
    if whole is not None and whole.shape[-2] <= spans.MOST:
        return whole, None
    found: Spans | None = None
    rest: Mask | None = None
    for part in mask.conjuncts():
        mine = part.spans(sizes)
        both = mine if found is None or mine is None else spans.intersection(found, mine)
        if both is not None and both.shape[-2] <= spans.MOST:
            found = both
        else:
            rest = part if rest is None else And(rest, part)
    return found, rest


def _tiles(
    mask: Mask, rest: Mask, sizes: Sizes
) -> tuple[Int32[np.ndarray, "b h rows cols"] | None, UInt64[np.ndarray, "n 64"] | None]:
    """The tiles of `rest`, which is all or a part of `mask`; None where all are FULL.

    A pair is asked about only where neither says that its whole surroundings are EMPTY or FULL. Equal tiles
    share one bitmap: those of a regular pattern are few.
    """
    own = _own(rest, sizes)
    kinds = np.zeros((*own, -(-sizes.q // SIDE), -(-sizes.k // SIDE)), np.int32)
    known: dict[bytes, int] = {}
    for box in _slabs(own, sizes):
        where = tuple(slice(r.start, r.stop) for r in box[:2])
        rows = _in_tiles(box.q)
        # What is shared among batch rows or heads is asked of one, but must hold for all.
        b, h = (
            r if n > 1 else range(all_) for r, n, all_ in zip(box, own, sizes[:2], strict=False)
        )
        for keys, kind in _parts(mask, rest, Box(b, h, box.q, range(sizes.k))):
            if kind is Tile.EMPTY:
                continue
            target = kinds[(*where, rows, _in_tiles(keys))]
            if kind is Tile.FULL:
                target[:] = 1
                continue
            shape = tuple(len(r) for r in (*box[:3], keys))
            allowed = rest.block(box._replace(k=keys), sizes.device).expand(shape).numpy()
            words, whole = _words(allowed), _words(np.ones((1, 1, *shape[2:]), np.bool_))
            target[(words == whole).all(-1)] = 1
            mixed = words.any(-1) & (target == 0)
            target[mixed] = [known.setdefault(w.tobytes(), len(known)) + 2 for w in words[mixed]]
    if (kinds == 1).all():
        return None, None
    return kinds, np.frombuffer(b"".join(known), np.uint64).reshape(-1, SIDE)


def _own(mask: Mask, sizes: Sizes) -> tuple[int, int]:
    """How many batch rows and heads have a pattern of their own: all, or 1 where they share it."""
    one = mask.block(Box(range(sizes.b), range(sizes.h), range(1), range(1)), sizes.device)
    b, h, _, _ = torch.broadcast_shapes(one.shape, (1, 1, 1, 1))
    return b, h


def _slabs(own: tuple[int, int], sizes: Sizes) -> Iterator[Box]:
    """Whole rows of tiles, as many together as the memory for their pairs allows."""
    together = max(_SLAB // (SIDE * sizes.k), 1)
    heads = min(own[1], together)
    rows = max(together // heads, 1) * SIDE
    for b in range(own[0]):
        for h in range(0, own[1], heads):
            for q in range(0, sizes.q, rows):
                yield Box(
                    range(b, b + 1),
                    range(h, min(h + heads, own[1])),
                    range(q, min(q + rows, sizes.q)),
                    range(sizes.k),
                )


def _parts(mask: Mask, rest: Mask, box: Box) -> Iterator[tuple[range, Tile]]:
    """The keys of a box in pieces, halved where a piece is MIXED, as long as it is not small."""
    kind = rest.tile(box)
    if kind is Tile.MIXED and rest is not mask and mask.tile(box) is Tile.EMPTY:
        kind = Tile.EMPTY
    if kind is not Tile.MIXED or len(box.k) <= _STRIP:
        yield box.k, kind
        return
    middle = box.k.start + -(-len(box.k) // (2 * SIDE)) * SIDE
    for keys in (range(box.k.start, middle), range(middle, box.k.stop)):
        yield from _parts(mask, rest, box._replace(k=keys))


def _in_tiles(part: range) -> slice:
    return slice(part.start // SIDE, -(-part.stop // SIDE))


def _words(allowed: np.ndarray) -> UInt64[np.ndarray, "b h rows cols 64"]:
    """The bits of each tile, a word for each key; 0 beyond the last query and key."""
    b, h, q, k = allowed.shape
    rows, cols = -(-q // SIDE), -(-k // SIDE)
    if (q, k) != (rows * SIDE, cols * SIDE):
        allowed = np.pad(allowed, ((0, 0), (0, 0), (0, rows * SIDE - q), (0, cols * SIDE - k)))
    eights = np.packbits(allowed.reshape(b, h, rows, SIDE, -1), axis=3, bitorder="little")
    eights = eights.reshape(b, h, rows, 8, cols, SIDE).transpose(0, 1, 2, 4, 5, 3)
    return np.ascontiguousarray(eights).view("<u8")[..., 0]
