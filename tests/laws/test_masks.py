"""Laws of every mask: its tile never lies, and masks compose as sets do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import MASKS, WITHOUT_KEYS_FOR_ALL, Draw, Shape
from regard.masks import And, Mask, Not, Or, Tile, as_mask, dense
from regard.shapes import Box
from regard.tiles import count, runs

pytestmark = pytest.mark.usefixtures(
    "as_users_run_it"
)  # quick: these call each mask thousands of times

SHAPES = [Shape(2, 2, 2, 19, 31, 4, 4), Shape(3, 2, 1, 24, 13, 4, 4), Shape(1, 1, 1, 17, 17, 4, 4)]


def bound(name: str, shape: Shape) -> tuple[Mask, Tensor]:
    """A mask of the list, bound, and its whole table."""
    mask = as_mask(MASKS[name](shape, Draw(name + str(shape)))).bind(shape.sizes())
    return mask, dense(mask, shape.sizes())


def fits(name: str, shape: Shape) -> bool:
    return shape.q <= shape.k or name not in WITHOUT_KEYS_FOR_ALL


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


SHARP = ["everything", "nothing", "causal", "causal from the first", "causal offset", "window",
         "window both", "prefix", "dilated", "blocks", "tensor", "tensor of keys", "tensor of heads",
         "shared padding", "anticausal", "not window"]  # fmt: skip


@pytest.mark.parametrize("name", SHARP)
@given(data=st.data())
def test_a_simple_mask_says_mixed_only_of_what_is(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    mask, table = bound(name, shape)
    box = data.draw(boxes(shape))
    assert mask.tile(box) is truth(table, box)


def compositions(shape: Shape) -> st.SearchStrategy[tuple[Mask, Tensor]]:
    """A mask built from the list by &, | and ~, and the same done with the tables."""
    leaves = st.sampled_from([name for name in MASKS if fits(name, shape)]).map(
        lambda name: bound(name, shape)
    )

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
        patch.setattr("regard.tiles.KEYS", data.draw(st.integers(1, 9)))
        found = runs(mask, b, h, q, shape.k)
        pairs = count(mask, b, h, shape.q, shape.k, 5)
    part = table[b.start : b.stop, h.start : h.stop, q.start : q.stop]
    seen = torch.zeros(shape.k, dtype=torch.bool)
    for run in found:
        assert run.kind is not Tile.EMPTY
        assert not seen[run.keys.start : run.keys.stop].any()
        seen[run.keys.start : run.keys.stop] = True
        if run.kind is Tile.FULL:
            assert part[..., run.keys.start : run.keys.stop].all()
    assert not part[..., ~seen].any()
    assert [run.keys.start for run in found] == sorted(run.keys.start for run in found)
    assert sum(pairs.values()) == shape.q * shape.k
    visible = table[b.start : b.stop, h.start : h.stop].any(0).any(0)
    always = table[b.start : b.stop, h.start : h.stop].all(0).all(0)
    assert pairs[Tile.EMPTY] <= int((~visible).sum())
    assert pairs[Tile.FULL] <= int(always.sum())
