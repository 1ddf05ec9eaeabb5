"""Which parts of the map there is anything to do for: a mask as tiles that are EMPTY, FULL or MIXED.

The chunked backend uses `key_runs`. The kernels take a mask lowered by `lower_mask`: as spans of keys for each
query where it has few of them, otherwise as tiles of bits (`native/kernel.h`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt64
from torch import Tensor

from regard.errors import OptionError, ShapeError
from regard.shapes import Box, Sizes
from regard.spec import spans
from regard.spec.masks import And, Everything, Mask, Tile
from regard.spec.spans import Spans
from regard.spec.values import readable

KEYS = 256
"""Keys in a tile, at most: small enough to skip, large enough that classifying it is cheap."""

SIDE = 64
"""Queries and keys in a tile of bits."""

_STRIP = 16 * SIDE  # keys that are evaluated pair by pair, where a mask does not say EMPTY or FULL
_SLAB = 1 << 23  # pairs that are evaluated at a time


@dataclass(frozen=True)
class KeyRun:
    """Neighbouring keys that some queries of a block may see; FULL where all may see all of them."""

    keys: range
    kind: Tile


def key_runs(mask: Mask, b: range, h: range, q: range, keys: int) -> tuple[KeyRun, ...]:
    """The keys that a block of queries may see, as few runs as possible, from the first key to the last."""
    runs: list[KeyRun] = []
    for k, kind in _kinds(mask, b, h, q, keys):
        if kind is Tile.EMPTY:
            continue
        if runs and runs[-1].keys.stop == k.start and runs[-1].kind is kind:
            runs[-1] = KeyRun(range(runs[-1].keys.start, k.stop), kind)
        else:
            runs.append(KeyRun(k, kind))
    return tuple(runs)


def count_pairs(mask: Mask, b: range, h: range, queries: int, keys: int, rows: int) -> dict[Tile, int]:
    """How many pairs of one head are in tiles of each kind."""
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
class LoweredMask:
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

    def reach(self, queries: range, keys: int) -> range:
        """The keys from the first to the last that any of some queries may see, of any head of the first batch row."""
        first, last = 0, keys
        if self.spans is not None:
            spans = self.spans[:1, :, queries.start : queries.stop]
            nonempty = spans[..., 0] < spans[..., 1]
            first = int(spans[..., 0].min(initial=last, where=nonempty))
            last = int(spans[..., 1].max(initial=0, where=nonempty))
        if self.tiles is not None:
            rows = self.tiles[:1, :, queries.start // SIDE : -(-queries.stop // SIDE)]
            cols = np.flatnonzero(rows.any((0, 1, 2))) * SIDE
            first = max(first, int(cols.min(initial=last)))
            last = min(last, int(cols.max(initial=-SIDE)) + SIDE)
        return range(first, max(first, last))


def _strides(array: np.ndarray) -> tuple[int, int]:
    """In elements, from batch row to batch row and from head to head; 0 where they share."""
    b, h = (s // array.itemsize if n > 1 else 0 for s, n in zip(array.strides[:2], array.shape, strict=False))
    return b, h


@dataclass(frozen=True, eq=False)
class Tabled(Mask):
    """A mask of one call that was lowered, as tensors: what a recording holds of a mask without words.

    A pair may meet where the spans of its query and the tile that it is in both allow it.

    >>> from regard.spec.masks import Where, show
    >>> sizes = Sizes(1, 1, 1, 2, 3, 1, 1, torch.device("cpu"))
    >>> show(Tabled.of(Where(lambda b, h, q, k: q != k), sizes), queries=2, keys=3)
    .##
    #.#
    """

    runs: Int32[Tensor, "#b #h q _ 2"] | None = None
    """Half-open spans of keys, in order; (0, 0) behind the last of a query."""
    kinds: Int32[Tensor, "#b #h rows cols"] | None = None
    """Of tiles of 64 × 64, as `LoweredMask.tiles` has them."""
    words: Int64[Tensor, "n 64"] | None = None
    """The bitmaps, as `LoweredMask.bitmaps` has them."""

    @classmethod
    def of(cls, mask: Mask, sizes: Sizes) -> Self:
        """A mask as it is for a call of these sizes, none of which is 0."""
        lowered = lower_mask(mask.bind(sizes), sizes)
        parts = lowered.spans, lowered.tiles, lowered.bitmaps
        runs, kinds, bits = (None if part is None else part.copy() for part in parts)
        return cls(
            None if runs is None else torch.from_numpy(runs),
            None if kinds is None else torch.from_numpy(kinds),
            None if bits is None else torch.from_numpy(bits.view(np.int64)),
        )

    def bind(self, sizes: Sizes) -> Self:
        bound, pair = super().bind(sizes), ((1, sizes.b), (1, sizes.h))
        runs, kinds, words = self.runs, self.kinds, self.words
        if runs is not None:
            fits = runs.ndim == 5 and (runs.shape[2], runs.shape[4]) == (sizes.q, 2)
            fits = fits and 1 <= runs.shape[3] <= spans.MAX_SPANS
            _fitting("runs", runs, fits, pair, f"{sizes.q}, spans, 2")
            if readable(runs):
                first, last = runs[..., 0], runs[..., 1]
                there, after = first[..., 1:] < last[..., 1:], last[..., :-1] < first[..., 1:]
                good = (first >= 0) & (first <= last) & (last <= sizes.k)
                if not bool(good.all()) or not bool((after | ~there).all()):
                    raise OptionError(
                        "Tabled(runs=…)",
                        "spans beyond the keys or out of order",
                        f"spans of {sizes.k} keys in order",
                        "Use Tabled.of.",
                    )
        if kinds is not None:
            rows, cols = -(-sizes.q // SIDE), -(-sizes.k // SIDE)
            fits = kinds.ndim == 4 and tuple(kinds.shape[2:]) == (rows, cols)
            _fitting("kinds", kinds, fits, pair, f"{rows}, {cols}")
            most = 1 if words is None else words.shape[0] + 1
            if words is not None and (words.dtype != torch.int64 or words.ndim != 2 or words.shape[1] != SIDE):
                raise ShapeError("Tabled(words=…)", tuple(words.shape), f"(n, {SIDE})", "Use Tabled.of.")
            if readable(kinds) and not (int(kinds.min()) >= 0 and int(kinds.max()) <= most):
                raise OptionError(
                    "Tabled(kinds=…)", "numbers of bitmaps that are not there", f"0 to {most}", "Use Tabled.of."
                )
        return bound

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        allowed = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=q.device)
        if self.runs is not None:
            spans_of_query = self.runs[_shared(b, self.runs, 0), _shared(h, self.runs, 1), q]
            inside = (spans_of_query[..., 0] <= k[..., None]) & (k[..., None] < spans_of_query[..., 1])
            allowed = allowed & inside.any(-1)
        if self.kinds is not None:
            own = _shared(b, self.kinds, 0), _shared(h, self.kinds, 1)
            kind = self.kinds[(*own, q // SIDE, k // SIDE)]
            bit = kind == 1
            if self.words is not None and len(self.words):
                word = self.words[(kind - 2).clamp(min=0), k % SIDE]
                bit = torch.where(kind > 1, (word >> (q % SIDE)) & 1 == 1, bit)
            allowed = allowed & bit
        return allowed

    def tile(self, box: Box) -> Tile:
        kind = Tile.FULL
        if self.runs is not None:
            ends = _of_box(self.runs, box, slice(box.q.start, box.q.stop)).numpy()
            first, last = ends[..., 0], ends[..., 1]
            if ((first <= box.k.start) & (box.k.stop <= last)).any(-1).all():
                kind = Tile.FULL
            else:
                meet = (first < box.k.stop) & (box.k.start < last) & (first < last)
                kind = Tile.MIXED if meet.any() else Tile.EMPTY
        if self.kinds is not None and kind is not Tile.EMPTY:
            tile_kinds = _of_box(self.kinds, box, _in_tiles(box.q), _in_tiles(box.k)).numpy()
            if not tile_kinds.any():
                return Tile.EMPTY
            return kind if (tile_kinds == 1).all() else Tile.MIXED
        return kind

    def spans(self, sizes: Sizes) -> Spans | None:
        if self.kinds is not None:
            return None
        return Everything().spans(sizes) if self.runs is None else self.runs.numpy()

    def conjuncts(self) -> tuple[Mask, ...]:
        if self.runs is None or self.kinds is None:
            return (self,)
        return type(self)(self.runs), type(self)(None, self.kinds, self.words)

    def lowered(self) -> LoweredMask:
        """What `lower_mask` gave."""
        parts = (self.runs, self.kinds, self.words)
        runs, kinds, words = (None if part is None else np.ascontiguousarray(part.numpy()) for part in parts)
        if kinds is not None and words is None:
            words = np.zeros((0, SIDE), np.int64)
        return LoweredMask(runs, kinds, None if words is None else words.view(np.uint64))


def _fitting(name: str, tensor: Tensor, fits: bool, pair: tuple[tuple[int, int], ...], rest: str) -> None:
    own = zip(tensor.shape[:2], pair, strict=False)
    if tensor.dtype != torch.int32 or not fits or not all(n in either for n, either in own):
        raise ShapeError(
            f"Tabled({name}=…)",
            f"{tensor.dtype}, {tuple(tensor.shape)}",
            f"int32, (b, h, {rest}); the first two may be 1",
            "Use Tabled.of.",
        )


def _shared(index: Tensor, table: Tensor, dim: int) -> Tensor:
    return index if table.shape[dim] > 1 else torch.zeros_like(index)


def _of_box(table: Tensor, box: Box, *rest: slice) -> Tensor:
    own = (
        slice(part.start, part.stop) if n > 1 else slice(None) for part, n in zip(box, table.shape[:2], strict=False)
    )
    return table[(*own, *rest)]


def lower_mask(mask: Mask, sizes: Sizes) -> LoweredMask:
    """A bound mask as spans and tiles, for a call that is not empty."""
    if isinstance(mask, Tabled):
        return mask.lowered()
    if isinstance(mask, Everything):
        return _ALL
    return _remembered(mask, sizes) if mask.plain() else _lower(mask, sizes)


def bitmap_bytes(mask: Mask, sizes: Sizes) -> int:
    """Bytes that the bitmaps of a bound mask may take at most; 0 where it needs none."""
    rest = _divided(mask, sizes)[1]
    tiles = -(-sizes.q // SIDE) * -(-sizes.k // SIDE)
    return 0 if rest is None else int(np.prod(_own(rest, sizes))) * tiles * SIDE * SIDE // 8


def _lower(mask: Mask, sizes: Sizes) -> LoweredMask:
    span_part, tile_part = _divided(mask, sizes)
    if span_part is not None:
        everywhere = span_part.shape[3] == 1 and not span_part[..., 0].any() and (span_part[..., 1] == sizes.k).all()
        shape = (*span_part.shape[:2], sizes.q, *span_part.shape[3:])
        span_part = None if everywhere else np.ascontiguousarray(np.broadcast_to(span_part, shape))
    tiles, bitmaps = (None, None) if tile_part is None else _tiles(mask, tile_part, sizes)
    return LoweredMask(span_part, tiles, bitmaps)


_ALL = LoweredMask()
_remembered = functools.lru_cache(maxsize=16)(_lower)  # the same small arrays call after call


def _divided(mask: Mask, sizes: Sizes) -> tuple[Spans | None, Mask | None]:
    """What of a mask is spans, and what must be tiles: a pair may meet where both allow it."""
    whole = mask.spans(sizes)
    if whole is not None and whole.shape[-2] <= spans.MAX_SPANS:
        return whole, None
    span_part: Spans | None = None
    tile_part: Mask | None = None
    for part in mask.conjuncts():
        part_spans = part.spans(sizes)
        intersection = (
            part_spans if span_part is None or part_spans is None else spans.intersection(span_part, part_spans)
        )
        if intersection is not None and intersection.shape[-2] <= spans.MAX_SPANS:
            span_part = intersection
        else:
            tile_part = part if tile_part is None else And(tile_part, part)
    return span_part, tile_part


def _tiles(
    mask: Mask, rest: Mask, sizes: Sizes
) -> tuple[Int32[np.ndarray, "b h rows cols"] | None, UInt64[np.ndarray, "n 64"] | None]:
    """The tiles of `rest`, which is all or a part of `mask`; None where all are FULL.

    A pair is evaluated only where neither says that its whole surroundings are EMPTY or FULL. Equal tiles
    share one bitmap: those of a regular pattern are few.
    """
    own = _own(rest, sizes)
    kinds = np.zeros((*own, -(-sizes.q // SIDE), -(-sizes.k // SIDE)), np.int32)
    known: dict[bytes, int] = {}
    for box in _slabs(own, sizes):
        where = tuple(slice(r.start, r.stop) for r in box[:2])
        rows = _in_tiles(box.q)
        # What is shared among batch rows or heads is evaluated for one, but must be true for all.
        b, h = (r if n > 1 else range(all_) for r, n, all_ in zip(box, own, sizes[:2], strict=False))
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
    probe = mask.block(Box(range(sizes.b), range(sizes.h), range(1), range(1)), sizes.device)
    b, h, _, _ = torch.broadcast_shapes(probe.shape, (1, 1, 1, 1))
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
                    range(b, b + 1), range(h, min(h + heads, own[1])), range(q, min(q + rows, sizes.q)), range(sizes.k)
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
