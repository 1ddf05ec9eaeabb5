"""Merging the results over pieces of the keys equals one run over all keys."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regard
from regard.backends import reference
from regard.lowering.merging import Partial, merge
from regard.problem import Problem
from regard.spec.observers import Observer

Q, K, OFFSET = 5, 12, 7
MERGED: tuple[Observer, ...] = (
    regard.TopK(4),
    regard.Entropy(),
    regard.MeanDistance(),
    regard.DistanceMass(0, 3),
    regard.SpanMass((2, 9)),
    regard.LogSumExp(),
    regard.MaxScore(),
)


def piece(q, k, v, start: int, stop: int, mask: torch.Tensor | None) -> Partial:
    """Keys start … stop − 1 as a run of their own, its observers in the coordinates of the whole."""
    span = (min(max(2 - start, 0), stop - start), max(min(9, stop) - start, 0))
    shift = OFFSET - start
    observers = (
        regard.TopK(4),
        regard.Entropy(),
        regard.MeanDistance(offset=shift),
        regard.DistanceMass(0, 3, offset=shift),
        regard.SpanMass((min(span), max(span)) if span[0] <= span[1] else (0, 0)),
        regard.LogSumExp(),
        regard.MaxScore(),
    )
    here = None if mask is None else mask[..., start:stop]
    args = (q, k[:, :, start:stop], v[:, :, start:stop], observers)
    answer = reference.prepare(Problem.of(*args, mask=here)).forward()
    return Partial(answer.out, answer.observed[5][0], stop - start, answer.observed)


@given(cuts=st.sets(st.integers(1, K - 1), max_size=3), seed=st.integers(0, 5), masked=st.booleans())
def test_merging_pieces_equals_the_whole(cuts, seed, masked):
    torch.manual_seed(seed)
    q, k, v = torch.randn(1, 4, Q, 8), torch.randn(1, 2, K, 8), torch.randn(1, 2, K, 6)
    q, k, v = q.double(), k.double(), v.double()
    mask = torch.rand(1, 1, Q, K) < 0.4 if masked else None  # some rows see nothing in a piece, or at all
    edges = [0, *sorted(cuts), K]
    pieces = [piece(q, k, v, a, b, mask) for a, b in itertools.pairwise(edges)]
    merged = pieces[0]
    for one in pieces[1:]:
        merged = merge(merged, one, MERGED)
    whole = reference.prepare(Problem.of(q, k, v, MERGED, mask=mask)).forward()
    torch.testing.assert_close(merged.out, whole.out)
    for observer, mine, theirs in zip(MERGED, merged.observed, whole.observed, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, msg=lambda m, o=observer: f"{o}: {m}")


def test_what_cannot_be_merged_says_so():
    q = torch.randn(1, 1, 3, 4)
    seen = regard.observe(q, q, q, regard.Received(), regard.LogSumExp())
    one = Partial(seen.out, seen[regard.LogSumExp()], 3, ((seen[regard.Received()],),))
    with pytest.raises(regard.RegardError, match="Ask for it in a run over all keys"):
        merge(one, one, (regard.Received(),))


def test_pieces_of_other_queries_are_refused():
    one = Partial(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3), 2)
    other = Partial(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2), 2)
    with pytest.raises(regard.RegardError, match="Only the keys may be split"):
        merge(one, other)
