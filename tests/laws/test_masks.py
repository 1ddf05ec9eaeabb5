"""Laws of every mask: its tile never lies, masks compose as sets do, and what kernels get is the mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import MASKS, NEED_A_KEY_FOR_EACH_QUERY, Draw, Shape
from regard.lowering.tiles import SIDE, LoweredMask, bitmap_bytes, count_pairs, key_runs, lower_mask
from regard.shapes import Box
from regard.spec.masks import And, Causal, Dilated, Everything, Mask, Not, Or, Tile, Window, as_mask, dense
from regard.spec.spans import MAX_SPANS

pytestmark = pytest.mark.usefixtures("as_users_run_it")  # quick: these call each mask thousands of times

SHAPES = [Shape(2, 2, 2, 19, 31, 4, 4), Shape(3, 2, 1, 24, 13, 4, 4), Shape(1, 1, 1, 17, 17, 4, 4)]


def bound(name: str, shape: Shape) -> tuple[Mask, Tensor]:
    """A mask of the list, bound, and its whole table."""
    mask = as_mask(MASKS[name](shape, Draw(name + str(shape)))).bind(shape.sizes())
    return mask, dense(mask, shape.sizes())


def fits(name: str, shape: Shape) -> bool:
    return shape.q <= shape.k or name not in NEED_A_KEY_FOR_EACH_QUERY


def boxes(shape: Shape) -> st.SearchStrategy[Box]:
    def part(n: int) -> st.SearchStrategy[range]:
        ends = st.tuples(st.integers(0, n - 1), st.integers(1, n))
        return ends.map(lambda ends: range(min(ends), max(max(ends), min(ends) + 1)))

    return st.builds(Box, *(part(n) for n in (shape.b, shape.h, shape.q, shape.k)))


def truth(table: Tensor, box: Box) -> Tile:
    b, h, q, k = (slice(part.start, part.stop) for part in box)
    inside = table[b, h, q, k]
    if not inside.any():
        return Tile.EMPTY
    return Tile.FULL if inside.all() else Tile.MIXED


@pytest.mark.parametrize("name", MASKS)
@given(data=st.data())
def test_a_tile_never_lies(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([s for s in SHAPES if fits(name, s)]))
    mask, table = bound(name, shape)
    box = data.draw(boxes(shape))
    said = mask.tile(box)
    assert said in (Tile.MIXED, truth(table, box)), f"{mask}: {said} for {box}"


SHARP = [
    "everything",
    "nothing",
    "causal",
    "causal from the first",
    "causal offset",
    "window",
    "window both",
    "prefix",
    "dilated",
    "blocks",
    "tensor",
    "tensor of keys",
    "tensor of heads",
    "shared padding",
    "anticausal",
    "not window",
]


@pytest.mark.parametrize("name", SHARP)
@given(data=st.data())
def test_a_simple_mask_says_mixed_only_of_what_is(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    mask, table = bound(name, shape)
    box = data.draw(boxes(shape))
    assert mask.tile(box) is truth(table, box)


def compositions(shape: Shape) -> st.SearchStrategy[tuple[Mask, Tensor]]:
    """A mask built from the list by &, | and ~, and the same done with the tables."""
    leaves = st.sampled_from([name for name in MASKS if fits(name, shape)]).map(lambda name: bound(name, shape))

    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        pairs = st.tuples(inner, inner)
        return st.one_of(
            pairs.map(lambda p: (And(p[0][0], p[1][0]), p[0][1] & p[1][1])),
            pairs.map(lambda p: (Or(p[0][0], p[1][0]), p[0][1] | p[1][1])),
            inner.map(lambda one: (Not(one[0]), ~one[1])),
        )

    return st.recursive(leaves, grow, max_leaves=5)


@given(data=st.data())
def test_a_composition_means_what_it_says_and_its_tile_never_lies(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    mask, table = data.draw(compositions(shape))
    assert torch.equal(dense(mask, shape.sizes()), table)
    for box in data.draw(st.lists(boxes(shape), min_size=4, max_size=4)):
        assert mask.tile(box) in (Tile.MIXED, truth(table, box))


@given(data=st.data())
def test_de_morgan(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    (a, _), (b, _) = data.draw(compositions(shape)), data.draw(compositions(shape))
    sizes = shape.sizes()
    for left, right in ((~(a & b), ~a | ~b), (~(a | b), ~a & ~b), (~~a, a)):
        assert torch.equal(dense(left, sizes), dense(right, sizes))
    box = data.draw(boxes(shape))
    kinds = {(~(a & b)).tile(box), (~a | ~b).tile(box)}
    assert kinds in ({Tile.EMPTY}, {Tile.FULL}, {Tile.MIXED})


@pytest.mark.parametrize("name", MASKS)
@given(data=st.data())
def test_runs_leave_out_nothing_that_may_be_seen(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([s for s in SHAPES if fits(name, s)]))
    mask, table = bound(name, shape)
    b, h, q, _ = data.draw(boxes(shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regard.lowering.tiles.KEYS", data.draw(st.integers(1, 9)))
        runs = key_runs(mask, b, h, q, shape.k)
        pairs = count_pairs(mask, b, h, shape.q, shape.k, 5)
    part = table[b.start : b.stop, h.start : h.stop, q.start : q.stop]
    seen = torch.zeros(shape.k, dtype=torch.bool)
    for run in runs:
        assert run.kind is not Tile.EMPTY
        assert not seen[run.keys.start : run.keys.stop].any()
        seen[run.keys.start : run.keys.stop] = True
        if run.kind is Tile.FULL:
            assert part[..., run.keys.start : run.keys.stop].all()
    assert not part[..., ~seen].any()
    assert [run.keys.start for run in runs] == sorted(run.keys.start for run in runs)
    assert sum(pairs.values()) == shape.q * shape.k
    visible = table[b.start : b.stop, h.start : h.stop].any(0).any(0)
    always = table[b.start : b.stop, h.start : h.stop].all(0).all(0)
    assert pairs[Tile.EMPTY] <= int((~visible).sum())
    assert pairs[Tile.FULL] <= int(always.sum())


# ------------------------------------------------------------------ as kernels take it

LARGE = [
    Shape(b, h, 1, q, k, 4, 4)
    for b, h, q, k in (
        (2, 2, 64, 64),
        (1, 2, 65, 130),
        (2, 1, 127, 129),
        (1, 1, 1, 300),
        (1, 1, 150, 63),
        (1, 1, 70, 2500),
    )
]


def expanded(low: LoweredMask, shape: Shape) -> Tensor:
    """The whole table that spans and tiles stand for, read as `native/kernel.h` says."""
    b, h, _, q, k, *_ = shape
    table = np.ones((b, h, q, k), np.bool_)
    if low.spans is not None:
        assert low.spans.dtype == np.int32
        assert low.spans.flags.c_contiguous
        assert low.spans.shape[2] == q
        assert low.spans.shape[3] <= MAX_SPANS
        first, last = low.spans[..., 0], low.spans[..., 1]
        there = first < last
        assert ((first >= 0) & (last <= k)).all()
        assert not first[~there].any()
        assert not last[~there].any()
        assert (there[..., :-1] | ~there[..., 1:]).all()
        assert ((last[..., :-1] < first[..., 1:]) | ~there[..., 1:]).all()
        keys = np.arange(k)
        inside = (keys >= first[..., None]) & (keys < last[..., None])
        table &= inside.any(3)
    if low.tiles is not None:
        assert low.bitmaps is not None
        assert low.tiles.dtype == np.int32
        assert low.tiles.flags.c_contiguous
        assert low.tiles.shape[2:] == (-(-q // SIDE), -(-k // SIDE))
        assert low.tiles.max() - 2 < len(low.bitmaps)
        assert len(np.unique(low.bitmaps, axis=0)) == len(low.bitmaps)
        words = np.concatenate((np.zeros((1, SIDE), np.uint64), ~np.zeros((1, SIDE), np.uint64), low.bitmaps))[
            low.tiles
        ]
        pairs = words[..., None] >> np.arange(SIDE, dtype=np.uint64) & np.uint64(1)
        rows, cols = low.tiles.shape[2:]  # pairs: b, h, rows, cols, key, query
        pairs = pairs.transpose(0, 1, 2, 5, 3, 4).reshape(*low.tiles.shape[:2], rows * SIDE, -1)
        of_bitmaps = np.kron(low.tiles > 1, np.ones((SIDE, SIDE), np.uint64)) * pairs
        assert pairs.shape[-1] == cols * SIDE
        assert not of_bitmaps[..., q:, :].any()
        assert not of_bitmaps[..., k:].any()
        table &= pairs[..., :q, :k].astype(np.bool_)
    return torch.from_numpy(table)


@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_what_the_kernels_get_is_the_mask(name: str, shape: Shape) -> None:
    if not fits(name, shape):
        pytest.skip("it refuses more queries than keys")
    mask, table = bound(name, shape)
    low = lower_mask(mask, shape.sizes())
    assert torch.equal(expanded(low, shape), table)
    nbytes = 0 if low.bitmaps is None else low.bitmaps.nbytes
    assert nbytes <= bitmap_bytes(mask, shape.sizes())


@given(data=st.data())
def test_of_a_composition_too(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([*SHAPES, *LARGE]))
    mask, table = data.draw(compositions(shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regard.lowering.tiles._SLAB", data.draw(st.sampled_from([1, 20_000, 1 << 23])))
        patch.setattr("regard.lowering.tiles._STRIP", data.draw(st.sampled_from([64, 128, 1024])))
        assert torch.equal(expanded(lower_mask(mask, shape.sizes()), shape), table)


SPANS = [
    "nothing",
    "causal",
    "anticausal",
    "window both",
    "not window",
    "prefix",
    "causal prefix",
    "sinks",
    "right padding",
    "left padding",
    "causal left padding",
    "documents",
    "documents of each",
    "tensor of heads",
]


@pytest.mark.parametrize("name", SPANS)
def test_where_spans_suffice_there_are_no_tiles(name: str) -> None:
    mask, _ = bound(name, Shape(2, 2, 2, 60, 90, 4, 4))
    low = lower_mask(mask, Shape(2, 2, 2, 60, 90, 4, 4).sizes())
    assert low.spans is not None
    assert low.tiles is None


def test_what_everybody_sees_takes_nothing_and_what_is_shared_is_held_once() -> None:
    shape = Shape(2, 3, 3, 192, 384, 4, 4)
    for full in (Everything(), Window(400, 400), as_mask(torch.ones(384, dtype=torch.bool)), Dilated(1)):
        low = lower_mask(full.bind(shape.sizes()), shape.sizes())
        assert (low.spans, low.tiles, low.bitmaps) == (None, None, None)
    regular = lower_mask((Causal() & Dilated(3)).bind(shape.sizes()), shape.sizes())
    assert regular.spans is not None
    assert regular.tiles is not None
    assert regular.bitmaps is not None
    assert regular.spans.shape == (1, 1, 192, 1, 2)
    assert regular.tiles.shape == (1, 1, 3, 6)
    assert len(regular.bitmaps) == 3
    assert lower_mask(Causal(offset=3), shape.sizes()) is lower_mask(Causal(offset=3), shape.sizes())
    expanded_keys = torch.rand(384).gt(0.5).expand(2, 3, 192, 384)
    tiles = lower_mask(as_mask(expanded_keys).bind(shape.sizes()), shape.sizes()).tiles
    assert tiles is not None
    assert tiles.shape[:2] == (1, 1)
